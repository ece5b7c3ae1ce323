"""The penalty of a ridge regression, by the evidence for it."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from sktransfer._engine import strength
from sktransfer._engine.strength import most_evident, negative_evidence, sample_of

ALPHAS = np.logspace(4, -1, 11)


def problem(n=40, n_features=60, noise=1.0, seed=0):
    """Centered features, some numbers that depend on them, and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features))
    y = X[:, :5].sum(axis=1) + noise * rng.normal(size=n) + 7
    weight = rng.integers(1, 4, size=n).astype(float)
    return X - np.average(X, axis=0, weights=weight), y, weight


def likelihood(X, y, alpha):
    """Logarithm of the density of y, coefficients and noise of the best size."""
    shape = np.eye(len(y)) + X @ X.T / alpha
    noise = y @ np.linalg.solve(shape, y) / len(y)
    return multivariate_normal(np.zeros(len(y)), noise * shape).logpdf(y)


@pytest.mark.parametrize("n_features", [5, 60])
def test_evidence_is_the_density_of_the_targets(n_features):
    X, y, _ = problem(n_features=n_features)
    y = y - y.mean()
    values, vectors = np.linalg.eigh(X @ X.T)
    parts = values.clip(0), (vectors.T @ y) ** 2, len(y)
    found = [negative_evidence(alpha, *parts) for alpha in ALPHAS]
    expected = np.array([-2 * likelihood(X, y, alpha) for alpha in ALPHAS])
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-6)
    assert most_evident(X, y + 7, ALPHAS) == ALPHAS[np.argmin(expected)]


def test_integer_weights_equal_repeated_rows():
    chosen = set()
    for seed in range(10):
        X, y, weight = problem(n_features=10, noise=8.0, seed=seed)
        times = weight.astype(int)
        repeated = np.repeat(X, times, axis=0), np.repeat(y, times)
        found = most_evident(X, y, ALPHAS, weight)
        assert found == most_evident(*repeated, ALPHAS)
        chosen.add(found)
    assert len(chosen) > 1


def test_rows_of_no_weight_have_no_part_in_the_choice():
    X, y, weight = problem(noise=2.0)
    more = np.concatenate([X, 100 * X]), np.concatenate([y, -y])
    with_none = np.concatenate([weight, np.zeros(len(y))])
    assert most_evident(*more, ALPHAS, with_none) == most_evident(X, y, ALPHAS, weight)


def test_noise_is_shrunk_and_what_features_say_is_not():
    X, _, _ = problem(n=200)
    noise = np.random.default_rng(1).normal(size=200)
    assert most_evident(X, noise, ALPHAS) >= ALPHAS[2]
    assert most_evident(X, X[:, 0], ALPHAS) == ALPHAS[-1]


def test_more_features_than_rows_are_not_left_without_a_penalty():
    for seed in range(5):
        X, y, _ = problem(n=30, n_features=600, noise=3.0, seed=seed)
        assert most_evident(X, y, ALPHAS) > 10


@pytest.mark.parametrize("y", [[3.0], [2.0, 2.0]])
def test_numbers_that_do_not_vary_take_the_strongest_penalty(y):
    X, _, _ = problem(n=len(y))
    assert most_evident(X - X.mean(axis=0), np.array(y), ALPHAS) == ALPHAS[0]


def test_many_rows_are_sampled(monkeypatch):
    monkeypatch.setattr(strength, "_MOST_ROWS", 100)
    rows = sample_of(np.arange(300) + 5)
    assert len(set(rows)) == 100
    assert list(rows) == sorted(rows)
    np.testing.assert_array_equal(rows, sample_of(np.arange(300) + 5))
    np.testing.assert_array_equal(sample_of(np.arange(7)), np.arange(7))
