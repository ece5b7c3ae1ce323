"""The penalty of a ridge regression, by generalized cross-validation."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from sktransfer._engine import strength
from sktransfer._engine.strength import least_error, sample_of

ALPHAS = np.logspace(4, -1, 11)


def problem(n=40, n_features=60, noise=1.0, seed=0):
    """Centered features, some numbers that depend on them, and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features))
    y = X[:, :5].sum(axis=1) + noise * rng.normal(size=n) + 7
    weight = rng.integers(1, 4, size=n).astype(float)
    return X - np.average(X, axis=0, weights=weight), y, weight


def by_hand(X, y, alpha):
    """The error from the hat matrix, column by column of it."""
    fits = [Ridge(alpha).fit(X, unit).predict(X) for unit in np.eye(len(y))]
    left_over = y - Ridge(alpha).fit(X, y).predict(X)
    n = len(y)
    return n * (left_over**2).sum() / (n - np.trace(np.array(fits))) ** 2


@pytest.mark.parametrize("n_features", [5, 60])
@pytest.mark.parametrize("noise", [0.1, 5.0])
def test_penalty_is_that_of_the_least_error_by_the_formula(n_features, noise):
    X, y, _ = problem(n_features=n_features, noise=noise)
    X -= X.mean(axis=0)
    errors = [by_hand(X, y, alpha) for alpha in ALPHAS]
    assert least_error(X, y, ALPHAS) == ALPHAS[np.argmin(errors)]


def test_integer_weights_equal_repeated_rows():
    chosen = set()
    for seed in range(10):
        X, y, weight = problem(noise=2.0, seed=seed)
        times = weight.astype(int)
        repeated = np.repeat(X, times, axis=0), np.repeat(y, times)
        found = least_error(X, y, ALPHAS, weight)
        assert found == least_error(*repeated, ALPHAS)
        chosen.add(found)
    assert len(chosen) > 1


def test_rows_of_no_weight_have_no_part_in_the_choice():
    X, y, weight = problem(noise=2.0)
    more = np.concatenate([X, 100 * X]), np.concatenate([y, -y])
    with_none = np.concatenate([weight, np.zeros(len(y))])
    assert least_error(*more, ALPHAS, with_none) == least_error(X, y, ALPHAS, weight)


def test_noise_is_shrunk_and_what_features_say_is_not():
    X, _, _ = problem(n=200)
    noise = np.random.default_rng(1).normal(size=200)
    assert least_error(X, noise, ALPHAS) == ALPHAS[0]
    assert least_error(X, X[:, 0], ALPHAS) == ALPHAS[-1]


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_rows_to_tell_take_the_strongest_penalty(n):
    X, y, _ = problem(n=n)
    assert least_error(X, y, ALPHAS) == ALPHAS[0]


def test_many_rows_are_sampled(monkeypatch):
    monkeypatch.setattr(strength, "_MOST_ROWS", 100)
    rows = sample_of(np.arange(300) + 5)
    assert len(set(rows)) == 100
    assert list(rows) == sorted(rows)
    np.testing.assert_array_equal(rows, sample_of(np.arange(300) + 5))
    np.testing.assert_array_equal(sample_of(np.arange(7)), np.arange(7))
