"""The type of y, folds, and scores of classes that a fold does not show."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import (
    GroupKFold,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    TimeSeriesSplit,
)

from sktransfer._cross_fitting import (
    folds,
    n_scores,
    target_type_of,
    unlearnt_scores,
    within_others,
)
from sktransfer._targets import read_targets

GAPS = np.array([[0.5, 1], [None, 2], [1.5, None]], dtype=object)


@pytest.mark.parametrize(
    ("y", "declared", "expected"),
    [
        (["a", "b", "a"], "auto", "binary"),
        (pd.Series([1.0, 2.0, 3.0]), "auto", "multiclass"),
        ([[1], [2], [3]], "auto", "multiclass"),
        ([0.5, 1.0, 2.0], "auto", "continuous"),
        ([1, 2, 3], "continuous", "continuous"),
        ([1, 2, 2], "multiclass", "multiclass"),
        ([[0, 1], [1, 1]], "auto", "multilabel-indicator"),
        ([["a", "x"], ["b", None]], "auto", "multiclass-multioutput"),
        ([[1, 2], [3, np.nan]], "auto", "multiclass-multioutput"),
        ([[1, 2], [3, np.nan]], "continuous", "continuous-multioutput"),
        (GAPS, "auto", "continuous-multioutput"),
    ],
)
def test_the_type_of_y_is_inferred_or_declared(y, declared, expected):
    assert target_type_of(y, declared) == expected


def test_a_y_that_is_neither_labels_nor_numbers_is_an_error():
    with pytest.raises(ValueError, match=r"found a target of the type 'unknown'"):
        target_type_of(np.array([{1}, {2}], dtype=object))


def test_binary_may_not_be_declared_of_three_classes():
    with pytest.raises(ValueError, match="target_type: found 'binary' for a y of 3"):
        target_type_of([1, 2, 3], "binary")


def split(cv, y, target_type="multiclass", groups=None, random_state=0):
    return folds(cv, np.zeros(len(y)), y, target_type, groups, random_state)


def test_a_number_of_folds_is_stratified_and_shuffled_by_random_state():
    y = np.repeat([0, 1, 2], 10)
    tests = [test for _, test in split(5, y)]
    assert all((np.bincount(y[test]) == 2).all() for test in tests)
    again = [test for _, test in split(5, y)]
    np.testing.assert_array_equal(np.concatenate(tests), np.concatenate(again))
    others = [test for _, test in split(5, y, random_state=1)]
    assert not np.array_equal(np.concatenate(tests), np.concatenate(others))
    assert not np.array_equal(tests[0], np.sort(np.r_[0:2, 10:12, 20:22]))


def test_several_targets_and_numbers_are_not_stratified():
    y = np.arange(10.0)
    assert len(split(5, y, "continuous")) == 5
    assert len(split(5, np.c_[y, y].astype(int), "multiclass-multioutput")) == 5


@pytest.mark.parametrize("target_type", ["multiclass", "continuous"])
def test_a_number_of_folds_splits_no_group(target_type):
    groups = np.arange(60) % 12
    y = np.arange(60) % 3
    for train, test in split(3, y, target_type, groups):
        assert set(groups[train]) & set(groups[test]) == set()


def test_groups_go_to_a_splitter_and_masks_are_rows():
    y, groups = np.arange(6) % 2, np.repeat([0, 1, 2], 2)
    for train, test in split(GroupKFold(3), y, groups=groups):
        assert len(set(groups[test])) == 1
        assert set(groups[train]) & set(groups[test]) == set()
    half = np.arange(6) < 3
    (train, test), _ = split([(half, ~half), (~half, half)], y)
    np.testing.assert_array_equal(train, [0, 1, 2])
    np.testing.assert_array_equal(test, [3, 4, 5])


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (TimeSeriesSplit(2), r"cv: 4 row\(s\) \(0, 1, 2, 3\) are in no test part\."),
        (RepeatedKFold(n_repeats=2), r"10 row\(s\) \(0, .*, 4, ...\) are in several"),
        (ShuffleSplit(3, test_size=0.4, random_state=0), r"no test part and \d row"),
        (PredefinedSplit([0, 0, 0, 0, 0, 1, 1, 1, 1, -1]), r"1 row\(s\) \(9\) are in"),
        ([], r"10 row\(s\)"),
        (
            [(range(6), range(5)), (range(5), range(5, 10))],
            r"in fold 1 5 row\(s\) \(0, 1, 2, 3, 4\) are in the training part and",
        ),
    ],
)
def test_rows_in_no_test_part_or_in_several_are_an_error(cv, message):
    with pytest.raises(ValueError, match=message):
        split(cv, np.arange(10) % 2)


@pytest.mark.parametrize(
    ("y", "rows", "expected"),
    [
        (list("abcab"), [0, 1, 2], [False, False, False]),
        (list("abcab"), [0, 1], [False, False, True]),
        (list("abab"), [0, 1], [False]),
        (list("abab"), [0, 2], [True]),
        ([[0, 1], [1, 1], [0, 0]], [0, 2], [True, False]),
        ([["a", 1], ["b", 2], ["c", 1]], [0, 1], [False, False, True, False]),
        ([["a", 1], ["b", 2], [None, 2]], [0, 2], [True, False]),
    ],
)
def test_scores_of_classes_that_rows_do_not_show_are_told(y, rows, expected):
    targets = read_targets(np.array(y, dtype=object))
    np.testing.assert_array_equal(unlearnt_scores(targets, np.array(rows)), expected)
    assert n_scores(targets) == len(expected)


def test_scores_are_brought_into_the_range_of_other_rows():
    scores = np.array([[1.0, -2], [3, -1], [9, -37], [np.nan, np.nan]])
    before = scores.copy()
    within_others(scores, np.array([2]), np.array([False, False]))
    np.testing.assert_array_equal(scores, before)
    within_others(scores, np.array([2]), np.array([False, True]))
    before[2, 1] = -2
    np.testing.assert_array_equal(scores, before)
