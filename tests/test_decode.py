"""Decoding: every mode, orientation and kind of broken file -> RGB or a reason."""

import csv
import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile

from sktransfer._images.decode import (
    DecodeError,
    decode_array,
    decode_bytes,
    decode_pil,
    readable_extensions,
    readable_formats,
)

ORIENTATION = 0x112


@pytest.fixture(scope="module")
def scene():
    """A smooth 24x16 picture whose four corners differ."""
    y, x = np.mgrid[0:16, 0:24]
    channels = [x * 10, y * 15, 255 - x * 5 - y * 5]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encoded(image, image_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def test_all_exif_orientations_give_the_same_scene(shared_data):
    folder = shared_data / "odd_images" / "files"
    files = [folder / f"exif_orientation_{k}.jpg" for k in range(1, 9)]
    scenes = [np.asarray(decode_bytes(f.read_bytes(), 160), float) for f in files]
    for other in scenes[1:]:
        assert other.shape == scenes[0].shape == (107, 160, 3)
        assert np.abs(other - scenes[0]).mean() < 12
        assert np.abs(other[::-1] - scenes[0]).mean() > 24


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_file_is_undone_exactly(scene, orientation):
    methods = Image.Transpose
    how_it_was_turned = {
        1: None,
        2: methods.FLIP_LEFT_RIGHT,
        3: methods.ROTATE_180,
        4: methods.FLIP_TOP_BOTTOM,
        5: methods.TRANSPOSE,
        6: methods.ROTATE_90,
        7: methods.TRANSVERSE,
        8: methods.ROTATE_270,
    }[orientation]
    turned = scene.copy()
    if how_it_was_turned is not None:
        turned = turned.transpose(how_it_was_turned)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    decoded = decode_bytes(encoded(turned, exif=exif), 8)
    np.testing.assert_array_equal(decoded, scene)


def test_orientation_of_a_16_bit_file_is_undone():
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    turned = Image.fromarray(values).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    decoded = decode_bytes(encoded(turned, exif=exif), 8)
    np.testing.assert_array_equal(decoded, values.astype(np.float32) / 65535)


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [
        *[("RGB", 0), ("RGBA", 0), ("RGBa", 0), ("RGBX", 0), ("CMYK", 0)],
        *[("YCbCr", 3), ("HSV", 8), ("LAB", 40), ("P", 48)],
    ],
)
def test_pil_image_of_a_colour_mode_keeps_its_colours(scene, mode, tolerance):
    source = scene.convert("RGBA") if mode == "RGBa" else scene
    decoded = decode_pil(source.convert(mode))
    assert (decoded.mode, decoded.size) == ("RGB", scene.size)
    difference = np.asarray(decoded, float) - np.asarray(scene, float)
    assert np.abs(difference).max() <= tolerance  # out of gamut, or of the palette


@pytest.mark.parametrize("mode", ["L", "LA", "La", "PA"])
def test_pil_image_of_a_grey_mode_keeps_its_greys(scene, mode):
    grey = scene.convert("L")
    image = grey.convert("LA").convert("La") if mode == "La" else grey.convert(mode)
    decoded = decode_pil(image)
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(decoded, grey.convert("RGB"))


def test_one_bit_image_becomes_black_and_white():
    bits = np.array([[True, False, True], [False, False, True]])
    image = Image.fromarray(bits)
    assert image.mode == "1"
    np.testing.assert_array_equal(
        decode_pil(image), bits[..., None].repeat(3, -1) * 255
    )


def test_transparent_pixels_become_white_whatever_is_under_them():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (99, 0, 0, 0))
    expected = [[[10, 20, 30], [255, 255, 255]]]
    np.testing.assert_array_equal(decode_bytes(encoded(image), 8), expected)
    np.testing.assert_array_equal(decode_array(np.asarray(image), None), expected)


def test_transparent_palette_entry_becomes_white():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putpixel((1, 0), 1)
    decoded = decode_bytes(encoded(image, transparency=1), 8)
    np.testing.assert_array_equal(decoded, [[[200, 0, 0], [255, 255, 255]]])


def test_16_bit_image_is_scaled_and_neither_clipped_nor_rounded():
    values = np.array([[0, 300, 40000, 65535]], dtype=np.uint16)
    decoded = decode_bytes(encoded(Image.fromarray(values)), 8)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, values.astype(np.float32) / 65535)


def test_transparent_value_of_a_16_bit_image_becomes_white():
    values = np.array([[0, 1000], [30000, 65535]], np.uint16)
    data = encoded(Image.fromarray(values), transparency=1000)
    expected = np.array([[0, 1], [30000 / 65535, 1]], np.float32)
    np.testing.assert_array_equal(decode_bytes(data, 2), expected)


def test_32_bit_integer_image_without_a_file_is_read_as_16_bit():
    values = np.array([[0, 300, 65535]], dtype=np.int32)
    image = Image.fromarray(values)
    assert image.mode == "I"
    np.testing.assert_allclose(decode_pil(image), values / 65535, rtol=1e-6)


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_float_image_is_scaled_by_the_first_white_level_that_holds_it(white):
    values = np.array([[0, 0.25, 1]], dtype=np.float32)
    decoded = decode_pil(Image.fromarray(values * np.float32(white)))
    np.testing.assert_allclose(decoded, values, rtol=1e-6)


@pytest.mark.parametrize("wrong", [-1.0, 70000.0, np.nan, np.inf])
def test_float_image_outside_every_range_is_an_error(wrong):
    with pytest.raises(DecodeError, match=r"expected values from 0|NaN or infinite"):
        decode_pil(Image.fromarray(np.array([[0, wrong]], dtype=np.float32)))


def test_12_bit_tiff_is_scaled_by_its_own_white(shared_data):
    file = shared_data / "odd_images" / "files" / "pillow_12bit.cropped.tif"
    with Image.open(file) as image:
        expected = np.asarray(image).astype(np.float32) / 4095
    np.testing.assert_array_equal(decode_bytes(file.read_bytes(), 8), expected)


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation_is_read(image_format):
    frames = [Image.new("RGB", (8, 8), c) for c in [(255, 0, 0), (0, 0, 255)]]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encoded(
        frames[0], image_format, save_all=True, append_images=frames[1:], **options
    )
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2
    np.testing.assert_array_equal(decode_bytes(data, 8), frames[0])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        *[(8, (160, 120)), (60, (160, 120)), (61, (320, 240))],
        *[(120, (320, 240)), (200, (640, 480)), (300, (1280, 960))],
    ],
)
def test_big_jpeg_shrinks_in_decoding_to_no_less_than_twice_the_target(size, expected):
    data = encoded(Image.new("RGB", (1280, 960), "green"), "JPEG")
    decoded = decode_bytes(data, size)
    assert decoded.size == expected
    assert min(decoded.size) >= min(2 * size, 960)


def test_decompression_bomb_is_an_error(monkeypatch):
    data = encoded(Image.new("1", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DecodeError, match=r"DecompressionBombError.*4096 pixels"):
        decode_bytes(data, 8)


def test_eps_is_refused_as_bytes_and_as_an_unloaded_pil_image(scene):
    data = encoded(scene, "EPS")
    with pytest.raises(DecodeError, match="EPS is refused"):
        decode_bytes(data, 8)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "EPS"
        with pytest.raises(DecodeError, match="EPS is refused"):
            decode_pil(image)
    assert "EPS" not in readable_formats()
    assert not {".eps", ".ps"} & readable_extensions()


def test_formats_that_pillow_only_recognizes_are_not_readable():
    assert not {".mpg", ".mpeg", ".h5", ".grib"} & readable_extensions()
    assert {".jpg", ".jpeg", ".png", ".tif", ".webp", ".gif"} <= readable_extensions()
    with pytest.raises(DecodeError, match="not an image in a format"):
        decode_bytes(b"\x00\x00\x01\xb3" + bytes(range(16)), 8)


def test_broken_bytes_say_what_is_wrong(scene):
    jpeg = encoded(scene, "JPEG")
    with pytest.raises(DecodeError, match=r"^empty \(0 bytes\)$"):
        decode_bytes(b"", 8)
    with pytest.raises(DecodeError, match=r"not an image .*5 bytes.*b'hello'"):
        decode_bytes(b"hello", 8)
    with pytest.raises(DecodeError, match=r"broken image \(OSError: .*runcated"):
        decode_bytes(jpeg[:-40], 8)


def test_truncated_pil_image_is_an_error(scene):
    data = encoded(scene, "BMP")
    with (
        Image.open(io.BytesIO(data[:-100])) as image,
        pytest.raises(DecodeError, match="broken PIL image"),
    ):
        decode_pil(image)


def test_decoding_leaves_a_pil_image_as_it_was(scene):
    image = scene.convert("CMYK")
    image.getexif()[ORIENTATION] = 6
    before = image.copy()
    decode_pil(image)
    assert (image.mode, image.size) == ("CMYK", before.size)
    assert image.getexif()[ORIENTATION] == 6
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("array", "value_range", "expected"),
    [
        (np.array([[0, 16]], dtype=np.uint8), (0, 16), [[0, 1]]),
        (np.array([[0, 65535]], dtype=np.uint16), None, [[0, 1]]),
        (np.array([[0.25, 1]], dtype=np.float64), None, [[0.25, 1]]),
        (np.array([[False, True]]), None, [[0, 1]]),
        (np.array([[-1.0, 0, 3]]), (-1, 1), [[0, 0.5, 2]]),
        (np.array([[7.0, 7]]), (7, 7), [[0, 0]]),
    ],
)
def test_array_is_scaled_by_its_range_without_clipping(array, value_range, expected):
    decoded = decode_array(array, value_range)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, expected)


def test_float_array_with_alpha_lies_on_white():
    array = np.array([[[0.2, 0.4, 0.6, 1.0], [0.2, 0.4, 0.6, 0.5]]])
    expected = [[[0.2, 0.4, 0.6], [0.6, 0.7, 0.8]]]
    np.testing.assert_allclose(decode_array(array, None), expected, rtol=1e-6)


@pytest.mark.parametrize("value_range", [(10, 245), (-1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_range_of_values_does_not_move_the_opacity(value_range, dtype):
    colours = np.random.default_rng(0).integers(20, 240, (4, 4, 3)).astype(dtype)
    opaque = np.full((4, 4, 1), np.iinfo(dtype).max, dtype)
    clear = np.zeros_like(opaque)
    expected = decode_array(colours, value_range)
    decoded = decode_array(np.concatenate([colours, opaque], -1), value_range)
    np.testing.assert_array_equal(decoded, expected)
    unseen = decode_array(np.concatenate([colours, clear], -1), value_range)
    np.testing.assert_array_equal(unseen, 1)


def test_pil_image_without_a_pixel_is_an_error(scene):
    with pytest.raises(DecodeError, match=r"size \(0, 4\), without a pixel"):
        decode_pil(scene.crop((5, 5, 5, 9)))


def test_plugin_that_comes_after_the_first_image_reads_its_format(scene, monkeypatch):
    class Plain(ImageFile.ImageFile):
        format = "PLAIN_TEST"
        format_description = "a row of grey pixels after five bytes"

        def _open(self):
            self._size, self._mode = (4, 1), "L"
            self.tile = [("raw", (0, 0, 4, 1), 5, ("L", 0, 1))]

    decode_bytes(encoded(scene), 2)
    assert ".plain" not in readable_extensions()
    for name in ("ID", "OPEN", "EXTENSION"):
        known = getattr(Image, name)
        monkeypatch.setattr(Image, name, known.copy())
    Image.register_open(Plain.format, Plain, lambda start: start.startswith(b"PLAIN"))
    Image.register_extension(Plain.format, ".plain")
    grey = np.asarray(decode_bytes(b"PLAIN" + bytes([0, 50, 100, 255]), 2))
    np.testing.assert_array_equal(grey[0, :, 0], [0, 50, 100, 255])
    assert ".plain" in readable_extensions()


def test_every_odd_image_decodes_or_fails_as_expected(shared_data):
    folder = shared_data / "odd_images"
    with open(folder / "expected.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    outcomes = {row["file"]: _outcome(folder / row["file"], row) for row in rows}
    assert len(outcomes) == 92
    assert outcomes == {row["file"]: row["expected"] for row in rows}


def _outcome(file, row):
    with warnings.catch_warnings():
        if row["warnings"]:
            warnings.simplefilter("ignore")
        try:
            decoded = decode_bytes(file.read_bytes(), 10_000)
        except DecodeError:
            return "error"
    shape = np.asarray(decoded).shape
    size = int(row["height"]), int(row["width"])
    if row["exif_orientation"] in ("5", "6", "7", "8"):
        size = size[::-1]
    return "decodes" if shape[:2] == size and shape[2:] in ((), (3,)) else shape


def test_pil_image_is_left_to_its_owner():
    image = Image.new("RGB", (4, 4), "red")
    decode_pil(image).putpixel((0, 0), (0, 0, 0))
    assert image.getpixel((0, 0)) == (255, 0, 0)
