"""What y means where it holds numbers: units, gaps, weights, and scores."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score

from sktransfer._continuous import (
    ContinuousTargets,
    read_continuous,
    read_in_units_of,
)

NAN = np.nan


@pytest.mark.parametrize(
    ("y", "numbers"),
    [
        ([3, 1, 2], [3, 1, 2]),
        (np.array([True, False]), [1, 0]),
        (np.array([1.5, 2.5], dtype=object), [1.5, 2.5]),
        (np.array([1, 2], dtype=np.uint8), [1, 2]),
        (pd.Series([1.5, 2.5], dtype="Float64", index=["a", "b"]), [1.5, 2.5]),
        (["1.5", "2"], [1.5, 2]),
    ],
)
def test_one_target_is_numbers_of_any_dtype(y, numbers):
    targets = read_continuous(y)
    assert targets.numbers.dtype == np.float64
    assert targets.numbers.ravel().tolist() == numbers
    assert not targets.is_matrix
    assert targets.loss_kind == "continuous"
    assert targets.n_outputs == [1]
    assert targets.columns_of_heads == [[0]]
    assert targets.strata is None


def test_matrix_of_one_column_stays_a_matrix():
    assert read_continuous([[1.0], [2.0]]).is_matrix


@pytest.mark.parametrize(
    "y",
    [
        [[1.0, 5.0], [NAN, 7.0], [3.0, NAN]],
        np.array([[1, 5], [None, 7], [3, None]], dtype=object),
        pd.DataFrame({"a": [1.0, None, 3.0], "b": pd.array([5, 7, None], "Int64")}),
    ],
    ids=["float", "object", "frame"],
)
def test_several_targets_may_have_gaps(y):
    targets = read_continuous(y)
    assert targets.known.tolist() == [[True, True], [False, True], [True, False]]
    assert targets.mean.tolist() == [2, 6]
    assert targets.scale.tolist() == [1, 1]
    first, second = targets.values()
    assert first.dtype == np.float32
    assert first.tolist() == [-1, 0, 1]
    assert second.tolist() == [-1, 1, 0]
    assert targets.n_outputs == [1, 1]
    assert targets.columns_of_heads == [[0], [1]]


def test_units_are_those_of_the_weighted_rows():
    weighted = read_continuous([1.0, 3.0, 99.0, 5.0], np.array([2.0, 1, 0, 1]))
    repeated = read_continuous([1.0, 1.0, 3.0, 5.0])
    np.testing.assert_allclose(weighted.mean, repeated.mean)
    np.testing.assert_allclose(weighted.scale, repeated.scale)


def test_weights_and_gaps_meet_in_the_units():
    y = [[1.0, 4.0], [3.0, NAN], [NAN, 8.0], [50.0, 60.0]]
    targets = read_continuous(y, np.array([1.0, 3.0, 1.0, 0.0]))
    np.testing.assert_allclose(targets.mean, [2.5, 6])
    np.testing.assert_allclose(targets.scale, [np.sqrt(0.75), 2])


@pytest.mark.parametrize("y", [[5.0] * 3, [0.1] * 7, [0.0], [1e12 + 0.3] * 4])
def test_constant_target_has_the_scale_one(y):
    targets = read_continuous(y)
    assert targets.scale.tolist() == [1]
    np.testing.assert_allclose(targets.mean, y[0])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1, NAN, NAN], r"found nan in row 1, column 0; 2 missing value\(s\) in all"),
        (np.array([1, None], object), "found None in row 1"),
        ([[1.0], [NAN]], "found nan in row 1"),
        (pd.Series([1, None], dtype="Int64"), "in row 1"),
        ([1, np.inf], r"found inf in row 1, column 0; 1 infinite value\(s\)"),
        ([[1, 2], [3, -np.inf]], "found -inf in row 1, column 1"),
        ([[1.0, NAN], [2.0, NAN]], "found no number in column 1. Expected at least"),
        (["red", "blue"], "found 'red' in row 0, .*TransferClassifier learns labels"),
        ([[1, "x"], [2, 3]], "found 'x' in row 0, column 1"),
        (pd.to_datetime(["2020-01-01", "2021-01-01"]), "in row 0"),
        ([1j, 2j], "Complex"),
        (np.zeros((2, 2, 2)), "dim 3"),
        ([], "0 sample"),
    ],
)
def test_what_is_no_number_is_refused_with_its_row(y, message):
    with pytest.raises(ValueError, match=message):
        read_continuous(y)


def test_number_must_be_in_a_row_of_positive_weight():
    y = [[1.0, NAN], [NAN, 2.0]]
    with pytest.raises(ValueError, match="column 1 in a row of positive weight"):
        read_continuous(y, np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="column 0 in a row of positive weight"):
        read_continuous([1.0, 2.0], np.zeros(2))


# Units that are known already


def test_units_of_the_first_call_hold():
    first = read_continuous([[1.0, 5.0], [3.0, 9.0]])
    again = read_in_units_of([[NAN, 7.0]], first)
    assert again.mean is first.mean
    assert [values.tolist() for values in again.values()] == [[0], [0]]
    assert again.known.tolist() == [[False, True]]


def test_another_number_of_columns_is_refused():
    first = read_continuous([[1.0, 5.0], [3.0, 9.0]])
    with pytest.raises(ValueError, match=r"found 1 column\(s\)\. Expected 2"):
        read_in_units_of([1.0], first)


def test_without_rows_keeps_the_units_only():
    first = read_continuous([[1.0, 5.0], [3.0, NAN]])
    empty = first.without_rows()
    assert empty.numbers.shape == (0, 2)
    assert (empty.mean is first.mean, empty.is_matrix) == (True, True)


def test_heads_can_be_solved_where_each_column_has_a_number():
    first = read_continuous([[1.0, 5.0], [3.0, 9.0]])
    assert first.can_be_solved()
    assert not read_in_units_of([[1.0, NAN]], first).can_be_solved()


@pytest.mark.parametrize(
    "other", [[[1.0, 5.0], [3.0, 8.0]], [[1.0, 5.0], [NAN, 9.0]], [[1, 5], [3, 9.5]]]
)
def test_content_tells_targets_apart(other):
    y = [[1.0, 5.0], [3.0, 9.0]]
    assert read_continuous(y).content() == read_continuous(y).content()
    assert read_continuous(other).content() != read_continuous(y).content()
    first = read_continuous(y)
    assert read_in_units_of(other, first).content() != first.content()


# Weights and scores


def test_row_weights_are_zero_in_gaps_and_one_on_average():
    targets = read_continuous([[1.0, NAN], [2.0, 5.0], [NAN, NAN]])
    assert targets.row_weights(None).tolist() == [[1, 0], [1, 1], [0, 0]]
    weights = targets.row_weights(np.array([1.0, 3.0, 7.0]))
    assert weights.dtype == np.float32
    assert weights.tolist() == [[0.5, 0], [1.5, 1], [0, 0]]


def scored(columns, outputs, weights):
    targets = ContinuousTargets(np.array(columns), np.zeros(2), np.ones(2), True)
    outputs = [np.array(o, dtype=np.float32)[:, None] for o in outputs]
    return targets.score(outputs, targets.values(), np.array(weights))


def test_score_is_the_mean_of_one_minus_the_squared_error():
    columns = [[1.0, -2.0], [-1.0, 2.0]]
    outputs = [[1.0, 0.0], [-2.0, 1.0]]
    ones = [[1.0, 1.0], [1.0, 1.0]]
    assert scored(columns, outputs, ones) == pytest.approx(1 - (1 / 2 + 1 / 2) / 2)
    weighted = [[1.0, 1.0], [3.0, 0.0]]
    assert scored(columns, outputs, weighted) == pytest.approx(1 - (3 / 4 + 0) / 2)


def test_score_leaves_out_what_is_missing():
    outputs, ones = [[0.5, 9.0], [7.0, 7.0]], [[1.0, 0.0], [0.0, 0.0]]
    found = scored([[1.0, NAN], [NAN, NAN]], outputs, ones)
    assert found == pytest.approx(0.75)
    assert scored([[NAN, NAN], [NAN, NAN]], outputs, np.zeros((2, 2))) == 0


def test_score_of_all_rows_is_r2():
    rng = np.random.default_rng(0)
    y = rng.normal(50, 9, size=40)
    targets, output = read_continuous(y), rng.normal(size=(40, 1))
    predicted = output[:, 0] * targets.scale + targets.mean
    found = targets.score([output], targets.values(), targets.row_weights(None))
    assert found == pytest.approx(r2_score(y, predicted), abs=1e-5)
