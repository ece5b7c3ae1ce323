"""Which device computes."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed

from sktransfer import FeatureExtractorTransformer
from sktransfer._engine.device import choose_cuda, resolve_device


def test_auto_is_the_best_device_there_is():
    expected = "mps" if torch.backends.mps.is_available() else "cpu"
    if torch.cuda.is_available():
        expected = "cuda"
    assert resolve_device("auto").type == expected


def test_workers_share_devices_evenly():
    devices = [choose_cuda(4, worker) for worker in range(10)]
    assert devices[:4] == [0, 1, 2, 3]
    counts = np.bincount(devices)
    assert counts.max() - counts.min() <= 1
    assert {choose_cuda(1, worker) for worker in range(5)} == {0}


def test_cpu_is_taken_as_it_is():
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_device_that_is_not_there_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^Parameter device: 'cuda:99'.*'auto'"):
        resolve_device("cuda:99")


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
        FeatureExtractorTransformer(
            device=device, precision="float32", cache=None
        ).fit_transform(X[:40])
        for device in ("cuda:0", "cpu")
    )
    # Torch lets convolutions on CUDA round factors to ten bits.
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0.01, atol=0.01)


def _device_of_worker(folder, n):
    """Answer once all workers are here, so that each of them answers once."""
    device = str(resolve_device("auto"))
    Path(folder, str(os.getpid())).touch()
    while len(list(Path(folder).iterdir())) < n:
        time.sleep(0.01)
    return device


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_each_worker_of_joblib_gets_a_device_of_its_own(tmp_path):
    n = torch.cuda.device_count()
    tasks = [delayed(_device_of_worker)(str(tmp_path), n) for _ in range(n)]
    devices = Parallel(n_jobs=n, batch_size=1)(tasks)
    assert sorted(devices) == sorted(f"cuda:{i}" for i in range(n))
