"""Which rows only judge: the validation part of early stopping."""

import math
import warnings

import numpy as np
from sklearn.model_selection import (
    GroupShuffleSplit,
    ShuffleSplit,
    StratifiedShuffleSplit,
)

_FEWEST_ROWS = 20


def validation_split(targets, rows, groups, fraction, seed):
    """Split rows into those to learn from and those that judge.

    Parameters
    ----------
    targets : Targets or ContinuousTargets
        Stratified by their classes, where there is one target of classes and each class
        has two rows.
    rows : ndarray of int
        The rows there are.
    groups : array-like of shape (n,) or None
        A group is never split.
    fraction : float
        Share of the rows that judge.
    seed : int
        Seed of the split.

    Returns
    -------
    train, valid : ndarray of int
        Sorted rows; no `valid` rows, and a warning, where they would be fewer than 20.
    """
    n_valid = math.ceil(fraction * len(rows))
    if n_valid >= _FEWEST_ROWS:
        train, valid = _split(targets, rows, groups, fraction, seed, n_valid)
        n_valid = len(valid)  # whole groups may be other than they should be
    if n_valid >= _FEWEST_ROWS:
        return train, valid
    warnings.warn(
        f"Early stopping is off: validation_fraction={fraction} of {len(rows)} "
        f"rows is {n_valid}, too few to judge by; {_FEWEST_ROWS} are needed. All "
        "rows are used for training, for max_epochs.",
        UserWarning,
        stacklevel=2,
    )
    return rows, rows[:0]


def _split(targets, rows, groups, fraction, seed, n_valid):
    state = np.random.RandomState(seed % 2**32)
    options = {"n_splits": 1, "test_size": fraction, "random_state": state}
    classes = None if targets.strata is None else targets.strata[rows]
    if groups is not None:
        splitter, of_rows = GroupShuffleSplit(**options), np.asarray(groups)[rows]
        if len(set(of_rows.tolist())) < 2:
            return rows, rows[:0]
        split = splitter.split(rows, groups=of_rows)
    elif classes is not None and _can_stratify(classes, n_valid):
        split = StratifiedShuffleSplit(**options).split(rows, classes)
    else:
        split = ShuffleSplit(**options).split(rows)
    train, valid = next(split)
    return rows[np.sort(train)], rows[np.sort(valid)]


def _can_stratify(classes, n_valid):
    counts = np.bincount(classes)
    counts = counts[counts > 0]
    n_left = len(classes) - n_valid
    return counts.min() >= 2 and len(counts) <= min(n_valid, n_left)
