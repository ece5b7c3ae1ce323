"""What is particular to classes: reading y, solving heads, predicting labels."""

from copy import deepcopy

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_array, check_consistent_length

from sktransfer._supervised import SupervisedEstimator
from sktransfer._targets import (
    check_announced,
    column_class_weights,
    columns_of,
    encode_known,
    read_targets,
)


class ClassEstimator(SupervisedEstimator):
    """Base of the estimators that predict classes."""

    def _read_targets(self, y, sample_weight, known, announced):
        if known is not None:
            if announced is not None:
                check_announced(announced, known)
            return encode_known(y, known)
        return read_targets(y, sample_weight, announced)

    def _row_weights(self, targets, sample_weight):
        return targets.row_weights(sample_weight, self._class_weights(targets))

    def _class_weights(self, targets):
        """Class weight of each column."""
        classes = targets.classes
        if targets.kind == "multilabel":
            # A label that is the same in every row may have weights of both values.
            classes = [np.arange(2)] * len(classes)
        return column_class_weights(self.class_weight, classes)

    def _solve(self, features, targets, c, rows, C, sample_weight):
        from sktransfer._engine.exact import fit_linear_head

        classes = targets.classes[c]
        head = fit_linear_head(
            features,
            classes[targets.codes[rows, c]],
            C,
            sample_weight,
            self._class_weights(targets)[c],
            self._joint,
        )
        return head.with_classes(classes)

    def _heads_of(self, layer, columns, targets):
        from sktransfer._engine.heads import ClassModuleHead, trained_linear_heads

        classes = [targets.classes[c] for c in columns]
        if isinstance(self.head, str):
            return trained_linear_heads(layer, classes)
        multilabel = targets.kind == "multilabel"
        names = np.arange(len(columns)) if multilabel else classes[0]
        n_features = self._n_features()
        return [
            ClassModuleHead(
                deepcopy(layer), names, multilabel, self.batch_size, n_features
            )
        ]

    def _head_attributes(self, heads, targets):
        classes = targets.classes[0] if targets.kind == "single" else targets.classes
        if targets.kind == "multilabel":
            classes = np.arange(len(targets.classes))
        several = targets.kind == "multioutput" or len(heads) > 1
        return {"head_": heads if several else heads[0], "classes_": classes}

    def _exact_match(self, y, predicted, sample_weight):
        """Share of the rows whose labels, as far as they are known, are all right."""
        # As objects: a number beside names stays a number.
        truth = check_array(
            y, dtype=object, ensure_2d=False, ensure_all_finite=False, input_name="y"
        )
        truth = columns_of(truth, predicted.shape[1]).copy()
        check_consistent_length(truth, predicted, sample_weight)
        wrong = ~pd.isna(truth)
        for c, classes in enumerate(self._targets.classes):
            if classes.dtype.kind == "U":  # as which numpy reads a list of both
                truth[wrong[:, c], c] = truth[wrong[:, c], c].astype(str)
        # Only there: what is compared with pd.NA is neither right nor wrong.
        wrong[wrong] = predicted[wrong] != truth[wrong]
        return float(np.average(~wrong.any(axis=1), weights=sample_weight))

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.

        Returns
        -------
        labels : ndarray of shape (n,) or (n, n_targets)
            The most probable labels.

        Raises
        ------
        InvalidImageError
            If images are broken, or missing where the row has nothing else.
        """
        labels = self._apply_heads("predict", X)
        if not isinstance(self.head_, list):
            return labels[0]
        return side_by_side(labels)

    def predict_proba(self, X):
        """Predict probabilities.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.

        Returns
        -------
        probabilities : ndarray of shape (n, n_classes), or list of them
            In the order of ``classes_``; for multilabel targets an array
            (n, n_labels) of the probability of 1, for several targets a list.

        Raises
        ------
        InvalidImageError
            If images are broken, or missing where the row has nothing else.
        """
        probabilities = self._apply_heads("predict_proba", X)
        if not isinstance(self.head_, list):
            return probabilities[0]
        if self._targets.kind != "multilabel":
            return probabilities
        of_one = [
            p[:, -1] if head.classes[-1] == 1 else 1 - p[:, 0]
            for p, head in zip(probabilities, self.head_, strict=True)
        ]
        return np.column_stack(of_one)

    def decision_function(self, X):
        """Compute the logits of the head.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.

        Returns
        -------
        scores : ndarray of shape (n,) or (n, n_classes), or list of them
            (n,) for two classes; (n, n_labels) for multilabel targets; a list for
            several targets.

        Raises
        ------
        InvalidImageError
            If images are broken, or missing where the row has nothing else.
        """
        scores = self._apply_heads("decision_function", X)
        if not isinstance(self.head_, list):
            return scores[0]
        return np.column_stack(scores) if self._targets.kind == "multilabel" else scores


def side_by_side(labels):
    """Stack the labels of several targets as columns; 0 does not become "0"."""
    if len({column.dtype.kind in "OUS" for column in labels}) > 1:
        labels = [column.astype(object) for column in labels]
    return np.column_stack(labels)
