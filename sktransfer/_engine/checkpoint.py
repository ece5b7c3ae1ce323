"""A fit's state at the end of its last epoch, in one file that is replaced whole.

The file also holds what the state belongs to. A fit on other data, or with other
parameters, refuses it instead of continuing what somebody else began.
"""

import os
from pathlib import Path

import numpy as np
import torch

# Raised when the content changes; older files are refused by their number.
_FORMAT = 3
_NAME = "fit.checkpoint"


class CheckpointFile:
    """The checkpoint of one fit.

    Parameters
    ----------
    folder : str or Path
        Where the file is kept; made if it is not there. One folder a fit.
    identity : str
        Digest of the data and parameters that the fit has.
    """

    def __init__(self, folder, identity):
        self.path = Path(folder) / _NAME
        self.identity = identity

    def save(self, **state):
        """Replace the file by a new state, so that there is always a whole one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{_NAME}.{os.getpid()}.partial")
        content = {"format": _FORMAT, "identity": self.identity, **_plain(state)}
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)

    def remove(self):
        """Remove the file: the fit is done."""
        self.path.unlink(missing_ok=True)
        for partial in self.path.parent.glob(f"{_NAME}.*.partial"):
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
        return state


def _plain(value):
    """Numbers of numpy as Python's, which alone are loaded without running code."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
