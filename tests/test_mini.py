"""`mini`, the network inside the package: its file is what its card says."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sktransfer import FeatureExtractorTransformer, TransferClassifier
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
    size, larger = CARD["image_size"], CARD["larger_size"]
    assert opened.preprocessing == Preprocessing(
        size, size, resize="squash", larger_size=larger
    )
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


def images_of(*shapes):
    """Noise of the shapes (height, width)."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(32, 32)], 96),
        ([(127, 500)], 96),
        ([(128, 500)], 160),
        ([(900, 600)], 160),
        ([(32, 32), (64, 400), (500, 500)], 96),  # the median decides
        ([(32, 32), (200, 400), (500, 500)], 160),
    ],
)
def test_images_are_seen_at_the_size_nearest_to_their_own(shapes, size):
    X = images_of(*shapes)
    embed, explicit = (
        FeatureExtractorTransformer(image_size=s, cache=None).fit(X)
        for s in (None, size)
    )
    assert embed.backbone_.preprocessing.image_size == size
    np.testing.assert_array_equal(embed.transform(X), explicit.transform(X))


def test_images_of_no_weight_do_not_decide():
    X, y = images_of((40, 40), (50, 50), *[(300, 300)] * 3), ["a", "b", "a", "b", "a"]
    weight = np.array([1.0, 2.0, 0.0, 0.0, 0.0])
    sizes = [
        TransferClassifier().fit(X, y, w).backbone_.preprocessing.image_size
        for w in (None, weight)
    ]
    assert sizes == [160, 96]


def test_size_of_fit_stays_whatever_comes_after():
    model = TransferClassifier(strategy="fine_tuning", max_epochs=1, random_state=0)
    model.fit(images_of((40, 40), (40, 40)), ["a", "b"])
    model.partial_fit(images_of((200, 200), (200, 200)), ["a", "b"])
    assert model.backbone_.preprocessing.image_size == 96
    model.fit(images_of((200, 200), (200, 200)), ["a", "b"])
    assert model.backbone_.preprocessing.image_size == 160


def test_all_image_columns_decide_on_one_size():
    X = pd.DataFrame(
        {
            "front": [Image.fromarray(image) for image in images_of(*[(40, 40)] * 4)],
            "back": [Image.fromarray(image) for image in images_of(*[(300, 240)] * 4)],
            "price": [1.0, 2.0, 3.0, 4.0],
        }
    )
    y = ["a", "b", "a", "b"]
    both = TransferClassifier(image_columns=["front", "back"]).fit(X, y)
    small = TransferClassifier(image_columns=["front"]).fit(X.drop(columns="back"), y)
    sizes = [m.backbone_.preprocessing.image_size for m in (both, small)]
    assert sizes == [160, 96]  # the median of both columns is 140


def test_saved_weights_keep_the_size_that_they_were_used_at(tmp_path):
    path = tmp_path / "photographs.safetensors"
    X = images_of((200, 200))
    FeatureExtractorTransformer().fit(X).backbone_.save(path)
    again = FeatureExtractorTransformer("mini", weights=path).fit(images_of((40, 40)))
    assert again.backbone_.preprocessing.image_size == 160
