"""Images -> activations, batch by batch; what is known already is not computed again.

Threads read, hash, decode and resize rows a few batches ahead. Rows whose activation is
in the store leave before they are decoded, and so do rows that another worker has
claimed, which come last; the others are gathered into full batches. Activations are
stored as their batch is done, so a run that fails keeps what it had.

A row's value must not depend on its batch, since it may come from the store or not.
On a CPU, batches of fewer than 16 rows differ in the last bits from larger ones (with
one thread; with two, fewer than 8 do), so a short batch is filled up with its last row.
Where kernels are chosen by the number of rows, off the CPU and in networks with
squeeze-and-excitation, it is filled up to `batch_size`.
"""

from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from sktransfer._engine.normalization import empty_batch, normalized_batch
from sktransfer._images.decode import DecodeError
from sktransfer._images.items import ready_pixels
from sktransfer._images.loading import map_ordered
from sktransfer.exceptions import InvalidImageError

MIN_ROWS = 16
_BATCHES_AHEAD = 2
# Rows that are looked up together: a store in a file wants portions.
_PORTION = 16


@dataclass
class Tap:
    """A stage on the way to the features, whose outputs stay in the store, too.

    Parameters
    ----------
    store : StorePass
        The pass that keeps them.
    key_of : callable
        Maps the content key of an image to its key in the store.
    """

    store: object
    key_of: object
    _keys: dict = field(default_factory=dict, repr=False)

    def follow(self, key_of):
        """Return a function from contents to keys of features that is followed."""

        def followed(content):
            key = key_of(content)
            self._keys[key] = self.key_of(content)
            return key

        return followed

    def put(self, keys, outputs):
        """Keep the stage's outputs, by the keys of the features."""
        keys = [self._keys[key] for key in keys]
        self.store.put(list(zip(keys, outputs, strict=True)))


@dataclass
class PrefixJob:
    """One pass of images through a frozen network.

    Parameters
    ----------
    network : torch.nn.Module
        Maps images to activations; on `device`.
    preprocessing : Preprocessing
        From RGB to the network's input.
    shape : tuple of int
        Shape of one image's activation.
    device : torch.device
        Where the network is.
    batch_size : int
        Images per forward pass.
    threads : int
        Threads that read and decode.
    min_rows : int
        Shorter batches are filled up to this.
    key_of : callable or None
        Maps the content key of an image to its key in the store; None: no store.
    store : StorePass or None
        This pass over the store.
    augment : callable or None
        ``augment(image, content)`` gives the pixels of a random view of an image.
    decode_factor : float
        How much larger than usual images must be decoded, since crops are cut out.
    tap : Tap or None
        Keeps what `network` gives beside the activations; needs a store.
    parallel : bool
        Whether torch's threads, too, work on what the network is given.
    """

    network: torch.nn.Module
    preprocessing: object
    shape: tuple
    device: torch.device
    batch_size: int
    threads: int
    min_rows: int
    key_of: object = None
    store: object = None
    augment: object = None
    decode_factor: float = 1.0
    tap: Tap | None = None
    parallel: bool = True
    problems: list = field(default_factory=list)
    _input: torch.Tensor | None = field(default=None, repr=False)

    def run(self, images):
        """Compute the activations of all images.

        Parameters
        ----------
        images : ImageSequence
            The images.

        Returns
        -------
        ndarray of shape (n_images, *shape), float32
            NaN in the rows that `problems` lists.
        """
        output = np.full((len(images), *self.shape), np.nan, dtype=np.float32)
        try:
            others = self._sweep(images, range(len(images)), output)
            while others:
                self.store.wait(list(others.values()))
                others = self._sweep(images, list(others), output)
        finally:
            if self.store is not None:
                self.store.end()
        return output

    def _sweep(self, images, rows, output):
        """Compute what nobody else computes; return the keys of the other rows."""
        batch, others, done = _Batch(), {}, 0
        look_up = None if self.store is None else self.store.claim
        load = partial(
            load_rows,
            images,
            key_of=self.key_of,
            look_up=look_up,
            pixels_of=self._pixels_of,
            keyed=self.key_of is not None or self.augment is not None,
        )
        ahead = _BATCHES_AHEAD * self.batch_size
        try:
            # Closed, so that no thread claims rows after a failure.
            with closing(load_in_portions(load, rows, self.threads, ahead)) as loaded:
                for row, result in loaded:
                    self._sort_in(row, result, batch, output, others)
                    if len(batch.pixels) == self.batch_size:
                        self._compute(batch, output)
                        batch, done = _Batch(), min([row + 1, *others])
            if batch.pixels:
                self._compute(batch, output)
        except Exception as error:
            kept = " and kept in the cache" if self.store is not None else ""
            error.add_note(
                f"Rows before {done} of {len(images)} had been computed{kept}."
            )
            raise
        return others

    def _pixels_of(self, item, source, content):
        augment = self.augment and partial(self.augment, content=content)
        return read_pixels(
            item, source, self.preprocessing, augment, self.decode_factor
        )

    def _sort_in(self, row, result, batch, output, others):
        """Put one row's result where it belongs: output, batch, others or problems."""
        if isinstance(result, DecodeError):
            self.problems.append((row, str(result)))
        elif result.activation is not None:
            output[row] = result.activation
        elif result.pixels is not None:
            batch.add(row, result)
        else:
            others[row] = result.key

    def _compute(self, batch, output):
        pixels = batch.pixels
        pixels = pixels + [pixels[-1]] * (self.min_rows - len(pixels))
        activations, *more = self._forward(pixels)
        for i, rows in enumerate(batch.rows):
            output[rows] = activations[i]
        n = len(batch.keys)
        if self.store is not None:
            self.store.put(list(zip(batch.keys, activations[:n], strict=True)))
        if self.tap is not None:
            self.tap.put(batch.keys, more[0][:n])

    def _forward(self, pixels):
        if self._input is None and self.device.type == "cpu":
            # Memory that is new to the process is slow: one batch's serves all.
            rows = max(self.batch_size, self.min_rows)
            self._input = empty_batch(rows, len(pixels[0]))
        with torch.inference_mode():
            batch = normalized_batch(
                pixels, self.preprocessing, self.device, self._input, self.parallel
            )
            outputs = self.network(batch)
            outputs = [outputs] if self.tap is None else outputs
            return [output.float().cpu().numpy() for output in outputs]


def read_pixels(item, source, preprocessing, augment=None, decode_factor=1.0):
    """Decode and resize an image, or a random view of it.

    Parameters
    ----------
    item, source : object
        The item of an ImageSequence, and what its `load` returned.
    preprocessing : Preprocessing
        Sizes the network wants.
    augment : callable or None, default=None
        Maps the image to the pixels of a view.
    decode_factor : float, default=1.0
        How much larger than usual images must be decoded, since crops are cut out.

    Returns
    -------
    ndarray of shape (s, s, 3)
        uint8, or floats nominally in [0, 1].
    """
    if augment is None:
        ready = ready_pixels(item, preprocessing.image_size)
        if ready is not None:
            return ready
    size = round(preprocessing.decode_size * decode_factor)
    image = item.decode(source, size)
    return preprocessing.pixels(image) if augment is None else augment(image)


class LoadedRow(NamedTuple):
    """What reading one row gave: its key, and its activation or else its pixels.

    Without either, another worker is computing the row.
    """

    key: bytes | None = None
    activation: np.ndarray | None = None
    pixels: np.ndarray | None = None


def load_rows(images, rows, key_of, look_up, pixels_of, keyed=True):
    """Look some rows up, and decode those that are to be computed; what threads do.

    Parameters
    ----------
    images : ImageSequence
        The images.
    rows : sequence of int
        Which of them.
    key_of : callable or None
        Maps content keys to keys of the store; None: no store.
    look_up : callable or None
        Maps keys to what the store knows, array or None, and to the set of those that
        are to be computed.
    pixels_of : callable
        ``pixels_of(item, source, content)`` decodes and resizes.
    keyed : bool, default=True
        Whether anyone asks for the content.

    Returns
    -------
    list of LoadedRow or DecodeError
        Errors are returned, not raised, so that all can be reported together.
    """
    opened = (_opened(images, row, keyed) for row in rows)
    if key_of is None:
        return [_decoded(found, None, pixels_of) for found in opened]
    opened = list(opened)
    keys = [None if isinstance(f, DecodeError) else key_of(f[2]) for f in opened]
    asked = [key for key in keys if key is not None]
    values, wanted = look_up(asked)
    known = dict(zip(asked, values, strict=True))
    return [
        _decoded(found, key, pixels_of)
        if key is None or key in wanted
        else LoadedRow(key, known[key])
        for found, key in zip(opened, keys, strict=True)
    ]


def load_in_portions(load, rows, threads, ahead):
    """Yield each row with what `load` makes of it, in order, some rows ahead.

    Parameters
    ----------
    load : callable
        Maps rows to what they hold; called in threads.
    rows : sequence of int
        The rows.
    threads : int
        Number of threads.
    ahead : int
        How many rows may wait.

    Yields
    ------
    tuple of (int, object)
        Row and result.
    """
    size = max(1, min(_PORTION, -(-len(rows) // threads)))
    portions = [rows[start : start + size] for start in range(0, len(rows), size)]
    results = map_ordered(
        lambda i: load(portions[i]), len(portions), threads, -(-ahead // size)
    )
    with closing(results):
        for portion, found in zip(portions, results, strict=True):
            yield from zip(portion, found, strict=True)


def _opened(images, row, keyed):
    """Item, source and content of a row, or the reason why there are none."""
    try:
        item = images[row]
        return item, *item.load(keyed)
    except DecodeError as error:
        return error


def _decoded(opened, key, pixels_of):
    if isinstance(opened, DecodeError):
        return opened
    try:
        return LoadedRow(key, pixels=pixels_of(*opened))
    except DecodeError as error:
        return error


class _Batch:
    """Rows that wait for the network; equal images are computed once."""

    def __init__(self):
        self.pixels, self.keys, self.rows = [], [], []
        self._position = {}

    def add(self, row, result):
        position = self._position.get(result.key) if result.key else None
        if position is not None:
            self.rows[position].append(row)
            return
        if result.key:
            self._position[result.key] = len(self.pixels)
        self.pixels.append(result.pixels)
        self.keys.append(result.key)
        self.rows.append([row])


def raise_problems(problems, n_rows, hint=""):
    """Raise one error for all rows without a readable image, if there are any."""
    if problems:
        raise InvalidImageError(problems, n_rows, hint)
