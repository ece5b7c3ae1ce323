"""Find, download, read and check weights. Files are read, never run."""

import json
import os
import re
import time
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse

import safetensors
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from sktransfer._images.preprocessing import Preprocessing
from sktransfer.backbones._graph import stored_tensors
from sktransfer.backbones._mini import PATH as MINI_PATH
from sktransfer.exceptions import WeightsDownloadError, WeightsMismatchError

_N_TRIES = 3
# torchvision's files of DenseNets name layers as it first did: "norm.1" is "norm1".
_FIRST_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
# Named after the package: other writers use plain words for values of their own.
_PREPROCESSING_KEY = "sktransfer.preprocessing"


def read_weights(source, backbone):
    """Read the tensors of a weights source.

    Parameters
    ----------
    source : WeightsSource
        Anything but ``"built"``.
    backbone : str
        Name of the backbone, for messages.

    Returns
    -------
    dict of str to Tensor
        The tensors as they are stored.
    """
    if source.kind == "url":
        path = download(source.location)
    else:
        path = MINI_PATH if source.kind == "shipped" else Path(source.location)
    if not path.is_file():
        raise WeightsMismatchError(
            source.label, backbone, f"there is no file {os.path.abspath(path)}"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has errors of its own for a broken file
        raise WeightsMismatchError(
            source.label,
            backbone,
            f"{os.path.abspath(path)} cannot be read ({type(error).__name__}: {error})",
            "Expected a .safetensors file, or a .pth file that holds a state dict.",
        ) from error
    return _state_dict(state, source, backbone)


def _state_dict(state, source, backbone):
    """Find the state dict in what a .pth file holds."""
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if isinstance(state, dict) and all(map(torch.is_tensor, state.values())):
        return state
    raise WeightsMismatchError(
        source.label,
        backbone,
        f"the file holds {type(state).__name__}, not a state dict",
        "Save model.state_dict().",
    )


def download(url):
    """Return the path of a file kept under TORCH_HOME, downloading it at first use.

    Parameters
    ----------
    url : str
        Address; the last part of the file name is the start of its SHA-256 digest.

    Returns
    -------
    Path
        The file, whose digest was checked when it was downloaded.
    """
    folder = Path(torch.hub.get_dir(), "checkpoints")
    path = folder / Path(urlparse(url).path).name
    if path.is_file():
        return path
    lock = FileLock(f"{path}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise WeightsDownloadError(url, str(path), str(error)) from error
    try:
        _fetch(url, path)
    finally:
        lock.release()
    return path


def _fetch(url, path):
    digest = torch.hub.HASH_REGEX.search(path.name)
    for attempt in range(_N_TRIES):
        if path.is_file():  # another process was faster
            return
        try:
            torch.hub.download_url_to_file(
                url, path, digest and digest.group(1), progress=False
            )
        except (URLError, OSError, HTTPException, RuntimeError) as error:
            if isinstance(error, HTTPError):
                error.close()  # it is the server's open answer
            if attempt == _N_TRIES - 1:
                raise WeightsDownloadError(url, str(path), str(error)) from error
            time.sleep(2.0**attempt / 4)


@dataclass(frozen=True)
class Layout:
    """Names of a whole network's layers and tensors."""

    layers: frozenset
    tensors: frozenset

    @classmethod
    def of(cls, module):
        """Read them off a torch.nn.Module."""
        layers = (name for name, _ in module.named_modules() if name)
        return cls(frozenset(layers), frozenset(module.state_dict()))


def named_as(layout, state):
    """Give tensors of an older version of a network the names that they have now."""
    now = {name: _FIRST_NAMES.sub(r"\1\2", name) for name in state}
    known = layout.tensors
    return {
        now[n] if n not in known and now[n] in known else n: t for n, t in state.items()
    }


def load_into(trunk, layout, state, source, backbone):
    """Copy stored tensors into a trunk; every tensor of the trunk must be there.

    Tensors of the layers behind the trunk (a classifier of any number of classes) are
    not looked at. Half precision on disk becomes float32 in memory.

    Parameters
    ----------
    trunk : torch.nn.Module
        The network up to its features.
    layout : Layout
        The whole network's.
    state : dict of str to Tensor
        What is stored.
    source : WeightsSource
        Where, for messages.
    backbone : str
        Name of the backbone, for messages.

    Raises
    ------
    WeightsMismatchError
        If tensors of the trunk are missing or of another shape, or if its layers have
        further ones in `state`: those of a deeper network would be lost.
    """
    own = stored_tensors(trunk)
    missing = [n for n in own if n not in state and not n.endswith("batches_tracked")]
    wrong = [
        f"{n}: {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    if not (missing or wrong):
        more = _further_tensors(own, layout, state)
        wrong = [f"{n} has no place" for n in more]
    if missing or wrong:
        some = [*[f"{n} is missing" for n in missing], *wrong]
        raise WeightsMismatchError(
            source.label,
            backbone,
            f"of its {len(own)} tensors {len(missing)} are missing, and {len(wrong)} "
            f"are others than it has ({'; '.join(some[:3])})",
            "Pass weights that were saved from this architecture.",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if name in state:
                tensor.copy_(state[name])


def _further_tensors(own, layout, state):
    """Names of stored tensors inside the layers of a trunk that these have not."""
    of_trunk = {parent for name in own for parent in _parents(name)}
    found = []
    for name in set(state) - set(own) - layout.tensors:
        inside = [parent for parent in _parents(name) if parent in layout.layers]
        # Next to the outermost layers anything may stand, such as another head.
        if inside and inside[-1] in of_trunk:
            found.append(name)
    return sorted(n for n in found if not n.endswith("batches_tracked"))


def _parents(name):
    """Paths of the layers that hold a tensor, from the outermost on."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def stored_preprocessing(path):
    """Read the preprocessing out of a .safetensors file's metadata, or return None."""
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_PREPROCESSING_KEY)
    except (safetensors.SafetensorError, OSError):
        return None  # read_weights says what is wrong with the file
    return text and Preprocessing.from_dict(json.loads(text))


def save_weights(trunk, path, preprocessing):
    """Write a trunk's tensors and its preprocessing as .safetensors, atomically."""
    path = Path(path)
    metadata = {_PREPROCESSING_KEY: json.dumps(preprocessing.to_dict())}
    # Cloned, since the format refuses tensors that share their memory.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in stored_tensors(trunk).items()
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file(state, partial, metadata)
    partial.replace(path)
