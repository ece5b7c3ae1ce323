"""What is particular to continuous targets: reading y, heads, predicting numbers."""

from copy import deepcopy

import numpy as np
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_consistent_length

from sktransfer._continuous import read_continuous, read_in_units_of
from sktransfer._supervised import SupervisedEstimator


class RegressionEstimator(SupervisedEstimator):
    """Base of the estimators that predict numbers."""

    def _read_targets(self, y, sample_weight, known, announced):  # noqa: ARG002
        if known is not None:
            return read_in_units_of(y, known)
        return read_continuous(y, sample_weight)

    def _row_weights(self, targets, sample_weight):
        return targets.row_weights(sample_weight)

    def _solve(self, features, targets, c, rows, C, sample_weight):
        from sktransfer._engine.exact import fit_regression_head

        return fit_regression_head(
            features,
            targets.numbers[rows, c],
            C,
            sample_weight,
            targets.mean[c],
            targets.scale[c],
            self._joint,
        )

    def _heads_of(self, layer, columns, targets):
        from sktransfer._engine.heads import (
            RegressionModuleHead,
            trained_regression_head,
        )

        (c,) = columns
        units = targets.mean[c], targets.scale[c]
        if isinstance(self.head, str):
            return [trained_regression_head(layer, *units)]
        n_features = self._n_features()
        return [
            RegressionModuleHead(deepcopy(layer), *units, self.batch_size, n_features)
        ]

    def _head_attributes(self, heads, targets):
        return {"head_": heads if targets.is_matrix else heads[0]}

    def _r2(self, y, predicted, sample_weight):
        """Mean over the targets of R2 on the rows in which they are known."""
        truth = read_in_units_of(y, self._targets).numbers
        check_consistent_length(truth, predicted, sample_weight)
        several, scores = truth.shape[1] > 1, []
        for true, found in zip(truth.T, predicted.reshape(truth.shape).T, strict=True):
            rows = ~np.isnan(true)
            weight = None if sample_weight is None else np.asarray(sample_weight)[rows]
            if rows.sum() > 1 or not several:
                scores.append(r2_score(true[rows], found[rows], sample_weight=weight))
        return float(np.mean(scores)) if scores else float("nan")

    def predict(self, X):
        """Predict numbers.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.

        Returns
        -------
        values : ndarray of shape (n,) or (n, n_targets)
            In the units of ``y``, and of its shape.

        Raises
        ------
        InvalidImageError
            If images are broken, or missing where the row has nothing else.
        """
        values = self._apply_heads("predict", X)
        return np.column_stack(values) if isinstance(self.head_, list) else values[0]
