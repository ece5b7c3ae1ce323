"""scikit-learn's own checks on every estimator, with every strategy."""

import inspect
import os
from collections import Counter

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

import sktransfer
from sktransfer import (
    FeatureExtraction,
    FeatureExtractorTransformer,
    FineTuning,
    GradualUnfreezing,
    ParameterSharing,
    TransferClassifier,
    TransferRegressor,
)

# A check that silently stops being generated must not go unnoticed.
MIN_CHECKS = {
    "TransferClassifier": 55,
    "TransferRegressor": 55,
    "FeatureExtractorTransformer": 45,
}
# Only runs where scipy was told, before it was imported, to use the array API.
NOT_ENABLED = set() if os.environ.get("SCIPY_ARRAY_API") else {"check_array_api_input"}
# Batches are drawn from rows: a row of weight two and two equal rows are other batches.
EXCUSED = {
    "check_sample_weight_equivalence_on_dense_data": "gradients on batches",
    "check_sample_weight_equivalence_on_sparse_data": "gradients on batches",
}
# Out of fold, a row's features are those of a network that has not seen it; transform
# uses the network that has seen all rows. These two checks want both to be equal.
EXCUSED_BY_CROSS_FITTING = {
    "check_transformer_general": "fit_transform is cross-fitted",
    "check_transformer_data_not_an_array": "fit_transform is cross-fitted",
}
# The checks' sets have few rows, so an epoch has few steps. A head that starts at
# random has to follow weights of 1000 to 0.0001 on classes that overlap, which only its
# bias can.
STRATEGIES = {
    "FeatureExtraction gradient": (
        FeatureExtraction("gradient"),
        {"optimizer": "sgd", "lr": 0.3, "weight_decay": 0.03, "max_epochs": 20},
    ),
    "FineTuning": (FineTuning(), {"max_epochs": 2}),
    "GradualUnfreezing": (GradualUnfreezing(), {"max_epochs": 3}),
    "ParameterSharing l2_sp": (ParameterSharing(), {"max_epochs": 2}),
    "ParameterSharing delta": (ParameterSharing("delta"), {"max_epochs": 2}),
}


def three_layers():
    """A small network with batch norms, for images of 16 px."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
    )


def all_estimators():
    """Find the public classes that have `fit`."""
    values = [getattr(sktransfer, name) for name in sktransfer.__all__]
    return [
        value
        for value in values
        if inspect.isclass(value)
        and issubclass(value, BaseEstimator)
        and hasattr(value, "fit")
    ]


def check(estimator, excused=()):
    """Run all checks; return the failures that are not excused."""
    results = check_estimator(
        estimator, on_fail=None, expected_failed_checks=dict.fromkeys(excused, "")
    )
    counts = Counter(result["status"] for result in results)
    assert counts["passed"] >= MIN_CHECKS[type(estimator).__name__]
    return {
        result["check_name"]: repr(result["exception"])
        for result in results
        if result["status"] not in ("passed", "xfail")
        and result["check_name"] not in NOT_ENABLED
    }


def test_every_estimator_has_a_number_of_checks():
    assert {cls.__name__ for cls in all_estimators()} == set(MIN_CHECKS)


@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@pytest.mark.parametrize("estimator_class", all_estimators())
def test_check_estimator_passes_with_nothing_excused(estimator_class):
    assert check(estimator_class()) == {}


@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@pytest.mark.parametrize("name", STRATEGIES)
def test_check_estimator_passes_with_every_strategy(name):
    strategy, params = STRATEGIES[name]
    classifier = TransferClassifier(
        three_layers, image_size=16, strategy=strategy, random_state=0, **params
    )
    assert check(classifier, EXCUSED) == {}


# What the regressor does otherwise is the same for all strategies.
@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@pytest.mark.parametrize("name", ["FeatureExtraction gradient", "FineTuning"])
def test_check_estimator_passes_with_a_regressor_that_is_trained(name):
    strategy, params = STRATEGIES[name]
    regressor = TransferRegressor(
        three_layers, image_size=16, strategy=strategy, random_state=0, **params
    )
    assert check(regressor, EXCUSED) == {}


@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
def test_check_estimator_passes_with_the_transformer_on_a_lower_layer():
    transformer = FeatureExtractorTransformer(layer="features.8", pooling="avgmax")
    assert check(transformer) == {}


@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@pytest.mark.filterwarnings("ignore:The least populated class in y:UserWarning")
def test_check_estimator_passes_with_a_transformer_that_is_cross_fitted():
    transformer = FeatureExtractorTransformer(
        three_layers, image_size=16, strategy=FeatureExtraction(), random_state=0
    )
    assert check(transformer, EXCUSED_BY_CROSS_FITTING) == {}


@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@pytest.mark.filterwarnings("ignore:The least populated class in y:UserWarning")
def test_check_estimator_passes_with_a_transformer_that_tunes_its_network():
    tuner = TransferClassifier(
        three_layers,
        image_size=16,
        strategy=FineTuning(),
        max_epochs=1,
        random_state=0,
    )
    transformer = FeatureExtractorTransformer(strategy=tuner, cv=2, random_state=0)
    assert check(transformer, {**EXCUSED, **EXCUSED_BY_CROSS_FITTING}) == {}
