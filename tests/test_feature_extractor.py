"""FeatureExtractorTransformer: features, names, and what it does not touch."""

import pickle
import random

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from torchvision import models

from sktransfer import FeatureExtractorTransformer
from sktransfer._cache.memory import SHARED


def test_features_equal_a_plain_torch_loop(colour_images):
    X, _ = colour_images
    network = models.resnet18(weights=None).eval()
    transformer = FeatureExtractorTransformer(network, image_size=64, cache=None)
    features = transformer.fit_transform(X)
    pixels = [transformer.backbone_.preprocessing.pixels(x / 255.0) for x in X]
    batch = torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = network((batch - mean) / std).numpy()
    assert features.dtype == np.float32
    # 8-bit images are rounded once after resizing, floats are not.
    np.testing.assert_allclose(features, expected, rtol=0.05, atol=0.05)


def test_feature_names_and_pandas_output(digits):
    X, _ = digits
    transformer = FeatureExtractorTransformer().set_output(transform="pandas")
    features = transformer.fit_transform(X[:10])
    assert isinstance(features, pd.DataFrame)
    assert features.shape == (10, 576)
    assert features.columns[0] == "featureextractortransformer0"
    assert transformer.get_feature_names_out()[-1] == "featureextractortransformer575"


def test_no_global_random_state_is_touched(digits):
    X, _ = digits
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 (the global state is the subject)
    torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    FeatureExtractorTransformer("resnet18", weights=None, image_size=32).fit_transform(
        X[:10]
    )
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_random_weights_follow_random_state(digits):
    X = digits[0][:10]

    def features(random_state):
        return FeatureExtractorTransformer(
            weights=None, random_state=random_state
        ).fit_transform(X)

    np.testing.assert_array_equal(features(None), features(0))
    np.testing.assert_array_equal(features(7), features(7))
    assert not np.array_equal(features(0), features(7))


def test_each_image_passes_the_network_once(digits):
    X = digits[0][:30]
    SHARED.clear()
    transformer = FeatureExtractorTransformer().fit(X)
    rows = count_rows(transformer)
    transformer.transform(X)
    assert sum(rows) == 32  # 30 rows, filled up to a whole batch
    clone(transformer).fit(X).transform(X[::-1])
    assert sum(rows) == 32


def count_rows(transformer):
    """Let the network count the rows it is given."""
    rows = []
    network = transformer.backbone_.for_inference(torch.device("cpu"))
    network.register_forward_hook(lambda _m, args, _o: rows.append(len(args[0])))
    return rows


def test_more_pixels_change_the_features_but_not_their_number(colour_images):
    X, _ = colour_images
    small, large = (
        FeatureExtractorTransformer(image_size=size).fit_transform(X)
        for size in (64, 96)
    )
    assert small.shape == large.shape
    assert not np.allclose(small, large)


def test_row_of_features_is_squashed_and_a_square_is_read_as_one(digits):
    X, _ = digits
    square = FeatureExtractorTransformer("mini").fit(X)
    assert square.image_shape_ == (8, 8)
    row = FeatureExtractorTransformer("resnet18", weights=None, image_size=32)
    row.fit(X[:, :50])
    assert row.image_shape_ == (1, 50)
    assert row.backbone_.preprocessing.resize == "squash"


def test_number_of_features_is_checked_after_fit(digits):
    X, _ = digits
    transformer = FeatureExtractorTransformer().fit(X)
    with pytest.raises(ValueError, match="63 features, but"):
        transformer.transform(X[:, 1:])


def test_table_of_several_columns_points_to_column_transformer(colour_paths):
    paths, _ = colour_paths
    table = pd.DataFrame({"photo": paths, "age": range(len(paths))})
    with pytest.raises(ValueError, match=r"ColumnTransformer.*'photo'"):
        FeatureExtractorTransformer().fit(table)


def values_at(transformer, X, path):
    """What one module of the network puts out for images."""
    found = []
    backbone = transformer.backbone_
    pixels = [backbone.preprocessing.pixels(x) for x in X]
    batch = torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(backbone.preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(backbone.preprocessing.std).view(1, 3, 1, 1)
    for segment in backbone.segments():
        batch = segment((batch - mean) / std if not found else batch)
        found.append(batch)
        if segment.name == path:
            return batch
    raise AssertionError(f"there is no stage {path}")


@pytest.mark.parametrize(
    ("pooling", "width"), [("avg", 24), ("max", 24), ("avgmax", 48)]
)
def test_lower_layer_is_pooled_over_height_and_width(colour_images, pooling, width):
    X = colour_images[0]
    transformer = FeatureExtractorTransformer(layer="features.3", pooling=pooling)
    features = transformer.fit_transform(X)
    activation = values_at(transformer, X, "features.3")
    expected = {
        "avg": activation.mean((2, 3)),
        "max": activation.amax((2, 3)),
        "avgmax": torch.cat([activation.mean((2, 3)), activation.amax((2, 3))], 1),
    }[pooling]
    assert features.shape == (len(X), width)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert len(transformer.get_feature_names_out()) == width


def test_tokens_and_channels_last_maps_are_pooled_too(colour_images):
    # The map of 8 x 8 pixels has 8 channels: its shape does not say which is which.
    X = colour_images[0][:4]
    small = {
        "patch_size": [4, 4],
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [2, 2],
        "window_size": [4, 4],
    }
    for network, layer, width in (
        (models.VisionTransformer(32, 16, 4, 2, 8, 16), "stem", 8),
        (models.SwinTransformer(**small), "features.1", 8),
    ):
        transformer = FeatureExtractorTransformer(network, image_size=32, layer=layer)
        features = transformer.fit_transform(X)
        activation = values_at(transformer, X, layer)
        dims = tuple(range(1, activation.ndim - 1))
        assert features.shape == (4, width)
        np.testing.assert_allclose(
            features, activation.mean(dims), rtol=1e-4, atol=1e-5
        )


def test_hidden_layer_of_a_network_is_read(colour_images):
    X = colour_images[0]
    network = models.mobilenet_v3_small(weights=None).eval()
    transformer = FeatureExtractorTransformer(network, layer="hidden", image_size=64)
    features = transformer.fit_transform(X)
    with torch.no_grad():
        pooled = FeatureExtractorTransformer(network, image_size=64).fit_transform(X)
        expected = network.classifier[:-1](torch.from_numpy(pooled))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    restored = pickle.loads(pickle.dumps(transformer))
    np.testing.assert_array_equal(restored.transform(X), features)


def test_each_layer_and_pooling_has_its_own_place_in_the_cache(digits):
    X = digits[0][:10]
    SHARED.clear()
    for i, (layer, pooling) in enumerate(
        [("pooled", "avg"), ("features.3", "avg"), ("features.3", "max")], start=1
    ):
        transformer = FeatureExtractorTransformer(layer=layer, pooling=pooling)
        features = transformer.fit_transform(X)
        assert len(SHARED) == 10 * i
        np.testing.assert_array_equal(clone(transformer).fit_transform(X), features)
        assert len(SHARED) == 10 * i


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"pooling": "max"}, "Parameter pooling: found 'max' with layer='pooled'"),
        ({"layer": "features.4"}, r"'mini' has no stage 'features.4'.*'features.3'"),
        ({"layer": "hidden"}, r"mini.*layer='hidden' needs classifier"),
        ({"layer": 4}, "The 'layer' parameter"),
        ({"pooling": "min"}, "The 'pooling' parameter"),
    ],
)
def test_layer_that_is_not_there_is_an_error_in_fit(digits, parameters, message):
    with pytest.raises(ValueError, match=message):
        FeatureExtractorTransformer(**parameters).fit(digits[0][:4])
