"""The exact head: what is solved, in which precision, and its edge cases."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer._engine.exact import (
    fit_linear_head,
    fit_regression_head,
)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.1, 5, size=20)
    return (rng.normal(size=(90, 20)) * scale + 3 * scale).astype(np.float32)


@pytest.fixture
def labels(features):
    total = features[:, 0] + features[:, 1]
    return np.digitize(total, np.quantile(total, [0.3, 0.6]))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_head_equals_standardized_logistic_regression(features, labels, n_classes):
    y = np.minimum(labels, n_classes - 1)
    head = fit_linear_head(features, y, C=0.3)
    reference = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.3, tol=1e-6, max_iter=10_000)
    ).fit(features.astype(np.float64), y)
    X = features.astype(np.float64)
    np.testing.assert_allclose(
        head.decision_function(features), reference.decision_function(X), atol=1e-8
    )
    np.testing.assert_allclose(
        head.predict_proba(features), reference.predict_proba(X), atol=1e-8
    )
    np.testing.assert_array_equal(head.predict(features), reference.predict(X))


def test_coefficients_are_float64(features, labels):
    head = fit_linear_head(features, labels, C=1.0)
    assert head.coef.dtype == head.intercept.dtype == np.float64


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1, 1: 5, 2: 1}])
def test_integer_weights_equal_repeated_rows(features, labels, class_weight):
    weight = np.random.default_rng(1).integers(0, 4, size=len(labels)).astype(float)
    weighted = fit_linear_head(features, labels, 0.1, weight, class_weight)
    repeated = fit_linear_head(
        np.repeat(features, weight.astype(int), axis=0),
        np.repeat(labels, weight.astype(int)),
        0.1,
        class_weight=class_weight,
    )
    np.testing.assert_allclose(
        weighted.decision_function(features),
        repeated.decision_function(features),
        atol=1e-4,
    )


def test_feature_that_hardly_varies_is_not_blown_up(features, labels):
    noise = 1e-12 * np.random.default_rng(2).normal(size=(len(labels), 1))
    head = fit_linear_head(np.hstack([features, noise]), labels, C=1.0)
    assert np.abs(head.coef[:, -1]).max() < 1e-6


def test_smaller_C_shrinks_the_coefficients(features, labels):
    strong = fit_linear_head(features, labels, C=1e-4)
    weak = fit_linear_head(features, labels, C=10.0)
    assert np.abs(strong.coef).max() < np.abs(weak.coef).max() / 10


@pytest.mark.parametrize("only", [0, 1, "a"])
def test_single_class_is_predicted_with_certainty(features, only):
    head = fit_linear_head(features, np.full(len(features), only), C=1.0)
    assert (head.predict(features) == only).all()
    np.testing.assert_array_equal(head.predict_proba(features), 1.0)
    assert (head.decision_function(features) > 0).all() == bool(only)


# Ridge


def test_ridge_on_one_feature_is_what_the_formula_says():
    # Standardized, the feature is -1, 1, -1, 1: the slope is 2 * 4 / (4 + alpha), and
    # alpha is 1 / (2 C) = 4.
    features = np.array([[10.0], [14.0], [10.0], [14.0]], dtype=np.float32)
    head = fit_regression_head(features, np.array([5.0, 9.0, 5.0, 9.0]), C=1 / 8)
    np.testing.assert_allclose(head.coef, [[1.0 / 2]], atol=1e-12)
    np.testing.assert_allclose(head.intercept, [7 - 12 / 2], atol=1e-12)
    np.testing.assert_allclose(head.predict(features), [6, 8, 6, 8], atol=1e-12)


def test_ridge_equals_that_of_scikit_learn_on_standardized_features(features):
    X, y = features.astype(np.float64), features[:, 0] * 3.0 + features[:, 1] ** 2
    head = fit_regression_head(features, y, C=0.02)
    reference = make_pipeline(StandardScaler(), Ridge(alpha=25.0)).fit(X, y)
    assert head.coef.dtype == head.intercept.dtype == np.float64
    np.testing.assert_allclose(head.predict(features), reference.predict(X))


@pytest.mark.parametrize("C", [0.1, "auto"])
@pytest.mark.parametrize("n", [90, 12])
def test_integer_weights_of_a_ridge_equal_repeated_rows(features, n, C):
    rng = np.random.default_rng(1)
    X, y = features[:n], rng.normal(1e4, 1, size=n)
    weight = rng.integers(0, 4, size=n)
    weighted = fit_regression_head(X, y, C, weight.astype(float))
    repeated = fit_regression_head(
        np.repeat(X, weight, axis=0), np.repeat(y, weight), C
    )
    np.testing.assert_allclose(
        weighted.predict(features), repeated.predict(features), rtol=1e-12
    )


def test_penalty_of_a_ridge_follows_what_features_say(features):
    rng = np.random.default_rng(1)
    clear, noise = features[:, 0], rng.normal(size=len(features))
    at_one, found = (fit_regression_head(features, clear, C) for C in (1.0, "auto"))
    np.testing.assert_array_equal(found.coef, at_one.coef)
    at_one, found = (fit_regression_head(features, noise, C) for C in (1.0, "auto"))
    assert np.linalg.norm(found.coef) < np.linalg.norm(at_one.coef) / 2


def test_automatic_penalty_of_classes_is_a_hundredth(features, labels):
    found = fit_linear_head(features, labels, "auto").coef
    np.testing.assert_array_equal(found, fit_linear_head(features, labels, 0.01).coef)


def test_constant_target_is_predicted(features):
    head = fit_regression_head(features, np.full(len(features), 3.7), C=1.0)
    np.testing.assert_allclose(head.predict(features), 3.7)


def test_target_without_rows_is_predicted_by_its_mean(features):
    head = fit_regression_head(features[:0], np.empty(0), 1.0, None, 3.7, 2.0)
    np.testing.assert_array_equal(head.predict(features), 3.7)
