"""`mini`, the network inside the package: its file is what its card says."""

import hashlib
import json

import numpy as np
import torch
from safetensors.torch import load_file

from sktransfer import FeatureExtractorTransformer
from sktransfer._images.preprocessing import Preprocessing
from sktransfer.backbones._backbone import open_backbone
from sktransfer.backbones._mini import PATH

CARD = json.loads(PATH.with_name("mini.json").read_text())


def test_shipped_file_is_the_one_the_card_describes():
    assert hashlib.sha256(PATH.read_bytes()).hexdigest() == CARD["sha256"]


def test_shipped_file_is_small_and_half_precision():
    assert PATH.stat().st_size <= 2_500_000
    stored = load_file(PATH)
    kinds = {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()}
    assert kinds == {torch.float16}
    assert all(torch.isfinite(tensor).all() for tensor in stored.values())


def test_weights_are_float32_in_memory_and_equal_the_file():
    trunk = open_backbone("mini", "default", None, "auto", None).trunk
    stored, loaded = load_file(PATH), trunk.state_dict()
    floats = [t for t in loaded.values() if t.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    for name, tensor in loaded.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, stored[name].to(tensor.dtype)), name


def test_images_and_features_are_those_of_the_card():
    opened = open_backbone("mini", "default", None, "auto", None)
    size = CARD["image_size"]
    assert opened.preprocessing == Preprocessing(size, size, resize="squash")
    assert opened.n_features == CARD["n_features"] == 576


def test_trained_weights_differ_from_initial_ones(colour_images):
    X, _ = colour_images
    trained, initial = (
        FeatureExtractorTransformer("mini", weights=w).fit(X) for w in ("default", None)
    )
    assert trained.backbone_.digest != initial.backbone_.digest
    assert not np.allclose(trained.transform(X), initial.transform(X))


def test_mini_needs_no_network_and_no_cache_folder(tmp_path, monkeypatch, digits):
    X, _ = digits
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "absent"))
    FeatureExtractorTransformer("mini", image_size=64, cache=None).fit_transform(X[:3])
    assert not (tmp_path / "absent").exists()
