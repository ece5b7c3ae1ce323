"""The rows that only judge: how many, which, and when there are none."""

import numpy as np
import pytest

from sktransfer._continuous import read_continuous
from sktransfer._targets import read_targets
from sktransfer._validation import validation_split


def split(y, fraction=0.2, rows=None, groups=None, seed=0):
    targets = read_targets(y)
    rows = np.arange(len(targets.codes)) if rows is None else rows
    return validation_split(targets, rows, groups, fraction, seed)


def alternating(n, n_classes=2):
    return np.arange(n) % n_classes


def assert_parts(rows, train, valid):
    """Each row is in one part, and both are sorted."""
    np.testing.assert_array_equal(np.sort(np.concatenate([train, valid])), rows)
    assert (np.diff(train) > 0).all()
    assert (np.diff(valid) > 0).all()


@pytest.mark.parametrize(
    ("n", "fraction", "n_valid"),
    [(200, 0.1, 20), (191, 0.1, 20), (100, 0.25, 25), (40, 0.5, 20), (101, 0.9, 91)],
)
def test_share_of_the_rows_judges_and_the_others_learn(n, fraction, n_valid):
    train, valid = split(alternating(n), fraction)
    assert_parts(np.arange(n), train, valid)
    assert len(valid) == n_valid


def test_classes_have_their_shares_in_both_parts():
    y = np.repeat(["rare", "common"], [20, 180])
    train, valid = split(y, 0.25)
    assert (y[valid] == "rare").sum() == 5
    assert (y[train] == "rare").sum() == 15


def test_only_the_rows_that_are_given_are_split():
    rows = np.arange(1, 300, 3)
    y = alternating(300)
    y[rows] = np.repeat([0, 1], 50)
    train, valid = split(y, 0.2, rows=rows)
    assert_parts(rows, train, valid)
    assert y[valid].tolist() == [0] * 10 + [1] * 10


def test_class_without_a_row_in_the_part_does_not_matter():
    y = np.array([0] * 100 + [2] * 100 + [1])
    _, valid = split(y, 0.2, rows=np.arange(200))
    assert np.bincount(y[valid]).tolist() == [20, 0, 20]


def test_class_with_one_row_ends_stratification_not_the_split():
    y = np.array([0] * 199 + [1])
    train, valid = split(y, 0.1)
    assert_parts(np.arange(200), train, valid)
    assert len(valid) == 20


@pytest.mark.parametrize("fraction", [0.2, 0.8])
def test_more_classes_than_rows_in_a_part_end_stratification(fraction):
    train, valid = split(alternating(100, 50), fraction)
    assert_parts(np.arange(100), train, valid)
    assert len(valid) == 100 * fraction


@pytest.mark.parametrize(
    "y",
    [
        np.column_stack([alternating(200), alternating(200, 3)]),
        np.column_stack([alternating(200), alternating(200)]),
        [["a", None], [None, "x"]] * 100,
    ],
    ids=["several", "multilabel", "missing"],
)
def test_several_targets_are_split_by_rows(y):
    train, valid = split(y, 0.1)
    assert_parts(np.arange(200), train, valid)
    assert len(valid) == 20


@pytest.mark.parametrize("kind", ["single", "several"])
def test_split_is_a_function_of_the_seed(kind):
    y = alternating(200)
    y = y if kind == "single" else np.column_stack([y, y])
    one, other = split(y, seed=1)[1], split(y, seed=2)[1]
    np.testing.assert_array_equal(split(y, seed=1)[1], one)
    assert not np.array_equal(one, other)


def test_seed_may_have_64_bits():
    y = alternating(200)
    valid = split(y, seed=2**64 - 5)[1]
    np.testing.assert_array_equal(split(y, seed=2**64 - 5)[1], valid)


def test_global_generator_of_numpy_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    split(alternating(200))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_groups_are_never_split():
    groups = np.array([f"patient {i // 7}" for i in range(210)])
    train, valid = split(alternating(210), 0.2, groups=groups)
    assert_parts(np.arange(210), train, valid)
    assert set(groups[train]) & set(groups[valid]) == set()
    assert len(set(groups[valid])) == 6  # a fifth of 30 groups


def test_groups_are_those_of_all_rows():
    rows = np.arange(0, 420, 2)
    groups = np.arange(420) * 7 % 30
    train, valid = split(alternating(420), 0.2, rows=rows, groups=groups.tolist())
    assert_parts(rows, train, valid)
    assert set(groups[train]) & set(groups[valid]) == set()


def test_twenty_rows_are_enough_and_nineteen_are_not():
    train, valid = split(alternating(200), 0.1)
    assert (len(train), len(valid)) == (180, 20)
    message = r"validation_fraction=0\.1 of 190 rows is 19, too few .* 20 are needed"
    with pytest.warns(UserWarning, match=message):
        train, valid = split(alternating(190), 0.1)
    np.testing.assert_array_equal(train, np.arange(190))
    assert len(valid) == 0


@pytest.mark.parametrize(
    ("groups", "n_valid"),
    [(np.repeat(np.arange(9), [1] * 8 + [392]), 1), (np.zeros(400), 0)],
    ids=["small groups", "one group"],
)
def test_groups_that_leave_too_few_rows_to_judge_end_early_stopping(groups, n_valid):
    with pytest.warns(UserWarning, match=f"of 400 rows is {n_valid}, too few"):
        train, valid = split(alternating(400), 0.1, groups=groups)
    np.testing.assert_array_equal(train, np.arange(400))
    assert len(valid) == 0


def test_continuous_target_is_split_at_random():
    targets, rows = read_continuous(np.arange(100) % 4 / 4), np.arange(0, 100, 2)
    train, valid = validation_split(targets, rows, None, 0.4, seed=0)
    assert_parts(rows, train, valid)
    assert len(valid) == 20
    groups = np.arange(100) // 10
    train, valid = validation_split(targets, np.arange(100), groups, 0.4, seed=0)
    assert not set(groups[train]) & set(groups[valid])
