"""Workers together use no more threads of torch than there are cores."""

import os
import threading

import numpy as np
import pytest
import torch
from _networks import classifier, images
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from torch import nn

from sktransfer import FeatureExtractorTransformer
from sktransfer._engine.threads import threads_of_worker

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
N_JOBS = 2


def _convolution():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


def _threads_in_forward():
    """Transform; return torch's number of threads in the network, and afterwards."""
    X, seen = images(4)[0], []
    transformer = FeatureExtractorTransformer(_convolution, image_size=16, cache=None)
    transformer.fit(X)
    network = transformer.backbone_.for_inference(torch.device("cpu"))
    network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    transformer.transform(X)
    return seen[-1], torch.get_num_threads()


@pytest.fixture
def all_cores(monkeypatch):
    """A process whose threads nobody has limited, and new joblib workers."""
    for name in ("OMP", "MKL", "OPENBLAS"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    get_reusable_executor().shutdown(wait=True)
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, CORES))
    yield max(2, CORES)
    torch.set_num_threads(before)
    get_reusable_executor().shutdown(wait=True)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_threads_of_workers_do_not_multiply(backend, all_cores):
    with parallel_config(backend, n_jobs=N_JOBS):
        found = Parallel()(delayed(_threads_in_forward)() for _ in range(2))
    for inside, _ in found:
        assert N_JOBS * inside <= max(CORES, N_JOBS)
    assert torch.get_num_threads() == all_cores
    inside, after = _threads_in_forward()
    assert (inside, after) == (all_cores, all_cores)


def test_new_threads_have_all_cores_after_workers_have_left(all_cores):
    with parallel_config("threading", n_jobs=N_JOBS):
        Parallel()(delayed(_threads_in_forward)() for _ in range(6))
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [all_cores]


def test_limit_holds_to_the_end_of_the_outermost_block(all_cores):
    def nested():
        with threads_of_worker():
            with threads_of_worker():
                pass
            inside = torch.get_num_threads()
        return inside, torch.get_num_threads()

    with parallel_config("threading", n_jobs=2):
        assert Parallel()(delayed(nested)() for _ in range(2)) == [(1, all_cores)] * 2


def test_training_in_threads_gives_the_bits_of_one_torch_thread(all_cores):
    X, y = images(24)

    def scores():
        return classifier(max_epochs=1).fit(X, y).decision_function(X)

    with parallel_config("threading", n_jobs=N_JOBS):
        of_workers = Parallel()(delayed(scores)() for _ in range(2))
    torch.set_num_threads(1)
    for found in of_workers:
        np.testing.assert_array_equal(found, scores())
