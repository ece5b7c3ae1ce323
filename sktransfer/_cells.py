"""The cells of one column of a table: their kind, and what is read of them."""

import datetime
from numbers import Integral, Number, Real

import numpy as np
import pandas as pd
from pandas.api import types

NUMBER, DATE, DURATION = "number", "date", "duration"
CATEGORY, TEXT = "category", "text"
_DAY = pd.Timedelta(days=1)


def kind_of_dtype(dtype):
    """Kind of a column by its dtype, or None where only the cells say it."""
    if isinstance(dtype, pd.CategoricalDtype) or types.is_bool_dtype(dtype):
        return CATEGORY
    if types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype):
        return NUMBER
    if types.is_datetime64_any_dtype(dtype):
        return DATE
    return DURATION if types.is_timedelta64_dtype(dtype) else None


_KINDS_OF_CELLS = [
    ((str, bool, np.bool_), CATEGORY),
    (Number, NUMBER),
    ((datetime.date, np.datetime64), DATE),
    ((datetime.timedelta, np.timedelta64), DURATION),
    ((str, Number, np.bool_, pd.Period, pd.Interval), CATEGORY),  # mixed
]


def kind_of_cells(there):
    """Kind of the cells that are there, or None if there is none for them."""
    if any(isinstance(cell, (complex, np.complexfloating)) for cell in there):
        return None
    for classes, kind in _KINDS_OF_CELLS:
        if all(isinstance(cell, classes) for cell in there):
            return kind
    return None


class CellError(ValueError):
    """A cell cannot be read; `row` counts from the first one that was handed over."""

    def __init__(self, row, name, found, expected):
        super().__init__(row, name, found, expected)
        self.row = row

    def __str__(self):
        return self.at(self.row)

    def at(self, row):
        """Say it with another number of the row."""
        _, name, found, expected = self.args
        return f"Row {row} of column {name!r}: found {found}. {expected}"


def _read_numbers(column, name):
    kind = kind_of_dtype(column.dtype)
    if kind in (DATE, DURATION) or types.is_complex_dtype(column.dtype):
        _refuse(column.notna().to_numpy(), column, name, "number")
        return np.full(len(column), np.nan)
    try:
        values = column.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        values = np.array([_number(cell, i, name) for i, cell in enumerate(column)])
    _refuse(np.isinf(values), column, name, "finite number")
    return values


def _number(cell, row, name):
    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return np.nan
    try:
        return float(cell)
    except (TypeError, ValueError) as error:
        expected = "Expected a number, as in fit, or None or NaN for a gap."
        raise CellError(row, name, repr(cell), expected) from error


def _refuse(wrong, column, name, what):
    """Raise for the first row that is `wrong`, if there is one."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise CellError(
            rows[0],
            name,
            str(column.iloc[rows[0]]),
            f"Expected a {what}, as in fit, or None or NaN for a gap.",
        )


def _read_days(convert, what):
    def read(column, name):
        there = column.notna().to_numpy()
        if not there.any():  # whatever the dtype, which is that of no cell
            return np.full(len(column), np.nan)
        # pandas would take numbers for nanoseconds.
        numbers = np.array([isinstance(cell, Number) for cell in column])
        _refuse(numbers & there, column, name, what)
        try:
            converted = convert(column)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Column {name!r}: found cells that are no {what} ({error}). Expected "
                f"{what}s, as in fit, or None for a gap."
            ) from error
        return converted.to_numpy(dtype=float, na_value=np.nan)

    return read


def _days_since_1970(column):
    dates = pd.to_datetime(column, utc=True)
    # In nanoseconds there would be no dates before 1677 and after 2262.
    return (dates - pd.Timestamp("1970-01-01", tz="UTC").as_unit("s")) / _DAY


def _days(column):
    return pd.to_timedelta(column) / _DAY


def _read_categories(column, name):  # noqa: ARG001 (as all readers)
    gaps = column.isna().to_numpy()
    cells = np.empty(len(column), dtype=object)
    cells[:] = [
        None if gap else _text(cell) for cell, gap in zip(column, gaps, strict=True)
    ]
    return cells


def _text(cell):
    """Name a category; a gap elsewhere makes floats of a column of whole numbers."""
    if isinstance(cell, Real) and not isinstance(cell, Integral) and cell == cell // 1:
        return str(int(cell))
    return str(cell)


def is_bool(cell):
    """Tell whether a cell is a boolean of Python or numpy."""
    return isinstance(cell, (bool, np.bool_))


def as_bool(cell):
    """Return 0 and 1 as booleans, and anything else as it is."""
    return bool(cell) if isinstance(cell, Number) and cell in (0, 1) else cell


READERS = {
    NUMBER: _read_numbers,
    DATE: _read_days(_days_since_1970, "date"),
    DURATION: _read_days(_days, "duration"),
    CATEGORY: _read_categories,
    TEXT: _read_categories,
}
