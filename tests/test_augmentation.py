"""Augmentation: a function of seed, image and view, and of nothing else."""

import pickle
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from torchvision.transforms import RandomHorizontalFlip, RandomResizedCrop, v2

from sktransfer._images import augmentation as module
from sktransfer._images.augmentation import (
    NAMES,
    Augmentation,
    augmented_pixels,
    resolve_augmentation,
)
from sktransfer._images.decode import decode_bytes
from sktransfer._images.preprocessing import Preprocessing

CROP = Preprocessing(image_size=32, resize_size=40)
SQUASH = Preprocessing(image_size=32, resize="squash")
KEY = bytes(range(20))
NOTHING = {"crop_scale": None, "flip": False}
EVERYTHING = Augmentation(
    vertical_flip=True, rotation=30, color_jitter=0.5, policy="trivial"
)


def global_draws():
    draw = np.random.random_sample
    return [random.random(), draw(), float(torch.rand(()))]


def noisy_transform(image):
    """A user's transform that draws from every global generator, and takes its time."""
    draws = global_draws()
    time.sleep(0.001)
    draws += global_draws()
    return Image.fromarray(np.uint8(np.asarray(image) * np.mean(draws)))


@pytest.fixture(scope="module")
def photo():
    """A 90x61 RGB image: slopes of colour under some noise."""
    y, x = np.mgrid[0:61, 0:90]
    slopes = np.stack([x * 2.7, y * 4.1, 250 - x - 2 * y], axis=-1)
    noise = np.random.default_rng(0).uniform(-25, 25, slopes.shape)
    return Image.fromarray(np.clip(slopes + noise, 1, 254).astype(np.uint8))


@pytest.fixture(params=["8 bits", "floats", "grey floats"])
def image(request, photo):
    if request.param == "8 bits":
        return photo
    array = np.asarray(photo, np.float32) / np.float32(255)
    return array[..., 0] if request.param == "grey floats" else array


def positions(width, height):
    """A float image whose red is x, green y, both as a share of the side."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    shares = [x / width, y / height, np.zeros_like(x)]
    return np.stack(shares, axis=-1).astype(np.float32)


def visible_share(pixels):
    """Shares of width and height that the pixels of an image of positions show."""
    size, edge = len(pixels), 4  # at the edges the filter sees one side only
    span = size / (size - 2 * edge - 1)
    inner = pixels[edge : size - edge, edge : size - edge]
    return (
        float(inner[0, -1, 0] - inner[0, 0, 0]) * span,
        float(inner[-1, 0, 1] - inner[0, 0, 1]) * span,
    )


def views(augmentation, image, n, preprocessing=SQUASH, seed=0):
    return [
        augmented_pixels(augmentation, preprocessing, seed, image, KEY, view)
        for view in range(n)
    ]


def global_states():
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (the subject)
    torch_state = torch.get_rng_state().numpy().tobytes()
    return random.getstate(), kind, keys.tobytes(), rest, torch_state


@pytest.mark.parametrize("augmentation", [EVERYTHING, noisy_transform])
def test_pixels_are_a_function_of_seed_content_and_view(augmentation, image):
    def pixels(seed=0, content=KEY, view=0):
        change = partial(augmented_pixels, augmentation, SQUASH, seed)
        return change(image, content, view).tobytes()

    first = pixels()
    others = [
        pixels(seed=1),
        pixels(view=1),
        pixels(content=KEY[::-1]),
        pixels(seed=11, view=1),
        pixels(seed=1, view=11),
    ]
    global_draws()
    assert pixels() == first
    assert pixels(np.int64(0), KEY, np.int32(0)) == first
    assert len({first, *others}) == 6


@pytest.mark.parametrize("augmentation", [*NAMES, EVERYTHING, noisy_transform])
def test_no_global_generator_is_touched(augmentation, image):
    augmentation = resolve_augmentation(augmentation)
    before = global_states()
    assert len({pixels.tobytes() for pixels in views(augmentation, image, 20)}) > 10
    assert global_states() == before


@pytest.mark.parametrize("augmentation", [EVERYTHING, noisy_transform])
def test_eight_threads_in_any_order_give_what_one_gives(augmentation, image):
    before = global_states()
    expected = views(augmentation, image, 48)
    order = np.random.default_rng(0).permutation(48)
    change = partial(augmented_pixels, augmentation, SQUASH, 0, image, KEY)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(change, order.tolist()))
    for view, pixels in zip(order, results, strict=True):
        np.testing.assert_array_equal(pixels, expected[view])
    assert global_states() == before


def test_error_in_a_users_transform_leaves_the_generators_as_they_were(photo):
    def fails(image):
        noisy_transform(image)
        raise RuntimeError("no luck")

    before = global_states()
    with pytest.raises(RuntimeError, match="no luck"):
        augmented_pixels(fails, SQUASH, 0, photo, KEY, 0)
    assert global_states() == before
    with ThreadPoolExecutor(1) as pool:  # and others may go on
        change = pool.submit(
            augmented_pixels, noisy_transform, SQUASH, 0, photo, KEY, 0
        )
        assert change.result(timeout=10).shape == (32, 32, 3)


def test_image_is_left_as_it_is(image):
    before = np.array(image)

    def paints(own):
        own.paste("red", (0, 0, *own.size))
        return own

    for augmentation in (EVERYTHING, paints):
        views(augmentation, image, 10)
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", NAMES)
def test_pixels_have_the_kind_and_size_of_the_preprocessings_own(name, image):
    for preprocessing in (CROP, SQUASH):
        plain = preprocessing.pixels(image)
        for pixels in views(NAMES[name], image, 30, preprocessing):
            assert (pixels.dtype, pixels.shape) == (plain.dtype, plain.shape)
            assert pixels.flags.c_contiguous


def test_grey_array_is_changed_like_the_same_array_in_colour(photo):
    grey = np.asarray(photo.convert("L"), np.float32) / np.float32(255)
    colour = np.stack([grey] * 3, axis=-1)
    for a, b in zip(
        views(EVERYTHING, grey, 40), views(EVERYTHING, colour, 40), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scale", [(0.2, 0.5), (0.6, 1.0), (0.3, 0.3)])
@pytest.mark.parametrize("as_floats", [False, True])
def test_crops_show_shares_of_the_area_in_the_range(scale, as_floats):
    image = positions(400, 300)
    white = 1.0
    if not as_floats:
        image, white = Image.fromarray(np.uint8(np.rint(image * 255))), 255.0
    augmentation = Augmentation(crop_scale=scale, flip=False)
    for preprocessing in (CROP, SQUASH):
        pixels = [p / white for p in views(augmentation, image, 100, preprocessing)]
        areas = np.prod([visible_share(p) for p in pixels], axis=1)
        tolerance = 0.01 if as_floats else 0.03
        assert areas.min() == pytest.approx(scale[0], abs=0.03)
        assert areas.min() > scale[0] - tolerance
        # The largest crops are drawn less often: not every shape of them fits.
        assert areas.max() > scale[1] - 0.15
        assert areas.max() < scale[1] + tolerance
        corners = {tuple(np.rint(p[0, 0] * 20)) for p in pixels}
        assert len(corners) > 5


@pytest.mark.parametrize("shape", [(300, 300), (600, 200)])
def test_ratio_of_crops_is_the_photographs_unless_whole_images_are_squashed(shape):
    augmentation = Augmentation(crop_scale=(0.05, 0.3), flip=False)
    for preprocessing in (CROP, SQUASH):
        pixels = views(augmentation, positions(*shape), 100, preprocessing)
        widths, heights = np.transpose([visible_share(p) for p in pixels])
        ratios = widths / heights  # of the squashed image
        if preprocessing is CROP:
            ratios *= shape[0] / shape[1]
        assert ratios.min() == pytest.approx(3 / 4, abs=0.05)
        assert ratios.max() == pytest.approx(4 / 3, abs=0.05)
        assert np.median(ratios) == pytest.approx(1, abs=0.08)


def test_crop_boxes_are_distributed_like_torchvisions():
    scale, ratio = (0.2, 1.0), (0.5, 2.0)
    rng = np.random.default_rng(0)
    ours = np.array([module._crop_box(90, 61, scale, ratio, rng) for _ in range(2000)])
    image = Image.new("RGB", (90, 61))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        theirs = np.array(
            [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(2000)]
        )
    theirs = theirs[:, [1, 0, 3, 2]]
    assert (ours[:, :2] + ours[:, 2:] <= (90, 61)).all()
    np.testing.assert_allclose(
        *(np.percentile(v, [5, 25, 50, 75, 95], axis=0) for v in (ours, theirs)), atol=3
    )


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (64, 1), (1, 64), (1, 1)])
def test_images_too_long_for_the_ratio_are_cropped_like_torchvisions(size):
    arguments = (0.95, 1.0), (3 / 4, 4 / 3)
    box = module._crop_box(*size, *arguments, np.random.default_rng(0))
    top, left, h, w = RandomResizedCrop.get_params(Image.new("RGB", size), *arguments)
    assert box == (left, top, w, h)


@pytest.mark.parametrize("size", [(64, 1), (1, 64)])
def test_rows_of_numbers_as_images_stay_long(size):
    for pixels in views(Augmentation(flip=False), positions(*size), 30):
        assert max(visible_share(pixels)) > 0.6


def test_crop_takes_the_place_of_the_centre_crop(image):
    whole = Augmentation(crop_scale=(1, 1), crop_ratio=(1, 1), flip=False)
    square = image.crop((0, 0, 60, 60)) if hasattr(image, "crop") else image[:60, :60]
    (pixels,) = views(whole, square, 1, CROP)
    np.testing.assert_array_equal(pixels, SQUASH.pixels(square))
    assert (pixels != CROP.pixels(square)).any()


@pytest.mark.parametrize("preprocessing", [CROP, SQUASH], ids=["crop", "squash"])
def test_without_a_crop_the_preprocessing_is_the_usual_one(preprocessing, image):
    (pixels,) = views(Augmentation(**NOTHING), image, 1, preprocessing)
    np.testing.assert_array_equal(pixels, preprocessing.pixels(image))


@pytest.mark.parametrize(("parameter", "axis"), [("flip", 1), ("vertical_flip", 0)])
def test_about_half_of_the_views_are_flipped(parameter, axis, image):
    plain = SQUASH.pixels(image)
    augmentation = Augmentation(**{**NOTHING, parameter: True})
    n_flipped = 0
    for pixels in views(augmentation, image, 200):
        is_flipped = bool((pixels != plain).any())
        np.testing.assert_array_equal(
            pixels, np.flip(plain, axis) if is_flipped else plain
        )
        n_flipped += is_flipped
    assert 75 <= n_flipped <= 125


def test_flip_false_never_flips():
    image = positions(400, 300)
    for pixels in views(Augmentation(flip=False), image, 200):
        assert pixels[16, 0, 0] < pixels[16, -1, 0]
        assert pixels[0, 16, 1] < pixels[-1, 16, 1]


def test_rotations_stay_within_the_angle_on_both_sides():
    augmentation = Augmentation(**NOTHING, rotation=20)
    angles = []
    for pixels in views(augmentation, positions(300, 300), 100):
        down, right = np.gradient(pixels[10:22, 10:22, 0])
        angles.append(np.degrees(np.arctan2(down.mean(), right.mean())))
    assert max(angles) == pytest.approx(20, abs=1.5)
    assert min(angles) == pytest.approx(-20, abs=1.5)
    assert np.mean(angles) == pytest.approx(0, abs=4)


def test_corners_that_become_empty_are_black():
    white = np.ones((50, 50), np.float32)
    for image in (white, Image.new("RGB", (50, 50), "white")):
        pixels = augmented_pixels(
            Augmentation(**NOTHING, rotation=45), SQUASH, 0, image, KEY, 3
        )
        assert pixels[0, 0].tolist() == [0, 0, 0]
        assert pixels[16, 16].min() == SQUASH.pixels(image).max()


def test_jitter_draws_brightness_contrast_and_saturation_within_the_strength():
    stripes = np.full((32, 32, 3), (0.6, 0.4, 0.5), np.float32)
    stripes[::2] -= np.float32(0.1)

    def measures(pixels):
        grey = pixels @ np.array([0.299, 0.587, 0.114])
        colour = (pixels[..., 0] - pixels[..., 1]).mean()
        return grey.mean(), grey.std() / grey.mean(), colour / grey.std()

    augmentation = Augmentation(**NOTHING, color_jitter=0.4)
    factors = np.array([measures(p) for p in views(augmentation, stripes, 100)])
    factors /= measures(stripes)
    np.testing.assert_allclose(factors.min(axis=0), 0.6, atol=0.03)
    np.testing.assert_allclose(factors.max(axis=0), 1.4, atol=0.03)
    assert np.abs(np.corrcoef(factors.T)[np.triu_indices(3, 1)]).max() < 0.3


def test_jitter_of_floats_is_that_of_8_bits_but_for_rounding(photo):
    augmentation = Augmentation(**NOTHING, color_jitter=0.5)
    floats = np.asarray(photo.resize((32, 32)), np.float32) / np.float32(255)
    for a, b in zip(
        views(augmentation, photo.resize((32, 32)), 40),
        views(augmentation, floats, 40),
        strict=True,
    ):
        assert np.abs(a - b * 255).max() < 5  # up to three roundings, then stretched


def trivial_outcomes(image):
    """Every operation of the policy at every magnitude, as name, step, sign, image."""
    for name in module._TRIVIAL:
        for step in range(31):
            for sign in (-1, 1):
                magnitude = module._trivial_magnitude(name, step, sign)
                result = module._operated(image, name, magnitude, "nearest")
                yield name, step, sign, result


def test_trivial_policy_gives_the_images_that_torchvisions_gives():
    # torchvision's float32 thresholds of "solarize" lie a hair beside multiples of 17.
    values = np.array([v for v in range(256) if v % 17])
    image = np.random.default_rng(0).choice(values, size=(37, 34, 3)).astype(np.uint8)
    image = Image.fromarray(image)
    ours = {r.tobytes(): name for name, _, _, r in trivial_outcomes(image)}
    transform = v2.TrivialAugmentWide()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        theirs = {transform(image).tobytes() for _ in range(10_000)}
    assert len(ours) > 500
    # Its float32 magnitudes make a shift by 16 one by 15, and round a few factors.
    only_ours = [name for image, name in ours.items() if image not in theirs]
    assert {name.split("_")[0] for name in only_ours} <= {"adjust", "translate"}
    assert len(only_ours) <= 12
    assert len(theirs - set(ours)) <= 12
    bits = {module._trivial_magnitude("posterize", step, 1) for step in range(31)}
    assert bits == set(range(2, 9))


def test_trivial_policy_draws_every_operation_equally_often(monkeypatch, photo):
    drawn = []

    def record(image, *operation):
        drawn.append(operation[:2])
        return image

    monkeypatch.setattr(module, "_operated", record)
    views(NAMES["trivial"], photo.resize((32, 32)), 2800)
    counts = {name: sum(n == name for n, _ in drawn) for name in module._TRIVIAL}
    assert sum(counts.values()) == 2800
    assert min(counts.values()) > 140
    assert max(counts.values()) < 265
    angles = [magnitude for name, magnitude in drawn if name == "rotate"]
    assert len(set(angles)) > 45
    assert (min(angles), max(angles)) == (-135, 135)


def test_trivial_policy_changes_floats_like_8_bits_but_for_rounding(photo):
    image = photo.resize((96, 96))
    floats = np.asarray(image, np.float32) / np.float32(255)
    for (name, step, sign, a), (*_, b) in zip(
        trivial_outcomes(image), trivial_outcomes(floats), strict=True
    ):
        assert b.dtype == np.float32
        difference = np.abs(np.asarray(a) - b * 255).max()
        # PIL equalizes with a whole number of pixels a level.
        assert difference < (9 if name == "equalize" else 2), (name, step, sign)


def test_floats_are_not_rounded_to_8_bits():
    image = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64, 1)
    image = np.concatenate([image, image[::-1], image[:, ::-1]], axis=-1)
    for name, step, sign, result in trivial_outcomes(image):
        if step < 15 and (name != "posterize" or step == 0):
            assert len(np.unique(result)) > 1000, (name, step, sign)
    for pixels in views(Augmentation(rotation=10, color_jitter=0.2), image, 10):
        assert len(np.unique(pixels)) > 1000


def test_floats_outside_the_range_are_not_clipped(photo):
    image = np.asarray(photo, np.float32) / np.float32(255) * 8 - 3
    image[20:40] = -3
    image[40:] = 5
    moving = Augmentation(crop_scale=(0.9, 1), vertical_flip=True, rotation=10)
    for pixels in views(moving, image, 20):
        assert (pixels.min(), pixels.max()) == (-3, 5)


def test_colours_of_floats_are_clipped_at_white_or_at_the_images_own_extremes():
    inside = np.full((4, 4, 3), 0.9, np.float32)
    beyond = inside.copy()
    beyond[0, 0], beyond[1, 1] = 1.5, -0.25
    brighter = module._operated(inside, "adjust_brightness", 1.9, "nearest")
    assert brighter.max() == 1
    brighter = module._operated(beyond, "adjust_brightness", 1.9, "nearest")
    assert (brighter.min(), brighter.max()) == (-0.25, 1.5)
    assert np.unique(module._operated(beyond, "identity", None, "nearest")).size == 3


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_even_floats_survive_every_operation(value):
    image = np.full((8, 8, 3), value, np.float32)
    for name, _, _, result in trivial_outcomes(image):
        assert np.isfinite(result).all(), name
        assert 0 <= result.min() <= result.max() <= 1, name
        if name in ("autocontrast", "equalize"):
            np.testing.assert_array_equal(result, image)


def test_users_transform_gets_8_bit_rgb_before_resizing(image):
    seen = []

    def keeps(given):
        seen.append(given)
        return given

    (pixels,) = views(keeps, image, 1, CROP)
    assert (seen[0].mode, seen[0].size) == ("RGB", (90, 61))
    assert pixels.dtype == np.uint8
    expected = np.asarray(image)
    if expected.dtype == np.float32:
        expected = np.rint(expected * 255)
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=-1)
    np.testing.assert_array_equal(seen[0], expected)
    np.testing.assert_array_equal(pixels, CROP.pixels(seen[0]))


def test_users_transform_gets_floats_clipped():
    image = np.array([[-3, 0.5], [1, 7]], np.float32)
    seen = []
    views(lambda given: seen.append(np.asarray(given)) or given, image, 1)
    assert seen[0][..., 0].tolist() == [[0, 128], [255, 255]]


def test_users_transform_may_be_torchvisions_and_may_return_any_mode(photo):
    pixels = views(RandomHorizontalFlip(), photo, 40)
    assert len({p.tobytes() for p in pixels}) == 2
    (grey,) = views(v2.Grayscale(), photo, 1)
    assert grey.shape == (32, 32, 3)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


def test_orientation_of_a_photograph_is_applied_once(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = BytesIO()
    photo.save(file, "PNG", exif=exif)
    upright = decode_bytes(file.getvalue(), 40)
    assert upright.size == (61, 90)
    (pixels,) = views(lambda image: image, upright, 1, CROP)
    np.testing.assert_array_equal(pixels, CROP.pixels(upright))


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (np.zeros((32, 30, 3)), "ndarray of shape (32, 30, 3)"),
        (torch.zeros(3, 32, 30), "Tensor of shape (3, 32, 30)"),
        (None, "NoneType"),
    ],
)
def test_users_transform_that_returns_no_pil_image_raises(result, found, photo):
    message = (
        f"Parameter augmentation: found a callable that returned {found}. Expected a "
        "PIL image: scaling to numbers and normalizing come later."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        augmented_pixels(lambda image: result, SQUASH, 0, photo, KEY, 0)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (Image.new("RGB", (0, 5)), "no pixels, size (0, 5)"),
        (
            Image.fromarray(np.full((2, 2), -1, np.float32)),
            "float32 image with values from -1 to 0; expected values from 0 to 65535",
        ),
    ],
)
def test_users_transform_that_returns_an_unreadable_image_raises(result, reason, photo):
    message = (
        "Parameter augmentation: found a callable that returned an image that cannot "
        f"be read ({reason}). Expected a PIL image, best of mode RGB."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        augmented_pixels(lambda image: result, SQUASH, 0, photo, KEY, 0)


def test_names_and_objects_resolve():
    assert resolve_augmentation(None) is None
    assert resolve_augmentation(EVERYTHING) is EVERYTHING
    assert resolve_augmentation(noisy_transform) is noisy_transform
    assert repr(resolve_augmentation("light")) == "Augmentation(crop_scale=(0.8, 1.0))"
    assert repr(resolve_augmentation("standard")) == "Augmentation()"
    assert repr(resolve_augmentation("trivial")) == "Augmentation(policy='trivial')"
    changed = resolve_augmentation("standard").set_params(flip=False)
    assert changed.flip is False
    assert resolve_augmentation("standard").flip is True


@pytest.mark.parametrize(
    ("value", "error"),
    [("strong", ValueError), (3, TypeError), (Augmentation, TypeError)],
)
def test_what_is_no_augmentation_raises_with_the_names(value, error):
    message = (
        f"Parameter augmentation: found {value!r}. Expected None, one of 'light', "
        "'standard', 'trivial', an Augmentation object, or a callable that takes an "
        "RGB PIL image and returns a PIL image."
    )
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        resolve_augmentation(value)


@pytest.mark.parametrize(
    "scale", [(0, 1), (0.5, 0.2), (0.5, 1.1), (0.5,), ("a", "b"), (np.nan, 1)]
)
def test_wrong_crop_scale_says_what_is_expected(scale):
    message = (
        f"Parameter crop_scale: found {scale!r}. Expected None or two shares (low, "
        "high) of the image's area with 0 < low <= high <= 1."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        resolve_augmentation(Augmentation(crop_scale=scale))


@pytest.mark.parametrize("ratio", [(0, 1), (2, 1), (1, 2, 3), (1, np.inf)])
def test_wrong_crop_ratio_says_what_is_expected(ratio):
    message = (
        f"Parameter crop_ratio: found {ratio!r}. Expected two ratios of width to "
        "height (low, high) with 0 < low <= high."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        resolve_augmentation(Augmentation(crop_ratio=ratio))


@pytest.mark.parametrize(
    "parameter",
    [
        {"rotation": -1},
        {"rotation": 181},
        {"color_jitter": 1.5},
        {"flip": "yes"},
        {"vertical_flip": 2},
        {"policy": "auto"},
        {"crop_scale": 0.5},
        {"crop_ratio": None},
    ],
)
def test_wrong_parameter_is_named(parameter):
    (name,) = parameter
    with pytest.raises(ValueError, match=f"'{name}' parameter of Augmentation must be"):
        resolve_augmentation(Augmentation(**parameter))


def test_ranges_may_be_lists_and_arrays(photo):
    expected = views(Augmentation(), photo, 5)
    for kind in (list, np.array):
        augmentation = Augmentation(kind((0.6, 1.0)), kind((3 / 4, 4 / 3)))
        assert resolve_augmentation(augmentation) is augmentation
        np.testing.assert_array_equal(views(augmentation, photo, 5), expected)


def test_clone_parameters_and_pickle_keep_everything(photo):
    expected = views(EVERYTHING, photo, 20)
    assert clone(EVERYTHING) is not EVERYTHING
    copies = [
        clone(EVERYTHING),
        pickle.loads(pickle.dumps(EVERYTHING)),
        Augmentation(**EVERYTHING.get_params()),
    ]
    for copy in copies:
        assert repr(copy) == repr(EVERYTHING)
        np.testing.assert_array_equal(views(copy, photo, 20), expected)
    assert set(EVERYTHING.get_params()) == {
        "crop_scale",
        "crop_ratio",
        "flip",
        "vertical_flip",
        "rotation",
        "color_jitter",
        "policy",
    }


def test_decode_factor_keeps_the_smallest_crop_sharp():
    assert Augmentation(crop_scale=(0.25, 1)).decode_factor == 2
    assert Augmentation(crop_scale=None).decode_factor == 1


def test_crop_of_a_jpeg_read_at_a_reduced_scale_looks_like_that_of_the_whole_one():
    y, x = np.mgrid[0:1200, 0:1600]
    waves = [127 + 120 * np.sin(x / 180), 127 + 120 * np.cos(y / 140), (x + y) / 12]
    file = BytesIO()
    Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).save(file, "JPEG")
    augmentation = Augmentation(crop_scale=(0.2, 0.3))
    size = round(CROP.decode_size * augmentation.decode_factor)
    reduced = decode_bytes(file.getvalue(), size)
    whole = decode_bytes(file.getvalue(), 10_000)
    assert reduced.size == (400, 300)
    assert whole.size == (1600, 1200)
    for a, b in zip(
        views(augmentation, reduced, 10, CROP),
        views(augmentation, whole, 10, CROP),
        strict=True,
    ):
        assert np.abs(a.astype(float) - b).max() < 10


def test_importing_the_module_loads_neither_torch_nor_torchvision():
    code = (
        "import sys, sktransfer._images.augmentation as a; a.Augmentation().validate();"
        "print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
