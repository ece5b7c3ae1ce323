"""How strongly a ridge regression is regularized: generalized cross-validation.

How much features say about a target differs by orders of magnitude: of 576 features,
those of photographs that hardly tell a price want a penalty hundreds of times as strong
as those that show the number to be predicted. Unlike the leave-one-out error, the
generalized one is the same for a row of weight two and for the row twice.
"""

import numpy as np
from scipy.linalg import eigh

# Comparing strengths costs the cube of the rows.
_MOST_ROWS = 1000


def sample_of(rows):
    """Return at most 1000 of some rows, always the same ones.

    Parameters
    ----------
    rows : ndarray of int
        The rows.

    Returns
    -------
    ndarray of int
        All of them if they are not more.
    """
    if len(rows) <= _MOST_ROWS:
        return rows
    chosen = np.random.default_rng(0).choice(len(rows), _MOST_ROWS, replace=False)
    return rows[np.sort(chosen)]


def least_error(standardized, y, alphas, sample_weight=None):
    """Return the penalty with the least generalized cross-validation error.

    Parameters
    ----------
    standardized : ndarray of shape (n, n_features)
        Features, with a mean of 0 each.
    y : ndarray of shape (n,)
        What is to be predicted.
    alphas : sequence of float
        Penalties of a Ridge with intercept; of equal ones the first is returned.
    sample_weight : ndarray of shape (n,), default=None
        Weights of the rows, of which two count as two rows.

    Returns
    -------
    float
        One of `alphas`.

    References
    ----------
    Golub, Heath and Wahba, "Generalized Cross-Validation as a Method for Choosing a
    Good Ridge Parameter", Technometrics 1979.
    """
    weight = np.ones(len(y)) if sample_weight is None else sample_weight
    rows = sample_of(np.flatnonzero(weight > 0))
    weight, y = weight[rows], y[rows]
    root = np.sqrt(weight)
    weighted = root[:, np.newaxis] * standardized[rows]
    values, vectors = eigh(weighted @ weighted.T)
    projected = vectors.T @ (root * (y - np.average(y, weights=weight)))
    errors = [_error(alpha, values, projected, weight.sum()) for alpha in alphas]
    return float(alphas[int(np.argmin(errors))])


def _error(alpha, values, projected, n):
    """Error at one penalty, of eigenvalues of the rows' products with each other."""
    left_over = alpha / (alpha + values.clip(0))
    used = 1 + (1 - left_over).sum()  # degrees of freedom, with the intercept
    if used >= n:
        return np.inf
    return n * ((left_over * projected) ** 2).sum() / (n - used) ** 2
