"""The columns beside the images as numbers: what ``tabular="auto"`` means."""

import datetime
import warnings
from numbers import Number

import numpy as np
import pandas as pd
from pandas.api import types
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted

_NUMBER, _DATE, _DURATION = "number", "date", "duration"
_CATEGORY, _TEXT = "category", "text"
# Rows in which a string must occur to be a category of its own in a column of many.
_OFTEN = 5
_DAY = pd.Timedelta(days=1)


class TableEncoder(TransformerMixin, BaseEstimator):
    """Turn the columns of a DataFrame into numbers, by their dtypes.

    Numbers are standardized; gaps get the median and a column of their own that says
    where they were. Dates and durations are numbers of days. Strings, categories and
    booleans are one-hot encoded, a gap as a category of its own, what is rarer than
    twice or new together as one. Of columns with many distinct strings only those that
    occur often are categories. Left out, with a warning, are columns without any value,
    with many strings of which none occurs often, or with cells that are none of this.

    Parameters
    ----------
    max_categories : int, default=40
        In a column of strings with more distinct values only those in at least 5 rows
        are categories of their own, and at most so many.

    Attributes
    ----------
    kinds_ : dict
        For each column that is used what it is: ``"number"``, ``"date"``,
        ``"duration"``, ``"category"``, or ``"text"`` for many strings.
    left_out_ : dict
        For each column that is not used the reason.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray
        Their names.
    """

    def __init__(self, max_categories=40):
        self.max_categories = max_categories

    def fit(self, X, y=None):  # noqa: ARG002 (scikit-learn's signature)
        """Look at the columns.

        Parameters
        ----------
        X : pandas.DataFrame
            The table.
        y : None
            Ignored.

        Returns
        -------
        self : TableEncoder
            The fitted encoder.
        """
        self.n_features_in_ = X.shape[1]
        self.feature_names_in_ = np.array(list(X.columns), dtype=object)
        self.kinds_, self.left_out_ = {}, {}
        for name in X.columns:
            kind, reason = self._kind_of(X[name])
            if reason is None:
                self.kinds_[name] = kind
            else:
                self.left_out_[name] = reason
        self._warn_of_what_is_left_out()
        imputer = SimpleImputer(strategy="median", add_indicator=True)
        encoders = {
            (_NUMBER, _DATE, _DURATION): make_pipeline(imputer, StandardScaler()),
            (_CATEGORY,): _one_hot(2),
            (_TEXT,): _one_hot(_OFTEN, self.max_categories),
        }
        self._fitted = []
        for kinds, encoder in encoders.items():
            names = [n for n, kind in self.kinds_.items() if kind in kinds]
            if names:
                self._fitted.append((names, encoder.fit(self._stacked(X, names))))
        return self

    def transform(self, X):
        """Encode a table.

        Parameters
        ----------
        X : pandas.DataFrame
            With the columns of `fit`.

        Returns
        -------
        encoded : ndarray of shape (n, n_features), float64
            Numbers first, then categories.

        Raises
        ------
        ValueError
            If a column of numbers or dates holds something else.
        """
        check_is_fitted(self)
        blocks = [np.empty((len(X), 0))]
        for names, encoder in self._fitted:
            blocks.append(encoder.transform(self._stacked(X, names)))
        return np.hstack(blocks)

    def get_feature_names_out(self, input_features=None):  # noqa: ARG002
        """Names of the columns that come out.

        Parameters
        ----------
        input_features : None
            Ignored: columns have the names of `fit`.

        Returns
        -------
        names : ndarray of str
            Those of the columns, with the category where there are several.
        """
        check_is_fitted(self)
        found = [np.empty(0, dtype=object)]
        for names, encoder in self._fitted:
            found.append(encoder.get_feature_names_out(_strings(names)))
        return np.concatenate(found)

    def _kind_of(self, column):
        """Kind of a column, and why it is left out, or None."""
        there = column.dropna()
        if len(there) == 0:
            return None, "no value at all"
        kind = _kind_of_dtype(column.dtype) or _kind_of_cells(there)
        if kind is None:
            return None, f"holds {type(there.iloc[0]).__name__}"
        n_distinct = there.nunique() if kind == _CATEGORY else 0
        if n_distinct <= self.max_categories:
            return kind, None
        if there.astype(str).value_counts().iloc[0] >= _OFTEN:
            return _TEXT, None
        return None, f"text: {n_distinct} distinct values, none in {_OFTEN} rows"

    def _warn_of_what_is_left_out(self):
        if not self.left_out_:
            return
        listed = ", ".join(f"{n!r} ({why})" for n, why in self.left_out_.items())
        warnings.warn(
            f"These columns of the table are left out: {listed}. To use them, pass a "
            "transformer as `tabular` that encodes them; otherwise drop them from X, "
            "which also ends this warning.",
            UserWarning,
            stacklevel=2,
        )

    def _stacked(self, X, names):
        arrays = [_READERS[self.kinds_[name]](X[name], name) for name in names]
        return np.stack(arrays, axis=1)


def _one_hot(min_frequency, max_categories=None):
    return OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        min_frequency=min_frequency,
        max_categories=max_categories,
        sparse_output=False,
    )


def _strings(names):
    return np.array([str(name) for name in names], dtype=object)


def _kind_of_dtype(dtype):
    """Kind of a column by its dtype, or None where only the cells say it."""
    if isinstance(dtype, pd.CategoricalDtype) or types.is_bool_dtype(dtype):
        return _CATEGORY
    if types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype):
        return _NUMBER
    if types.is_datetime64_any_dtype(dtype):
        return _DATE
    return _DURATION if types.is_timedelta64_dtype(dtype) else None


_KINDS_OF_CELLS = [
    ((str, bool, np.bool_), _CATEGORY),
    (Number, _NUMBER),
    ((datetime.date, np.datetime64), _DATE),
    ((datetime.timedelta, np.timedelta64), _DURATION),
    ((str, Number, np.bool_, pd.Period, pd.Interval), _CATEGORY),  # mixed
]


def _kind_of_cells(there):
    for classes, kind in _KINDS_OF_CELLS:
        if all(isinstance(cell, classes) for cell in there):
            return kind
    return None


def _read_numbers(column, name):
    try:
        values = column.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        values = np.array([_number(cell, i, name) for i, cell in enumerate(column)])
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise ValueError(
            f"Row {infinite[0]} of column {name!r}: found {values[infinite[0]]}. "
            "Expected a finite number, or None or NaN for a gap."
        )
    return values


def _number(cell, row, name):
    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return np.nan
    try:
        return float(cell)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Row {row} of column {name!r}: found {cell!r}. Expected a number, as in "
            "fit, or None or NaN for a gap."
        ) from error


def _read_days(convert, what):
    def read(column, name):
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
    return (dates - pd.Timestamp(0, tz="UTC")) / _DAY


def _days(column):
    return pd.to_timedelta(column) / _DAY


def _read_categories(column, name):  # noqa: ARG001 (as all readers)
    gaps = column.isna().to_numpy()
    cells = np.empty(len(column), dtype=object)
    cells[:] = [
        None if gap else str(cell) for cell, gap in zip(column, gaps, strict=True)
    ]
    return cells


_READERS = {
    _NUMBER: _read_numbers,
    _DATE: _read_days(_days_since_1970, "date"),
    _DURATION: _read_days(_days, "duration"),
    _CATEGORY: _read_categories,
    _TEXT: _read_categories,
}


def encode_training_rows(tabular, frame, y, train):
    """Fit a transformer on the training rows of a table, and encode all rows.

    What the training rows become is the transformer's ``fit_transform``, which in
    transformers that learn from y (TargetEncoder) is not what ``transform`` gives.

    Parameters
    ----------
    tabular : "auto" or transformer
        What encodes; it is cloned.
    frame : pandas.DataFrame
        All rows.
    y : array-like
        Their targets.
    train : ndarray of int
        The training rows.

    Returns
    -------
    transformer, encoded : tuple of (transformer, ndarray of shape (n, n_features))
        The fitted transformer, and float64 numbers.
    """
    from sklearn.utils import _safe_indexing

    auto = isinstance(tabular, str)
    transformer = TableEncoder() if auto else clone(tabular)
    of_train = transformer.fit_transform(frame.iloc[train], _safe_indexing(y, train))
    of_train = _checked(of_train, len(train), transformer, train)
    encoded = np.empty((len(frame), of_train.shape[1]))
    encoded[train] = of_train
    others = np.setdiff1d(np.arange(len(frame)), train)
    if len(others):
        encoded[others] = encode_rows(transformer, frame.iloc[others], others)
    return transformer, encoded


def encode_rows(transformer, frame, rows=None):
    """Encode rows by a fitted transformer.

    Parameters
    ----------
    transformer : transformer
        Fitted.
    frame : pandas.DataFrame
        Columns as in its fit.
    rows : ndarray of int, default=None
        Numbers of these rows in the whole input, for messages.

    Returns
    -------
    ndarray of shape (n, n_features), float64
        Finite numbers.

    Raises
    ------
    ValueError
        If the transformer puts out anything else.
    """
    rows = np.arange(len(frame)) if rows is None else rows
    return _checked(transformer.transform(frame), len(frame), transformer, rows)


def _checked(encoded, n_rows, transformer, rows):
    name = type(transformer).__name__
    if hasattr(encoded, "toarray"):
        encoded = encoded.toarray()
    try:
        values = np.asarray(encoded, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Parameter tabular: {name} put out what are no numbers ({error}). "
            "Expected numbers in all columns: encode text and categories."
        ) from error
    if values.ndim != 2 or len(values) != n_rows:
        raise ValueError(
            f"Parameter tabular: {name} put out shape {values.shape} for {n_rows} "
            "rows. Expected one row each and two dimensions."
        )
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"Parameter tabular: {name} put out {values[row, column]} in row "
            f"{rows[row]}, column {column}. Expected finite numbers: add an imputer, "
            "such as make_pipeline(SimpleImputer(), StandardScaler())."
        )
    return values
