"""What X may be -> ImageSequence: row i and where its image comes from.

One function decides; nothing is opened yet. Whoever reads X for an estimator first asks
`input_kind`, because flattened rows go through scikit-learn's own checks.
"""

import math
import os
import warnings
from numbers import Number

import numpy as np

from sktransfer._images.items import (
    ArrayItem,
    EncodedItem,
    MissingItem,
    PathItem,
    PilItem,
)
from sktransfer._images.sequences import ImageSequence, PixelSequence
from sktransfer.exceptions import ImageShapeError

_CHANNELS = (1, 3, 4)
# Rows of 3 * side**2 numbers are taken for a table below it, as in small tests.
_LIKELY_SIDE = 8
_MOVE_AXIS = "np.moveaxis(X, 1, -1)"


def is_frame(X):
    """Tell a DataFrame (of pandas or another library) from arrays and Series."""
    return hasattr(X, "columns") and hasattr(X, "shape") and len(X.shape) == 2


def is_tensor(X):
    """Tell a torch tensor, or a subclass of it, without importing torch."""
    bases = type(X).__mro__
    return any(b.__module__ == "torch" and b.__name__ == "Tensor" for b in bases)


def input_kind(X):
    """Decide how X is read.

    Returns
    -------
    {"rows", "pixels", "items"}
        Flattened images as numbers, one array of images, or one image a row.
    """
    if is_frame(X):
        return _frame_kind(X)
    if is_tensor(X):
        return "pixels" if X.ndim > 2 else "rows"
    if hasattr(X, "shape") and hasattr(X, "dtype"):
        return _array_kind(X)
    if isinstance(X, (list, tuple)):
        if any(map(_is_image_like, X)) or all(map(_is_missing, X)):
            return "items"
        return "rows" if all(map(_may_be_a_row, X)) else "items"
    return "rows"


def _array_kind(X):
    """Kind of an ndarray, Series or anything else with shape and dtype."""
    if len(X.shape) > 2:  # of objects too: np.asarray makes that of PIL images
        return "pixels"
    if len(X.shape) == 1 and not isinstance(X, np.ndarray) and _all_missing(X):
        return "items"
    if getattr(X.dtype, "kind", "O") in "buifc":
        return "rows"
    if len(X.shape) == 1:
        return "items"
    # An object array of numbers is a table; a column of paths or images is not.
    one_column = len(X.shape) == 2 and X.shape[1] == 1
    if one_column and any(map(_is_image_like, np.asarray(X)[:, 0])):
        return "items"
    return "rows"


def _frame_kind(X):
    """Kind of a DataFrame; a column of which nothing is known is one of floats."""
    if X.shape[1] != 1:
        return "rows"
    missing = _all_missing(_first_column(X))
    return "items" if missing or not is_numeric_frame(X) else "rows"


def _first_column(X):
    return X.iloc[:, 0] if hasattr(X, "iloc") else X[X.columns[0]]


def is_numeric_frame(X):
    """Tell whether the one column of a DataFrame is of numbers."""
    dtype = getattr(X.dtypes, "iloc", X.dtypes)[0]
    if hasattr(dtype, "is_numeric"):
        return dtype.is_numeric()
    if getattr(dtype, "kind", "O") in "buifc":
        return True
    cells = _first_column(X).to_numpy()
    return (
        len(cells) > 0
        and all(isinstance(cell, Number) for cell in cells)
        and not _all_missing(cells)
    )


def _is_image_like(cell):
    if isinstance(cell, (str, bytes, bytearray, memoryview)):
        return True
    if isinstance(cell, (list, tuple)):  # no image, but no row of numbers either
        return any(isinstance(part, (list, tuple, np.ndarray)) for part in cell)
    is_file = hasattr(cell, "__fspath__")
    return is_file or hasattr(cell, "getbands") or getattr(cell, "ndim", 0) > 1


def _may_be_a_row(cell):
    """Tell a number or row of numbers from what only `read_items` can name."""
    is_number = isinstance(cell, Number) or _is_missing(cell)
    return is_number or isinstance(cell, (list, tuple)) or hasattr(cell, "__array__")


def _is_missing(cell):
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, (float, np.floating)) and cell != cell


def _all_missing(cells):
    return len(cells) > 0 and all(map(_is_missing, cells))


def read_items(X, value_range, column=None, *, by_dtype=False):
    """Read a column of images; every cell is looked at, none is opened.

    Parameters
    ----------
    X : list, Series, 1-D or one-column object array, or one-column DataFrame
        Paths, encoded bytes, PIL images or arrays.
    value_range : tuple of two floats or None
        For arrays among the cells.
    column : object, default=None
        Name of the column, for messages.
    by_dtype : bool, default=False
        Whether the dtypes uint8 and uint16 say their range themselves.

    Returns
    -------
    ImageSequence
        One item a row.
    """
    if is_frame(X):
        X = _first_column(X)
    if hasattr(X, "shape") and len(X.shape) == 2:
        X = np.asarray(X)[:, 0]
    cells = X.tolist() if hasattr(X, "tolist") else X  # polars has none
    of_column = "" if column is None else f" of column {column!r}"
    return ImageSequence(
        [
            _item(cell, f"Row {i}{of_column}", value_range, by_dtype)
            for i, cell in enumerate(cells)
        ]
    )


def _item(cell, where, value_range, by_dtype):
    if isinstance(cell, str):
        return PathItem(str(cell))
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return EncodedItem(bytes(cell))
    if hasattr(cell, "__fspath__"):
        return PathItem(os.fsdecode(cell))
    if hasattr(cell, "getbands") and hasattr(cell, "load"):
        return PilItem(cell)
    if _is_missing(cell):
        return MissingItem(cell)
    if is_tensor(cell):
        cell = _read_tensor(cell, where, channels=0)
    if isinstance(cell, np.ndarray) and cell.dtype != object:
        value_range = _range_of(cell, value_range, by_dtype)
        _check_pixels(cell, where, "(H, W) or (H, W, C)", value_range)
        return ArrayItem(cell, value_range)
    raise TypeError(
        f"{where} holds {type(cell).__name__} {str(cell)[:60]!r}, which is not an "
        "image. Expected a path, encoded bytes, a PIL image or an array of pixels in "
        "every row."
    )


def _read_tensor(tensor, where, channels):
    """Turn a tensor with its channels at axis `channels`, if any, into an array."""
    array = tensor.detach().cpu().numpy()
    if array.ndim != channels + 3:
        return array
    if array.shape[channels] not in _CHANNELS:
        raise ImageShapeError(
            where,
            f"a tensor of shape {array.shape}",
            f"Expected channels first, {'(n, C, H, W)' if channels else '(C, H, W)'} "
            "with C of 1, 3 or 4.",
        )
    return np.moveaxis(array, channels, -1)


def _read_objects(array):
    """Turn an object array of more than two dimensions into numbers."""
    numbers = np.array(array.tolist())
    if numbers.dtype.kind not in "buif":
        found = type(array.flat[0]).__name__
        raise ImageShapeError(
            "X",
            f"an array of shape {array.shape} that holds {found}",
            "Expected pixels. Put images of other kinds one by one into a list.",
        )
    return numbers


def read_pixels(X, value_range, *, by_dtype=False):
    """Read one array (or torch tensor, channels first) that holds all images.

    Parameters
    ----------
    X : ndarray of shape (n, H, W) or (n, H, W, C), or tensor of shape (n, C, H, W)
        C is 1, 3 or 4.
    value_range : tuple of two floats or None
        The values that mean black and white; None decides by dtype.
    by_dtype : bool, default=False
        Whether the dtypes uint8 and uint16 say their range themselves.

    Returns
    -------
    PixelSequence
        One item a row.
    """
    if is_tensor(X):
        X = _read_tensor(X, "X", channels=1)
    X = np.asarray(X)
    if X.dtype.kind not in "buifc":
        X = _read_objects(X)
    if X.ndim == 3 and X.shape[-1] in _CHANNELS[1:]:
        raise ImageShapeError(
            "X",
            f"one image of shape {X.shape}",
            "Expected several images, (n, H, W) or (n, H, W, C). For a single image "
            "pass X[np.newaxis].",
        )
    value_range = _range_of(X, value_range, by_dtype)
    _check_pixels(X, "X", "(n, H, W) or (n, H, W, C)", value_range, batch=True)
    return PixelSequence(X, value_range)


def _range_of(array, value_range, by_dtype):
    return None if by_dtype and _says_its_range(array) else value_range


def _says_its_range(array):
    """Whether the dtype does, in any byte order."""
    return array.dtype.newbyteorder("=") in (np.uint8, np.uint16)


def _check_pixels(array, where, expected, value_range, batch=False):
    shape = array.shape[1:] if batch else array.shape
    if len(shape) == 3 and shape[-1] not in _CHANNELS and shape[0] in _CHANNELS:
        move = _MOVE_AXIS if batch else "np.moveaxis(image, 0, -1)"
        raise ImageShapeError(
            where,
            f"an array of shape {array.shape}, which has its channels first",
            f"Expected channels last, {expected}: pass {move}.",
        )
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[-1] not in _CHANNELS):
        raise ImageShapeError(
            where,
            f"an array of shape {array.shape}",
            f"Expected {expected} with C of 1, 3 or 4.",
        )
    if 0 in shape:
        raise ImageShapeError(
            where, f"an array of shape {array.shape}", "Expected at least one pixel."
        )
    _check_values(array, where, value_range, batch)


def _check_values(array, where, value_range, batch):
    kind = array.dtype.kind
    if kind == "c":
        raise ImageShapeError(where, "complex values", "Complex data not supported.")
    if kind == "f" and not np.isfinite(array).all():
        if batch:
            where = _first_row(~np.isfinite(array), where)
        raise ImageShapeError(
            where, "NaN or infinity among the pixels", "Expected finite numbers."
        )
    if value_range is not None or _says_its_range(array) or kind == "b":
        return
    low, high = (array.min(), array.max()) if array.size else (0, 1)
    if kind != "f":
        raise ImageShapeError(
            where,
            f"pixels of dtype {array.dtype} from {low} to {high}",
            "Expected uint8, uint16 or floats in [0, 1]. For another range pass "
            "value_range=(black, white), for example value_range=(0, 255).",
        )
    if low < 0 or high > 1:
        if batch:
            where = _first_row((array < 0) | (array > 1), where)
        raise ImageShapeError(
            where,
            f"float pixels from {low:g} to {high:g}",
            "Expected values in [0, 1]. For another range pass value_range=(black, "
            "white), for example value_range=(0, 255).",
        )


def _first_row(is_wrong, where):
    rows = is_wrong.reshape(len(is_wrong), -1).any(axis=1)
    return f"Row {int(np.argmax(rows))} of {where}"


def read_rows(X, image_shape, value_range):
    """Read flattened images that scikit-learn has checked already.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        One flattened image a row.
    image_shape : tuple of 2 or 3 ints
        (H, W) or (H, W, C).
    value_range : tuple of two floats or None
        The values that mean black and white; None decides by dtype.

    Returns
    -------
    PixelSequence
        One item a row.
    """
    return PixelSequence(X.reshape(len(X), *image_shape), value_range)


def default_image_shape(n_features):
    """Shape of flattened images nobody has described: a square, else one row."""
    side = _side(n_features)
    if side:
        return side, side
    side = _side(n_features // 3)
    if n_features == 3 * side**2 and side >= _LIKELY_SIDE:
        warnings.warn(
            f"X: found rows of {n_features} numbers, which are read as images of one "
            f"line of pixels. If they are colour images of {side} x {side} pixels, "
            f"pass image_shape=({side}, {side}, 3). If their channels come first, pass "
            f"np.moveaxis(X.reshape(-1, 3, {side}, {side}), 1, -1) as X.",
            stacklevel=2,
        )
    return 1, n_features


def _side(n_pixels):
    """Side of the square of so many pixels; 0 if they are not one."""
    side = math.isqrt(n_pixels)
    return side if side * side == n_pixels else 0


def check_image_shape(image_shape, n_features):
    """Return the shape of flattened images, or raise if it does not fit the rows."""
    if image_shape is None:
        return default_image_shape(n_features)
    shape = tuple(image_shape)
    if int(np.prod(shape)) != n_features or len(shape) not in (2, 3):
        raise ImageShapeError(
            "Parameter image_shape",
            f"{shape} for rows of {n_features} features",
            "Expected (H, W) or (H, W, C) whose product is the number of features.",
        )
    if len(shape) == 3 and shape[2] not in _CHANNELS:
        raise ImageShapeError(
            "Parameter image_shape",
            f"{shape}",
            "Expected channels last, (H, W, C) with C of 1, 3 or 4.",
        )
    return shape


def rows_value_range(X, value_range, sample_weight=None):
    """Return black and white of flattened images, from fit's rows of positive weight.

    The dtypes uint8 and uint16 say it themselves; the range is kept all the same, for
    the rows of another dtype that may come after fit.
    """
    if not isinstance(value_range, str):
        return tuple(map(float, value_range))
    if _says_its_range(X):
        return 0.0, float(np.iinfo(X.dtype).max)
    if sample_weight is not None and np.any(sample_weight > 0):
        X = X[sample_weight > 0]
    return float(X.min()), float(X.max())
