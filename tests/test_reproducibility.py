"""Same seed, same bits: twice, with any cache, in workers, in threads, side by side."""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from _networks import classifier, images, tensors_of
from joblib import Parallel, delayed
from torch import nn

from sktransfer import (
    FeatureCache,
    FeatureExtraction,
    FineTuning,
    GradualUnfreezing,
    ParameterSharing,
)
from sktransfer._cache.memory import SHARED


def dropping(n_features, n_outputs):
    """A head that draws from torch's global generator in every step."""
    return nn.Sequential(nn.Dropout(0.3), nn.Linear(n_features, n_outputs))


def shaken(image):
    """A transform that draws from all three global generators."""
    angle = np.random.uniform(-9, 9) + random.uniform(-9, 9)  # noqa: NPY002
    return image.rotate(angle + float(torch.rand(1)))


TWO_VIEWS = {"augmentation_views": 2, "max_epochs": 3}
SETTINGS = {
    "exact": {"strategy": "feature_extraction"},
    "gradient": {"strategy": FeatureExtraction("gradient")},
    "all": {"strategy": FineTuning()},
    "random head": {"strategy": FineTuning(1, init="random")},
    "gradual": {"strategy": GradualUnfreezing(), "max_epochs": 4},
    "delta": {"strategy": ParameterSharing("delta", unfreeze=2)},
    "dropout": {"head": dropping},
    "augmentation": {"strategy": FineTuning(1), "augmentation": "trivial"},
    "views": {"strategy": FineTuning(1), "augmentation": "light", **TWO_VIEWS},
    "views, exact": {"strategy": "feature_extraction", "augmentation": "light"}
    | TWO_VIEWS,
    "own augmentation": {"strategy": FineTuning(1), "augmentation": shaken},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.5},
}
# What draws random numbers in every place where that can be.
EVERYTHING = {"head": dropping, "augmentation": shaken, "max_epochs": 3}


def fit(n=40, **params):
    return classifier(**({"batch_size": 8} | params)).fit(*images(n))


def bits(estimator):
    """Tensors of the network, and what it says of images it has not seen."""
    X, _ = images(20, seed=1)
    return tensors_of(estimator), estimator.decision_function(X).tobytes()


def fitted_bits(**params):
    return bits(fit(**params))


@pytest.mark.parametrize("setting", SETTINGS)
def test_same_seed_gives_the_same_bits_whatever_the_cache_holds(setting, tmp_path):
    params = SETTINGS[setting]
    SHARED.clear()
    cold = fitted_bits(**params)
    warm = fitted_bits(**params)
    without = fitted_bits(cache=None, **params)
    assert cold == warm
    assert cold == without
    with FeatureCache(tmp_path / "features.sqlite") as file:
        assert fitted_bits(cache=file, **params) == cold
        file.close()
        assert fitted_bits(cache=file, **params) == cold


def test_same_bits_on_mini_whatever_the_cache_holds():
    params = {"backbone": "mini", "image_size": 48, "max_epochs": 1, "n": 16}
    SHARED.clear()
    cold, warm = (fitted_bits(strategy=FineTuning(1), **params) for _ in range(2))
    assert cold == warm
    assert cold == fitted_bits(strategy=FineTuning(1), cache=None, **params)


def test_activations_that_others_left_in_the_cache_change_nothing():
    SHARED.clear()
    alone = fitted_bits(strategy=FineTuning(1))
    SHARED.clear()
    # Other batches, other neighbours, the same images.
    classifier(FineTuning(1), batch_size=3, random_state=5).fit(*images(33))
    assert fitted_bits(strategy=FineTuning(1)) == alone


def test_number_of_decoding_threads_changes_nothing():
    assert fitted_bits(n_jobs=1, **EVERYTHING) == fitted_bits(n_jobs=3, **EVERYTHING)


def test_other_seeds_give_other_bits():
    for name in ("random head", "dropout", "augmentation", "all"):
        params = SETTINGS[name]
        assert fitted_bits(**params) != fitted_bits(random_state=1, **params), name


def test_exact_solution_does_not_depend_on_the_seed():
    results = [
        fit(strategy="feature_extraction", backbone="mini", random_state=seed, n=16)
        for seed in (0, 1, None)
    ]
    assert len({bits(result)[1] for result in results}) == 1


def global_states():
    numpy_state = np.random.get_state()  # noqa: NPY002
    state = random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]
    return (*state, torch.get_rng_state().numpy().tobytes())


@pytest.mark.parametrize("setting", ["exact", "all", "delta", "early stopping"])
def test_global_generators_are_untouched(setting):
    X, y = images(40)
    estimator = classifier(**(EVERYTHING if setting == "all" else SETTINGS[setting]))
    before = global_states()
    estimator.fit(X, y)
    assert global_states() == before
    estimator.predict(X), estimator.score(X, y)
    assert global_states() == before
    if setting != "exact":
        estimator.partial_fit(X, y).partial_fit(X, y)
        assert global_states() == before


@pytest.mark.parametrize("random_state", [None, 0])
def test_global_generators_have_no_influence(random_state):
    def disturbed(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        return fitted_bits(random_state=random_state, **EVERYTHING)

    first, again, other = disturbed(0), disturbed(0), disturbed(1)
    if random_state is None:
        # The seed comes from the operating system, not from what users seeded.
        assert first != again
    else:
        assert first == again == other


def test_without_a_seed_fits_differ_and_predictions_do_not():
    X, _ = images(20, seed=1)
    one, two = (
        fit(strategy=FineTuning(init="random"), random_state=None) for _ in range(2)
    )
    assert np.abs(one.decision_function(X) - two.decision_function(X)).max() > 1e-3
    np.testing.assert_array_equal(one.predict_proba(X), one.predict_proba(X))
    np.testing.assert_array_equal(
        np.concatenate([one.decision_function(X[:3]), one.decision_function(X[3:])]),
        one.decision_function(X),
    )


def test_generator_is_advanced_so_that_fits_differ():
    params = {"strategy": FineTuning(init="random"), "max_epochs": 1}
    state = np.random.RandomState(0)
    first, second = (fitted_bits(random_state=state, **params) for _ in range(2))
    assert first != second
    assert first == fitted_bits(random_state=np.random.RandomState(0), **params)


def test_two_fits_in_two_threads_give_the_bits_of_one_after_the_other():
    settings = [{"random_state": seed, **EVERYTHING} for seed in (0, 1)]
    one_after_the_other = [fitted_bits(**params) for params in settings]
    SHARED.clear()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(fitted_bits, **params) for params in settings]
        side_by_side = [future.result() for future in futures]
    assert side_by_side == one_after_the_other


def test_workers_give_equal_bits():
    results = Parallel(n_jobs=2, backend="loky")(
        delayed(fitted_bits)(**EVERYTHING) for _ in range(2)
    )
    assert results[0] == results[1]


SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
import torch
from _networks import classifier, images

X, y = images(40)
for n in (1, 2):
    torch.set_num_threads(n)
    estimator = classifier(backbone="mini", image_size=32, cache=None).fit(X, y)
    print(json.dumps(estimator.decision_function(X).tolist()))
"""


def test_other_numbers_of_torch_threads_agree_on_short_fits():
    code = SCRIPT.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code],
        # Threads that spin while they wait take half a minute on a busy machine.
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    one, two = (np.array(json.loads(line)) for line in done.stdout.splitlines())
    np.testing.assert_allclose(two, one, atol=1e-4)
    assert np.abs(one).max() > 0.1
