"""scikit-learn's own checks on every estimator, with nothing excused."""

import inspect
import os
from collections import Counter

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import check_estimator

import sktransfer

# A check that silently stops being generated must not go unnoticed.
MIN_CHECKS = {"TransferClassifier": 55, "FeatureExtractorTransformer": 45}
# Only runs where scipy was told, before it was imported, to use the array API.
NOT_ENABLED = set() if os.environ.get("SCIPY_ARRAY_API") else {"check_array_api_input"}


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


def test_every_estimator_has_a_number_of_checks():
    assert {cls.__name__ for cls in all_estimators()} == set(MIN_CHECKS)


@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@pytest.mark.parametrize("estimator_class", all_estimators())
def test_check_estimator_passes_with_nothing_excused(estimator_class):
    results = check_estimator(estimator_class(), on_fail=None)
    failures = {
        result["check_name"]: repr(result["exception"])
        for result in results
        if result["status"] != "passed" and result["check_name"] not in NOT_ENABLED
    }
    assert failures == {}
    counts = Counter(result["status"] for result in results)
    assert counts["passed"] >= MIN_CHECKS[estimator_class.__name__]
