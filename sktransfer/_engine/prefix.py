"""Images -> activations, batch by batch; what is known already is not computed again.

Threads read, hash, decode and resize rows a few batches ahead. Rows whose activation is
in the store leave before they are decoded; the others are gathered into full batches.
Activations are stored as their batch is done, so a run that fails keeps what it had.

A row's value must not depend on its batch, since it may come from the store or not.
On a CPU, batches of fewer than 16 rows differ in the last bits from larger ones (with
one thread; with two, fewer than 8 do), so a short batch is filled up with its last row.
Where kernels are chosen by the number of rows, off the CPU and in networks with
squeeze-and-excitation, it is filled up to `batch_size`.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from sktransfer._images.decode import DecodeError
from sktransfer._images.loading import map_ordered
from sktransfer.exceptions import InvalidImageError

MIN_ROWS = 16
_BATCHES_AHEAD = 2


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
    get, put : callable or None
        The store: ``get(key)`` is an array or None, ``put(key, array)``.
    """

    network: torch.nn.Module
    preprocessing: object
    shape: tuple
    device: torch.device
    batch_size: int
    threads: int
    min_rows: int
    key_of: object = None
    get: object = None
    put: object = None
    problems: list = field(default_factory=list)

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
        batch = _Batch()

        def read(row):
            return load_row(images, row, self.key_of, self.get, self._pixels_of)

        done = 0
        try:
            for row, result in enumerate(
                map_ordered(
                    read, len(images), self.threads, _BATCHES_AHEAD * self.batch_size
                )
            ):
                self._sort_in(row, result, batch, output)
                if len(batch.pixels) == self.batch_size:
                    self._compute(batch, output)
                    batch, done = _Batch(), row + 1
            if batch.pixels:
                self._compute(batch, output)
        except Exception as error:
            kept = " and kept in the cache" if self.put else ""
            error.add_note(
                f"Rows before {done} of {len(images)} had been computed{kept}."
            )
            raise
        return output

    def _pixels_of(self, item, source, content):  # noqa: ARG002 (of no augmentation)
        image = item.decode(source, self.preprocessing.decode_size)
        return self.preprocessing.pixels(image)

    def _sort_in(self, row, result, batch, output):
        """Put one row's result where it belongs: output, batch or problems."""
        if isinstance(result, DecodeError):
            self.problems.append((row, str(result)))
        elif result.activation is not None:
            output[row] = result.activation
        else:
            batch.add(row, result)

    def _compute(self, batch, output):
        pixels = batch.pixels
        pixels = pixels + [pixels[-1]] * (self.min_rows - len(pixels))
        activations = self._forward(pixels)
        for i, (key, rows) in enumerate(zip(batch.keys, batch.rows, strict=True)):
            output[rows] = activations[i]
            if self.put is not None:
                self.put(key, activations[i])

    def _forward(self, pixels):
        with torch.inference_mode():
            batch = normalized_batch(pixels, self.preprocessing, self.device)
            return self.network(batch).float().cpu().numpy()


def normalized_batch(pixels, preprocessing, device):
    """Stack and normalize images; 8-bit pixels travel to the device as 8 bits.

    Parameters
    ----------
    pixels : list of ndarray of shape (s, s, 3)
        uint8, or floats nominally in [0, 1].
    preprocessing : Preprocessing
        Whose mean and std are used.
    device : torch.device
        Where the batch goes.

    Returns
    -------
    torch.Tensor of shape (b, 3, s, s), float32
        In channels-last order.
    """
    if any(p.dtype != np.uint8 for p in pixels):
        pixels = [
            p.astype(np.float32) / np.float32(255) if p.dtype == np.uint8 else p
            for p in pixels
        ]
    batch = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2)
    if batch.dtype == torch.uint8:
        batch = batch.float().div_(255)
    shape = (1, 3, 1, 1)
    mean = torch.tensor(preprocessing.mean, device=device).view(shape)
    std = torch.tensor(preprocessing.std, device=device).view(shape)
    return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)


class LoadedRow(NamedTuple):
    """What reading one row gave: its key, and its activation or else its pixels."""

    key: bytes | None = None
    activation: np.ndarray | None = None
    pixels: np.ndarray | None = None


def load_row(images, row, key_of, get, pixels_of):
    """Look one row up, or decode it; what threads do.

    Parameters
    ----------
    images : ImageSequence
        The images.
    row : int
        Which of them.
    key_of, get : callable or None
        ``get(key_of(content))`` is what the store knows, or None; None: no store.
    pixels_of : callable
        ``pixels_of(item, source, content)`` decodes and resizes.

    Returns
    -------
    LoadedRow or DecodeError
        An error is returned, not raised, so that all can be reported together.
    """
    try:
        item = images[row]
        source, content = item.load()
        key = None
        if key_of is not None:
            key = key_of(content)
            known = get(key)
            if known is not None:
                return LoadedRow(key, known)
        return LoadedRow(key, pixels=pixels_of(item, source, content))
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
