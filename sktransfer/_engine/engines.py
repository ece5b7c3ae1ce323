"""What runs the frozen part of a network, and in which precision.

An engine is chosen by the user, since engines differ in the last bits. What it makes of
a network is kept by the network, as its fused copies are. `torch.compile` and
onnxruntime choose their kernels for one shape of batch: every batch is filled up to it.
"""

import os
import warnings
from dataclasses import dataclass, field

import torch
from torch import nn

from sktransfer._engine.prefix import MIN_ROWS
from sktransfer._optional import require
from sktransfer.exceptions import EngineError, MissingDependencyError

# Largest difference from the eager network, as a share of its largest output.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


def resolve_precision(precision, device):
    """Return the precision that `precision` means on a device.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        ``"auto"`` is bfloat16 on CUDA, else float32.
    device : torch.device
        Where the network runs.

    Returns
    -------
    {"float32", "bfloat16"}
        The precision.
    """
    if precision == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return precision


def autocast(device, precision):
    """Return a context in which layers compute with a precision, where they can."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@dataclass(frozen=True)
class Engine:
    """How a frozen network is run: equal engines make the same of a network.

    Parameters
    ----------
    name : {"eager", "compile", "onnxruntime"}
        What runs it.
    precision : {"float32", "bfloat16"}
        What it computes with.
    device : torch.device
        Where.
    batch_size : int
        Images per forward pass.
    image_size : int
        Height and width, in pixels, of the images.
    by_rows : bool, default=False
        Whether the network's values depend on the number of rows of a batch.
    """

    name: str
    precision: str
    device: torch.device
    batch_size: int
    image_size: int
    by_rows: bool = False
    # A session made in another process, or for other threads, is another one.
    _where: tuple = field(
        default_factory=lambda: (os.getpid(), torch.get_num_threads()), repr=False
    )

    @property
    def fills_batches(self):
        """Whether kernels may be chosen by the number of rows."""
        return self.by_rows or self.device.type != "cpu" or self.or_none is not None

    @property
    def min_rows(self):
        """Rows up to which shorter batches are filled up."""
        return self.max_rows if self.fills_batches else MIN_ROWS

    @property
    def max_rows(self):
        """Rows above which a batch is split."""
        return max(MIN_ROWS, self.batch_size)

    @property
    def runs_in_torch(self):
        """Whether torch's own threads compute."""
        return self.name != "onnxruntime"

    @property
    def determinants(self):
        """What it contributes to the fingerprint of activations."""
        return {
            "engine": self.name,
            "precision": self.precision,
            "device": self.device.type,
            "batch_size": self.batch_size if self.fills_batches else None,
        }

    @property
    def or_none(self):
        """Itself, or None where it would leave a module as it is."""
        is_plain = (self.name, self.precision) == ("eager", "float32")
        return None if is_plain else self

    def __call__(self, network):
        """Make a frozen network ready.

        Parameters
        ----------
        network : torch.nn.Module
            On `device`.

        Returns
        -------
        torch.nn.Module
            Maps batches (min_rows, 3, s, s), in channels-last order, to the network's
            output.

        Raises
        ------
        EngineError
            If the engine cannot run it, or gives other values than the module itself.
        MissingDependencyError
            If the engine is not installed.
        """
        if self.name == "onnxruntime":
            self._check_onnxruntime()
        if self.precision == "bfloat16":
            network = _Autocast(network, self.device)
        if self.name == "eager":
            return network
        make = _Compiled if self.name == "compile" else _Session
        images = self._example()
        with torch.inference_mode(False), torch.no_grad():
            expected = network(images)
            try:
                made = make(network, images)
                found = made(images)
            except MissingDependencyError:
                raise
            except Exception as error:  # either may raise whatever it likes
                raise EngineError(self.name, *_explained(error)) from error
        self._compare(found.float(), expected.float())
        return made

    def _check_onnxruntime(self):
        if self.device.type != "cpu" or self.precision != "float32":
            raise EngineError(
                self.name,
                "it computes on the CPU, with float32; found the device "
                f"{str(self.device)!r} and the precision {self.precision!r}",
                "Pass device='cpu' and leave precision='auto', or choose "
                "engine='compile'.",
            )

    def _example(self):
        """Images that are always the same."""
        shape = self.min_rows, 3, self.image_size, self.image_size
        seeded = torch.Generator().manual_seed(0)
        images = torch.randn(shape, generator=seeded, dtype=torch.float32)
        return images.to(self.device).contiguous(memory_format=torch.channels_last)

    def _compare(self, found, expected):
        largest = float(expected.abs().max()) or 1.0
        difference = float((found - expected).abs().max()) / largest
        if not difference <= _TOLERANCE[self.precision]:
            raise EngineError(
                self.name,
                f"its values differ from those of engine='eager' by {difference:.1e} "
                f"of the largest, where {_TOLERANCE[self.precision]:.0e} is expected",
                "Use engine='eager' for this network.",
            )


def _explained(error):
    """Say why an engine could not be made, and what to do."""
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    if "C++ compiler" in str(error):
        return reason, (
            "torch.compile needs a C++ compiler: install g++ (on Debian and Ubuntu "
            "`apt install g++`) or clang++, and name it in the environment variable "
            "CXX if it is not found. Or choose engine='onnxruntime' or 'eager'."
        )
    return reason, "Use engine='eager' for this network."


class _Autocast(nn.Module):
    """A network that computes with bfloat16 where its layers can."""

    def __init__(self, network, device):
        super().__init__()
        self.network, self.device = network, device

    def forward(self, batch):
        """Return the network's output."""
        with autocast(self.device, "bfloat16"):
            return self.network(batch)


class _Compiled(nn.Module):
    """A network compiled for one shape of batch, at the first call."""

    def __init__(self, network, images):  # noqa: ARG002 (one signature for all)
        super().__init__()
        # As a whole: what torch cannot compile is an error, not run eagerly.
        self.network = torch.compile(network, fullgraph=True, dynamic=False)

    def forward(self, batch):
        """Return the network's output."""
        # In one mode always, since it is compiled anew for each.
        with torch.inference_mode(False), torch.no_grad():
            return self.network(batch)


class _OfPixels(nn.Module):
    """A network that wants the values of one pixel side by side: (b, s, s, 3)."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixels):
        """Return the network's output."""
        return self.network(pixels.permute(0, 3, 1, 2))


class _Session(nn.Module):
    """A network run by onnxruntime, with as many threads as torch has."""

    def __init__(self, network, images):
        super().__init__()
        needed = {"extra": "onnx", "needed_by": "engine='onnxruntime'"}
        runtime = require("onnxruntime", **needed)
        for name in ("onnx", "onnxscript"):  # torch's export asks for them
            require(name, **needed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts about each other
            program = torch.onnx.export(
                _OfPixels(network), (_pixels(images),), dynamo=True, verbose=False
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait busily would take the cores from those that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = runtime.InferenceSession(
            program.model_proto.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        self._input = self._session.get_inputs()[0].name

    def forward(self, batch):
        """Return the network's output."""
        inputs = {self._input: _pixels(batch).numpy()}
        return torch.from_numpy(self._session.run(None, inputs)[0])


def _pixels(batch):
    return batch.permute(0, 2, 3, 1).contiguous()
