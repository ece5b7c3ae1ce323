"""A DataFrame's columns: which of them hold images, and which are the table beside.

Nothing is opened to find out. Columns are told apart by the kinds of their cells;
names, not positions, find them again after `fit`, as in ColumnTransformer: the order of
the columns may change and others may come, but none that is used may be missing.
"""

import os
from collections import Counter

import numpy as np
import pandas as pd

from sktransfer._images.decode import readable_extensions
from sktransfer._images.inputs import is_tensor

_MOST_NAMED = 10


def as_pandas(X):
    """Return X as a DataFrame of pandas; polars is not needed for polars' frames.

    Parameters
    ----------
    X : DataFrame
        Of pandas, which is returned as it is, or of another library.

    Returns
    -------
    pandas.DataFrame
        With the same columns.

    Raises
    ------
    ValueError
        If two columns have the same name.
    """
    if not hasattr(X, "iloc"):
        columns = {name: np.asarray(X[name]) for name in X.columns}
        return pd.DataFrame(
            {n: list(c) if c.ndim > 1 else c for n, c in columns.items()}
        )
    twice = [name for name, n in Counter(X.columns).items() if n > 1]
    if twice:
        raise ValueError(
            f"X: found several columns named {_named(twice)}. Expected each name "
            "once, since columns are told apart by name."
        )
    return X


def find_image_columns(frame):
    """Return the columns that hold images, by their cells.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table.

    Returns
    -------
    list
        Names of the columns with at least one image and nothing else but gaps. Images
        are PIL images, bytes, arrays, paths, and strings that end like the name of a
        file Pillow reads.

    Raises
    ------
    ValueError
        If a column holds images and something else. Text of which less than half of
        the cells end like an image file is text.
    """
    return [name for name in frame.columns if _holds_images(frame[name], name)]


def _holds_images(column, name):
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype
    if getattr(dtype, "kind", "O") not in "OSUT":
        return False
    cells = column.to_numpy(dtype=object)
    there = np.flatnonzero(~_missing(column))
    are_images = np.array([_is_image(cells[row]) for row in there], dtype=bool)
    if are_images.all():
        return len(there) > 0
    if not are_images.any():
        return False
    images = [cells[row] for row in there[are_images]]
    only_names = all(isinstance(cell, str) for cell in images)
    if only_names and 2 * len(images) <= len(there):
        return False
    row = there[~are_images][0]
    raise ValueError(
        f"Row {row} of column {name!r}: found {_shown(cells[row])}, while "
        f"{len(images)} other row(s) hold images. Expected images and gaps (None) "
        "only, or a column without images. Mend the row, or say which columns are "
        "images with image_columns."
    )


def _missing(column):
    """Which cells are missing; arrays among them are not looked into."""
    return np.fromiter((_is_gap(cell) for cell in column), dtype=bool)


def _is_gap(cell):
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return True
    return isinstance(cell, (float, np.floating)) and cell != cell


def _is_image(cell):
    if isinstance(cell, str):
        return os.path.splitext(cell)[1].lower() in readable_extensions()
    if isinstance(cell, (bytes, bytearray, memoryview, os.PathLike)):
        return True
    is_array = isinstance(cell, np.ndarray) or is_tensor(cell)
    return hasattr(cell, "getbands") or (is_array and cell.ndim > 1)


def _shown(cell):
    text = repr(cell)
    return f"{type(cell).__name__} {text[:60]}{'...' if len(text) > 60 else ''}"


def check_image_columns(image_columns, frame):
    """Return the names of the image columns that a user gave.

    Parameters
    ----------
    image_columns : str, int or list of them
        One name or several.
    frame : pandas.DataFrame
        The table.

    Returns
    -------
    list
        The names.

    Raises
    ------
    ValueError
        If there are none, or some twice, or some that the table lacks.
    """
    one = isinstance(image_columns, str) or np.isscalar(image_columns)
    names = [image_columns] if one else list(image_columns)
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Parameter image_columns: found {names!r}. Expected at least one name of "
            "a column, and each name once."
        )
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise ValueError(
            f"Parameter image_columns: X has no column {_named(absent)}. Its columns "
            f"are {_named(frame.columns)}."
        )
    return names


def check_some_images(frame, names):
    """Raise if a column that shall hold images holds none at all.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table of a fit.
    names : list
        Its image columns.

    Raises
    ------
    ValueError
        If all cells of such a column are missing.
    """
    for name in names:
        if _missing(frame[name]).all():
            raise ValueError(
                f"Column {name!r}: found no image in fit, all of the {len(frame)} "
                "row(s) are missing. Expected at least one. Leave the column out of "
                "image_columns."
            )


def select_columns(frame, names, used_as):
    """Return some columns by name, in the order of `fit`.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table; its order does not matter, and other columns are left out.
    names : list
        The columns that are wanted.
    used_as : str
        What they are, for the message.

    Returns
    -------
    pandas.DataFrame
        With these columns.

    Raises
    ------
    ValueError
        If some are missing.
    """
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise ValueError(
            f"X: the {used_as} {_named(absent)} that fit used is missing. Found the "
            f"columns {_named(frame.columns)}. Expected all columns of fit, in any "
            "order; cells without a value may be None or NaN."
        )
    return frame[list(names)]


def _named(names):
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    return shown + (", ..." if len(names) > _MOST_NAMED else "")
