"""Keys of activations: nothing that changes a value leaves the key as it was."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile
from torch import nn

from sktransfer import FeatureExtractorTransformer
from sktransfer._cache import keys
from sktransfer._cache.memory import SHARED
from sktransfer.exceptions import InvalidImageError

DETERMINANTS = {
    "backbone": "abc",
    "cut": "pooled",
    "preprocessing": {"image_size": 96, "mean": (0.5, 0.5, 0.5)},
    "device": "cpu",
    "batch_size": None,
}


def convolution():
    return nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU())


def convolution_without_relu():
    return nn.Sequential(nn.Conv2d(3, 5, 3, stride=2))


def squeezed():
    """Pixel by pixel: a network whose kernels depend on the number of rows."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 5, 1), Spread()
    )


class Spread(nn.Module):
    def forward(self, batch):
        return batch.expand(-1, -1, 2, 2)


def test_same_determinants_in_any_order_give_the_same_fingerprint():
    turned = dict(reversed(DETERMINANTS.items()))
    assert keys.fingerprint(**DETERMINANTS) == keys.fingerprint(**turned)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "abd"},
        {"cut": "layer4"},
        {"preprocessing": {"image_size": 97, "mean": (0.5, 0.5, 0.5)}},
        {"preprocessing": {"image_size": 96, "mean": (0.5, 0.5, 0.6)}},
        {"device": "cuda"},
        {"batch_size": 32},
        {"one_more": 1},
    ],
)
def test_every_determinant_changes_the_fingerprint(change):
    changed = keys.fingerprint(**{**DETERMINANTS, **change})
    assert changed != keys.fingerprint(**DETERMINANTS)


@pytest.mark.parametrize("library", ["torch", "torchvision", "pillow"])
def test_version_of_each_library_changes_the_fingerprint(library, monkeypatch):
    before = keys.fingerprint(**DETERMINANTS)
    versions = keys._versions()
    assert set(versions) == {"torch", "torchvision", "pillow"}
    monkeypatch.setattr(keys, "_versions", lambda: {**versions, library: "0.0"})
    assert keys.fingerprint(**DETERMINANTS) != before


def test_our_own_number_changes_the_fingerprint(monkeypatch):
    before = keys.fingerprint(**DETERMINANTS)
    monkeypatch.setattr(keys, "VALUES_VERSION", keys.VALUES_VERSION + 1)
    assert keys.fingerprint(**DETERMINANTS) != before


def test_key_is_of_content_and_fingerprint():
    one, other = keys.fingerprint(a=1), keys.fingerprint(a=2)
    found = {
        keys.activation_key(content, fingerprint)
        for content in (b"cat", b"dog")
        for fingerprint in (one, other)
    }
    assert len(found) == 4
    assert {len(key) for key in found} == {20}
    assert keys.activation_key(b"cat", one) in found


def n_new_rows(X, backbone=convolution, **parameters):
    """Count the rows that a transformer adds to the store."""
    before = len(SHARED)
    options = {"image_size": 24, **parameters}
    FeatureExtractorTransformer(backbone, **options).fit_transform(X)
    return len(SHARED) - before


@pytest.fixture
def known(colour_images):
    """Five images whose features are in the store."""
    X = colour_images[0][:5]
    SHARED.clear()
    assert n_new_rows(X) == 5
    assert n_new_rows(X) == 0
    return X


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 25},
        {"resize": "squash"},
        {"random_state": 1},
        {"backbone": convolution_without_relu},
        {"backbone": "mini"},
        {"value_range": (0, 254)},
    ],
    ids=["image_size", "resize", "random_state", "callable", "mini", "value_range"],
)
def test_parameter_that_changes_values_finds_nothing_in_the_store(known, change):
    assert n_new_rows(known, **change) == 5
    assert n_new_rows(known, **change) == 0


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"n_jobs": 2}], ids=str)
def test_parameter_that_changes_no_value_finds_everything(known, change):
    assert n_new_rows(known, **change) == 0


def test_batch_size_counts_where_kernels_depend_on_it(known):
    assert n_new_rows(known, squeezed) == 5
    assert n_new_rows(known, squeezed, batch_size=16) == 5
    assert n_new_rows(known, squeezed, batch_size=16) == 0


def test_order_selection_and_file_name_do_not_matter(known, tmp_path):
    assert n_new_rows(known[[3, 1]]) == 0
    paths = [str(tmp_path / name) for name in ("one.png", "copy.png")]
    for path in paths:
        Image.fromarray(known[0]).save(path)
    assert n_new_rows(paths[:1]) == 1
    assert n_new_rows(paths) == 0


def test_one_changed_pixel_or_another_dtype_is_another_image(known):
    changed = known.copy()
    changed[2, 0, 0, 0] ^= 1
    assert n_new_rows(changed) == 1
    assert n_new_rows(known / np.float32(255)) == 5
    assert n_new_rows(np.ascontiguousarray(known.swapaxes(1, 2))) == 5


def test_numbers_of_a_search_over_an_array_find_what_plain_ones_left():
    X = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    SHARED.clear()
    for number in (int, np.int64, np.uint8):
        numbers = {"batch_size": number(16), "image_size": number(16)}
        for value_range in ("auto", (0, 255), np.array([0.0, 255.0])):
            FeatureExtractorTransformer(
                squeezed, value_range=value_range, **numbers
            ).fit_transform(X)
    assert SHARED.info().misses == len(X)


def test_image_that_is_read_though_truncated_is_broken_again_afterwards(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    half = [file.getvalue()[:1500]]
    transformer = FeatureExtractorTransformer(convolution, image_size=16)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        transformer.fit_transform(half)
    with pytest.raises(InvalidImageError, match="truncated"):
        transformer.fit_transform(half)
