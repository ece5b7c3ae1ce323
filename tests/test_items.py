"""One row's image: where it is, what identifies it, what is said if it is not there."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer import FeatureExtractorTransformer, TransferClassifier
from sktransfer._images.decode import DecodeError
from sktransfer._images.items import (
    ArrayItem,
    EncodedItem,
    MissingItem,
    PathItem,
    PilItem,
    ready_pixels,
)
from sktransfer.exceptions import InvalidImageError


@pytest.fixture
def broken(tmp_path, colour_paths):
    """Eight rows, of which 1 to 6 hold no image."""
    good = Path(colour_paths[0][0]).read_bytes()
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "half.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "folder.png").mkdir()
    names = ["absent.jpg", "empty.jpg", "text.jpg", "half.png", "folder.png"]
    bad = [str(tmp_path / name) for name in names]
    return [colour_paths[0][0], *bad, None, colour_paths[0][1]]


def key(item):
    return item.load()[1]


def test_key_of_a_file_is_that_of_its_bytes_wherever_it_lies(tmp_path, colour_paths):
    data = Path(colour_paths[0][0]).read_bytes()
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(data)
    assert key(PathItem(str(copy))) == key(PathItem(colour_paths[0][0]))
    assert key(PathItem(str(copy))) == key(EncodedItem(data))
    assert key(EncodedItem(data)) != key(EncodedItem(data + b"\0"))


def test_key_of_an_array_tells_shape_dtype_range_and_values_apart():
    array = np.zeros((4, 6), dtype=np.uint8)
    other = array.copy()
    other[3, 5] = 1
    items = [
        ArrayItem(array),
        ArrayItem(array.reshape(6, 4)),
        ArrayItem(array.view(np.bool_)),
        ArrayItem(array, (0, 16)),
        ArrayItem(other),
    ]
    assert len(set(map(key, items))) == 5
    assert key(ArrayItem(array)) == key(ArrayItem(np.asfortranarray(array)))


def test_key_of_a_pil_image_is_that_of_its_upright_pixels():
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    turned = image.copy()
    turned.getexif()[0x112] = 3
    assert key(PilItem(image)) == key(PilItem(image.convert("RGB")))
    assert key(PilItem(image)) != key(PilItem(turned))


def test_source_is_the_same_where_nobody_asks_for_the_key(colour_paths):
    path = colour_paths[0][0]
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)
    items = [
        PathItem(path),
        EncodedItem(Path(path).read_bytes()),
        ArrayItem(array),
        PilItem(Image.fromarray(array)),
    ]
    for item in items:
        source, content = item.load(keyed=False)
        np.testing.assert_array_equal(source, item.load()[0])
        assert content is None


def test_only_8_bit_rgb_arrays_of_the_right_size_need_no_decoding():
    array = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    for value_range in (None, (0, 255)):
        pixels = ready_pixels(ArrayItem(array, value_range), 6)
        decoded = ArrayItem(array, value_range).decode(array, 6)
        np.testing.assert_array_equal(pixels, np.asarray(decoded))
    others = [
        ArrayItem(array, (0, 16)),
        ArrayItem(array / 255),
        ArrayItem(array[..., 0]),
        ArrayItem(array[:5]),
        PilItem(Image.fromarray(array)),
    ]
    assert [ready_pixels(item, 6) for item in others] == [None] * 5
    assert ready_pixels(ArrayItem(array), 5) is None


def test_missing_item_says_what_was_found():
    with pytest.raises(DecodeError, match=r"the image is missing \(nan\)"):
        MissingItem(float("nan")).load()


def test_relative_path_is_named_absolute_and_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absolute = os.path.join(os.getcwd(), "cats", "7.jpg")
    with pytest.raises(DecodeError) as caught:
        PathItem("cats/7.jpg").load()
    assert str(caught.value) == (
        f"{absolute} (given as 'cats/7.jpg'): No such file or directory"
    )


def test_url_is_told_from_a_path():
    with pytest.raises(DecodeError, match=r"^https://host/7.jpg: a URL, .* bytes$"):
        PathItem("https://host/7.jpg").load()


def test_path_that_no_file_can_have_is_a_reason_not_a_crash():
    with pytest.raises(DecodeError, match="null byte"):
        PathItem("a\0.jpg").load()


@pytest.mark.parametrize("absent", [False, True])
def test_path_of_bytes_behind_an_object_is_a_path(colour_paths, absent):
    class Place:
        def __fspath__(self):
            return os.fsencode(colour_paths[0][0]) + b"x" * absent

    transformer = FeatureExtractorTransformer(on_invalid="nan", cache=None)
    found = transformer.fit_transform([Place()])
    assert np.isnan(found).all() == absent


def test_directory_is_named_as_one(tmp_path):
    with pytest.raises(DecodeError, match="Is a directory"):
        PathItem(str(tmp_path)).load()


def test_all_problems_come_in_one_error_with_row_path_and_reason(broken):
    transformer = FeatureExtractorTransformer().fit(broken)
    with pytest.raises(InvalidImageError) as caught:
        transformer.transform(broken)
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 of 8 rows hold no readable image."
    reasons = [
        f"{broken[1]}: No such file or directory",
        f"{broken[2]}: empty (0 bytes)",
        f"{broken[3]}: not an image in a format that Pillow reads",
        f"{broken[4]}: broken image (",
        f"{broken[5]}: Is a directory",
        "the image is missing (None)",
    ]
    for row, (line, reason) in enumerate(zip(lines[1:7], reasons, strict=True), 1):
        assert line.startswith(f"  Row {row}: {reason}")
    assert "on_invalid='nan'" in lines[7]
    assert [row for row, _ in caught.value.problems] == [1, 2, 3, 4, 5, 6]
    assert caught.value.n_rows == 8


def test_first_ten_of_many_problems_are_listed_with_the_count(tmp_path, colour_paths):
    X = [str(tmp_path / f"{k}.jpg") for k in range(70)] + [colour_paths[0][0]]
    with pytest.raises(InvalidImageError) as caught:
        FeatureExtractorTransformer(batch_size=8).fit_transform(X)
    lines = str(caught.value).splitlines()
    assert lines[0] == "70 of 71 rows hold no readable image."
    assert [line.split(":")[0].strip() for line in lines[1:11]] == [
        f"Row {k}" for k in range(10)
    ]
    assert lines[11].strip().startswith("... and 60 more")
    assert len(lines) == 13
    assert len(caught.value.problems) == 70


def test_classifier_names_broken_rows_in_fit_and_in_predict(broken, colour_paths):
    paths, y = colour_paths
    with pytest.raises(InvalidImageError, match="6 of 8 rows"):
        TransferClassifier().fit(broken, y[:8])
    classifier = TransferClassifier().fit(paths, y)
    with pytest.raises(InvalidImageError, match=r"Row 1: .*absent\.jpg"):
        classifier.predict(broken)


@pytest.mark.parametrize("cache", ["auto", None])
def test_on_invalid_nan_gives_rows_of_nan_and_leaves_the_others(broken, cache):
    transformer = FeatureExtractorTransformer(on_invalid="nan", cache=cache)
    features = transformer.fit_transform(broken)
    np.testing.assert_array_equal(
        np.isnan(features).all(axis=1), [False] + [True] * 6 + [False]
    )
    good = FeatureExtractorTransformer().fit_transform([broken[0], broken[7]])
    np.testing.assert_array_equal(features[[0, 7]], good)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_every_kind_of_missing_cell_is_a_missing_image(colour_paths, missing):
    X = pd.Series([colour_paths[0][0], missing], dtype=object)
    transformer = FeatureExtractorTransformer(on_invalid="nan")
    features = transformer.fit_transform(X)
    assert np.isnan(features).all(axis=1).tolist() == [False, True]
    with pytest.raises(InvalidImageError, match="Row 1: the image is missing"):
        FeatureExtractorTransformer().fit_transform(X)


def test_column_of_missing_images_alone_gives_nan():
    features = FeatureExtractorTransformer(on_invalid="nan").fit_transform(
        pd.DataFrame({"photo": [None, None]})
    )
    assert features.shape[0] == 2
    assert np.isnan(features).all()


def test_shorter_side_of_every_kind_of_image(tmp_path):
    image = Image.new("RGB", (30, 20))
    path = tmp_path / "image.jpg"
    image.save(path)
    items = [
        PathItem(str(path)),
        EncodedItem(path.read_bytes()),
        PilItem(image),
        ArrayItem(np.zeros((20, 30, 3), np.uint8)),
        ArrayItem(np.zeros((30, 20))),
    ]
    assert [item.shorter_side() for item in items] == [20] * 5


def test_shorter_side_of_what_is_no_image_is_unknown(broken):
    items = [PathItem(cell) if cell else MissingItem(cell) for cell in broken]
    sides = [item.shorter_side() for item in items]
    # The header of a file that breaks off is whole.
    assert [side is not None for side in sides] == [
        *[True, False, False, False],
        *[True, False, False, True],
    ]
