"""What X may be, and what is said about an X that it may not be."""

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from sktransfer import FeatureExtractorTransformer
from sktransfer._images.inputs import (
    check_image_shape,
    input_kind,
    read_items,
    read_pixels,
    rows_value_range,
)
from sktransfer.exceptions import ImageShapeError, InvalidImageError


@pytest.fixture(scope="module")
def extract():
    """Features of any X by the shipped backbone, without a store."""

    def features(X, **parameters):
        return FeatureExtractorTransformer(cache=None, **parameters).fit_transform(X)

    return features


@pytest.fixture(scope="module")
def photos(colour_images):
    return colour_images[0][:6]


@pytest.fixture(scope="module")
def expected(extract, photos):
    return extract(photos)


def decoded(sequence):
    return [np.asarray(item.decode(item.load()[0], 8)) for item in sequence]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_numbers_of_every_dtype_and_channel_count_are_images(shape, dtype):
    X = np.zeros((3, 6, 5, *shape), dtype=dtype)
    X[1] = 1 if X.dtype.kind == "f" else np.iinfo(dtype).max
    assert input_kind(X) == "pixels"
    images = decoded(read_pixels(X, None))
    assert [image.shape[:2] for image in images] == [(6, 5)] * 3
    white = 255 if images[1].dtype == np.uint8 else 1
    assert (images[1] == white).all()
    if shape != (4,):  # transparent black is white paper
        assert (images[0] == 0).all()


def test_arrays_of_each_kind_pass_the_estimator(extract, photos, expected):
    as_16_bit = photos.astype(np.uint16) * 257
    np.testing.assert_allclose(extract(as_16_bit), expected, atol=0.1)
    np.testing.assert_allclose(extract(photos / 255), expected, atol=0.1)
    opaque = np.concatenate([photos, np.full_like(photos[..., :1], 255)], axis=-1)
    np.testing.assert_array_equal(extract(opaque), expected)
    np.testing.assert_array_equal(extract(photos[..., 0]), extract(photos[..., :1]))
    ranged = extract(photos.astype(int), value_range=(0, 255))
    np.testing.assert_allclose(ranged, expected, atol=0.1)


def test_tensor_with_channels_first_equals_the_array(extract, photos, expected):
    tensor = torch.from_numpy(photos).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(extract(tensor), expected)
    np.testing.assert_array_equal(extract(list(tensor)), expected)
    np.testing.assert_array_equal(extract(tv_tensors.Image(tensor)), expected)
    np.testing.assert_array_equal(
        extract([tv_tensors.Image(t) for t in tensor]), expected
    )


def test_tensor_of_floats_that_wants_gradients_is_read():
    tensor = torch.full((2, 1, 4, 4), 0.5, requires_grad=True)
    assert all((image == 0.5).all() for image in decoded(read_pixels(tensor, None)))


def test_flattened_rows_are_a_square_or_one_row_unless_told():
    assert check_image_shape(None, 64) == (8, 8)
    assert check_image_shape(None, 50) == (1, 50)
    assert check_image_shape([4, 4, 3], 48) == (4, 4, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_features", [3, 12, 75, 191, 4 * 32 * 32])
def test_rows_that_are_hardly_colour_images_say_nothing(n_features):
    check_image_shape(None, n_features)


def test_rows_that_look_like_colour_images_ask_for_the_shape():
    with pytest.warns(UserWarning, match=r"image_shape=\(32, 32, 3\)"):
        assert check_image_shape(None, 3 * 32 * 32) == (1, 3072)


@pytest.mark.parametrize(
    ("image_shape", "message"),
    [
        ((8, 9), r"Parameter image_shape: found \(8, 9\) for rows of 64 features"),
        ((64,), r"Expected \(H, W\) or \(H, W, C\)"),
        ((4, 8, 2), "Expected channels last"),
    ],
)
def test_image_shape_that_does_not_fit_is_an_error(digits, image_shape, message):
    transformer = FeatureExtractorTransformer(image_shape=image_shape)
    with pytest.raises(ImageShapeError, match=message):
        transformer.fit(digits[0])


def test_image_shape_reads_rows_like_the_images_they_were(extract, photos, expected):
    rows = photos.reshape(len(photos), -1)
    np.testing.assert_array_equal(extract(rows, image_shape=(20, 16, 3)), expected)


def test_rows_of_numbers_may_be_objects_frames_and_lists(extract, digits):
    X = digits[0][:8]
    expected = extract(X)
    np.testing.assert_array_equal(extract(X.astype(object)), expected)
    np.testing.assert_array_equal(extract(X.tolist()), expected)
    frame = pd.DataFrame(X, columns=[f"pixel{k}" for k in range(64)])
    np.testing.assert_array_equal(extract(frame), expected)
    np.testing.assert_array_equal(extract(frame.astype(object)), expected)
    np.testing.assert_array_equal(extract(torch.from_numpy(X)), expected)


@pytest.mark.parametrize("dtype", [float, object, "Int64"])
def test_one_column_of_numbers_is_a_table_not_a_column_of_images(dtype):
    assert input_kind(pd.DataFrame({"a": [1, 2]}).astype(dtype)) == "rows"


@pytest.mark.parametrize("dtype", [float, object, "Float64"])
@pytest.mark.parametrize("as_frame", [False, True])
def test_column_of_which_nothing_is_known_is_one_of_images(dtype, as_frame):
    column = pd.Series([np.nan, np.nan], name="photo").astype(dtype)
    X = column.to_frame() if as_frame else column
    transformer = FeatureExtractorTransformer(on_invalid="nan").fit(["missing.png"])
    assert np.isnan(transformer.transform(X)).all()
    transformer.set_params(on_invalid="raise")
    with pytest.raises(InvalidImageError, match="Row 1"):
        transformer.transform(X)


def test_gap_in_a_row_of_numbers_is_no_missing_image(digits):
    rows = pd.DataFrame(digits[0][:4])
    transformer = FeatureExtractorTransformer().fit(rows)
    one = rows.iloc[:1].astype(float)
    one[3] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        transformer.transform(one)
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        transformer.transform(np.full(64, np.nan))


@pytest.mark.parametrize("kind", ["str", "bytes"])
@pytest.mark.parametrize("as_frame", [False, True])
def test_columns_of_polars_hold_images(extract, expected, colour_paths, kind, as_frame):
    cells = [str(path) for path in colour_paths[0][:6]]
    if kind == "bytes":
        cells = [Path(path).read_bytes() for path in cells]
    column = pl.Series("photo", cells)
    X = column.to_frame() if as_frame else column
    np.testing.assert_array_equal(extract(X), extract(cells))


def test_order_of_bytes_does_not_matter(extract, photos):
    numbers = photos.astype(np.uint16) * 257
    swapped = numbers.astype(numbers.dtype.newbyteorder("S"))
    np.testing.assert_array_equal(extract(swapped), extract(numbers))
    flat, flat_swapped = (a.reshape(len(a), -1) for a in (numbers, swapped))
    shape = {"image_shape": photos.shape[1:]}
    np.testing.assert_array_equal(
        extract(flat_swapped, **shape), extract(flat, **shape)
    )


def test_value_range_of_rows_is_that_of_their_positive_weights():
    X = np.array([[0.0, 4], [-50, 50], [1, 16]])
    assert rows_value_range(X, "auto") == (-50, 50)
    assert rows_value_range(X, "auto", np.array([1, 0, 2])) == (0, 16)
    assert rows_value_range(X, [0, 255]) == (0, 255)
    assert rows_value_range(X[::2].astype(np.uint8), "auto") == (0, 255)
    assert rows_value_range(X[::2].astype(np.uint16), "auto") == (0, 65535)


def test_rows_of_another_dtype_after_fit_mean_the_same(photos):
    rows = photos.reshape(len(photos), -1)
    transformer = FeatureExtractorTransformer(image_shape=(20, 16, 3)).fit(rows)
    np.testing.assert_allclose(
        transformer.transform(rows.astype(float)), transformer.transform(rows), atol=0.1
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize("kind", ["array", "list"])
def test_arrays_after_a_fit_on_rows_mean_the_same(photos, dtype, kind):
    pixels = photos / 255 * 0.5 + 0.2
    flat = FeatureExtractorTransformer(image_shape=(20, 16, 3), cache=None)
    expected = flat.fit_transform(pixels.reshape(len(photos), -1))
    if dtype == np.uint8:  # says itself what black and white are
        low, high = flat.value_range_
        pixels = ((pixels - low) / (high - low) * 255).round()
    pixels = pixels.astype(dtype)
    found = flat.transform(list(pixels) if kind == "list" else pixels)
    np.testing.assert_allclose(found, expected, atol=0.1)
    assert np.abs(expected).max() > 1


def test_range_of_values_is_that_of_fit(photos):
    pixels = photos.astype(float)
    transformer = FeatureExtractorTransformer(value_range=(0, 255), cache=None)
    expected = transformer.fit_transform(pixels)
    assert transformer.value_range_ == (0.0, 255.0)
    transformer.set_params(value_range=(0, 510))
    np.testing.assert_array_equal(transformer.transform(pixels), expected)


def columns_of(cells):
    """Every container a column of images may come in."""
    objects = np.empty(len(cells), dtype=object)
    for i, cell in enumerate(cells):
        objects[i] = cell
    return {
        "list": list(cells),
        "tuple": tuple(cells),
        "object array": objects,
        "object column": objects[:, np.newaxis],
        "Series": pd.Series(objects, index=range(5, 5 + len(cells))),
        "DataFrame": pd.DataFrame({"anything": objects}),
    }


@pytest.mark.parametrize("container", columns_of([]))
@pytest.mark.parametrize("kind", ["str", "Path", "bytes", "PIL", "array", "mixed"])
def test_every_cell_in_every_container_gives_the_same_features(
    extract, photos, expected, colour_paths, container, kind
):
    paths = colour_paths[0][:6]
    encoded = [Path(path).read_bytes() for path in paths]
    cells = {
        "str": paths,
        "Path": [Path(path) for path in paths],
        "bytes": encoded,
        "PIL": [Image.fromarray(photo) for photo in photos],
        "array": list(photos),
        "mixed": [
            *(paths[0], Path(paths[1]), encoded[2], bytearray(encoded[3])),
            *(Image.fromarray(photos[4]), photos[5]),
        ],
    }[kind]
    np.testing.assert_array_equal(extract(columns_of(cells)[container]), expected)


def test_buffers_alone_are_images(extract, expected, colour_paths):
    encoded = [Path(path).read_bytes() for path in colour_paths[0][:6]]
    np.testing.assert_array_equal(extract(list(map(bytearray, encoded))), expected)
    np.testing.assert_array_equal(extract(list(map(memoryview, encoded))), expected)


@pytest.mark.parametrize("dtype", ["str", "string", "category"])
def test_pandas_text_dtypes_hold_paths(extract, expected, colour_paths, dtype):
    column = pd.Series(colour_paths[0][:6], dtype=dtype)
    np.testing.assert_array_equal(extract(column), expected)
    np.testing.assert_array_equal(extract(column.to_frame("photo")), expected)


def test_numpy_text_array_holds_paths(extract, expected, colour_paths):
    np.testing.assert_array_equal(extract(np.array(colour_paths[0][:6])), expected)


def test_arrays_of_different_sizes_stand_in_one_list(extract):
    rng = np.random.default_rng(0)
    shapes = [(5, 7), (30, 20, 3), (9, 9, 1), (12, 8, 4)]
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    together = extract(images)
    for image, features in zip(images, together, strict=True):
        np.testing.assert_array_equal(extract(image[np.newaxis])[0], features)


def test_name_of_the_one_column_does_not_matter_after_fit(colour_paths):
    paths = colour_paths[0][:4]
    frame = pd.DataFrame({"photo": paths})
    transformer = FeatureExtractorTransformer().fit(frame)
    expected = transformer.transform(frame)
    assert transformer.feature_names_in_.tolist() == ["photo"]
    for X in (paths, frame.rename(columns={"photo": "image"}), frame.to_numpy()):
        np.testing.assert_array_equal(transformer.transform(X), expected)


def test_object_array_of_pixels_is_read_with_a_range(extract, photos):
    images = [Image.fromarray(photo) for photo in photos]
    X = np.array(images, dtype=object)
    assert X.shape == photos.shape  # NumPy has looked into the images
    with pytest.raises(ImageShapeError, match=r"int64 .* value_range=\(0, 255\)"):
        read_pixels(X, None)
    np.testing.assert_array_equal(
        extract(X, value_range=(0, 255)),
        extract(photos.astype(int), value_range=(0, 255)),
    )


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((2, 3, 8, 9)), r"channels first.*pass np\.moveaxis\(X, 1, -1\)"),
        (np.zeros((8, 9, 3)), r"one image of shape \(8, 9, 3\).*X\[np\.newaxis\]"),
        (np.zeros((2, 8, 9, 5)), r"\(2, 8, 9, 5\)\. Expected \(n, H, W\)"),
        (np.zeros((2, 8, 9, 3, 1)), r"\(2, 8, 9, 3, 1\)\. Expected \(n, H, W\)"),
        (np.zeros((2, 0, 9)), "at least one pixel"),
        (np.zeros((2, 8, 9), complex), "Complex data not supported"),
        (np.zeros((2, 8, 9), int), r"dtype int64 from 0 to 0.*value_range"),
        (torch.zeros(2, 8, 9, 3), r"tensor of shape \(2, 8, 9, 3\).*\(n, C, H, W\)"),
        (np.full((2, 8, 9), "a", object), "holds str.*Expected pixels"),
    ],
)
def test_array_of_a_wrong_shape_or_dtype_says_what_to_do(X, message):
    assert input_kind(X) == "pixels"
    with pytest.raises(ImageShapeError, match=message):
        FeatureExtractorTransformer().fit(X)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_among_the_pixels_names_the_row(value):
    X = np.zeros((5, 6, 6, 3), dtype=np.float32)
    X[3, 2, 2, 1] = value
    with pytest.raises(ImageShapeError, match="Row 3 of X: found NaN or infinity"):
        FeatureExtractorTransformer().fit(X)
    with pytest.raises(ImageShapeError, match="Row 3: found NaN or infinity"):
        FeatureExtractorTransformer().fit(list(X))


@pytest.mark.parametrize("value", [-0.5, 200.0])
def test_float_pixels_out_of_range_name_the_row_and_the_parameter(value):
    X = np.zeros((5, 6, 6))
    X[2, 1, 1] = value
    with pytest.raises(ImageShapeError, match=r"Row 2 of X: .*value_range=\(black"):
        FeatureExtractorTransformer().fit(X)
    with pytest.raises(ImageShapeError, match=r"Row 2: .*value_range=\(black"):
        FeatureExtractorTransformer().fit(list(X))
    FeatureExtractorTransformer(value_range=(-1, 255)).fit(X)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (np.zeros((3, 8, 9)), r"Row 1: .*np\.moveaxis\(image, 0, -1\)"),
        (np.zeros(8), r"Row 1: found an array of shape \(8,\)"),
        (torch.zeros(8, 9, 3), r"Row 1: .*tensor of shape \(8, 9, 3\).*\(C, H, W\)"),
    ],
)
def test_cell_of_a_wrong_shape_names_the_row(cell, message):
    with pytest.raises(ImageShapeError, match=message):
        read_items([np.zeros((4, 4)), cell], None)


@pytest.mark.parametrize("cell", [{"a": 1}, 3, [[1, 2], [3]], object()])
def test_cell_that_is_no_image_is_a_type_error_with_row_and_type(cell):
    name = type(cell).__name__
    with pytest.raises(TypeError, match=f"Row 1 holds {name} .*not an image"):
        FeatureExtractorTransformer().fit(["a.jpg", cell])


def test_list_without_any_image_names_its_first_row():
    with pytest.raises(TypeError, match=r"Row 0 holds dict .*not an image"):
        FeatureExtractorTransformer().fit([{}, {}])


def test_ragged_lists_of_numbers_name_the_row():
    with pytest.raises(TypeError, match=r"Row 0 holds list .*not an image"):
        FeatureExtractorTransformer().fit([[[1, 2], [3]], [[1, 2], [3, 4]]])


@pytest.mark.parametrize(
    "X",
    [
        [],
        (),
        np.empty((0, 8, 8)),
        np.empty((0, 8, 8, 3), dtype=np.uint8),
        torch.empty(0, 3, 8, 8),
        pd.Series([], dtype=str),
        pd.DataFrame({"photo": pd.Series([], dtype=str)}),
    ],
)
def test_zero_images_are_an_error_in_fit_and_transform(X, photos):
    with pytest.raises(ValueError, match=r"found 0 images \(0 sample"):
        FeatureExtractorTransformer().fit(X)
    with pytest.raises(ValueError, match=r"found 0 images \(0 sample"):
        FeatureExtractorTransformer().fit(photos).transform(X)


def test_row_of_numbers_after_a_fit_on_images_is_an_error(photos):
    transformer = FeatureExtractorTransformer().fit(photos)
    with pytest.raises(ImageShapeError, match=r"rows of numbers.*X\[np\.newaxis\]"):
        transformer.transform(photos[0, ..., 0])
