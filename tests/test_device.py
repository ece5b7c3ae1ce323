"""Which device computes."""

import numpy as np
import pytest
import torch

from sktransfer import FeatureExtractorTransformer
from sktransfer._engine.device import resolve_device


def test_auto_is_the_best_device_there_is():
    expected = "mps" if torch.backends.mps.is_available() else "cpu"
    if torch.cuda.is_available():
        expected = "cuda"
    assert resolve_device("auto").type == expected


def test_cpu_is_taken_as_it_is():
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:99", "xpu:99", "meta", "abacus", ""])
def test_device_that_cannot_be_used_names_parameter_and_way_out(device):
    with pytest.raises(ValueError, match=rf"Parameter device: '{device}'.*'auto'"):
        resolve_device(device)


def test_estimator_refuses_a_device_that_is_not_there(digits):
    X, _ = digits
    transformer = FeatureExtractorTransformer(device="abacus")
    with pytest.raises(ValueError, match="Parameter device: 'abacus'"):
        transformer.fit_transform(X[:2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_features_of_the_cpu(digits):
    X, _ = digits
    on_gpu, on_cpu = (
        FeatureExtractorTransformer(device=d).fit_transform(X[:40])
        for d in ("cuda:0", "cpu")
    )
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0.02, atol=0.02)
