"""The columns beside the images as numbers."""

import datetime
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sktransfer._table_encoder import (
    TableEncoder,
    encode_rows,
    encode_training_rows,
)


def encoded(frame, of=None):
    """The encoding, by name, of a table or of another by the encoder of the first."""
    encoder = TableEncoder().fit(frame)
    values = encoder.transform(frame if of is None else of)
    return pd.DataFrame(values, columns=encoder.get_feature_names_out())


def objects(*cells):
    return pd.Series(cells, dtype=object)


KINDS = {
    "number": [
        pd.Series([1, 2, 3]),
        pd.array([1, None, 3], dtype="Int64"),
        objects(1, None, 2.5),
        pd.Series([1.0, None, 3.0], dtype="Float32"),
    ],
    "category": [
        pd.Series(["a", "b", None]),
        pd.Series([True, False, True]),
        pd.array([True, None, False], dtype="boolean"),
        objects(True, None, False),
        objects("a", 1, None),
        pd.Categorical([1, 2, None]),
    ],
    "date": [
        pd.to_datetime(pd.Series(["2020-01-01", None, "2021-01-01"])),
        pd.to_datetime(pd.Series(["2020-01-01", "2021-01-01", None]), utc=True),
        objects(datetime.date(2020, 1, 1), None, datetime.date(2020, 1, 2)),
    ],
    "duration": [pd.to_timedelta(pd.Series([1, 2, None]), unit="D")],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_follow_from_dtypes_and_cells(kind):
    for column in KINDS[kind]:
        frame = pd.DataFrame({"x": column})
        encoder = TableEncoder().fit(frame)
        assert encoder.kinds_ == {"x": kind}, column
        assert np.isfinite(encoder.transform(frame)).all()


def test_numbers_are_standardized_and_gaps_are_medians_with_a_flag():
    found = encoded(pd.DataFrame({"a": [1.0, 2.0, None, 6.0], "b": [3, 4, 5, 8]}))
    assert found.columns.tolist() == ["a", "b", "missingindicator_a"]
    np.testing.assert_allclose(found["b"], (np.array([3, 4, 5, 8]) - 5) / 3.5**0.5)
    assert found["a"][2] == found["a"][1]
    assert found["missingindicator_a"].argmax() == 2


def test_gaps_in_columns_that_had_none_are_medians():
    fitted_on = pd.DataFrame({"a": [1.0, 2.0, 6.0]})
    found = encoded(fitted_on, pd.DataFrame({"a": [None, 2.0]}))
    assert found["a"][0] == found["a"][1]


def test_categories_are_columns_and_a_gap_is_one_too():
    found = encoded(pd.DataFrame({"c": ["u", "v", None, "u", "v", None]}))
    assert found.columns.tolist() == ["c_u", "c_v", "c_None"]
    np.testing.assert_array_equal(found, np.tile(np.eye(3), (2, 1)))


def test_new_categories_are_taken_for_rare_ones():
    fitted_on = pd.DataFrame({"c": ["u", "u", "v", "v", "once"]})
    found = encoded(fitted_on, pd.DataFrame({"c": ["new", "once", "u"]}))
    np.testing.assert_array_equal(found.iloc[0], found.iloc[1])
    assert found["c_infrequent_sklearn"].tolist() == [1, 1, 0]


def test_new_categories_are_nothing_where_none_was_rare():
    found = encoded(pd.DataFrame({"c": ["u", "u"]}), pd.DataFrame({"c": ["new", None]}))
    np.testing.assert_array_equal(found, [[0], [0]])


@pytest.mark.parametrize(
    ("column", "later"),
    [
        (pd.Series([1, 4, 1, 4]).astype("category"), [1.0, 4.0, None, 4.0]),
        (pd.Series([1, 4, None, 4, 1]).astype("category"), [1, 4, 1, 4]),
        ([True, False, True, False], [1, 0, 0, 1]),
        ([True, False, True, False], [1.0, 0.0, None, 1.0]),
        (["a", 1, "a", 1], ["a", 1.0, None, "a"]),
    ],
    ids=["floats", "integers", "0 and 1", "0.0 and 1.0", "mixed"],
)
def test_equal_numbers_are_one_category_whatever_their_type(column, later):
    fitted_on = pd.DataFrame({"c": column})
    same = [column[0] if c == column[0] else column[1] for c in later]
    same = pd.Series(same, dtype=object).where(pd.notna(pd.Series(later)), None)
    later = pd.DataFrame({"c": pd.Series(later).astype("category")})
    found, expected = encoded(fitted_on, later), encoded(fitted_on, same.to_frame("c"))
    np.testing.assert_array_equal(found, expected)
    assert found.iloc[0].tolist() != found.iloc[1].tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda days: pd.to_datetime(days),
        lambda days: [datetime.date.fromisoformat(day) for day in days],
        lambda days: np.array(days, "datetime64[s]"),
    ],
    ids=["pandas", "Python", "numpy"],
)
def test_dates_may_be_centuries_away(make):
    days = ["1642-01-01", "1642-01-02", "9999-12-31"]
    encoder = TableEncoder().fit(pd.DataFrame({"d": make(days)}))
    found = encoder._stacked(pd.DataFrame({"d": make(days)}), ["d"])
    assert found[:, 0].tolist() == [-119799.0, -119798.0, 2932896.0]


def test_dates_are_days():
    dates = pd.to_datetime(pd.Series(["2020-01-01", "2020-01-02", "2020-01-05"]))
    other = pd.Series([0, 1, 4])
    found = encoded(pd.DataFrame({"d": dates, "t": other * pd.Timedelta(days=1)}))
    expected = StandardScaler().fit_transform(other.to_frame())[:, 0]
    np.testing.assert_allclose(found["d"], expected)
    np.testing.assert_allclose(found["t"], expected)


def test_text_and_empty_columns_are_left_out_with_a_warning_that_names_them():
    frame = pd.DataFrame(
        {
            "name": [f"n{i}" for i in range(41)],
            "empty": [None] * 41,
            "list": [[1]] * 41,
            "used": ["a"] * 41,
        }
    )
    with pytest.warns(UserWarning, match=r"left out: 'name' \(text: 41 .*'empty' \(no"):
        encoder = TableEncoder().fit(frame)
    assert encoder.left_out_.keys() == {"name", "empty", "list"}
    assert encoder.kinds_.keys() == {"used"}
    assert encoder.transform(frame).shape == (41, 1)


def test_of_many_strings_those_that_occur_often_are_categories():
    names = ["often"] * 5 + ["seldom"] * 4 + [f"n{i}" for i in range(45)] + [None] * 6
    encoder = TableEncoder().fit(pd.DataFrame({"name": names}))
    assert encoder.kinds_ == {"name": "text"}
    found = encoded(pd.DataFrame({"name": names}))
    columns = ["name_often", "name_None", "name_infrequent_sklearn"]
    assert found.columns.tolist() == columns
    assert found.sum().tolist() == [5, 6, 49]
    new = pd.DataFrame({"name": ["new", "often"]})
    assert encoder.transform(new).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_as_many_strings_as_there_may_be_are_categories():
    names = [f"n{i:03}" for i in range(100) for _ in range(5 + i)]
    found = encoded(pd.DataFrame({"name": names}))
    assert found.shape == (len(names), 40)
    assert found.columns[0] == "name_n061"
    assert found.columns[-1] == "name_infrequent_sklearn"


def test_forty_categories_are_still_used():
    frame = pd.DataFrame({"name": [f"n{i % 40}" for i in range(80)]})
    assert encoded(frame).shape == (80, 40)


@pytest.mark.parametrize(
    ("column", "bad", "message"),
    [
        ([1.0, 2.0], [1.0, np.inf], "Row 1 of column 'x': found inf"),
        ([1.0, 2.0], [1.0, "old"], "Row 1 of column 'x': found 'old'. Expected a num"),
        (
            pd.to_datetime(["2020-01-01", "2020-01-02"]),
            ["2020-01-01", "never"],
            "Column 'x': found cells that are no date",
        ),
    ],
)
def test_cells_that_do_not_fit_their_column_are_named(column, bad, message):
    encoder = TableEncoder().fit(pd.DataFrame({"x": column}))
    with pytest.raises(ValueError, match=message):
        encoder.transform(pd.DataFrame({"x": bad}))


DATES = pd.to_datetime(pd.Series(["2020-01-01", None, "2020-01-03"]))
DAYS = pd.to_timedelta(pd.Series([1, None, 3]), unit="D")
NUMBERS = pd.Series([1.0, None, 3.0])


@pytest.mark.parametrize(
    ("column", "bad", "what"),
    [
        (NUMBERS, DATES, "number"),
        (NUMBERS, DAYS, "number"),
        (NUMBERS, NUMBERS + 1j, "number"),
        (NUMBERS, objects(1j, None, 2.0), "number"),
        (DATES, NUMBERS, "date"),
        (DATES, objects(2020, None, "2020-01-01"), "date"),
        (DATES, pd.array([2020, None, 1], dtype="Int64"), "date"),
        (DAYS, NUMBERS, "duration"),
        (DAYS, objects(3, None, pd.Timedelta(days=1)), "duration"),
    ],
)
def test_column_of_another_kind_is_no_number_of_nanoseconds(column, bad, what):
    encoder = TableEncoder().fit(pd.DataFrame({"x": column}))
    with pytest.raises(ValueError, match=f"Row 0 of column 'x'.*Expected a {what}"):
        encoder.transform(pd.DataFrame({"x": bad}))


@pytest.mark.parametrize("column", [NUMBERS, DATES, DAYS])
@pytest.mark.parametrize("gap", [None, np.nan, pd.NaT, pd.NA])
def test_gaps_alone_are_gaps_whatever_the_dtype(column, gap):
    frame = pd.DataFrame({"x": column})
    found = encoded(frame, pd.DataFrame({"x": [gap, gap]}))
    expected = encoded(frame).iloc[[1, 1]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("column", [NUMBERS + 1j, objects(1j, None, 2.0)])
def test_complex_numbers_are_left_out(column):
    with pytest.warns(UserWarning, match=r"left out: 'x' \(holds complex"):
        encoder = TableEncoder().fit(pd.DataFrame({"x": column}))
    assert encoder.kinds_ == {}


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_output_that_is_set_globally_changes_nothing(output):
    frame = pd.DataFrame({"n": NUMBERS, "c": ["None", None, "a"], "d": DATES})
    expected = TableEncoder().fit(frame).transform(frame)
    with config_context(transform_output=output):
        encoder, found = encode_training_rows("auto", frame, np.arange(3), np.arange(3))
        np.testing.assert_array_equal(found, expected)
        assert len(encoder.get_feature_names_out()) == expected.shape[1]


# Encoding the rows of a fit


@pytest.mark.parametrize("bad", [np.inf, "old"])
def test_cells_are_named_by_their_row_in_the_whole_input(bad):
    encoder = TableEncoder().fit(pd.DataFrame({"x": [1.0, 2.0]}))
    rows = pd.DataFrame({"x": objects(2.0, bad)})
    with pytest.raises(ValueError, match=f"Row 7 of column 'x': found {bad!r}"):
        encode_rows(encoder, rows, np.array([4, 7]))


def test_training_rows_are_named_by_their_row_in_the_whole_input():
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, np.inf]})
    with pytest.raises(ValueError, match="Row 3 of column 'x': found inf"):
        encode_training_rows("auto", frame, np.arange(4), np.array([1, 3]))


def test_error_of_a_cell_comes_back_from_another_process():
    with pytest.raises(ValueError, match="found inf") as raised:
        TableEncoder().fit(pd.DataFrame({"x": [1.0, np.inf]}))
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


class MeanOfOthers(TransformerMixin, BaseEstimator):
    """Learns from y; a training row sees the mean of the others, like TargetEncoder."""

    def fit(self, X, y):
        self.mean_ = np.mean(y)
        return self

    def fit_transform(self, X, y):
        self.fit(X, y)
        return ((np.sum(y) - np.asarray(y)) / (len(y) - 1)).reshape(-1, 1)

    def transform(self, X):
        return np.full((len(X), 1), self.mean_)


def test_training_rows_become_what_fit_transform_says_and_others_what_transform_says():
    frame, y = pd.DataFrame({"a": range(5)}), pd.Series([9, 9, 1, 2, 6], list("abcde"))
    given = MeanOfOthers()
    transformer, values = encode_training_rows(given, frame, y, np.array([2, 3, 4]))
    np.testing.assert_allclose(values[:, 0], [3, 3, 4, 3.5, 1.5])
    np.testing.assert_allclose(encode_rows(transformer, frame), 3)
    assert transformer is not given
    assert not hasattr(given, "mean_")


def test_only_training_rows_are_learnt_from():
    frame = pd.DataFrame({"a": [0.0, 2.0, 1e9]})
    _, values = encode_training_rows("auto", frame, [0, 1, 1], np.array([0, 1]))
    np.testing.assert_allclose(values[:, 0], [-1, 1, 1e9 - 1])


class Sparse(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return sparse.csr_array(X.to_numpy())


def test_sparse_and_framed_output_is_taken():
    frame = pd.DataFrame({"a": [1.0, 0.0], "b": [0.0, 2.0]})
    scaler = StandardScaler(with_mean=False).set_output(transform="pandas")
    for transformer in (Sparse(), make_pipeline(scaler)):
        _, values = encode_training_rows(transformer, frame, [0, 1], np.arange(2))
        np.testing.assert_allclose(values > 0, [[True, False], [False, True]])


def test_what_a_transformer_may_not_put_out_is_named():
    frame = pd.DataFrame({"a": [1.0, 2.0, None]})
    scaler, imputer = StandardScaler(), SimpleImputer()
    with pytest.raises(ValueError, match=r"put out nan in row 2, column 0.*imputer"):
        encode_training_rows(scaler, frame, [0, 1, 1], np.arange(3))
    encode_training_rows(make_pipeline(imputer, scaler), frame, [0, 1, 1], np.arange(3))
    scaler.fit(frame)
    with pytest.raises(ValueError, match="put out nan in row 2"):
        encode_rows(scaler, frame)
    nothing = FunctionTransformer()
    with pytest.raises(ValueError, match="FunctionTransformer put out what are no num"):
        encode_training_rows(nothing, pd.DataFrame({"c": ["u"]}), [0], np.arange(1))
    flat = FunctionTransformer(lambda X: X.to_numpy()[:, 0])
    with pytest.raises(ValueError, match=r"put out shape \(3,\) for 3 rows"):
        encode_training_rows(flat, frame, [0, 1, 1], np.arange(3))
