"""Fixtures that several test modules share."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

_SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config):
    """Let the processes of ``-n`` share the cores: together they must not take more.

    What is compared to the last bits is compared on the CPU. A GPU is hidden, from
    worker processes too, unless ``-m gpu`` asks for it.
    """
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    n_processes = getattr(config.option, "numprocesses", None)
    if n_processes:
        share = max(1, (os.cpu_count() or 1) // n_processes)
        os.environ.setdefault("OMP_NUM_THREADS", str(share))


def pytest_collection_modifyitems(config, items):
    """Leave out what takes many minutes, unless -m asks for it."""
    if "all_backbones" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("all_backbones")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def keyboard():
    """Interrupts arrive, as they do not where a shell started pytest in background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the development data sets; skips where it is not here."""
    if not _SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    return _SHARED_DATA


@pytest.fixture(scope="session")
def digits():
    """300 flattened 8x8 digits, values 0 to 16, and their labels."""
    X, y = load_digits(return_X_y=True)
    return X[:300], y[:300]


@pytest.fixture(scope="session")
def colour_images():
    """24 noisy 20x16 RGB images, red or blue, and their labels."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 90, size=(24, 20, 16, 3), dtype=np.uint8)
    y = np.array(["red", "blue"])[np.arange(24) % 2]
    X[y == "red", ..., 0] += 160
    X[y == "blue", ..., 2] += 160
    return X, y


@pytest.fixture(scope="session")
def colour_paths(colour_images, tmp_path_factory):
    """Those images as PNG files; paths and labels."""
    folder = tmp_path_factory.mktemp("colours")
    X, y = colour_images
    paths = []
    for i, image in enumerate(X):
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    return paths, y
