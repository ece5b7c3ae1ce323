"""The head of a frozen backbone, solved: logistic or ridge regression.

Both see standardized features. Everything is float64: on float32, a fit with weights
and one with repeated rows differ by 5e-4, on float64 by 1e-10. BLAS runs on one thread,
so that results do not depend on the number of threads; for these sizes that is also 2
to 8 times as fast as on two.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

from sktransfer._engine.strength import most_evident

_DEFAULT_C = 0.01
# Of which C="auto" of a regression chooses one, the strongest penalty first. Comparing
# more costs nothing, and between neighbours predictions hardly differ.
_CANDIDATES = np.logspace(-5, 0, 41)
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

    def layer_rows(self):
        """Weights and biases of the linear layer that this is."""
        return self.coef, self.intercept

    def decision_function(self, features):
        """Logits: (n,) for up to two classes, else (n, n_classes)."""
        with _blas().limit(limits=1, user_api="blas"):
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


@dataclass(frozen=True, eq=False)
class RegressionHead:
    """A linear regression on raw features.

    Parameters
    ----------
    coef : ndarray of shape (1, n_features), float64
        Coefficients for features that are not standardized, in the target's own units.
    intercept : ndarray of shape (1,), float64
        The intercept.
    target_mean, target_scale : float
        What standardizes the target where gradients are used.
    standardization : tuple of two ndarrays or None, default=None
        Mean and scale of the features the head was trained on, if it goes on so.
    """

    coef: np.ndarray
    intercept: np.ndarray
    target_mean: float
    target_scale: float
    standardization: tuple | None = None

    def layer_rows(self):
        """Weights and biases of the linear layer whose output is standardized."""
        bias = (self.intercept - self.target_mean) / self.target_scale
        return self.coef / self.target_scale, bias

    def predict(self, features):
        """Values in the target's own units, (n,)."""
        with _blas().limit(limits=1, user_api="blas"):
            values = features.astype(np.float64) @ self.coef.T + self.intercept
        return values[:, 0]


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


def fit_linear_head(features, y, C, sample_weight=None, class_weight=None, joint=None):
    """Fit one head exactly.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
        Features of the frozen backbone.
    y : ndarray of shape (n,)
        Labels of one target.
    C : float or "auto"
        Inverse strength of the L2 penalty; ``"auto"`` is 0.01.
    sample_weight : ndarray of shape (n,), default=None
        Weights of the rows.
    class_weight : dict, "balanced" or None, default=None
        As in LogisticRegression.
    joint : Joint or None, default=None
        Layout of features that are of images and a table.

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
    C = _DEFAULT_C if C == "auto" else C
    regression = LogisticRegression(
        C=C, tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, class_weight=class_weight
    )
    # Of ridge regression on 0 and 1, which near 1/2 is the logistic one with slope 1/4.
    alpha, targets = 4 / C, y[:, np.newaxis] == classes
    solution = _solve(regression, features, y, sample_weight, joint, targets, alpha)
    return LinearHead(classes, *solution)


def fit_regression_head(
    features,
    y,
    C,
    sample_weight=None,
    target_mean=0.0,
    target_scale=1.0,
    joint=None,
):
    """Fit the head of one continuous target exactly.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
        Features of the frozen backbone.
    y : ndarray of shape (n,)
        Values of the target, in its own units: ridge regression gives the same in any.
    C : float or "auto"
        Inverse strength of the L2 penalty: Ridge's alpha is 1 / (2 C). ``"auto"``
        takes the one under which the target is most likely.
    sample_weight : ndarray of shape (n,), default=None
        Weights of the rows.
    target_mean, target_scale : float
        What the head keeps for training by gradients.
    joint : Joint or None, default=None
        Layout of features that are of images and a table.

    Returns
    -------
    RegressionHead
        The fitted head; that of the mean if there are no rows.
    """
    coef, intercept = np.zeros((1, features.shape[1])), np.array([target_mean])
    if len(y):
        features = features.astype(np.float64)
        alphas = 1 / (2 * _CANDIDATES) if C == "auto" else None
        alpha, targets = 1 / (2 * (_DEFAULT_C if C == "auto" else C)), y[:, np.newaxis]
        coef, intercept = _solve(
            Ridge(alpha), features, y, sample_weight, joint, targets, alpha, alphas
        )
    return RegressionHead(coef, intercept, target_mean, target_scale)


@cache
def _blas():
    # Looking for the libraries takes 10 ms; they were loaded with the imports above.
    return ThreadpoolController()


def _solve(regression, features, y, sample_weight, joint, targets, alpha, alphas=None):
    """Coefficients (n_outputs, n_features) and intercepts for raw features.

    `targets` and `alpha` are those of the ridge regression that weighs images against
    the table; `alphas` are penalties of which one is chosen then.
    """
    mean, scale = mean_and_scale(features, sample_weight)
    with _blas().limit(limits=1, user_api="blas"):
        if joint is not None:
            scale = scale / joint.chosen_factors(
                (features - mean) / scale, targets, alpha, sample_weight
            )
        if alphas is not None:
            standardized = (features - mean) / scale
            regression.alpha = most_evident(standardized, y, alphas, sample_weight)
        if joint is not None:
            features, y, sample_weight = joint.with_dropped(features, y, sample_weight)
        standardized = (features - mean) / scale
        solved = regression.fit(standardized, y, sample_weight=sample_weight)
    coef = np.atleast_2d(solved.coef_) / scale
    return coef, np.atleast_1d(solved.intercept_) - coef @ mean
