"""One call of fit: what it works on, and the record it leaves."""

import numpy as np
import pandas as pd
import pytest

from sktransfer._fit import Fit, check_rows, history_frame, rows_of
from sktransfer._targets import column_class_weights, encode_known, read_targets
from sktransfer.strategies import FineTuning

NAN = np.nan


def fit(y, sample_weight=None):
    targets = read_targets(y)
    weights = targets.row_weights(sample_weight, [None] * len(targets.classes))
    return Fit("X", y, None, targets, sample_weight, weights, None, FineTuning(), 0)


def test_rows_that_have_a_weight_and_a_label_are_trained_on():
    np.testing.assert_array_equal(fit(["a", "b", "a"]).train, [0, 1, 2])
    weight = np.array([1.0, 2.0, 0.0])
    np.testing.assert_array_equal(fit(["a", "b", "a"], weight).train, [0, 1])
    y = [["a", None], [None, None], ["b", "x"], [None, "y"]]
    np.testing.assert_array_equal(fit(y).train, [0, 2, 3])
    assert len(fit(y).valid) == 0


@pytest.mark.parametrize(
    ("y", "sample_weight", "class_weight", "message"),
    [
        ([[NAN, NAN]] * 3, None, None, r"^y: found only missing values in 3 row\(s\)"),
        ([[NAN, NAN]] * 3, [1, 1, 1], None, "^y: found only missing values"),
        (
            [[0, 5], [NAN, 6], [NAN, NAN]],
            [0, 0, 1],
            None,
            r"^sample_weight: found 0 in each of the 2 row\(s\), of 3, in which y is",
        ),
        (
            [[0, 5], [0, NAN], [1, 6]],
            [1, 1, 0],
            {0: 0, 5: 0},
            r"class_weight: found weight 0 for the classes of all 2 row\(s\) that have",
        ),
    ],
)
def test_nothing_to_learn_from_is_refused_with_its_cause(
    y, sample_weight, class_weight, message
):
    targets = encode_known(y, read_targets([[0, 5], [1, 6]]))
    if sample_weight is not None:
        sample_weight = np.array(sample_weight, dtype=float)
    of_columns = [None, None]
    if class_weight is not None:
        of_columns = column_class_weights([{0: 0}, {5: 0}], targets.classes)
    weights = targets.row_weights(sample_weight, of_columns)
    with pytest.raises(ValueError, match=message):
        check_rows(targets, sample_weight, weights)


def test_one_row_with_one_label_is_something_to_learn_from():
    targets = encode_known([[NAN, NAN], [NAN, 6]], read_targets([[0, 5], [1, 6]]))
    check_rows(targets, None, targets.row_weights(None, [None, None]))


def test_callbacks_get_what_the_user_gave():
    weight = np.array([1.0, 2.0])
    assert fit(["a", "b"]).data == {"X": "X", "y": ["a", "b"], "metadata": {}}
    assert fit(["a", "b"], weight).data["metadata"] == {"sample_weight": weight}


HISTORY = [
    {
        "batches": [{"train_loss": 1.0}],
        "epoch": 1,
        "train_batch_count": 1,
        "phase": "head",
        "train_loss": 0.7,
        "train_loss_best": True,
        "valid_loss": 0.6,
        "valid_loss_best": True,
        "lr_head": 0.1,
        "dur": 2.5,
    },
    {"batches": [], "epoch": 2, "phase": "all", "train_loss": 0.5, "lr_low": 0.2},
]


def test_history_is_a_table_of_epochs_without_what_is_skorchs_own():
    frame = history_frame(rows_of(HISTORY))
    names = [
        "phase",
        "epoch",
        "train_loss",
        "valid_loss",
        "lr_head",
        "seconds",
        "lr_low",
    ]
    assert list(frame) == names
    assert frame["phase"].tolist() == ["head", "all"]
    assert frame["seconds"].tolist()[0] == 2.5
    pd.testing.assert_series_equal(
        frame["valid_loss"], pd.Series([0.6, np.nan], name="valid_loss")
    )


def test_rows_of_a_history_hold_no_batches():
    rows = rows_of(HISTORY)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert not any("batches" in row for row in rows)
    assert "batches" in HISTORY[0]
