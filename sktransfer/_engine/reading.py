"""Rows of images -> pixels, read, decoded and resized by threads, in order.

Rows whose activation is known leave before they are decoded.
"""

from contextlib import closing
from typing import NamedTuple

import numpy as np

from sktransfer._images.decode import DecodeError
from sktransfer._images.items import ready_pixels
from sktransfer._images.loading import map_ordered
from sktransfer.exceptions import InvalidImageError

# Rows that are looked up together: a store in a file wants portions.
_PORTION = 16


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


def raise_problems(problems, n_rows, hint=""):
    """Raise one error for all rows without a readable image, if there are any."""
    if problems:
        raise InvalidImageError(problems, n_rows, hint)
