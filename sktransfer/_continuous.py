"""What y means where it holds numbers: their units, gaps, weights, and scores."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_array

from sktransfer._targets import columns_of, of_mean_one


@dataclass
class ContinuousTargets:
    """Continuous targets, and the units in which gradients see them.

    Parameters
    ----------
    numbers : ndarray of float64, shape (n, n_columns)
        In their own units; NaN where one is missing.
    mean, scale : ndarray of float64, shape (n_columns,)
        What standardizes them; the scale of a constant target is 1.
    is_matrix : bool
        Whether y had columns, so that predictions have them too.
    """

    numbers: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    is_matrix: bool

    loss_kind = "continuous"
    strata = None

    @property
    def known(self):
        """Which numbers there are, (n, n_columns)."""
        return ~np.isnan(self.numbers)

    @property
    def columns_of_heads(self):
        """For each head the columns it predicts."""
        return [[c] for c in range(self.numbers.shape[1])]

    @property
    def n_outputs(self):
        """Number of outputs of each head."""
        return [1] * self.numbers.shape[1]

    def content(self):
        """Bytes that other targets do not have."""
        arrays = self.numbers, self.mean, self.scale
        return b"".join(array.tobytes() for array in arrays)

    def without_rows(self):
        """Return the same units without a row, for a fit that goes on."""
        return replace(self, numbers=self.numbers[:0])

    def can_be_solved(self):
        """Whether each column has a number."""
        return bool(self.known.any(axis=0).all())

    def values(self):
        """Standardized target of each head, (n,), float32; 0 where it is missing."""
        standardized = (self.numbers - self.mean) / self.scale
        return list(np.where(self.known, standardized, 0.0).T.astype(np.float32))

    def row_weights(self, sample_weight):
        """Weights for gradients, (n, n_heads): 0 without a number, 1 on average."""
        weights = self.known.astype(float)
        if sample_weight is not None:
            weights *= np.asarray(sample_weight, float)[:, np.newaxis]
        return of_mean_one(weights)

    def score(self, outputs, targets, weights):
        """Mean over the targets of 1 - mean squared error, all standardized.

        That is R2 with the variance of all rows instead of that of the rows that judge:
        of a target with many gaps, these may be too few to have one.
        """
        scores = []
        for output, target, weight in zip(outputs, targets, weights.T, strict=True):
            if weight.any():
                errors = np.square(output[:, 0].astype(np.float64) - target)
                scores.append(1 - np.average(errors, weights=weight))
        return float(np.mean(scores)) if scores else 0.0


def read_continuous(y, sample_weight=None):
    """Read y, and find its units.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_columns)
        Numbers. With several columns one may be missing (None or NaN).
    sample_weight : ndarray of shape (n,), default=None
        Weights of the rows, by which mean and scale are taken.

    Returns
    -------
    ContinuousTargets
        The targets.

    Raises
    ------
    ValueError
        If y holds what is no number, or a column without one.
    """
    numbers, is_matrix = _numbers_of(y)
    known = ~np.isnan(numbers)
    if sample_weight is not None:
        known &= (sample_weight > 0)[:, np.newaxis]
    empty = np.flatnonzero(~known.any(axis=0))
    if len(empty):
        of_weight = "" if sample_weight is None else " in a row of positive weight"
        raise ValueError(
            f"y: found no number in column {empty[0]}{of_weight}. Expected at least "
            "one that is not missing."
        )
    scaler = StandardScaler().fit(numbers, sample_weight=sample_weight)
    return ContinuousTargets(numbers, scaler.mean_, scaler.scale_, is_matrix)


def read_in_units_of(y, targets):
    """Read y of a fit that goes on.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_columns)
        Numbers.
    targets : ContinuousTargets
        Whose units hold.

    Returns
    -------
    ContinuousTargets
        The targets.

    Raises
    ------
    ValueError
        If y holds what is no number, or has another number of columns.
    """
    numbers, _ = _numbers_of(y)
    numbers = columns_of(numbers, targets.numbers.shape[1])
    return replace(targets, numbers=numbers)


def _numbers_of(y):
    """Columns of y as float64, and whether it had any."""
    values = check_array(
        y, dtype=None, ensure_2d=False, ensure_all_finite=False, input_name="y"
    )
    is_matrix = values.ndim == 2
    columns = values if is_matrix else values[:, np.newaxis]
    numbers = _as_floats(columns)
    if numbers.shape[1] == 1:
        _refuse(np.isnan(numbers), columns, "missing")
    _refuse(np.isinf(numbers), columns, "infinite")
    return numbers, is_matrix


def _refuse(wrong, columns, what):
    rows, places = np.nonzero(wrong)
    if len(rows):
        row, column = rows[0], places[0]
        raise ValueError(
            f"y: found {columns[row, column]} in row {row}, column {column}; "
            f"{len(rows)} {what} value(s) in all. Expected finite numbers, which only "
            "one of several targets may lack. Drop these rows."
        )


def _as_floats(columns):
    """Numbers, or an error that says which row holds none."""
    if columns.dtype.kind in "SU":
        columns = columns.astype(object)  # as which "1.5" is a number
    try:
        return np.where(pd.isna(columns), np.nan, columns).astype(np.float64)
    except (TypeError, ValueError):
        for row, column in np.ndindex(columns.shape):
            value = columns[row, column]
            try:
                float(np.nan if pd.isna(value) else value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"y: found {value!r} in row {row}, column {column}. Expected a "
                    "number: TransferClassifier learns labels."
                ) from None
        raise
