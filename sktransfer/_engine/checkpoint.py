"""A fit's state at the end of its last epoch, in one file that is replaced whole.

The file also holds what the state belongs to. A fit on other data, or with other
parameters, refuses it instead of continuing what somebody else began.

A fit that goes on from an earlier one has a file of its own, named after what it starts
from. In one file for all, the state of a script's second fit would stand in the way of
its first, when the script runs again from the start.
"""

import os
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

# Raised when the content changes; older files are refused by their number.
_FORMAT = 4
_N_DIGITS = 16  # of the start's digest in the name of the file
# Types that are loaded without running code, besides tensors and collections.
_PLAIN = {
    bool,
    bytes,
    complex,
    float,
    int,
    str,
    torch.device,
    torch.dtype,
    type(None),
}
_ARRAY = "array of numpy"  # the key of what stands for an array in the file


class _Lost:
    """Stands for what the file cannot hold."""


class CheckpointFile:
    """The checkpoint of one fit.

    Parameters
    ----------
    folder : str or Path
        Where the file is kept; made if it is not there. One folder for a fit, and
        those that go on from it.
    identity : str
        Digest of the data and parameters that the fit has, and of its start.
    start : str, default=""
        Digest of what the fit goes on from; empty where it starts anew.
    """

    def __init__(self, folder, identity, start=""):
        after = f"-{start[:_N_DIGITS]}" if start else ""
        self.path = Path(folder) / f"fit{after}.checkpoint"
        self.identity = identity
        self._told = set()

    def save(self, **state):
        """Replace the file by a new state, so that there is always a whole one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        content = {"format": _FORMAT, "identity": self.identity}
        for part, value in state.items():
            lost = {}
            content[part] = _to_file(value, lost)
            self._tell(part, lost)
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)

    def _tell(self, part, lost):
        """Warn, once, of what the history loses; nothing else may lose anything."""
        found = ", ".join(f"{name!r} ({kind})" for name, kind in lost.items())
        if found and part != "history":
            raise TypeError(
                f"Parameter checkpoint: the fit's state, its part {part!r}, holds "
                f"{found}. Expected tensors, arrays, numbers and strings: nothing else "
                "can be loaded without running code. Pass an optimizer and an "
                "lr_schedule whose state_dict() holds nothing else, or checkpoint=None."
            )
        if lost.keys() - self._told:
            warnings.warn(
                f"Parameter checkpoint: callbacks record {found}, which cannot be "
                "loaded without running code. The file leaves it out, and a fit that "
                "goes on from it does not know it of the epochs before. Record "
                "numbers, strings, arrays or tensors.",
                UserWarning,
                stacklevel=2,
            )
        self._told |= lost.keys()

    def remove(self):
        """Remove the file: the fit is done."""
        self.path.unlink(missing_ok=True)
        for partial in self.path.parent.glob(f"{self.path.name}.*.partial"):
            partial.unlink(missing_ok=True)  # of a process that was killed

    def load(self):
        """Return the state of an interrupted fit, or None.

        Returns
        -------
        dict or None
            What `save` got.

        Raises
        ------
        ValueError
            If the file is of another fit, or not a checkpoint.
        """
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            known = state["format"], state["identity"]
        except Exception as error:
            raise ValueError(
                f"Parameter checkpoint: {self.path} cannot be read as a checkpoint "
                f"({type(error).__name__}: {error}). Remove the file to start anew."
            ) from error
        if known != (_FORMAT, self.identity):
            raise ValueError(
                f"Parameter checkpoint: {self.path} belongs to a fit on other data or "
                "with other parameters. Remove the file, or give each fit a folder of "
                "its own."
            )
        return _from_file(state)


def _to_file(value, lost, name=None):
    """Return a value as the file holds it: of what is loaded without running code.

    What there is no way for is told to `lost`, by its `name` and type, and left out of
    a dict; in a list it is None.
    """
    if isinstance(value, dict):
        pairs = [
            (_to_file(key, lost, key), _to_file(part, lost, key))
            for key, part in value.items()
        ]
        return {
            key: part for key, part in pairs if _Lost not in (type(key), type(part))
        }
    for kind in (list, tuple, set):
        if isinstance(value, kind):
            parts = (_to_file(part, lost, name) for part in value)
            return kind(None if type(part) is _Lost else part for part in parts)
    if isinstance(value, np.generic) and type(value.item()) in _PLAIN:
        return value.item()
    if isinstance(value, np.generic) or type(value) in (np.ndarray, np.memmap):
        value = _array_to_file(value)
    if type(value) in _PLAIN or isinstance(value, (torch.Tensor, dict)):
        return value
    lost[name] = type(value).__name__
    return _Lost()


def _array_to_file(array):
    """Return an array of any dtype as a tensor of bytes, but for arrays of objects."""
    if array.dtype.hasobject:
        return array
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return {_ARRAY: torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)}


def _from_file(value):
    """Turn what stands for an array back into it."""
    if type(value) in (list, tuple):
        return type(value)(map(_from_file, value))
    if not isinstance(value, dict):
        return value
    if value.keys() == {_ARRAY}:
        content = BytesIO(value[_ARRAY].numpy().tobytes())
        return np.load(content, allow_pickle=False)[()]
    return {key: _from_file(part) for key, part in value.items()}
