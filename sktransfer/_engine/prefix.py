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

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from sktransfer._engine.normalization import empty_batch, normalized_batch
from sktransfer._engine.reading import load_in_portions, load_rows, read_pixels
from sktransfer._images.decode import DecodeError

MIN_ROWS = 16
_BATCHES_AHEAD = 2


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
    _inputs: list = field(default_factory=list, repr=False)
    _first: dict = field(default_factory=dict, repr=False)  # row of each key computed

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
                # What cannot be decoded is claimed still, and others may wait for it.
                self.store.release()
                self.store.wait(list(others.values()))
                others = self._sweep(images, list(others), output)
        finally:
            if self.store is not None:
                self.store.end()
        return output

    def _sweep(self, images, rows, output):
        """Compute what nobody else computes; return the keys of the other rows."""
        batch, others, copies = _Batch(), {}, {}
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
        running = _Running(self, output)
        try:
            # Closed, so that no thread claims rows after a failure.
            with closing(load_in_portions(load, rows, self.threads, ahead)) as loaded:
                for row, result in loaded:
                    first = self._first_of(row, result)
                    if first != row:
                        copies[row] = first
                        continue
                    self._sort_in(row, result, batch, output, others)
                    if len(batch.pixels) == self.batch_size:
                        running.start(batch, min([row + 1, *others]))
                        batch = _Batch()
            if batch.pixels:
                running.start(batch, len(images))
            running.finish()
        except BaseException as error:
            with suppress(Exception):  # what came first is what is told
                running.finish()
            kept = " and kept in the cache" if self.store is not None else ""
            error.add_note(
                f"Rows before {running.done} of {len(images)} had been computed{kept}."
            )
            raise
        finally:
            running.close()
        output[list(copies)] = output[list(copies.values())]
        return others

    def _first_of(self, row, result):
        """Return the first row with the pixels of this one; mostly the row itself."""
        if isinstance(result, DecodeError) or result.pixels is None or not result.key:
            return row
        return self._first.setdefault(result.key, row)

    @property
    def runs_beside(self):
        """Whether torch's threads are idle while the network has a batch."""
        return self.device.type == "cuda" or not self.parallel

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

    def normalized(self, pixels, turn):
        """Return a batch of pixels as the network wants it."""
        pixels = pixels + [pixels[-1]] * (self.min_rows - len(pixels))
        if self.device.type == "cpu":
            # Memory that is new to the process is slow: one batch's serves all, or two
            # where one is filled while the network has the other.
            while len(self._inputs) <= turn:
                rows = max(self.batch_size, self.min_rows)
                self._inputs.append(empty_batch(rows, len(pixels[0])))
        place = self._inputs[turn] if self._inputs else None
        with torch.inference_mode():
            return normalized_batch(
                pixels, self.preprocessing, self.device, place, self.parallel
            )

    def forward(self, batch):
        """Return what the network makes of a batch, as arrays."""
        with torch.inference_mode():
            outputs = self.network(batch)
            outputs = [outputs] if self.tap is None else outputs
            return [output.float().cpu().numpy() for output in outputs]

    def keep(self, batch, outputs, output):
        """Put what was computed where it belongs: output, store and tap."""
        activations, *more = outputs
        n = len(batch.rows)
        output[batch.rows] = activations[:n]
        if self.store is not None:
            self.store.put(list(zip(batch.keys, activations[:n], strict=True)))
        if self.tap is not None:
            self.tap.put(batch.keys, more[0][:n])


class _Running:
    """Batches on their way through the network of a job, in order.

    Where the network leaves this process's threads idle it has one batch while the next
    is gathered and normalized.

    Parameters
    ----------
    job : PrefixJob
        Whose network runs.
    output : ndarray
        Where activations go.
    """

    def __init__(self, job, output):
        self.job, self.output = job, output
        self.done = 0  # rows before this one are computed
        self._pool = ThreadPoolExecutor(1) if job.runs_beside else None
        self._waiting, self._turn = None, 0

    def start(self, batch, done):
        """Take a batch; when it is through, rows before `done` are computed."""
        inputs = self.job.normalized(batch.pixels, self._turn)
        if self._pool is None:
            self.job.keep(batch, self.job.forward(inputs), self.output)
            self.done = done
            return
        future = self._pool.submit(self.job.forward, inputs)
        self.finish()
        self._waiting, self._turn = (future, batch, done), 1 - self._turn

    def finish(self):
        """Wait for the batch that the network has, if it has one."""
        if self._waiting is not None:
            (future, batch, done), self._waiting = self._waiting, None
            self.job.keep(batch, future.result(), self.output)
            self.done = done

    def close(self):
        """End the thread."""
        if self._pool is not None:
            self._pool.shutdown()


class _Batch:
    """Rows that wait for the network."""

    def __init__(self):
        self.pixels, self.keys, self.rows = [], [], []

    def add(self, row, result):
        self.pixels.append(result.pixels)
        self.keys.append(result.key)
        self.rows.append(row)
