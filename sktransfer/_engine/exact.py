"""The head of a frozen backbone, solved: standardization and logistic regression.

Everything is float64: on float32, a fit with weights and one with repeated rows differ
by 5e-4, on float64 by 1e-10. BLAS runs on one thread, so that results do not depend on
the number of threads; for these sizes that is also 2 to 8 times as fast as on two.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

_TOLERANCE = 1e-6
_MAX_ITERATIONS = 10_000
# A feature that hardly varies against the others is noise, not to be blown up.
_SMALLEST_RELATIVE_SCALE = 1e-6
# The logit of a label that was the same in every row: its probability rounds to 0 or 1.
_CERTAIN = 37.0


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A linear classifier on raw features.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Labels, sorted.
    coef : ndarray of shape (n_outputs, n_features), float64
        Coefficients for features that are not standardized; n_outputs is 1 for two
        classes, and for a single class, which is then always predicted.
    intercept : ndarray of shape (n_outputs,), float64
        Intercepts.
    standardization : tuple of two ndarrays or None, default=None
        Mean and scale of the features the head was trained on, if it goes on so.
    """

    classes: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    standardization: tuple | None = None

    def with_classes(self, classes):
        """Return the head with classes that had no row: they are never predicted.

        Parameters
        ----------
        classes : ndarray of shape (n_classes,)
            All classes, sorted.

        Returns
        -------
        LinearHead
            The same head if it knows them all.
        """
        if len(classes) == len(self.classes):
            return self
        rows = np.searchsorted(classes, self.classes)
        coef = np.zeros((len(classes), self.coef.shape[1]))
        intercept = np.full(len(classes), -_CERTAIN if len(rows) else 0.0)
        if len(rows) == 2:
            coef[rows] = self.coef / 2 * [[-1], [1]]
            intercept[rows] = self.intercept / 2 * [-1, 1]
        elif len(rows) > 2:
            coef[rows], intercept[rows] = self.coef, self.intercept
        else:
            intercept[rows] = _CERTAIN
        if len(classes) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        return LinearHead(classes, coef, intercept)

    def decision_function(self, features):
        """Logits: (n,) for up to two classes, else (n, n_classes)."""
        with threadpool_limits(1, user_api="blas"):
            logits = features.astype(np.float64) @ self.coef.T + self.intercept
        return logits[:, 0] if len(self.classes) < 3 else logits

    def predict_proba(self, features):
        """Probabilities of the classes, (n, n_classes)."""
        logits = self.decision_function(features)
        if len(self.classes) == 1:
            return np.ones((len(features), 1))
        if len(self.classes) == 2:
            return np.column_stack([expit(-logits), expit(logits)])
        return softmax(logits, axis=1)

    def predict(self, features):
        """Labels, (n,)."""
        logits = self.decision_function(features)
        if len(self.classes) == 1:
            return np.repeat(self.classes, len(features))
        if logits.ndim == 1:
            return self.classes[(logits > 0).astype(int)]
        return self.classes[logits.argmax(axis=1)]


def fit_linear_head(features, y, C, sample_weight=None, class_weight=None):
    """Fit one head exactly.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
        Features of the frozen backbone.
    y : ndarray of shape (n,)
        Labels of one target.
    C : float
        Inverse strength of the L2 penalty.
    sample_weight : ndarray of shape (n,), default=None
        Weights of the rows.
    class_weight : dict, "balanced" or None, default=None
        As in LogisticRegression.

    Returns
    -------
    LinearHead
        The fitted head; without classes if there are no rows.
    """
    features = features.astype(np.float64)
    classes = np.unique(y)
    if len(classes) == 0:
        return LinearHead(classes, np.zeros((0, features.shape[1])), np.zeros(0))
    if len(classes) == 1:
        sign = 1.0 if classes[0] else -1.0
        return LinearHead(
            classes, np.zeros((1, features.shape[1])), np.array([sign * _CERTAIN])
        )
    mean, scale = mean_and_scale(features, sample_weight)
    regression = LogisticRegression(
        C=C, tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, class_weight=class_weight
    )
    with threadpool_limits(1, user_api="blas"):
        standardized = (features - mean) / scale
        solved = regression.fit(standardized, y, sample_weight=sample_weight)
    coef = solved.coef_ / scale
    return LinearHead(classes, coef, solved.intercept_ - coef @ mean)


def mean_and_scale(features, sample_weight=None):
    """Mean and standard deviation of each feature; 1 for those that hardly vary.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
        Features of the frozen backbone.
    sample_weight : ndarray of shape (n,), default=None
        Weights of the rows.

    Returns
    -------
    mean, scale : ndarray of shape (n_features,), float64
        What standardizes them.
    """
    features = features.astype(np.float64)
    scaler = StandardScaler().fit(features, sample_weight=sample_weight)
    scale = np.sqrt(scaler.var_)
    scale[scale <= _SMALLEST_RELATIVE_SCALE * np.median(scale)] = 1.0
    return scaler.mean_, scale
