"""What is set around a call changes nothing of what it computes."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from _networks import classifier, images

from sktransfer import FeatureExtractorTransformer, MLPHead
from sktransfer._cache.memory import SHARED
from sktransfer.backbones import _network


@contextmanager
def default_of_64_bits():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "default dtype": default_of_64_bits,
}


@pytest.fixture
def anew():
    """Nothing that was built or computed before."""
    SHARED.clear()
    _network._shared.clear()
    yield
    SHARED.clear()
    _network._shared.clear()


# What the networks and heads of a user draw under another default dtype is other
# numbers; those of a file are not.
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "default dtype"])
@pytest.mark.parametrize("head", ["linear", MLPHead()])
def test_fit_and_predict_give_the_same_bits_in_every_mode(mode, head):
    X, y = images(24)
    params = {"head": head, "random_state": 0, "cache": None}
    expected = classifier(**params).fit(X, y).decision_function(X)
    with MODES[mode]():
        found = classifier(**params).fit(X, y).decision_function(X)
    np.testing.assert_array_equal(found, expected)
    fitted = classifier(**params).fit(X, y)
    with MODES[mode]():
        np.testing.assert_array_equal(fitted.decision_function(X), expected)


def test_fit_under_another_default_dtype_gives_the_same_bits():
    X, y = images(12)
    params = {"backbone": "mini", "image_size": 32, "random_state": 0, "cache": None}
    expected = classifier(**params).fit(X, y).decision_function(X)
    with default_of_64_bits():
        fitted = classifier(**params).fit(X, y)
        np.testing.assert_array_equal(fitted.decision_function(X), expected)
        mlp = classifier(**params, head=MLPHead()).fit(X, y)
    assert np.isfinite(mlp.decision_function(X)).all()


@pytest.mark.parametrize("mode", MODES)
def test_what_is_kept_was_computed_in_no_mode(anew, mode):
    X, _ = images(6)
    extract = FeatureExtractorTransformer("mini", image_size=32)
    with MODES[mode]():
        kept = extract.fit_transform(X)
    np.testing.assert_array_equal(extract.fit_transform(X), kept)
    np.testing.assert_array_equal(extract.set_params(cache=None).transform(X), kept)


def test_network_that_was_loaded_in_inference_mode_can_be_trained(anew):
    X, y = images(12)
    with torch.inference_mode():
        FeatureExtractorTransformer("mini", image_size=32).fit(X)
    assert classifier(backbone="mini", image_size=32).fit(X, y).solver_ == "gradient"


def test_modes_are_as_they_were_afterwards():
    X, y = images(12)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        classifier().fit(X, y).predict(X)
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
