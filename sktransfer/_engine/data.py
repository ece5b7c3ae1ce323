"""Batches of training rows: in which order they come, and what belongs to them.

Batches are loaded one ahead of training.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from sktransfer._engine.activations import Activations
from sktransfer._randomness import derived_seed

_ORDER = 1


@dataclass
class Rows(torch.utils.data.Dataset):
    """Some rows of a training set, as skorch's datasets: what an epoch runs over.

    Parameters
    ----------
    source : Activations
        Where their activations come from.
    rows : ndarray of int
        Rows of the source's images.
    targets : list of torch.Tensor
        One a head: class numbers (n,) or labels (n, k), for all rows of the source.
    weights : torch.Tensor of shape (n, n_heads), float32
        Weights of all rows for each head.
    """

    source: Activations
    rows: np.ndarray
    targets: list
    weights: torch.Tensor

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        """One row as a batch of one, for skorch's tools."""
        row = np.atleast_1d(self.rows[i])
        inputs = self.source.finish(self.source.load(row, 0))
        return part_of(inputs, 0), self.labels(row)

    def some(self, most, seed):
        """Return up to so many of the rows, at random: classes often stand together."""
        rows = np.random.default_rng(seed).permutation(self.rows)[:most]
        return replace(self, rows=rows)

    def labels(self, rows):
        """Targets and weights of some rows, on the source's device."""
        index = torch.from_numpy(rows)
        device = self.source.device
        targets = [target[index].to(device) for target in self.targets]
        return targets, self.weights[index].to(device)


def part_of(inputs, where):
    """Return some rows of a batch, which is a tensor, or a dict of them."""
    if isinstance(inputs, dict):
        return {name: tensor[where] for name, tensor in inputs.items()}
    return inputs[where]


def split_batches(rows, batch_size):
    """Cut rows into batches; a last one of a single row joins the one before.

    Parameters
    ----------
    rows : ndarray of int
        The rows, in the order of training.
    batch_size : int
        Rows a batch.

    Returns
    -------
    list of ndarray
        Batch norms cannot be trained on one row, hence none of one row but the first.
    """
    starts = list(range(0, len(rows), batch_size))
    if len(starts) > 1 and len(rows) - starts[-1] == 1:
        starts.pop()
    return np.split(rows, starts[1:])


def epoch_order(n, seed, *where):
    """Order of n rows in one epoch."""
    return np.random.default_rng(derived_seed(seed, _ORDER, *where)).permutation(n)


def batches(dataset, order, batch_size, view):
    """Yield (activations, (targets, weights)); the next is loaded while one is used.

    Parameters
    ----------
    dataset : Rows
        The rows.
    order : ndarray of int
        Positions in the dataset.
    batch_size : int
        Rows a batch.
    view : int
        Number of the augmented view.

    Yields
    ------
    tuple of (torch.Tensor, tuple)
        One batch.
    """
    chunks = split_batches(dataset.rows[order], batch_size)
    source = dataset.source
    with ThreadPoolExecutor(1, thread_name_prefix="sktransfer-ahead") as pool:

        def begin(chunk):
            # Waking a thread takes longer than looking known rows up.
            known = source.known(chunk, view)
            return pool.submit(source.load, chunk, view) if known is None else known

        pending = begin(chunks[0])
        for i, chunk in enumerate(chunks):
            loaded = pending.result() if isinstance(pending, Future) else pending
            if i + 1 < len(chunks):
                pending = begin(chunks[i + 1])
            yield source.finish(loaded), dataset.labels(chunk)
    source.release()
