"""Rows of images and a table as one vector, and how blocks are regularized."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from sktransfer._engine import strength
from sktransfer._engine.exact import fit_linear_head, fit_regression_head
from sktransfer._engine.fusion import JointRows
from sktransfer._engine.joint import _RATIOS, Joint


def layout(n_images=2, width=3, n_table=2, flags=True, dropout=0.0):
    fill = np.arange(n_images * width, dtype=np.float32).reshape(n_images, width)
    image_flags = np.full(n_images, flags)
    units = np.zeros(n_table), np.ones(n_table)
    return Joint(fill, image_flags, *units, flags and n_table > 0, dropout)


def parts(n=4, n_images=2, width=3, n_table=2, seed=0):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(n, n_images, width)).astype(np.float32)
    table = rng.normal(size=(n, n_table))
    return embeddings, np.ones((n, n_images), bool), table, np.ones(n, bool)


def test_a_row_is_embeddings_flags_and_table():
    embeddings, present, table, has_table = parts(2)
    present[1, 0] = has_table[1] = False
    embeddings[1, 0] = np.nan
    rows = layout().rows(embeddings, present, table, has_table)
    assert rows.dtype == np.float64
    assert rows.shape == (2, layout().n_columns)
    np.testing.assert_allclose(
        rows[0], [*embeddings[0].ravel(), 0, 0, *table[0], 0], rtol=1e-7
    )
    np.testing.assert_allclose(
        rows[1], [0, 1, 2, *embeddings[1, 1], 1, 0, 0, 0, 1], rtol=1e-7
    )


def test_flags_are_only_there_where_something_may_be_missing():
    plain = layout(flags=False)
    embeddings, present, table, has_table = parts(1)
    rows = plain.rows(embeddings, present, table, has_table)
    np.testing.assert_allclose(rows[0], [*embeddings[0].ravel(), *table[0]])


@pytest.mark.parametrize("flags", [True, False])
def test_the_module_puts_rows_together_as_the_layout_does(flags):
    embeddings, present, table, has_table = parts(6)
    if flags:
        present[1, 0] = present[2] = has_table[3] = False
    made = layout(flags=flags)
    rows = JointRows(made)(
        torch.from_numpy(embeddings[present]),
        torch.from_numpy(present),
        torch.from_numpy(table.astype(np.float32)),
        torch.from_numpy(has_table),
    )
    expected = made.rows(embeddings, present, table, has_table)
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_images_and_table_have_the_prior_variance_of_one_image():
    for n_images in (1, 3):
        factors = layout(n_images, width=50, n_table=4, flags=False).factors()
        images, table = np.split(factors**2, [50 * n_images])
        assert images.sum() == pytest.approx(50)
        assert table.sum() == pytest.approx(50)


def test_one_image_without_a_table_is_not_scaled():
    made = layout(1, width=7, n_table=0, flags=False)
    rows = np.random.default_rng(0).normal(size=(20, 7))
    for factors in (
        made.factors(),
        made.chosen_factors(rows, rows[:, :1], 1.0),
    ):
        np.testing.assert_array_equal(factors, np.ones(7))


def blocks_with_signal_in(block, n=120):
    """Joint rows of 60 image features and 30 columns; only one block says anything."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, 90))
    used = slice(0, 60) if block == "images" else slice(60, 90)
    y = X[:, used] @ rng.normal(size=X[:, used].shape[1]) + rng.normal(size=n)
    return layout(1, 60, 30, flags=False), X, y[:, np.newaxis]


def test_the_block_that_says_nothing_is_regularized_more():
    made, X, y = blocks_with_signal_in("table")
    ratio = made.chosen_factors(X, y, 5.0) / made.factors()
    assert ratio[0] < ratio[-1] == 1
    made, X, y = blocks_with_signal_in("images")
    ratio = made.chosen_factors(X, y, 5.0) / made.factors()
    assert ratio[-1] < ratio[0] == 1


def test_ratios_are_compared_by_the_error_of_leaving_one_out(monkeypatch):
    made, X, y = blocks_with_signal_in("table", n=30)
    X, y, alpha = X - X.mean(0), y - y.mean(), 3.0
    errors = made._errors(X * made.factors(), y, alpha, np.ones(30))
    for (image, other), error in zip(_RATIOS, errors, strict=True):
        ridge = Ridge(alpha=alpha, fit_intercept=False)
        scaled = X * made.factors(image, other)
        predicted = cross_val_predict(ridge, scaled, y.ravel(), cv=LeaveOneOut())
        assert error == pytest.approx(((y.ravel() - predicted) ** 2).sum())


def test_row_that_occurs_twice_is_a_row_of_weight_two(monkeypatch):
    made, X, y = blocks_with_signal_in("table", n=60)
    y += np.random.default_rng(0).normal(size=y.shape)
    errors, compared = [], Joint._errors

    def noted(self, *args):
        errors.append(compared(self, *args))
        return errors[-1]

    monkeypatch.setattr(Joint, "_errors", noted)
    weighted = made.chosen_factors(X, y, 5.0, np.full(60, 2.0))
    twice = made.chosen_factors(np.r_[X, X], np.r_[y + 1, y - 1], 5.0)
    np.testing.assert_allclose(errors[0], errors[1])
    np.testing.assert_array_equal(weighted, twice)
    assert weighted[0] < weighted[-1]


def test_rows_of_no_weight_have_no_part_in_the_choice():
    made, X, y = blocks_with_signal_in("table")
    expected = made.chosen_factors(X, y, 5.0)
    more = np.concatenate([X, np.full_like(X, 1e6)])
    twice = np.concatenate([y, -y])
    weight = np.repeat([1.0, 0.0], len(X))
    found = made.chosen_factors(more, twice, 5.0, weight)
    np.testing.assert_array_equal(found, expected)


def test_ratios_are_compared_on_a_sample_of_many_rows(monkeypatch):
    monkeypatch.setattr(strength, "_MOST_ROWS", 100)
    seen = []
    monkeypatch.setattr(Joint, "_errors", lambda *args: seen.append(args) or [0.0])
    made, X, y = blocks_with_signal_in("table")
    made.chosen_factors(X, y, 5.0)
    assert seen[0][1].shape == (100, 90)


def test_exact_heads_use_the_chosen_factors():
    made, X, y = blocks_with_signal_in("table")
    values = y[:, 0]
    C = 0.1
    for fit, model, alpha, labels in (
        (fit_regression_head, Ridge(alpha=5.0), 5.0, values),
        (fit_linear_head, LogisticRegression(C=C, tol=1e-8), 4 / C, values > 0),
    ):
        head = fit(X, labels, C, joint=made)
        mean, scale = X.mean(0), X.std(0)
        targets = values if labels is values else np.column_stack([~labels, labels])
        targets = targets.reshape(len(X), -1)
        factors = made.chosen_factors((X - mean) / scale, targets, alpha)
        assert (factors < made.factors()).any()
        expected = model.fit((X - mean) / scale * factors, labels)
        found = head.coef * scale / factors
        np.testing.assert_allclose(found[0], np.ravel(expected.coef_), atol=1e-4)


def test_copies_of_rows_stand_for_what_may_be_dropped():
    made = layout(dropout=0.4)
    rows = made.rows(*parts(3))
    y, weight = np.array([5, 6, 7]), np.array([1.0, 2.0, 3.0])
    found, targets, weights = made.with_dropped(rows, y, weight)
    assert targets.tolist() == [5, 6, 7] * 3
    np.testing.assert_allclose(weights, [0.6, 1.2, 1.8, *[0.2, 0.4, 0.6] * 2])
    np.testing.assert_array_equal(found[:3], rows)
    embeddings, present, table, has_table = parts(3)
    no_images = made.rows(embeddings, present & False, table, has_table)
    np.testing.assert_array_equal(found[3:6], no_images)
    no_table = made.rows(embeddings, present, table, has_table & False)
    np.testing.assert_array_equal(found[6:], no_table)


def test_rows_that_lack_one_already_keep_the_other():
    made = layout(dropout=0.4)
    embeddings, present, table, has_table = parts(4)
    present[0], has_table[1], present[2, 0] = False, False, False
    rows = made.rows(embeddings, present, table, has_table)
    _, y, weights = made.with_dropped(rows, np.arange(4), None)
    assert y.tolist() == [0, 1, 2, 3, 2, 3, 2, 3]
    np.testing.assert_allclose(weights, [1, 1, 0.6, 0.6, 0.2, 0.2, 0.2, 0.2])


def test_nothing_is_copied_without_dropout_or_table():
    for made in (layout(), layout(n_table=0, dropout=0.4)):
        rows = made.rows(*parts(3, n_table=made.n_table))
        assert made.with_dropped(rows, rows, None) == (rows, rows, None)
