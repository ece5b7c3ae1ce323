"""What y means: kinds, classes, missing labels, weights, and scores."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import compute_class_weight, compute_sample_weight

from sktransfer._targets import (
    MISSING,
    Targets,
    column_class_weights,
    encode_known,
    read_targets,
)

NAN = np.nan


def classes_of(targets):
    return [classes.tolist() for classes in targets.classes]


def labels_of(targets):
    """Labels as lists of columns, None where one is missing."""
    return [
        [None if code == MISSING else classes[code] for code in codes]
        for codes, classes in zip(targets.codes.T, classes_of(targets), strict=True)
    ]


# One target


@pytest.mark.parametrize(
    ("y", "classes", "codes"),
    [
        ([3, 1, 3], [1, 3], [1, 0, 1]),
        (["b", "a", "c"], ["a", "b", "c"], [1, 0, 2]),
        (np.array(["b", "a"], dtype=object), ["a", "b"], [1, 0]),
        ([True, False], [False, True], [1, 0]),
        ([2.0, 0.0], [0.0, 2.0], [1, 0]),
        ([-1, 1], [-1, 1], [0, 1]),
        (pd.Series(["b", "a"], dtype="category"), ["a", "b"], [1, 0]),
        (pd.Series(["b", "a"], dtype="string"), ["a", "b"], [1, 0]),
    ],
)
def test_single_target_has_sorted_classes(y, classes, codes):
    targets = read_targets(y)
    assert targets.kind == "single"
    assert classes_of(targets) == [classes]
    assert targets.codes.tolist() == [[code] for code in codes]
    assert targets.loss_kind == "multiclass"
    assert targets.n_outputs == [len(classes)]
    assert targets.columns_of_heads == [[0]]


def test_classes_keep_the_dtype_of_y():
    y = np.array([1, 0], dtype=np.uint8)
    assert read_targets(y).classes[0].dtype == np.uint8


def test_column_vector_is_one_target_with_scikit_learns_warning():
    with pytest.warns(DataConversionWarning, match="column-vector"):
        targets = read_targets(np.array([[1], [0]]))
    assert targets.kind == "single"
    assert targets.codes.tolist() == [[1], [0]]


@pytest.mark.parametrize("y", [[1, 1, 1], ["a"], [0]])
def test_single_class_is_refused(y):
    with pytest.raises(ValueError, match=r"y: found 1 class\(es\)\. .*two classes"):
        read_targets(y)


def test_two_classes_must_be_among_rows_of_positive_weight():
    y = [0, 1, 1, 2]
    with pytest.raises(ValueError, match=r"1 class\(es\) among rows of positive"):
        read_targets(y, np.array([0, 1, 2, 0]))
    targets = read_targets(y, np.array([0, 1, 1, 1]))
    assert classes_of(targets) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.5, 1.2, 3.0], "Unknown label type: continuous"),
        ([0, NAN, 1], "y contains NaN"),
        ([0, np.inf, 1], "y contains infinity"),
        (np.zeros((2, 2, 2)), "dim 3"),
        (np.array(["a", None, "b", None], object), r"None in row 1, 2 missing label"),
        (pd.Series([0, None, 1], dtype="Int64"), "contains NaN"),
    ],
)
def test_what_is_no_label_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        read_targets(y)


# Several targets


@pytest.mark.parametrize(
    "y",
    [
        [[0, 1], [1, 0], [1, 1]],
        [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]],
        [[False, True], [True, False], [True, True]],
        np.array([[0, 1], [1, 0], [1, 1]], dtype=object),
        pd.DataFrame({"cat": [0, 1, 1], "dog": [True, False, True]}),
    ],
    ids=["int", "float", "bool", "object", "frame"],
)
def test_matrix_of_zeros_and_ones_is_multilabel(y):
    targets = read_targets(y)
    assert targets.kind == targets.loss_kind == "multilabel"
    assert targets.columns_of_heads == [[0, 1]]
    assert targets.n_outputs == [2]
    (values,) = targets.values()
    assert values.dtype == np.float32
    assert values.tolist() == [[0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    "y", [[[1, 2], [2, 1]], [[-1, 1], [1, -1]], [["0", "1"], ["1", "0"]]]
)
def test_matrix_of_two_other_values_is_not_multilabel(y):
    targets = read_targets(y)
    assert targets.kind == "multioutput"
    assert [v.tolist() for v in targets.values()] == [[0, 1], [1, 0]]


def test_several_classes_a_row_have_a_head_each():
    targets = read_targets([["a", "x"], ["b", "y"], ["c", "y"]])
    assert targets.kind == "multioutput"
    assert targets.loss_kind == "multiclass"
    assert targets.columns_of_heads == [[0], [1]]
    assert targets.n_outputs == [3, 2]
    values = targets.values()
    assert [v.tolist() for v in values] == [[0, 1, 2], [0, 1, 1]]
    assert {v.dtype for v in values} == {np.dtype(np.int64)}


def test_columns_may_be_of_different_types():
    frame = pd.DataFrame({"number": [3, 1, 1], "name": ["x", "y", "z"]})
    for y in (frame, frame[["name", "number"]]):
        targets = read_targets(y)
        assert targets.kind == "multioutput"
        expected = [frame[name].tolist() for name in y.columns]
        assert labels_of(targets) == expected


@pytest.mark.parametrize(
    "y",
    [
        [["a", None], ["b", "x"], [None, "y"]],
        np.array([["a", NAN], ["b", "x"], [None, "y"]], dtype=object),
        pd.DataFrame({0: ["a", "b", None], 1: [None, "x", "y"]}),
        pd.DataFrame({0: ["a", "b", None], 1: [None, "x", "y"]}, dtype="string"),
        pd.DataFrame({0: ["a", "b", None], 1: [None, "x", "y"]}, dtype="category"),
        pd.DataFrame({0: ["a", "b", pd.NA], 1: [pd.NA, "x", "y"]}, dtype=object),
    ],
    ids=["None", "NaN", "frame", "strings", "categories", "NA"],
)
def test_label_may_be_missing_in_one_of_several_columns(y):
    targets = read_targets(y)
    assert targets.kind == "multioutput"
    assert labels_of(targets) == [["a", "b", None], [None, "x", "y"]]
    assert classes_of(targets) == [["a", "b"], ["x", "y"]]
    assert targets.known.tolist() == [[True, False], [True, True], [False, True]]
    # A number that a loss can take; its weight is 0.
    assert [v.tolist() for v in targets.values()] == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "y",
    [
        [[0, NAN], [1, 7], [2, 8]],
        pd.DataFrame({0: [0, 1, 2], 1: [NAN, 7, 8]}),
        pd.DataFrame({0: [0, 1, 2], 1: [None, 7, 8]}, dtype="Int64"),
        pd.DataFrame({0: [0, 1, 2], 1: [None, 7, 8]}, dtype=object),
    ],
    ids=["list", "frame", "nullable", "object"],
)
def test_whole_numbers_that_nan_made_floats_are_whole_again(y):
    targets = read_targets(y)
    assert labels_of(targets) == [[0, 1, 2], [None, 7, 8]]
    assert [classes.dtype.kind for classes in targets.classes] == ["i", "i"]


def test_floats_stay_floats_where_nothing_is_missing():
    targets = read_targets(np.array([[0.0, 7.0], [2.0, 8.0]]))
    assert [classes.dtype.kind for classes in targets.classes] == ["f", "f"]


@pytest.mark.parametrize(
    "y",
    [
        [[0, NAN, 1], [1, 1, 1], [NAN, 0, 1]],
        np.array([[0, None, 1], [1, 1, 1], [None, 0, 1]], dtype=object),
        np.array([[False, None, True], [True] * 3, [None, False, True]], dtype=object),
    ],
    ids=["float", "object", "bool"],
)
def test_multilabel_with_missing_labels(y):
    targets = read_targets(y)
    assert targets.kind == "multilabel"
    assert targets.n_outputs == [3]
    (values,) = targets.values()
    np.testing.assert_array_equal(values, [[0, NAN, 1], [1, 1, 1], [NAN, 0, 1]])


def test_label_that_is_the_same_in_every_row_has_its_value():
    targets = read_targets([[0, 1, 0], [0, 1, 1]])
    assert classes_of(targets) == [[0], [1], [0, 1]]
    assert targets.values()[0].tolist() == [[0, 1, 0], [0, 1, 1]]


def test_column_with_one_class_is_allowed_beside_others():
    targets = read_targets([["a", "x"], ["a", "y"], ["a", "z"]])
    assert targets.kind == "multioutput"
    assert targets.n_outputs == [1, 3]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[NAN, 0], [NAN, 1]], "found no label in column 0"),
        ([["a", None], ["b", None]], "found no label in column 1"),
        ([[0.5, 1.2], [2, 3]], "Unknown label type: continuous"),
        ([[0.5, NAN], [2, 3]], "Unknown label type: continuous"),
    ],
)
def test_columns_without_labels_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        read_targets(y)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([[0, 0], [1, 1], [0, 2]], True),
        ([[0, 0], [1, 1], [0, 1]], False),
        ([[0, 0], [0, 1], [0, 2]], False),
        ([[0, 0], [1, 1], [MISSING, 2]], True),
        ([[0, 0], [MISSING, 1], [0, 2]], False),
    ],
)
def test_heads_can_be_solved_where_each_column_shows_all_classes(codes, expected):
    classes = [np.array([0, 1]), np.array(["x", "y", "z"])]
    targets = Targets("multioutput", classes, np.array(codes))
    assert targets.can_be_solved() is expected


# Classes that are known already


def test_encoding_by_known_classes_keeps_kind_and_codes():
    first = read_targets([["a", 3], ["b", 5], ["c", None]])
    again = encode_known([["c", None], ["a", 5]], first)
    assert again.kind == "multioutput"
    assert again.codes.tolist() == [[2, MISSING], [0, 1]]
    assert again.classes is first.classes


def test_whole_floats_are_the_known_ints():
    first = read_targets([[3, 1], [4, 2]])
    assert encode_known([[4.0, NAN]], first).codes.tolist() == [[1, MISSING]]


def test_multilabel_batch_of_known_labels_may_show_one_value_only():
    first = read_targets([[0, 1], [1, 0]])
    again = encode_known([[1, 1]], first)
    assert again.kind == "multilabel"
    assert again.values()[0].tolist() == [[1, 1]]


def test_batch_of_a_single_target_need_not_show_two_classes():
    assert encode_known(["b"], read_targets(["a", "b"])).codes.tolist() == [[1]]


@pytest.mark.parametrize(
    ("y", "found"),
    [
        ([0, 5, 4, 5], r"\[4, 5\]"),
        (["0", "1"], r"\['0', '1'\]"),
        ([0.5, 1], r"\[0\.5\]"),
    ],
)
def test_unknown_classes_are_named_beside_the_known(y, found):
    message = rf"classes {found}, which .* some of \[0, 1\]; pass all classes"
    with pytest.raises(ValueError, match=message):
        encode_known(y, read_targets([0, 1, 0]))


def test_at_most_ten_unknown_classes_are_listed():
    with pytest.raises(ValueError, match=r"\[10, .*, 19\], which"):
        encode_known(list(range(10, 40)), read_targets([0, 1]))


@pytest.mark.parametrize("y", [["a", "b"], [["a", "x", "x"], ["b", "y", "y"]]])
def test_another_number_of_columns_is_refused(y):
    first = read_targets([["a", "x"], ["b", "y"]])
    message = rf"y: found {np.array(y).size // 2} column\(s\)\. Expected 2"
    with pytest.raises(ValueError, match=message):
        encode_known(y, first)


@pytest.mark.parametrize(
    "y", [[0, NAN, 1], np.array([0, None, 1], dtype=object)], ids=["NaN", "None"]
)
def test_label_of_a_single_target_may_not_be_missing_later_either(y):
    with pytest.raises(ValueError, match=r"y: found (nan|None) in row 1, 1 missing"):
        encode_known(y, read_targets([0, 1]))
    with pytest.raises(ValueError, match=r"y: found (nan|None) in row 1, 1 missing"):
        read_targets(y, all_classes=[0, 1])


def test_announced_classes_need_not_be_in_y():
    targets = read_targets(["b", "b"], all_classes=["c", "a", "b"])
    assert targets.kind == "single"
    assert classes_of(targets) == [["a", "b", "c"]]
    assert targets.codes.tolist() == [[1], [1]]
    assert not targets.can_be_solved()


def test_announced_classes_of_several_targets():
    all_classes = [["b", "a"], [3, 1, 2]]
    targets = read_targets([["a", None], ["a", 3]], all_classes=all_classes)
    assert targets.kind == "multioutput"
    assert classes_of(targets) == [["a", "b"], [1, 2, 3]]
    assert targets.codes.tolist() == [[0, MISSING], [0, 2]]


def test_announced_zeros_and_ones_are_multilabel():
    targets = read_targets([[0, 0], [0, NAN]], all_classes=[[0, 1], [0, 1]])
    assert targets.kind == "multilabel"
    np.testing.assert_array_equal(targets.values()[0], [[0, 0], [0, NAN]])


def test_announced_classes_are_one_list_a_target():
    with pytest.raises(ValueError, match="Parameter classes: found 3 for 2 targets"):
        read_targets([["a", "x"]], all_classes=[["a"], ["x"], ["y"]])
    with pytest.raises(ValueError, match=r"found the classes \['z'\]"):
        read_targets(["z"], all_classes=["a", "b"])


# Weights


def test_rows_without_weights_weigh_one():
    targets = read_targets([0, 1, 1])
    weights = targets.row_weights(None, [None])
    assert weights.dtype == np.float32
    assert weights.tolist() == [[1], [1], [1]]


def test_weights_are_one_on_average_over_the_rows_that_count():
    targets = read_targets([0, 1, 1, 0])
    weights = targets.row_weights(np.array([1, 0, 2, 6]), [None])
    assert weights[:, 0] == pytest.approx([1 / 3, 0, 2 / 3, 2])
    # The unit of the weights is of no matter.
    in_grams = targets.row_weights(np.array([1000, 0, 2000, 6000]), [None])
    np.testing.assert_allclose(in_grams, weights, rtol=1e-6)


def test_rows_without_label_weigh_nothing_for_that_head():
    targets = read_targets([["a", None], ["b", "x"], [None, "y"]])
    assert targets.row_weights(None, [None, None]).tolist() == [[1, 0], [1, 1], [0, 1]]
    weights = targets.row_weights(np.array([3.0, 1.0, 1.0]), [None, None])
    assert weights.tolist() == [[1.5, 0], [0.5, 1], [0, 1]]


def test_row_of_many_labels_weighs_nothing_only_if_all_are_missing():
    targets = read_targets([[0, 1], [1, NAN], [NAN, NAN], [0, 0]])
    assert targets.row_weights(None, [None, None]).tolist() == [[1], [1], [0], [1]]


def test_weights_that_are_all_zero_stay_zero():
    targets = read_targets([0, 1])
    assert targets.row_weights(np.zeros(2), [None]).tolist() == [[0], [0]]


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 5.0, 2: 0.5}])
def test_class_weights_are_those_of_scikit_learn(class_weight):
    y = np.array([0, 0, 0, 1, 2, 2])
    expected = compute_sample_weight(class_weight, y)
    found = read_targets(y).row_weights(None, [class_weight])
    np.testing.assert_allclose(found[:, 0], expected / expected.mean(), rtol=1e-6)


def test_sample_and_class_weights_are_multiplied():
    y = np.array([0, 0, 1, 1])
    sample_weight = np.array([1.0, 2.0, 1.0, 0.0])
    found = read_targets(y).row_weights(sample_weight, [{0: 1, 1: 3}])
    assert found[:, 0] == pytest.approx([0.5, 1.0, 1.5, 0.0])


def test_class_of_weight_zero_drops_out_of_the_average():
    found = read_targets([0, 1, 1, 2]).row_weights(None, [{0: 2.0, 1: 0.0, 2: 1.0}])
    assert found[:, 0] == pytest.approx([4 / 3, 0, 0, 2 / 3])


def test_each_target_is_balanced_over_its_known_labels():
    y = [["a", "x"], ["a", None], ["a", "y"], ["b", "y"]]
    found = read_targets(y).row_weights(None, ["balanced", "balanced"])
    first = compute_sample_weight("balanced", ["a", "a", "a", "b"])
    second = compute_sample_weight("balanced", ["x", "y", "y"])
    np.testing.assert_allclose(found[:, 0], first / first.mean(), rtol=1e-6)
    np.testing.assert_allclose(found[[0, 2, 3], 1], second / second.mean(), rtol=1e-6)
    assert found[1, 1] == 0


def test_class_weights_of_many_labels_are_averaged():
    y = np.array([[0, 1], [1, 1], [1, 0], [1, 1]])
    expected = sum(compute_sample_weight("balanced", column) for column in y.T)
    found = read_targets(y).row_weights(None, ["balanced", "balanced"])
    np.testing.assert_allclose(found[:, 0], expected / expected.mean(), rtol=1e-6)


def test_batch_need_not_show_every_class_that_has_a_weight():
    first = read_targets([0, 1, 2])
    batch = encode_known([0, 1, 1], first)
    found = batch.row_weights(None, [{0: 2.0, 2: 5.0}])  # class 1 weighs 1
    assert found[:, 0] == pytest.approx([1.5, 0.75, 0.75])


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_class_weight_holds_for_all_columns(class_weight):
    classes = [np.array([0, 1]), np.array(["a", "b"])]
    assert column_class_weights(class_weight, classes) == [class_weight] * 2


def test_class_weight_may_be_a_list_with_one_a_column():
    classes = [np.array([0, 1]), np.array(["a", "b"])]
    given = [{0: 2.0, 1: 3.0}, "balanced"]
    assert column_class_weights(given, classes) == given
    assert column_class_weights([None, "balanced"], classes) == [None, "balanced"]


@pytest.mark.parametrize(
    ("classes", "given", "completed"),
    [
        ([0, 1, 2], {0: 0, 2: 5}, {0: 0.0, 1: 1.0, 2: 5.0}),
        ([0.0, 1.0], {1: 2}, {0: 1.0, 1: 2.0}),
        ([False, True], {True: 2}, {False: 1.0, True: 2.0}),
        (["a", "b"], {"a": 3.0}, {"a": 3.0, "b": 1.0}),
        (["0", "1"], {1: 3.0}, {0: 1.0, 1: 3.0}),  # as LogisticRegression names them
        ([0, 1], {}, {0: 1.0, 1: 1.0}),
    ],
)
def test_classes_that_class_weight_leaves_out_weigh_one(classes, given, completed):
    classes = np.array(classes)
    (found,) = column_class_weights(given, [classes])
    assert found == completed
    # Also where the rows do not show each class.
    weights = [completed[key] for key in completed]
    for c, weight in enumerate(weights):
        one = classes[c : c + 1]
        assert compute_class_weight(found, classes=one, y=one) == [weight]


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({0: 1.0}, "found one dict for several targets"),
        ([{0: 1.0}], r"found a list of 1 for 2 target\(s\)"),
        ([None, {"c": 1.0}], r"classes, \['a', 'b'\], are not in class_weight"),
    ],
)
def test_class_weight_that_does_not_fit_is_refused(class_weight, message):
    classes = [np.array([0, 1]), np.array(["a", "b"])]
    with pytest.raises(ValueError, match=message):
        column_class_weights(class_weight, classes)


# Scores


def score(targets, outputs, sample_weight=None):
    weights = targets.row_weights(sample_weight, [None] * len(targets.classes))
    outputs = [np.array(output, dtype=np.float32) for output in outputs]
    return targets.score(outputs, targets.values(), weights)


def test_score_of_one_target_is_the_weighted_accuracy():
    targets = read_targets([0, 1, 1, 0])
    logits = [[1, 0], [0, 1], [1, 0], [0, 1]]  # right, right, wrong, wrong
    assert score(targets, [logits]) == 0.5
    assert score(targets, [logits], np.array([3, 2, 4, 1])) == pytest.approx(0.5)
    assert score(targets, [logits], np.array([3, 0, 1, 0])) == pytest.approx(0.75)


def test_row_counts_if_all_its_known_labels_are_right():
    targets = read_targets([["a", "x"], ["b", None], ["b", "y"], [None, "y"]])
    first = [[1, 0], [0, 1], [0, 1], [1, 0]]  # all right
    second = [[1, 0], [0, 9], [1, 0], [0, 1]]  # row 2 is wrong, row 1 unknown
    assert score(targets, [first, second]) == pytest.approx(3 / 4)
    wrong = [[1, 0], [1, 0], [0, 1], [9, 0]]  # row 1 too
    assert score(targets, [wrong, second]) == pytest.approx(2 / 4)


def test_row_of_many_labels_counts_if_all_its_known_labels_are_right():
    targets = read_targets([[0, 1], [1, NAN], [1, 1], [NAN, 0]])
    logits = [[-2, 3], [1, -9], [1, -1], [5, -1]]  # only row 2 is wrong
    assert score(targets, [logits]) == pytest.approx(3 / 4)
    assert score(targets, [np.negative(logits)]) == 0


def test_rows_without_any_label_do_not_count():
    targets = read_targets([[0, 1], [NAN, NAN], [1, 1]])
    assert score(targets, [[[-1, 1], [1, 1], [-1, 1]]]) == 0.5
    several = read_targets([["a", "x"], [None, None], ["b", "y"]])
    first = [[1, 0], [1, 0], [1, 0]]
    second = [[1, 0], [1, 0], [0, 1]]
    assert score(several, [first, second]) == 0.5


def test_score_without_weight_is_0():
    targets = read_targets([0, 1])
    assert score(targets, [[[1, 0], [0, 1]]], np.zeros(2)) == 0
