"""What y means: classes and codes of one target, of several, or of many labels."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

MISSING = -1


@dataclass
class Targets:
    """Encoded classification targets.

    Parameters
    ----------
    kind : {"single", "multilabel", "multioutput"}
        One class a row, a 0/1 matrix, or several classes a row.
    classes : list of ndarray
        Sorted classes of each column.
    codes : ndarray of int, shape (n, n_columns)
        Positions in `classes`; `MISSING` where a label is missing.
    """

    kind: str
    classes: list
    codes: np.ndarray

    @property
    def known(self):
        """Which labels there are, (n, n_columns)."""
        return self.codes != MISSING

    @property
    def columns_of_heads(self):
        """For each head the columns it predicts."""
        columns = list(range(self.codes.shape[1]))
        return [columns] if self.kind == "multilabel" else [[c] for c in columns]

    @property
    def loss_kind(self):
        """What `resolve_loss` calls the kind of target."""
        return "multilabel" if self.kind == "multilabel" else "multiclass"

    @property
    def n_outputs(self):
        """Number of logits of each head."""
        if self.kind == "multilabel":
            return [self.codes.shape[1]]
        return [len(classes) for classes in self.classes]

    @property
    def strata(self):
        """Classes of the rows by which to split them; None for several targets."""
        return self.codes[:, 0] if self.kind == "single" else None

    def content(self):
        """Bytes that other targets do not have."""
        classes = [of_column.tolist() for of_column in self.classes]
        return self.codes.tobytes() + repr(classes).encode()

    def without_rows(self):
        """Return the same classes without a row, for a fit that goes on."""
        return Targets(self.kind, self.classes, self.codes[:0])

    def can_be_solved(self):
        """Whether each class has a row."""
        pairs = zip(self.codes.T, self.classes, strict=True)
        return all(len(set(c) - {MISSING}) == len(names) for c, names in pairs)

    def values(self):
        """Targets of each head: classes (n,), int64, or labels (n, k), float32."""
        if self.kind == "multilabel":
            # A label that was the same in every row has one class, 0 or 1.
            pairs = zip(self.classes, self.codes.T, strict=True)
            numbers = [classes[codes] for classes, codes in pairs]
            values = np.stack(numbers, axis=1).astype(np.float32)
            return [np.where(self.known, values, np.float32("nan"))]
        return [np.where(c == MISSING, 0, c) for c in self.codes.T]

    def row_weights(self, sample_weight, class_weights):
        """Weights for gradients, (n, n_heads): 0 without label, 1 on average.

        Parameters
        ----------
        sample_weight : ndarray of shape (n,) or None
            Weights of the rows.
        class_weights : list of (dict, "balanced" or None)
            One a column.
        """
        n = len(self.codes)
        base = np.ones(n) if sample_weight is None else np.asarray(sample_weight, float)
        weights = []
        for columns in self.columns_of_heads:
            of_head = base * self.known[:, columns].any(axis=1)
            # Of many labels the mean: a product would leave a few rows all the weight.
            of_head = of_head * np.mean(
                [self._class_weights(c, class_weights[c], base) for c in columns],
                axis=0,
            )
            weights.append(of_head)
        return of_mean_one(np.stack(weights, axis=1))

    def _class_weights(self, c, class_weight, base):
        """Weights of the rows by their class in a column; 1 without a label."""
        if class_weight is None:
            return 1.0
        classes, rows = self.classes[c], np.flatnonzero(self.known[:, c])
        codes = self.codes[rows, c]
        if isinstance(class_weight, dict):
            # For all classes: those rows of a partial_fit may not show each of them.
            of_class = compute_class_weight(class_weight, classes=classes, y=classes)
        else:
            totals = np.bincount(codes, base[rows], minlength=len(classes))
            shown = totals > 0
            of_class = np.ones(len(classes))
            of_class[shown] = totals.sum() / (shown.sum() * totals[shown])
        weights = np.ones(len(self.codes))
        weights[rows] = of_class[codes]
        return weights

    def score(self, outputs, targets, weights):
        """Accuracy of logits; a row counts if all its known labels are right."""
        if self.kind == "multilabel":
            known = ~np.isnan(targets[0])
            right = ((outputs[0] > 0) == (targets[0] > 0.5)) | ~known
            return _average(right.all(axis=1), weights[:, 0])
        pairs = zip(outputs, targets, strict=True)
        right = np.stack([o.argmax(axis=1) == t for o, t in pairs], axis=1)
        right = (right | (weights == 0)).all(axis=1)
        return _average(right, weights.max(axis=1))


def of_mean_one(weights):
    """Scale the weights of each head so that those above 0 are 1 on average."""
    n_rows = np.maximum((weights > 0).sum(axis=0), 1)
    totals = weights.sum(axis=0)
    return (weights / np.where(totals > 0, totals / n_rows, 1.0)).astype(np.float32)


def _average(right, weights):
    return float(np.average(right, weights=weights)) if weights.any() else 0.0


def read_targets(y, sample_weight=None, all_classes=None):
    """Encode y.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_columns)
        Labels. With several columns a label may be missing (None or NaN).
    sample_weight : ndarray of shape (n,), default=None
        A single target needs two classes among rows of positive weight.
    all_classes : array-like or list of them, default=None
        The classes of each column, where y need not show all of them.

    Returns
    -------
    Targets
        The encoded targets.

    Raises
    ------
    ValueError
        If y holds what is no label, or a single class.
    """
    values = _labels_of(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = column_or_1d(values, warn=True)
    if all_classes is not None:
        return encode_known(values, _announced(values, all_classes))
    if values.ndim == 1:
        return _single(values, sample_weight)
    known = ~pd.isna(values)
    columns = [_column(values, known, c) for c in range(values.shape[1])]
    classes, codes = zip(*columns, strict=True)
    return Targets(_kind(classes), list(classes), np.stack(codes, axis=1))


def encode_known(y, targets):
    """Encode y by classes that are known already.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_columns)
        Labels.
    targets : Targets
        Whose kind and classes hold.

    Returns
    -------
    Targets
        The encoded targets.

    Raises
    ------
    ValueError
        If y has another number of columns or a class that is not known.
    """
    values = columns_of(_labels_of(y), len(targets.classes))
    if targets.kind == "single":
        _refuse_missing(values[:, 0])
    codes = np.full(values.shape, MISSING)
    known = ~pd.isna(values)
    for c, classes in enumerate(targets.classes):
        rows = np.flatnonzero(known[:, c])
        unknown = sorted(set(values[rows, c].tolist()) - set(classes.tolist()), key=str)
        if unknown:
            raise ValueError(
                f"y: found the classes {unknown[:10]}, which the first call did not "
                f"name. Expected some of {classes.tolist()}; pass all classes as "
                "`classes` in the first call of partial_fit; with warm_start=True, "
                "fit a clone, or set warm_start=False."
            )
        codes[rows, c] = np.searchsorted(classes, values[rows, c].astype(classes.dtype))
    return Targets(targets.kind, targets.classes, codes)


def check_announced(all_classes, targets):
    """Raise if a later call of `partial_fit` names other classes than are known.

    Parameters
    ----------
    all_classes : array-like or list of them
        The classes of each column.
    targets : Targets
        What is known.

    Raises
    ------
    ValueError
        If they differ.
    """
    named = [all_classes] if targets.kind == "single" else all_classes
    known = [classes.tolist() for classes in targets.classes]
    if [np.unique(classes).tolist() for classes in named] != known:
        known = known[0] if targets.kind == "single" else known
        raise ValueError(
            f"Parameter classes: found {all_classes!r}. Expected {known}, as in the "
            "first call, or None; for other classes, fit a clone."
        )


def columns_of(values, n):
    """Return the columns of y, or raise if they are not as many as in the first call.

    Parameters
    ----------
    values : ndarray of shape (n_rows,) or (n_rows, n_columns)
        What y holds.
    n : int
        Number of columns in the first call.

    Returns
    -------
    ndarray of shape (n_rows, n)
        The same values.
    """
    columns = values[:, np.newaxis] if values.ndim == 1 else values
    if columns.shape[1] != n:
        raise ValueError(
            f"y: found {columns.shape[1]} column(s). Expected {n}, as in the first "
            "call."
        )
    return columns


def _labels_of(y):
    """Array of y, whose labels may be missing."""
    return check_array(
        y, dtype=None, ensure_2d=False, ensure_all_finite=False, input_name="y"
    )


def _announced(values, all_classes):
    """Targets without rows, of the kind of y and with the classes that are given."""
    if values.ndim == 1:
        classes = np.unique(all_classes)
        return Targets("single", [classes], np.empty((0, 1), int))
    if len(all_classes) != values.shape[1]:
        raise ValueError(
            f"Parameter classes: found {len(all_classes)} for {values.shape[1]} "
            "targets. Expected a list with the classes of each target."
        )
    classes = [np.unique(of_column) for of_column in all_classes]
    return Targets(_kind(classes), classes, np.empty((0, len(classes)), int))


def _kind(classes):
    """Kind of a target of several columns; zeros and ones only are multilabel."""
    labels = all(set(of_column.tolist()) <= {0, 1} for of_column in classes)
    return "multilabel" if labels else "multioutput"


def _single(values, sample_weight):
    check_array(values, dtype=None, ensure_2d=False, input_name="y")
    _refuse_missing(values)
    check_classification_targets(values)
    weighted = values if sample_weight is None else values[sample_weight > 0]
    n_classes = len(np.unique(weighted))
    if n_classes < 2:
        of_weight = "" if sample_weight is None else " among rows of positive weight"
        raise ValueError(
            f"y: found {n_classes} class(es){of_weight}. Expected at least two classes."
        )
    classes, codes = np.unique(values, return_inverse=True)
    return Targets("single", [classes], codes.reshape(-1, 1))


def _refuse_missing(values):
    missing = np.flatnonzero(pd.isna(values))
    if len(missing):
        raise ValueError(
            f"y: found {values[missing[0]]} in row {missing[0]}, {len(missing)} "
            "missing label(s) in all. Expected a label in every row of a single "
            "target: drop the rows without one."
        )


def _column(values, known, c):
    had_missing, values, known = not known.all(), values[:, c], known[:, c]
    if not known.any():
        raise ValueError(
            f"y: found no label in column {c}. Expected at least one that is not "
            "missing."
        )
    present = np.array(values[known].tolist())
    check_classification_targets(present)
    if present.dtype.kind == "f" and (present == np.round(present)).all():
        # NaN beside whole numbers, in any column, made floats of them.
        present = present.astype(int) if had_missing else present
    classes, found = np.unique(present, return_inverse=True)
    codes = np.full(len(values), MISSING)
    codes[known] = found
    return classes, codes


def column_class_weights(class_weight, classes):
    """Return one class weight a column, after checking `class_weight`.

    Parameters
    ----------
    class_weight : dict, list of dicts, "balanced" or None
        The parameter.
    classes : list of ndarray
        Classes of each column.

    Returns
    -------
    list
        As long as `classes`; dicts name all classes of their column.
    """
    n = len(classes)
    if not isinstance(class_weight, list):
        if isinstance(class_weight, dict) and n > 1:
            raise ValueError(
                "Parameter class_weight: found one dict for several targets. Expected "
                "'balanced' or a list with one dict a target."
            )
        class_weight = [class_weight] * n
    if len(class_weight) != n:
        raise ValueError(
            f"Parameter class_weight: found a list of {len(class_weight)} for {n} "
            "target(s). Expected one dict a target."
        )
    pairs = zip(class_weight, classes, strict=True)
    return [_for_all_classes(weight, of_column) for weight, of_column in pairs]


def _for_all_classes(weight, classes):
    """Let a dict name the classes that it leaves out, which weigh 1.

    Where rows do not show a class that it names, scikit-learn takes the one that it
    leaves out for a misspelt one.
    """
    if not isinstance(weight, dict):
        return weight
    # With scikit-learn's own message for unknown classes.
    of_class = compute_class_weight(weight, classes=classes, y=classes)
    return dict(zip(map(_key_of, classes.tolist()), of_class.tolist(), strict=True))


def _key_of(label):
    """Key under which scikit-learn looks for the weight of a class."""
    try:
        return int(label)
    except ValueError:
        return str(label)
