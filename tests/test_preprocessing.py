"""Preprocessing: torchvision's numbers, one road for files and arrays."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torchvision import models
from torchvision.transforms import InterpolationMode

from sktransfer._images.decode import decode_array, decode_bytes, decode_pil
from sktransfer._images.items import PathItem
from sktransfer._images.preprocessing import Preprocessing

CROP = Preprocessing(image_size=32, resize_size=40)
SQUASH = Preprocessing(image_size=32, resize="squash")


@pytest.fixture(scope="module")
def photo():
    """A noisy 90x61 RGB image."""
    pixels = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def normalized(preprocessing, pixels):
    """What the engine makes of pixels: in [0, 1], normalized, channels first."""
    scaled = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
    mean, std = np.float32(preprocessing.mean), np.float32(preprocessing.std)
    return np.moveaxis((scaled - mean) / std, -1, 0)


@pytest.mark.parametrize(
    "weights",
    [
        models.ResNet18_Weights.DEFAULT,
        models.ResNet50_Weights.IMAGENET1K_V2,  # resized to 232
        models.EfficientNet_B0_Weights.DEFAULT,  # bicubic
        models.Inception_V3_Weights.DEFAULT,  # 342 to 299
    ],
    ids=str,
)
def test_pixels_equal_torchvisions_own_transforms(weights, photo):
    transforms = weights.transforms()
    preprocessing = Preprocessing.from_torchvision(transforms)
    pixels = preprocessing.pixels(photo)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(
        normalized(preprocessing, pixels), transforms(photo).numpy(), atol=1e-6
    )


def test_float_pixels_equal_torchvisions_transforms_but_for_rounding(photo):
    transforms = models.ResNet18_Weights.DEFAULT.transforms()
    preprocessing = Preprocessing.from_torchvision(transforms)
    pixels = preprocessing.pixels(np.asarray(photo, np.float32) / np.float32(255))
    assert pixels.dtype == np.float32
    difference = normalized(preprocessing, pixels) - transforms(photo).numpy()
    # Each of the two passes of PIL's resizing rounds 8-bit pixels to whole numbers.
    assert 0 < np.abs(difference).max() <= 1.1 / 255 / 0.224


@pytest.mark.parametrize("preprocessing", [CROP, SQUASH], ids=["crop", "squash"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
def test_file_pil_image_and_array_of_the_same_pixels_are_equal(
    preprocessing, mode, photo, tmp_path
):
    image = photo.convert(mode)
    if mode == "RGBA":
        image.putalpha(photo.convert("L"))
    file = tmp_path / "photo.png"
    image.save(file)
    item = PathItem(str(file))
    expected = preprocessing.pixels(
        item.decode(item.load()[0], preprocessing.decode_size)
    )
    assert expected.shape == (32, 32, 3)
    array = np.asarray(image)
    if mode == "1":
        array = array.astype(np.uint8) * 255
    for decoded in (decode_array(array, None), decode_pil(image)):
        np.testing.assert_array_equal(preprocessing.pixels(decoded), expected)


@pytest.mark.parametrize("preprocessing", [CROP, SQUASH], ids=["crop", "squash"])
def test_16_bit_file_and_array_of_the_same_pixels_are_equal(preprocessing, tmp_path):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 65536, (50, 70), dtype=np.uint16)
    file = tmp_path / "deep.png"
    Image.fromarray(array).save(file)
    pixels = preprocessing.pixels(decode_bytes(file.read_bytes(), 32))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(
        preprocessing.pixels(decode_array(array, None)), pixels
    )
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize("as_floats", [False, True])
def test_crop_keeps_the_middle_and_squash_the_whole(as_floats):
    wide = np.zeros((40, 160, 3), dtype=np.uint8)
    wide[:, :50] = 255  # lies outside the centre crop
    image = wide / np.float32(255) if as_floats else Image.fromarray(wide)
    assert CROP.pixels(image).max() == 0
    squashed = SQUASH.pixels(image)
    white = 1 if as_floats else 255
    assert (squashed[:, :9] == white).all()
    assert (squashed[:, 12:] == 0).all()


@pytest.mark.parametrize("preprocessing", [CROP, SQUASH], ids=["crop", "squash"])
@pytest.mark.parametrize("as_floats", [False, True])
def test_image_that_has_the_size_is_taken_as_it_is(preprocessing, as_floats, photo):
    array = np.asarray(photo.resize((32, 32)))
    if as_floats:
        array = array / np.float32(255)
    image = array if as_floats else Image.fromarray(array)
    np.testing.assert_array_equal(preprocessing.pixels(image), array)


def test_values_outside_the_range_are_not_clipped():
    image = np.full((50, 70), -3, dtype=np.float32)
    image[:, 35:] = 5
    pixels = CROP.pixels(image)
    assert (pixels.min(), pixels.max()) == (-3, 5)


@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (1, 1)])
def test_extreme_shapes_are_squashed(shape):
    assert SQUASH.pixels(np.ones(shape, np.float32)).shape == (32, 32, 3)
    assert SQUASH.pixels(Image.new("RGB", shape[::-1])).shape == (32, 32, 3)


@pytest.mark.parametrize("as_floats", [False, True])
def test_line_of_pixels_is_not_enlarged_as_a_whole(as_floats):
    line = np.zeros((1, 65_000), np.uint8)  # 12 GB of colour at 256 lines
    line[:, 32_499:32_501] = 255
    white = 1 if as_floats else 255
    image = line / np.float32(255) if as_floats else Image.fromarray(line)
    pixels = replace(CROP, image_size=224, resize_size=256).pixels(image)
    assert pixels.shape[:2] == (224, 224)
    assert pixels.mean() > 0.9 * white


@pytest.mark.parametrize("length", [2000, 2001, 2100, 2101])
def test_middle_of_a_line_stays_where_it_is(length, monkeypatch):
    line = np.random.default_rng(0).integers(0, 256, (1, length), np.uint8)
    whole = CROP.pixels(Image.fromarray(line).convert("RGB"))
    monkeypatch.setattr("sktransfer._images.preprocessing._THIN", 16)
    cut = CROP.pixels(Image.fromarray(line).convert("RGB"))
    assert abs(cut.astype(int) - whole).mean() < 8


def test_another_size_scales_both_numbers():
    adapted = Preprocessing().adapted(image_size=112)
    assert (adapted.image_size, adapted.resize_size) == (112, 128)
    assert Preprocessing(96, 96).adapted(image_size=65).resize_size == 65
    assert Preprocessing().adapted() == Preprocessing()
    assert Preprocessing().adapted(resize="squash").resize == "squash"
    assert SQUASH.adapted(resize="auto").resize == "squash"


def test_decoding_may_shrink_only_to_what_resizing_needs():
    assert CROP.decode_size == 40
    assert SQUASH.decode_size == 32


@pytest.mark.parametrize("preprocessing", [CROP, SQUASH], ids=["crop", "squash"])
def test_big_jpeg_read_at_a_reduced_scale_looks_like_the_whole_one(
    preprocessing, tmp_path
):
    y, x = np.mgrid[0:600, 0:800]
    waves = [127 + 120 * np.sin(x / 90), 127 + 120 * np.cos(y / 70), (x + y) / 6]
    file = tmp_path / "big.jpg"
    Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).save(file, quality=95)
    reduced = decode_bytes(file.read_bytes(), preprocessing.decode_size)
    whole = decode_bytes(file.read_bytes(), 10_000)
    assert reduced.size < whole.size == (800, 600)
    difference = preprocessing.pixels(reduced).astype(float)
    difference -= preprocessing.pixels(whole)
    assert np.abs(difference).max() < 6


def test_dict_and_back_gives_the_same_preprocessing():
    values = Preprocessing(96, 110, interpolation="bicubic").to_dict()
    stored = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    assert Preprocessing.from_dict(stored) == Preprocessing.from_dict(values)
    assert Preprocessing.from_dict(stored).mean == Preprocessing().mean


def test_numbers_of_numpy_are_those_of_python():
    values = {"image_size": np.int64(96), "mean": np.array([0.5, 0.25, 0.5])}
    made = Preprocessing.from_dict({**values, "std": [np.float32(0.5)] * 3})
    expected = Preprocessing(96, mean=(0.5, 0.25, 0.5), std=(0.5, 0.5, 0.5))
    assert json.dumps(made.to_dict()) == json.dumps(expected.to_dict())
    adapted = json.dumps(made.adapted(np.int64(64)).to_dict())
    assert adapted == json.dumps(expected.adapted(64).to_dict())


def test_unknown_entry_of_a_dict_is_named():
    with pytest.raises(ValueError, match=r"\['crop_pct'\]; there are .*image_size"):
        Preprocessing.from_dict({"image_size": 96, "crop_pct": 0.9})


def test_interpolation_is_pils_name_of_the_filter(photo):
    for name in ("nearest", "bilinear", "bicubic", "lanczos"):
        preprocessing = Preprocessing(32, interpolation=name, resize="squash")
        expected = photo.resize((32, 32), Image.Resampling[name.upper()])
        assert InterpolationMode(name)
        np.testing.assert_array_equal(preprocessing.pixels(photo), expected)
