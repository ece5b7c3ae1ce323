"""Rows of several images and a table in training: where they come from, what drops out.

A batch is a dict of tensors: ``images`` (b, k, ...) at the cut, ``present`` (b, k),
``table`` (b, t) and ``has_table`` (b,). The trunk sees the present images of all
columns as one batch of images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sktransfer._randomness import derived_seed

_DROPOUT = 6


class JointRows(nn.Module):
    """Features of images and a table -> rows, as `Joint` lays them out.

    Parameters
    ----------
    joint : Joint
        The layout.
    """

    def __init__(self, joint):
        super().__init__()
        self.register_buffer("fill", torch.from_numpy(joint.fill))
        self.register_buffer("image_flags", torch.from_numpy(joint.image_flags))
        self.table_flag = joint.table_flag

    def forward(self, features, present, table, has_table):
        """Put rows together.

        Parameters
        ----------
        features : torch.Tensor of shape (m, width) or None
            Of the images that are present, row by row; None if there are none.
        present : torch.Tensor of bool, shape (b, k)
            Where they belong.
        table : torch.Tensor of shape (b, t)
            The encoded table.
        has_table : torch.Tensor of bool, shape (b,)
            Which rows have one.

        Returns
        -------
        torch.Tensor of shape (b, n_columns), float32
            The rows.
        """
        images = self.fill.repeat(len(present), 1, 1)
        if features is not None:
            images[present] = features.to(images.dtype)
        known = has_table[:, None]
        flags = ~present[:, self.image_flags]
        parts = [images.flatten(1), flags, torch.where(known, table, 0.0)]
        if self.table_flag:
            parts.append(~known)
        return torch.cat([part.to(images.dtype) for part in parts], dim=1)


@dataclass
class FusedActivations:
    """What the trainable part sees of rows, as `Activations` gives it of images.

    Parameters
    ----------
    columns : list of Activations
        One an image column, behind the same cut.
    present : ndarray of bool, shape (n, k)
        Where there is an image.
    table : torch.Tensor of shape (n, t), float32
        The encoded table.
    has_table : torch.Tensor of bool, shape (n,)
        Which rows have one.
    """

    columns: list
    present: np.ndarray
    table: torch.Tensor
    has_table: torch.Tensor

    @property
    def device(self):
        """Where training happens."""
        return self.columns[0].device

    def load(self, rows, view):
        """Do what needs no device, for the images that there are."""
        pairs = zip(self.columns, self.present.T, strict=True)
        return _Loaded(
            rows, [column.load(rows[there[rows]], view) for column, there in pairs]
        )

    def check(self, keep):
        """All images have been read for the layout of the rows."""

    def known(self, rows, view):
        """Return what `load` would, if that needs no reading, else None."""
        found = []
        for column, there in zip(self.columns, self.present.T, strict=True):
            known = column.known(rows[there[rows]], view)
            if known is None:
                return None
            found.append(known)
        return _Loaded(rows, found)

    def release(self):
        """Tell the store that an epoch is over."""
        for column in self.columns:
            column.release()

    def finish(self, loaded):
        """Bring loaded rows to the device, as a batch.

        Parameters
        ----------
        loaded : _Loaded
            What `load` returned.

        Returns
        -------
        dict of str to torch.Tensor
            The batch.
        """
        rows, device = loaded.rows, self.device
        present = torch.from_numpy(self.present[rows])
        pairs = zip(self.columns, loaded.columns, strict=True)
        images = None
        for c, (column, of_column) in enumerate(pairs):
            if len(of_column) == 0:
                continue
            activations = column.finish(of_column)
            if images is None:
                images = activations.new_zeros(*present.shape, *activations.shape[1:])
            images[present[:, c].to(device), c] = activations
        if images is None:
            images = torch.zeros(*present.shape, 0, device=device)
        index = torch.from_numpy(rows)
        return {
            "images": images,
            "present": present.to(device),
            "table": self.table[index].to(device),
            "has_table": self.has_table[index].to(device),
        }


@dataclass
class _Loaded:
    rows: np.ndarray
    columns: list


def drop_modalities(inputs, share, seed):
    """Take from some rows all their images, from as many others their table.

    Parameters
    ----------
    inputs : dict of str to torch.Tensor
        A batch.
    share : float
        Probability that one of the two is taken from a row that has both.
    seed : int
        Seed of the choice.

    Returns
    -------
    dict of str to torch.Tensor
        The batch without them.
    """
    present, has_table = inputs["present"], inputs["has_table"]
    rng = np.random.default_rng(derived_seed(seed, _DROPOUT))
    draws = torch.from_numpy(rng.random(len(present))).to(present.device)
    both = has_table & present.any(dim=1)
    images, table = both & (draws < share / 2), both & (draws >= 1 - share / 2)
    return {
        **inputs,
        "present": present & ~images[:, None],
        "has_table": has_table & ~table,
    }
