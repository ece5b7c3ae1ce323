"""Cross-fitting: each row gets the output of a network that has not seen its label.

What a network says about the images it was tuned on is not what it says about others,
and a model that is fitted on it trusts it too much.
"""

from contextlib import contextmanager
from functools import cached_property
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import is_classifier
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
    check_cv,
)
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import (
    _num_samples,
    check_array,
    check_consistent_length,
    column_or_1d,
)

from sktransfer._alignment import RigidMap
from sktransfer._callbacks import with_callbacks
from sktransfer._targets import encode_known

_MAX_LISTED = 5
_ONE_LABEL = ("binary", "multiclass")


def target_type_of(y, declared="auto"):
    """Type of y, as TargetEncoder tells it, and for several columns as type_of_target.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_targets)
        The target; of several columns a value may be missing.
    declared : {"auto", "continuous", "binary", "multiclass"}, default="auto"
        ``"auto"`` infers it; the others say what whole numbers are.

    Returns
    -------
    str
        ``"binary"``, ``"multiclass"`` or ``"continuous"``; for several columns
        ``"multilabel-indicator"``, ``"multiclass-multioutput"`` or
        ``"continuous-multioutput"``.

    Raises
    ------
    ValueError
        If y is of no such type, or has more classes than it is declared to have.
    """
    values = check_array(
        y, dtype=None, ensure_2d=False, ensure_all_finite=False, input_name="y"
    )
    if values.ndim == 2 and values.shape[1] > 1:
        return _type_of_columns(values, declared)
    values = column_or_1d(values)
    kind = type_of_target(values, input_name="y") if declared == "auto" else declared
    if kind not in (*_ONE_LABEL, "continuous"):
        raise ValueError(
            f"y: found a target of the type {kind!r} (Unknown label type). Expected "
            "labels or numbers, one a row; target_type='continuous' or 'multiclass' "
            "says which."
        )
    if kind == "binary" and (n_classes := len(pd.unique(values))) > 2:
        raise ValueError(
            f"Parameter target_type: found 'binary' for a y of {n_classes} classes. "
            "Expected 'multiclass', 'continuous' or 'auto'."
        )
    return kind


def _type_of_columns(values, declared):
    known = [column[~pd.isna(column)].tolist() for column in values.T]
    types = {type_of_target(np.array(column)) for column in known if column}
    if declared == "continuous" or (declared == "auto" and "continuous" in types):
        return "continuous-multioutput"
    is_indicator = all(set(column) <= {0, 1} for column in known)
    return "multilabel-indicator" if is_indicator else "multiclass-multioutput"


def folds(cv, X, y, target_type, groups, random_state):
    """Split the rows into folds of which each row is in exactly one test part.

    Parameters
    ----------
    cv : int, splitter, iterable or None
        An int is a number of shuffled folds, stratified by the classes of a single
        target, and made of whole groups where there are groups; None is 5.
    X, y, groups : object
        What a splitter gets.
    target_type : str
        From `target_type_of`.
    random_state : int, RandomState instance or None
        Shuffles the folds of an int.

    Returns
    -------
    list of (ndarray of int, ndarray of int)
        Rows to learn from and rows to compute, of each fold.

    Raises
    ------
    ValueError
        If rows are in no test part or in several, or in both parts of a fold.
    """
    cv = 5 if cv is None else cv
    if isinstance(cv, Integral):
        stratified = target_type in _ONE_LABEL
        if groups is None:
            splitter = StratifiedKFold if stratified else KFold
        else:
            splitter = StratifiedGroupKFold if stratified else GroupKFold
        cv = splitter(cv, shuffle=True, random_state=random_state)
    rows = np.arange(len(y))
    splits = [
        (rows[train], rows[test]) for train, test in check_cv(cv).split(X, y, groups)
    ]
    _check_partition(splits, len(rows))
    return splits


def _check_partition(splits, n):
    for k, (train, test) in enumerate(splits, start=1):
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(
                f"Parameter cv: in fold {k} {_listed(both)} in the training part and "
                "in the test part. Expected test rows that the fold's network does not "
                "see."
            )
    tests = [test for _, test in splits] or [np.empty(0, int)]
    counts = np.bincount(np.concatenate(tests), minlength=n)
    never, often = np.flatnonzero(counts == 0), np.flatnonzero(counts > 1)
    if len(never) or len(often):
        found = [f"{_listed(never)} in no test part"] if len(never) else []
        found += [f"{_listed(often)} in several test parts"] if len(often) else []
        raise ValueError(
            f"Parameter cv: {' and '.join(found)}. Expected every row in exactly one, "
            "for fit_transform gives each row the output of the one network that has "
            "not seen it. Pass a number of folds, or a splitter that partitions the "
            "rows, such as KFold, StratifiedKFold or GroupKFold."
        )


def _listed(rows):
    first = ", ".join(map(str, rows[:_MAX_LISTED]))
    dots = ", ..." if len(rows) > _MAX_LISTED else ""
    return f"{len(rows)} row(s) ({first}{dots}) are"


def n_scores(targets):
    """Count the columns that a classifier's scores have, for all targets together."""
    return len(unlearnt_scores(targets, slice(0)))


def unlearnt_scores(targets, rows):
    """Tell which columns of the scores some rows cannot teach: a class is missing.

    Parameters
    ----------
    targets : Targets
        All labels.
    rows : ndarray of int
        The rows to learn from.

    Returns
    -------
    ndarray of bool, shape (n_columns,)
        One column for two classes or a label, else one a class; of each target.
    """
    unlearnt = []
    for codes, classes in zip(targets.codes[rows].T, targets.classes, strict=True):
        shown = np.isin(np.arange(len(classes)), codes)
        one_a_class = targets.kind != "multilabel" and len(classes) > 2
        unlearnt += [*~shown] if one_a_class else [not shown.all()]
    return np.array(unlearnt)


def within_others(scores, rows, columns):
    """Bring scores of rows, in some columns, into the range of all other rows.

    A network that saw no row of a class is certain that there is none, by a number far
    from all that the other networks say: the next model would learn to know the fold.

    Parameters
    ----------
    scores : ndarray of shape (n, n_columns)
        Changed in place; NaN is no score.
    rows : ndarray of int
        Rows of the fold.
    columns : ndarray of bool, shape (n_columns,)
        Which columns.
    """
    others = np.delete(scores, rows, axis=0)
    others = others[~np.isnan(others).any(axis=1)]
    if len(others):
        low, high = others.min(axis=0), others.max(axis=0)
        scores[rows] = np.where(columns, scores[rows].clip(low, high), scores[rows])


class Tuning:
    """One call of `fit` or `fit_transform` that learns from y.

    Parameters
    ----------
    transformer : TargetAware
        Whose parameters hold.
    X, y, sample_weight, groups : object
        As the user gave them.
    """

    def __init__(self, transformer, X, y, sample_weight, groups):
        self.transformer = transformer
        if y is None:
            raise ValueError(
                f"{type(transformer).__name__} requires y to be passed, but the target "
                "y is None: its strategy learns from it."
            )
        check_consistent_length(X, y, sample_weight, groups)
        self.X, *self.of_rows = indexable(X, y, sample_weight, groups)
        self.target_type = target_type_of(y, transformer._declared_type())

    def fit(self, estimator):
        """Fit on all rows whose image can be read."""

        def fit(X, rows):
            estimator.fit(X, *self._of_rows(rows))

        _, self.rows = self.transformer._on_readable_rows(fit, self.X)
        self.estimator = estimator

    def _of_rows(self, rows):
        """Targets, weights and groups of some rows."""
        return [None if v is None else _safe_indexing(v, rows) for v in self.of_rows]

    def splits(self):
        """Rows to learn from and rows to compute, of each fold."""
        y, _, groups = self.of_rows
        cv, random_state = self.transformer.cv, self.transformer.random_state
        return folds(cv, self.X, y, self.target_type, groups, random_state)

    def out_of_fold(self, splits):
        """Compute the output for each row of the network fitted without its fold.

        Parameters
        ----------
        splits : list
            From `splits`.

        Returns
        -------
        ndarray of shape (n, n_features), float32
            NaN in rows whose image cannot be read.
        """
        transformer = self.transformer
        shape = _num_samples(self.X), transformer._n_features_out
        values, unlearnt = np.full(shape, np.nan, dtype=np.float32), []
        for k, parts in enumerate(splits, start=1):
            train, test = (np.intersect1d(part, self.rows) for part in parts)
            if transformer.verbose:
                print(
                    f"Fold {k} of {len(splits)}: {len(train)} rows to learn from, "
                    f"{len(test)} to compute."
                )
            if len(test):
                with _named_fold(k, len(splits)):
                    unlearnt.append((test, self._unlearnt(train)))
                    fold = self._fitted_fold(k, train)
                    values[test] = self._of_fold(fold, train, test)
        for test, columns in unlearnt:
            within_others(values, test, columns)
        return values

    def _unlearnt(self, train):
        """Which columns of the output the training rows of a fold cannot teach."""
        y, weight, _ = self._of_rows(train)
        columns = np.zeros(self.transformer._n_features_out, dtype=bool)
        if self.target_type.startswith("continuous"):
            return columns
        targets = encode_known(y, self.estimator._targets)
        rows = np.arange(len(train))
        rows = rows if weight is None else rows[weight > 0]
        if targets.kind == "single" and len(np.unique(targets.codes[rows])) < 2:
            raise ValueError(
                "y: found a single class in the training part of a fold. Expected at "
                "least two: pass fewer folds, or a splitter that spreads the classes."
            )
        if self.transformer.output_ == "embedding":
            return columns
        return unlearnt_scores(targets, rows)

    def _fitted_fold(self, k, train):
        """Fit on the training rows of a fold; classes and values mean what they did."""
        fold = self.transformer._new_estimator(self.target_type)
        if self.estimator.image_shape_ is not None:  # flattened: the range is learnt
            fold.set_params(value_range=self.estimator.value_range_)
        if fold.image_size is None:  # a fold's images might make it another one
            size = self.estimator.backbone_.preprocessing.image_size
            fold.set_params(image_size=size)
        if fold.checkpoint is not None:
            fold.set_params(checkpoint=Path(fold.checkpoint) / f"fold{k}")
        fit = with_callbacks(type(fold)._fit)
        X, of_rows = _safe_indexing(self.X, train), self._of_rows(train)
        return fit(fold, X, *of_rows, self._classes())

    def _classes(self):
        """Return all classes: a fold has scores of those that it does not show too."""
        targets = self.estimator._targets
        if not is_classifier(self.estimator):
            return None
        return targets.classes[0] if targets.kind == "single" else targets.classes

    def _of_fold(self, fold, train, test):
        """Output of a fold's network for its test rows."""
        transformer, tuned = self.transformer, fold.backbone_
        # A network that is used once need not be remembered.
        keep = tuned.fingerprint == tuned.base.fingerprint
        if not keep:
            fold.set_params(cache=None)

        def output(rows):
            return transformer._outputs(_safe_indexing(self.X, rows), fold, keep=keep)

        values = output(test)
        if transformer.output_ != "embedding" or self._is_as_on_all(tuned):
            return values
        return RigidMap.between(output(train), self._on_all[train])(values)

    @cached_property
    def _on_all(self):
        """Embeddings of all rows by the network that was tuned on them."""
        return self.transformer._outputs(self.X)

    def _is_as_on_all(self, tuned):
        """Whether a fold's network embeds as that of all rows: it is frozen there."""
        layer = self.transformer.layer
        on_all = self.estimator.backbone_.fingerprint_at(layer)
        return tuned.fingerprint_at(layer) == on_all


@contextmanager
def _named_fold(k, n):
    try:
        yield
    except Exception as error:
        error.add_note(f"This was fold {k} of {n} (parameter cv).")
        raise
