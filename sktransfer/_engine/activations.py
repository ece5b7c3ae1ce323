"""What the trainable part sees of each image.

Behind a cut that is the prefix's output, before everything it is the pixels. Without
random augmentation it is computed once per image and kept while there is room; the
rest is computed anew when its turn comes.

Rows are claimed only while they pass the network, between two steps: a step that held
claims of the next batch while it waits for others could wait for ever.
"""

from dataclasses import dataclass, field
from functools import partial

import torch

from sktransfer._engine.normalization import normalized_batch, stacked
from sktransfer._engine.reading import (
    LoadedRow,
    load_in_portions,
    load_rows,
    raise_problems,
    read_pixels,
)
from sktransfer._images.decode import DecodeError

_CHECKED_AHEAD = 64


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
    store : StorePass or None, default=None
        This fit's pass over the store.
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
    store: object = None
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
        loaded = self._look_up(rows, view)
        missing = [i for i, found in enumerate(loaded) if found is None]
        results = self._read(rows[missing], view, len(missing))
        for i, (_, result) in zip(missing, results, strict=True):
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
        n, problems, kept = len(self.images), [], []
        for row, result in self._read(range(n), 0, _CHECKED_AHEAD):
            if isinstance(result, DecodeError):
                problems.append((row, str(result)))
            elif keep and self.network is None and result.pixels is not None:
                kept.append((result.key, result.pixels))
                if len(kept) == self.max_rows:
                    kept = self._keep(kept)
        self._keep(kept)
        raise_problems(problems, n, "")

    def known(self, rows, view):
        """Return what `load` would, if that needs neither reading nor a file."""
        if self.store is None or not self.store.in_memory:
            return None
        loaded = self._look_up(rows, view if self.augment is not None else 0)
        return None if None in loaded else loaded

    def release(self):
        """Tell the store that an epoch is over."""
        if self.store is not None:
            self.store.release()

    def _look_up(self, rows, view):
        """Rows as `load` returns them where that is known, else None."""
        keys = [self._keys.get((int(row), view)) for row in rows]
        asked = [key for key in keys if key is not None]
        if not asked:
            return [None] * len(keys)
        known = dict(zip(asked, self.store.get(asked), strict=True))
        return [
            None if known.get(key) is None else LoadedRow(key, known[key])
            for key in keys
        ]

    def _read(self, rows, view, ahead):
        """Yield rows and what they hold, read by threads."""
        load = partial(self._load_some, view=view)
        return load_in_portions(load, rows, self.threads, ahead)

    def _load_some(self, rows, view):
        """Look rows up, or decode them, and remember their keys; what threads do."""
        found = load_rows(
            self.images,
            rows,
            self.key_of and partial(self.key_of, view=view),
            self._known_or_wanted,
            partial(self._pixels_of, view=view),
        )
        for row, result in zip(rows, found, strict=True):
            if isinstance(result, LoadedRow):
                self._keys[int(row), view] = result.key
        return found

    def _known_or_wanted(self, keys):
        values = self.store.get(keys)
        return values, {k for k, v in zip(keys, values, strict=True) if v is None}

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
            self._keep([(key, p) for key, _, p in loaded if p is not None])
            return normalized_batch(pixels, self.preprocessing, self.device)
        if self.store is None:
            return self._forward([pixels for _, _, pixels in loaded])
        values = {key: known for key, known, _ in loaded if known is not None}
        values |= self._computed({k: p for k, known, p in loaded if known is None})
        batch = stacked([values[row.key] for row in loaded], self.device)
        if batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        return batch

    def _computed(self, pixels):
        """Activations of new images, given by key; each is computed by one worker."""
        values = {}
        while left := [key for key in pixels if key not in values]:
            found, claimed = self.store.claim(left)
            pairs = zip(left, found, strict=True)
            values |= {key: value for key, value in pairs if value is not None}
            if claimed:
                mine = [key for key in left if key in claimed]
                try:
                    computed = self._forward([pixels[key] for key in mine])
                    computed = list(zip(mine, computed.cpu().numpy(), strict=True))
                    self.store.put(computed)
                finally:
                    self.store.release()
                values |= computed
            self.store.wait([key for key in left if key not in values])
        return values

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

    def _keep(self, pairs):
        if self.store is not None and pairs:
            self.store.put(pairs)
        return []

    def _pixels_of(self, item, encoded, content, view):
        augment = self.augment and partial(self.augment, content=content, view=view)
        return read_pixels(
            item, encoded, self.preprocessing, augment, self.decode_factor
        )
