"""Which columns of a table hold images, and how columns are found again."""

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

from sktransfer._tabular import (
    as_pandas,
    check_image_columns,
    check_some_images,
    find_image_columns,
    select_columns,
)

PIXELS = np.zeros((4, 4), np.uint8)


def objects(*cells):
    """A column that holds these cells as they are."""
    column = pd.Series([None] * len(cells), dtype=object)
    for row, cell in enumerate(cells):
        column.iat[row] = cell
    return column


IMAGES = {
    "PIL": objects(Image.fromarray(PIXELS), None),
    "bytes": objects(b"x", np.nan),
    "arrays": objects(PIXELS, np.zeros((2, 2, 3))),
    "paths": objects(Path("a.jpg"), Path("no ending")),
    "names": pd.Series(["a.jpg", None]),
    "names in capitals": pd.Series(["A.JPG", "b.Png"]),
    "names as categories": pd.Series(["a.jpg", "a.jpg"], dtype="category"),
    "names and PIL": objects("a.jpg", Image.fromarray(PIXELS)),
}
OTHERS = {
    "numbers": pd.Series([1, 2]),
    "booleans": pd.Series([True, False]),
    "dates": pd.to_datetime(pd.Series(["2020-01-01", None])),
    "text": pd.Series(["a", "b"]),
    "text that ends like files": pd.Series(["see a.jpg", "nothing to see"]),
    "other files": pd.Series(["a.txt", "b.csv"]),
    "nothing": objects(None, np.nan),
    "vectors": objects(np.zeros(3), np.zeros(3)),
    "numbers as objects": objects(1, 2.5),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_columns_of_images_are_found_by_their_cells(kind):
    assert find_image_columns(pd.DataFrame({"x": IMAGES[kind]})) == ["x"]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_columns_are_not_taken_for_images(kind):
    assert find_image_columns(pd.DataFrame({"x": OTHERS[kind]})) == []


def test_a_column_that_mixes_images_with_something_else_is_refused_by_row():
    frame = pd.DataFrame({"x": objects(Image.fromarray(PIXELS), None, 3.5)})
    with pytest.raises(ValueError, match=r"Row 2 of column 'x': found float 3\.5"):
        find_image_columns(frame)


def test_a_column_of_file_names_with_a_word_among_them_is_refused_by_row():
    frame = pd.DataFrame({"x": ["a.jpg", "b.jpg", None, "n/a", "c.jpg"]})
    with pytest.raises(ValueError, match=r"Row 3 of column 'x': found str 'n/a'"):
        find_image_columns(frame)


def test_image_columns_are_given_as_one_name_or_several():
    frame = pd.DataFrame({"a": ["x"], "b": ["y"], 3: ["z"]})
    assert check_image_columns("a", frame) == ["a"]
    assert check_image_columns(("b", "a"), frame) == ["b", "a"]
    assert check_image_columns(3, frame) == [3]


def test_image_columns_that_cannot_be_used_are_named():
    frame = pd.DataFrame({"a": ["x"]})
    with pytest.raises(ValueError, match="X has no column 'photo'"):
        check_image_columns(["photo"], frame)
    with pytest.raises(ValueError, match="each name once"):
        check_image_columns(["a", "a"], frame)
    with pytest.raises(ValueError, match="at least one name"):
        check_image_columns([], frame)


def test_a_column_without_a_single_image_is_refused_in_fit():
    frame = pd.DataFrame({"a": objects(None, np.nan), "b": objects("x", None)})
    check_some_images(frame, ["b"])
    with pytest.raises(ValueError, match="Column 'a': found no image in fit, all of"):
        check_some_images(frame, ["b", "a"])


def test_columns_are_selected_by_name_in_the_order_of_fit():
    frame = pd.DataFrame([[1, 2, 3]], columns=["new", "b", "a"])
    assert select_columns(frame, ["a", "b"], "column(s)").columns.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match=r"the column\(s\) 'c' that fit used is miss"):
        select_columns(frame, ["a", "c"], "column(s)")


def test_frames_of_polars_are_read_column_by_column():
    image = Image.fromarray(PIXELS)
    frame = pl.DataFrame(
        {
            "photo": ["a.jpg", None],
            "pil": pl.Series([image, image], dtype=pl.Object),
            "code": [b"x", b"y"],
            "n": [1, None],
            "kind": pl.Series(["u", None], dtype=pl.Categorical),
        }
    )
    read = as_pandas(frame)
    assert read.columns.tolist() == frame.columns
    assert find_image_columns(read) == ["photo", "pil", "code"]
    assert read["pil"][0] is image
    np.testing.assert_array_equal(read["n"], [1, np.nan])
    assert read["kind"].isna().tolist() == [False, True]


def test_frames_of_pandas_are_not_copied_and_need_names_that_differ():
    frame = pd.DataFrame({"a": [1]})
    assert as_pandas(frame) is frame
    with pytest.raises(ValueError, match="several columns named 'a'"):
        as_pandas(pd.concat([frame, frame], axis=1))
