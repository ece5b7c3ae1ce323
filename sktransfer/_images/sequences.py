"""The images of one input, in row order; nothing is opened until it is asked for."""

import numpy as np

from sktransfer._images.decode import DecodeError
from sktransfer._images.items import ArrayItem

_ENOUGH_TO_KNOW_SIZES = 100


class ImageSequence:
    """The images of one input, in row order; `seq[i]` is the item of row i."""

    def __init__(self, items):
        self._items = items

    def __len__(self):
        return len(self._items)

    def __getitem__(self, row):
        return self._items[row]

    def contents(self):
        """Yield bytes that other images do not have, row by row."""
        for row in range(len(self)):
            try:
                yield self[row].load()[1]
            except DecodeError as error:
                yield str(error).encode()

    def shorter_sides(self, sample_weight=None):
        """Return the shorter sides of up to 100 images, in pixels, by their headers.

        The images are spread over all rows of positive weight; those that cannot be
        read are left out.
        """
        all_rows = np.arange(len(self))
        rows = all_rows if sample_weight is None else all_rows[sample_weight > 0]
        n_places = min(len(rows), _ENOUGH_TO_KNOW_SIZES)
        places = np.linspace(0, len(rows) - 1, n_places).astype(int)
        sides = [self[row].shorter_side() for row in rows[places]]
        return [side for side in sides if side is not None]


class PixelSequence(ImageSequence):
    """The images of one array of shape (n, H, W) or (n, H, W, C)."""

    def __init__(self, array, value_range):
        super().__init__(array)
        self._value_range = value_range

    def __getitem__(self, row):
        return ArrayItem(self._items[row], self._value_range)
