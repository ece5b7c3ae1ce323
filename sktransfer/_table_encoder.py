"""The columns beside the images as numbers: what ``tabular="auto"`` means."""

import warnings
from contextlib import contextmanager

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted

from sktransfer._cells import (
    CATEGORY,
    DATE,
    DURATION,
    NUMBER,
    READERS,
    TEXT,
    CellError,
    as_bool,
    is_bool,
    kind_of_cells,
    kind_of_dtype,
)

# Rows in which a string must occur to be a category of its own in a column of many.
_OFTEN = 5


class TableEncoder(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
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
        self.kinds_, self.left_out_, self._bools = {}, {}, set()
        for name in X.columns:
            kind, reason = self._kind_of(X[name])
            if reason is None:
                self.kinds_[name] = kind
                if kind == CATEGORY and all(map(is_bool, X[name].dropna())):
                    self._bools.add(name)
            else:
                self.left_out_[name] = reason
        self._warn_of_what_is_left_out()
        imputer = SimpleImputer(strategy="median", add_indicator=True)
        encoders = {
            (NUMBER, DATE, DURATION): make_pipeline(imputer, StandardScaler()),
            (CATEGORY,): _one_hot(2),
            (TEXT,): _one_hot(_OFTEN, self.max_categories),
        }
        self._fitted = []
        for kinds, encoder in encoders.items():
            names = [n for n, kind in self.kinds_.items() if kind in kinds]
            if names:
                encoder.set_output(transform="default")  # whatever is set globally
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
        kind = kind_of_dtype(column.dtype) or kind_of_cells(there)
        if kind is None:
            return None, f"holds {type(there.iloc[0]).__name__}"
        n_distinct = there.nunique() if kind == CATEGORY else 0
        if n_distinct <= self.max_categories:
            return kind, None
        if there.astype(str).value_counts().iloc[0] >= _OFTEN:
            return TEXT, None
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
        arrays = []
        for name in names:
            column = X[name]
            if name in self._bools:  # which may come as 0 and 1 later
                column = column.astype(object).map(as_bool, na_action="ignore")
            arrays.append(READERS[self.kinds_[name]](column, name))
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


@contextmanager
def _numbered(rows):
    """Let errors name rows by their numbers in the whole input."""
    try:
        yield
    except CellError as error:
        raise ValueError(error.at(rows[error.row])) from error


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
    y = _safe_indexing(y, train)
    with _numbered(train):
        of_train = transformer.fit_transform(frame.iloc[train], y)
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
    with _numbered(rows):
        encoded = transformer.transform(frame)
    return _checked(encoded, len(frame), transformer, rows)


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
