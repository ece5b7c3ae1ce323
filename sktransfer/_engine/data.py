"""What the trainable part sees of each image, batch by batch.

Behind a cut that is the prefix's output, before everything it is the pixels. Without
random augmentation it is computed once per image and kept while there is room; the
rest is computed anew when its turn comes. Batches are loaded one ahead of training.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from sktransfer._engine.prefix import (
    LoadedRow,
    load_row,
    normalized_batch,
    raise_problems,
)
from sktransfer._images.decode import DecodeError
from sktransfer._images.loading import map_ordered
from sktransfer._randomness import derived_seed

_ORDER = 1


@dataclass
class Activations:
    """Activations of images at one cut.

    Parameters
    ----------
    images : ImageSequence
        All images of a fit.
    network : torch.nn.Module or None
        Frozen, on `device`; None where nothing lies before the cut.
    preprocessing : Preprocessing
        From RGB to the network's input.
    device : torch.device
        Where training happens.
    threads : int
        Threads that read and decode.
    min_rows : int
        Shorter batches are filled up to this before they pass the network.
    max_rows : int
        Longer ones are split.
    augment : callable or None, default=None
        ``augment(image, content, view)`` gives the pixels of one view of an image.
    decode_factor : float, default=1.0
        How much larger than usual images must be decoded, since crops are cut out.
    key_of : callable or None, default=None
        ``key_of(content, view)`` is the key in the store; None: nothing is kept.
    get, put : callable or None, default=None
        The store: ``get(key)`` is an array or None, ``put(key, array)``.
    """

    images: object
    network: torch.nn.Module | None
    preprocessing: object
    device: torch.device
    threads: int
    min_rows: int
    max_rows: int
    augment: object = None
    decode_factor: float = 1.0
    key_of: object = None
    get: object = None
    put: object = None
    _keys: dict = field(default_factory=dict, repr=False)

    def load(self, rows, view):
        """Do what needs no device: look rows up, or decode them.

        Parameters
        ----------
        rows : ndarray of int
            Rows of `images`.
        view : int
            Number of the augmented view; 0 without augmentation.

        Returns
        -------
        list of LoadedRow
            For each row its key, its activation if that is known, else its pixels.
        """
        view = view if self.augment is not None else 0
        loaded = [self._look_up(int(row), view) for row in rows]
        missing = [i for i, found in enumerate(loaded) if found is None]
        if missing:
            read = _Reader(self, rows[missing], view)
            results = map_ordered(read, len(missing), self.threads, len(missing))
            for i, result in zip(missing, results, strict=True):
                loaded[i] = result
        problems = [
            (int(row), str(result))
            for row, result in zip(rows, loaded, strict=True)
            if isinstance(result, DecodeError)
        ]
        raise_problems(problems, len(self.images), "")
        return loaded

    def check(self, keep):
        """Read all images once; raise for all that cannot be read.

        Parameters
        ----------
        keep : bool
            Whether pixels are kept while there is room, where training needs them.

        Raises
        ------
        InvalidImageError
            If images are missing or broken.
        """
        n, problems = len(self.images), []
        read = _Reader(self, np.arange(n), 0)
        for row, result in enumerate(map_ordered(read, n, self.threads, 64)):
            if isinstance(result, DecodeError):
                problems.append((row, str(result)))
            elif keep and self.network is None and result.pixels is not None:
                self._keep([(result.key, result.pixels)])
        raise_problems(problems, n, "")

    def known(self, rows, view):
        """Return what `load` would, if that needs no reading, else None."""
        loaded, view = [], view if self.augment is not None else 0
        for row in rows:
            found = self._look_up(int(row), view)
            if found is None:
                return None
            loaded.append(found)
        return loaded

    def _look_up(self, row, view):
        key = self._keys.get((row, view))
        known = self.get(key) if key is not None else None
        return None if known is None else LoadedRow(key, known)

    def finish(self, loaded):
        """Bring loaded rows to the device, through the network where they are new.

        Parameters
        ----------
        loaded : list
            What `load` returned.

        Returns
        -------
        torch.Tensor
            Activations (b, ...), or normalized images (b, 3, s, s) without a network.
        """
        if self.network is None:
            pixels = [p if known is None else known for _, known, p in loaded]
            self._keep((key, p) for key, _, p in loaded if p is not None)
            return normalized_batch(pixels, self.preprocessing, self.device)
        new = [(key, pixels) for key, known, pixels in loaded if known is None]
        if len(new) == len(loaded) and self.put is None:
            return self._forward([pixels for _, pixels in new])
        computed = iter([])
        if new:
            values = self._forward([pixels for _, pixels in new]).cpu().numpy()
            self._keep(zip((key for key, _ in new), values, strict=True))
            computed = iter(values)
        rows = [next(computed) if known is None else known for _, known, _ in loaded]
        batch = torch.from_numpy(np.stack(rows)).to(self.device)
        if batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        return batch

    def _forward(self, pixels):
        n, most = len(pixels), self.max_rows
        if n > most:
            return torch.cat(
                [self._forward(pixels[:most]), self._forward(pixels[most:])]
            )
        pixels = pixels + [pixels[-1]] * (self.min_rows - n)
        # Not inference_mode: what follows in the same pass may learn.
        with torch.no_grad():
            batch = normalized_batch(pixels, self.preprocessing, self.device)
            return self.network(batch).float()[:n]

    def _keep(self, values):
        if self.put is not None:
            for key, value in values:
                self.put(key, value)


class _Reader:
    """What a thread does for one row that is not known yet."""

    def __init__(self, source, rows, view):
        self.source, self.rows, self.view = source, rows, view

    def __call__(self, i):
        source, row = self.source, int(self.rows[i])
        key_of = source.key_of and partial(source.key_of, view=self.view)
        result = load_row(source.images, row, key_of, source.get, self._pixels_of)
        if isinstance(result, LoadedRow):
            source._keys[row, self.view] = result.key
        return result

    def _pixels_of(self, item, encoded, content):
        source = self.source
        size = round(source.preprocessing.decode_size * source.decode_factor)
        image = item.decode(encoded, size)
        if source.augment is None:
            return source.preprocessing.pixels(image)
        return source.augment(image, content, self.view)


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
        return self.source.finish(self.source.load(row, 0))[0], self.labels(row)

    def labels(self, rows):
        """Targets and weights of some rows, on the source's device."""
        index = torch.from_numpy(rows)
        device = self.source.device
        targets = [target[index].to(device) for target in self.targets]
        return targets, self.weights[index].to(device)


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
            loaded = pending if isinstance(pending, list) else pending.result()
            if i + 1 < len(chunks):
                pending = begin(chunks[i + 1])
            yield source.finish(loaded), dataset.labels(chunk)
