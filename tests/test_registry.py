"""Names of backbones: what there is, what is nearest, and names of one's own."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from sktransfer import FeatureExtractorTransformer
from sktransfer._images.preprocessing import Preprocessing
from sktransfer.backbones import (
    _registry,
    get_backbone,
    list_backbones,
    register_backbone,
)
from sktransfer.backbones._backbone import open_backbone
from sktransfer.exceptions import BackboneNotFoundError, WeightsMismatchError


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """Forget the names that a test registers."""
    monkeypatch.setattr(_registry, "_specs", dict(_registry._all_specs()))


def two_layers():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())


def test_names_are_sorted_and_filtered_by_wildcards():
    assert list_backbones() == sorted(list_backbones())
    names = list_backbones("res*")
    assert names
    assert all(n.startswith("res") for n in names)
    assert {"resnet18", "resnet50", "resnext50_32x4d"} <= set(names)
    assert list_backbones("no_such_*") == []


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("resnet_50", "resnet50"), ("Mini", "mini")]
)
def test_unknown_name_suggests_the_nearest(wrong, nearest):
    with pytest.raises(BackboneNotFoundError, match=f"named '{wrong}'.*'{nearest}'"):
        get_backbone(wrong)


def test_unknown_name_is_a_value_error_of_fit(digits):
    X, _ = digits
    with pytest.raises(ValueError, match=r"'resnet50'.*list_backbones\(\)"):
        FeatureExtractorTransformer("resnet5O").fit(X[:2])


def test_name_that_resembles_nothing_suggests_nothing():
    with pytest.raises(BackboneNotFoundError) as caught:
        get_backbone("qqqqqqqq")
    assert caught.value.nearest == []
    assert "Did you mean" not in str(caught.value)


def test_unknown_weights_name_those_there_are():
    with pytest.raises(WeightsMismatchError, match=r"IMAGENET1K_V1.*IMAGENET1K_V2"):
        get_backbone("resnet50").weights_source("IMAGENET22K")


def test_registered_network_is_used_by_name(colour_images):
    X, _ = colour_images
    register_backbone("two_convolutions", two_layers, preprocessing={"image_size": 20})
    assert "two_convolutions" in list_backbones("two_*")
    by_name, by_callable = (
        FeatureExtractorTransformer(backbone, image_size=20).fit_transform(X)
        for backbone in ("two_convolutions", two_layers)
    )
    assert by_name.shape == (24, 8)
    np.testing.assert_array_equal(by_name, by_callable)


@pytest.mark.parametrize("name", ["mini", "resnet18", "mine"])
def test_name_that_is_taken_is_refused_and_stays_what_it_was(name):
    register_backbone("mine", two_layers)
    before = get_backbone(name)
    with pytest.raises(ValueError, match=f"already a backbone named '{name}'"):
        register_backbone(name, nn.Identity)
    assert get_backbone(name) is before


def test_builder_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="Parameter builder: found str"):
        register_backbone("text", "resnet18")
    assert "text" not in list_backbones()


def test_preprocessing_comes_as_a_dict():
    mean, std = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
    register_backbone(
        "grey", two_layers, preprocessing={"image_size": 112, "mean": mean, "std": std}
    )
    preprocessing = get_backbone("grey").preprocessing
    assert preprocessing.mean == (0.5, 0.5, 0.5)
    assert (preprocessing.image_size, preprocessing.resize_size) == (112, 128)
    with pytest.raises(ValueError, match=r"\['size'\].*image_size"):
        register_backbone("other", two_layers, preprocessing={"size": 112})


def test_preprocessing_comes_as_a_preset_of_torchvision():
    preset = ImageClassification(
        crop_size=96, resize_size=110, interpolation=InterpolationMode.BICUBIC
    )
    register_backbone("preset", two_layers, preprocessing=preset)
    opened = open_backbone("preset", "default", None, "auto", None)
    assert opened.preprocessing == Preprocessing(96, 110, interpolation="bicubic")


def test_without_preprocessing_images_are_those_of_imagenet():
    register_backbone("plain", two_layers)
    opened = open_backbone("plain", "default", None, "auto", None)
    assert opened.preprocessing == Preprocessing(224, 256)


def test_registered_weights_file_is_the_default(tmp_path, monkeypatch):
    stored = {n: t * 0 + 2 for n, t in two_layers().state_dict().items()}
    save_file(stored, tmp_path / "twos.safetensors")
    monkeypatch.chdir(tmp_path)
    register_backbone("twos", two_layers, weights="twos.safetensors")
    monkeypatch.chdir("/")  # a relative path means the folder of that time
    opened = open_backbone("twos", "default", 32, "auto", None)
    assert all(torch.all(t == 2) for t in opened.trunk.state_dict().values())
    random = open_backbone("twos", None, 32, "auto", None)
    assert random.digest != opened.digest


def test_registered_weights_file_brings_its_preprocessing(tmp_path):
    squashed = Preprocessing(40, 40, resize="squash")
    register_backbone("base", two_layers, preprocessing=squashed.to_dict())
    path = tmp_path / "base.safetensors"
    open_backbone("base", "default", None, "auto", None).save(path)
    register_backbone("tuned", two_layers, weights=path)
    own = {"image_size": 64}
    register_backbone("own", two_layers, weights=path, preprocessing=own)
    found = [
        open_backbone(name, "default", None, "auto", None).preprocessing
        for name in ("tuned", "own")
    ]
    assert found[0] == squashed
    assert (found[1].image_size, found[1].resize) == (64, "crop")


def test_registered_weights_file_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "absent.pth"
    register_backbone("absent", two_layers, weights=path)
    with pytest.raises(WeightsMismatchError, match=f"no file {path}"):
        open_backbone("absent", "default", 32, "auto", None)
