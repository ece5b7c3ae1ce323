"""torchvision's networks: which there are, and the images their weights want."""

import time

import pytest
import torch
from torchvision import models

from sktransfer._images.preprocessing import Preprocessing
from sktransfer.backbones import get_backbone, list_backbones
from sktransfer.backbones._backbone import open_backbone
from sktransfer.backbones._torchvision import build

TRANSFORMERS = {
    *("maxvit_t", "swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s", "swin_v2_t"),
    *("vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"),
}


def test_every_classification_cnn_is_listed_and_no_transformer():
    everything = set(models.list_models(module=models))
    assert everything >= TRANSFORMERS
    assert set(list_backbones()) & everything == everything - TRANSFORMERS
    assert len(everything - TRANSFORMERS) >= 68


def test_segmentation_detection_and_video_are_not_listed():
    others = set(models.list_models()) - set(models.list_models(module=models))
    assert others
    assert not others & set(list_backbones())


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("resnet50", "default", Preprocessing(224, 232)),
        ("resnet50", "IMAGENET1K_V1", Preprocessing(224, 256)),
        ("resnet18", "default", Preprocessing(224, 256)),
        (
            "efficientnet_b0",
            "default",
            Preprocessing(224, 256, interpolation="bicubic"),
        ),
        ("inception_v3", "default", Preprocessing(299, 342)),
        ("mobilenet_v2", "IMAGENET1K_V2", Preprocessing(224, 232)),
    ],
)
def test_preprocessing_belongs_to_the_weights(name, weights, expected):
    source = get_backbone(name).weights_source(weights)
    assert source.preprocessing == expected


def test_default_is_the_default_of_torchvision():
    spec = get_backbone("resnet50")
    source = spec.weights_source("default")
    assert source.location == models.ResNet50_Weights.DEFAULT.url
    assert source.label == "ResNet50_Weights.IMAGENET1K_V2"
    assert source.kind == "url"
    assert source.findable


def test_every_name_of_weights_has_an_address_with_a_digest():
    for name in list_backbones("*"):
        spec = get_backbone(name)
        for weights in spec.weights_names:
            location = spec.weights_source(weights).location
            assert torch.hub.HASH_REGEX.search(location), (name, weights)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_inceptions_bring_the_input_into_their_own_range(name):
    network = build(name)
    assert network.transform_input
    assert network.AuxLogits is None if name == "inception_v3" else network.aux1 is None


@pytest.mark.all_backbones
@pytest.mark.timeout(3000)  # one of them has 630 million parameters to draw
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_stages_of_every_network_compute_what_it_does(name):
    """Prints a row of a table; show it with ``pytest -s -m all_backbones``."""
    size = 224 if name.startswith(("maxvit", "vit")) else 128
    options = {"image_size": 224} if name.startswith("vit") else {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False}
    network = models.get_model(name, weights=None, **options).eval()
    started = time.perf_counter()
    backbone = open_backbone(network, "default", size, "auto", None)
    del network
    stages = backbone.stages
    seconds = time.perf_counter() - started
    shown = ", ".join(f"{s.name} {'x'.join(map(str, s.shape))}" for s in stages)
    print(f"\n| {name} | {seconds:.1f} s | {backbone.n_features} | {shown} |", end=" ")
    images = torch.rand(16, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = backbone.trunk(images)
        fast = backbone.for_inference(torch.device("cpu"))(images)
        assert (fast - expected).abs().max() <= 1e-5 * expected.abs().max()
        activation = images
        for segment in backbone.segments():
            activation = segment(activation)
    assert torch.equal(activation, expected)
    assert len(stages) > 3
