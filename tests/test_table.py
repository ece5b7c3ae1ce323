"""load_image_table: absolute paths, missing cells, and columns that are not there."""

import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer import FeatureExtractorTransformer
from sktransfer.datasets import load_image_table
from sktransfer.exceptions import InvalidImageError


@pytest.fixture
def make_csv(tmp_path):
    """Write the lines of a table."""

    def make(*lines, name="houses.csv"):
        csv = tmp_path / name
        csv.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return csv

    return make


def test_relative_paths_start_from_the_folder_of_the_csv(make_csv, monkeypatch):
    csv = make_csv("photo,price", "front/1.jpg,200", "./a/../2.jpg,150")
    monkeypatch.chdir(csv.parent)
    here = os.getcwd()
    table = load_image_table("houses.csv", "photo")
    assert table["photo"].tolist() == [
        os.path.join(here, "front", "1.jpg"),
        os.path.join(here, "a", "..", "2.jpg"),
    ]
    assert table["price"].tolist() == [200, 150]


def test_folder_above_that_of_a_link_is_where_the_link_points(make_csv, tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "1.jpg").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    table = load_image_table(make_csv("photo", "link/../1.jpg"), "photo")
    assert os.path.exists(table["photo"][0])


def test_url_stays_what_it_is(make_csv):
    table = load_image_table(make_csv("photo", "https://a.example/1.jpg"), "photo")
    with pytest.raises(InvalidImageError, match="a URL, and images are not downloaded"):
        FeatureExtractorTransformer().fit_transform(table["photo"])


def test_root_replaces_the_folder_and_leaves_absolute_paths(make_csv, tmp_path):
    absolute = str(tmp_path / "elsewhere" / "2.jpg")
    csv = make_csv("photo", "1.jpg", absolute)
    root = tmp_path / "pictures"
    for given in (root, str(root), os.path.relpath(root)):
        table = load_image_table(csv, "photo", root=given)
        assert table["photo"].tolist() == [str(root / "1.jpg"), absolute]


def test_missing_cells_stay_missing(make_csv):
    csv = make_csv("photo,price", "1.jpg,1", ",2", "3.jpg,3")
    table = load_image_table(csv, "photo")
    assert table["photo"].isna().tolist() == [False, True, False]
    assert len(table) == 3


def test_column_without_any_path_stays_missing(make_csv):
    table = load_image_table(make_csv("photo,price", ",1", ",2"), "photo")
    assert table["photo"].isna().all()


def test_several_columns_are_made_absolute_and_no_others(make_csv, tmp_path):
    csv = make_csv("front,kitchen,note", "1.jpg,2.jpg,a.jpg", ",4.jpg,b.jpg")
    table = load_image_table(csv, ["front", "kitchen"])
    assert table["front"].tolist()[0] == str(tmp_path / "1.jpg")
    assert table["front"].isna().tolist() == [False, True]
    assert table["kitchen"].tolist() == [str(tmp_path / n) for n in ("2.jpg", "4.jpg")]
    assert table["note"].tolist() == ["a.jpg", "b.jpg"]


def test_absent_columns_are_named_with_those_there_are(make_csv):
    csv = make_csv("photo,price", "1.jpg,200")
    with pytest.raises(
        ValueError, match=r"no column \['front', 'back'\].*\['photo', 'price'\]"
    ):
        load_image_table(csv, ["front", "photo", "back"])


@pytest.mark.parametrize(
    ("cells", "row", "found"),
    [(["7", "8"], 0, "7"), (["", "8.5"], 1, "8.5"), (["True", "False"], 0, "True")],
)
def test_cell_that_is_no_path_is_named_with_row_and_column(make_csv, cells, row, found):
    csv = make_csv("photo,price", *(f"{cell},1" for cell in cells))
    with pytest.raises(ValueError, match=f"Row {row} of column 'photo': found {found}"):
        load_image_table(csv, "photo")


def test_missing_csv_is_an_error_with_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        load_image_table(tmp_path / "absent.csv", "photo")


def test_column_of_a_table_passes_the_transformer(make_csv, tmp_path):
    for name in ("1.png", "é 2.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    table = load_image_table(make_csv("photo", "1.png", "é 2.png", '""'), ["photo"])
    assert isinstance(table, pd.DataFrame)
    features = FeatureExtractorTransformer(on_invalid="nan").fit_transform(table)
    np.testing.assert_array_equal(features[0], features[1])
    assert np.isnan(features).all(axis=1).tolist() == [False, False, True]


def test_houses_have_four_photos_each(shared_data):
    columns = ["frontal", "bedroom", "bathroom", "kitchen"]
    houses = load_image_table(shared_data / "houses" / "houses.csv", columns)
    assert len(houses) == 535
    assert all(os.path.isfile(path) for name in columns for path in houses[name])
