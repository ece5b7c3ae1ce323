"""TransferRegressor beyond check_estimator: units, weights, parameters, pickles."""

import pickle

import numpy as np
import pandas as pd
import pytest
from _networks import changed, regressor, shades, tensors_of
from sklearn.base import clone, is_regressor
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from torch import nn

from sktransfer import (
    FeatureExtraction,
    FineTuning,
    GradualUnfreezing,
    MLPHead,
    ParameterSharing,
    TransferRegressor,
)

STRATEGIES = [
    FeatureExtraction(C=1.0),
    FeatureExtraction("gradient"),
    FineTuning(),
    GradualUnfreezing(),
    ParameterSharing("l2_sp"),
    ParameterSharing("delta"),
    ParameterSharing("bss"),
]


def state_of(estimator):
    return tensors_of(estimator), estimator.head_.coef.tobytes()


def test_photos_from_paths_arrays_and_frames_are_predicted_alike(
    colour_images, colour_paths
):
    X, _ = colour_images
    paths, _ = colour_paths
    redness = X[..., 0].mean(axis=(1, 2))
    estimator = TransferRegressor(image_size=48).fit(X, redness)
    assert is_regressor(estimator)
    assert estimator.score(X, redness) > 0.9
    expected = estimator.predict(X)
    assert expected.dtype == np.float64
    for same in (paths, pd.DataFrame({"photo": paths}), pd.Series(paths)):
        np.testing.assert_array_equal(estimator.predict(same), expected)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_strategy_learns_in_the_targets_own_units(strategy):
    X, y = shades(60)
    params = {"max_epochs": 12, "lr": 0.1 if strategy is STRATEGIES[1] else 0.01}
    estimator = regressor(strategy, **params).fit(X, y)
    assert estimator.score(X, y) == r2_score(y, estimator.predict(X)) > 0.7
    # Whatever the units, the same is learnt: no rate depends on them.
    other = regressor(strategy, **params).fit(X, 1e-4 * y - 3)
    np.testing.assert_allclose(
        other.predict(X), 1e-4 * estimator.predict(X) - 3, rtol=1e-5
    )


@pytest.mark.parametrize("strategy", STRATEGIES[:3], ids=str)
def test_predictions_have_the_shape_of_y(strategy):
    X, y = shades(24)
    one = regressor(strategy).fit(X, y)
    assert one.predict(X).shape == (24,)
    column = regressor(strategy).fit(X, y[:, np.newaxis])
    assert column.predict(X).shape == (24, 1)
    np.testing.assert_array_equal(column.predict(X)[:, 0], one.predict(X))
    assert column.score(X, y[:, np.newaxis]) == one.score(X, y)
    assert regressor(strategy).fit(X, np.stack([y] * 3, 1)).predict(X).shape == (24, 3)


@pytest.mark.parametrize("strategy", STRATEGIES[:3], ids=str)
def test_constant_target_is_learnt(strategy):
    X, y = shades(24)
    estimator = regressor(strategy, max_epochs=4).fit(X, np.full(24, 7.0))
    np.testing.assert_allclose(estimator.predict(X), 7.0, atol=1.5)
    if estimator.solver_ == "exact":
        np.testing.assert_allclose(estimator.predict(X), 7.0)
    several = regressor(strategy).fit(X, np.column_stack([y, np.full(24, 7.0)]))
    assert np.isfinite(several.predict(X)).all()


def test_fitting_changes_no_byte_of_the_network():
    X, y = shades(24)
    estimator = regressor("feature_extraction").fit(X, y)
    estimator.predict(X)
    assert changed(estimator) == set()


@pytest.mark.parametrize("strategy", STRATEGIES[:3], ids=str)
def test_rows_without_weight_do_not_count(strategy):
    X, y = shades(40)
    weight = (np.arange(40) % 4 > 0).astype(float)
    spoilt = np.where(weight > 0, y, 1e6)
    weighted = regressor(strategy).fit(X, spoilt, sample_weight=weight)
    dropped = regressor(strategy).fit(X[weight > 0], y[weight > 0])
    np.testing.assert_allclose(weighted.predict(X), dropped.predict(X), rtol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES[:3], ids=str)
def test_heavy_rows_are_fitted_better(strategy):
    X, y = shades(40)
    heavy = np.arange(40) < 8
    params = {"max_epochs": 8, "lr": 0.01}
    errors = [
        np.abs(
            regressor(strategy, **params)
            .fit(X, np.where(heavy, y + 80, y), sample_weight=weight)
            .predict(X[:8])
            - y[:8]
            - 80
        ).mean()
        for weight in (None, np.where(heavy, 100.0, 1.0))
    ]
    assert errors[1] < 0.7 * errors[0]


def test_score_is_weighted_r2():
    X, y = shades(24)
    estimator, weight = regressor("feature_extraction").fit(X, y), np.arange(24.0)
    expected = r2_score(y, estimator.predict(X), sample_weight=weight)
    assert estimator.score(X, y, sample_weight=weight) == expected
    assert expected != estimator.score(X, y)


def test_outlier_draws_the_squared_error_only():
    X, y = shades(40)
    spoilt = y.copy()
    spoilt[0] += 1000
    params = {"max_epochs": 30, "lr": 0.1}
    errors = {
        loss: np.abs(
            regressor(FeatureExtraction("gradient"), loss=loss, **params)
            .fit(X, spoilt)
            .predict(X)[1:]
            - y[1:]
        ).mean()
        for loss in ("auto", "l1", "huber")
    }
    assert errors["l1"] < 0.5 * errors["auto"]
    assert errors["huber"] < 0.7 * errors["auto"]


def test_loss_may_be_a_module_of_torch():
    X, y = shades(24)
    named, own = (
        regressor(loss=loss).fit(X, y) for loss in ("l1", nn.L1Loss(reduction="none"))
    )
    assert state_of(named) == state_of(own)
    assert state_of(named) != state_of(regressor().fit(X, y))


def test_another_head_predicts_in_the_targets_units_too():
    X, y = shades(40)
    estimator = regressor(head=MLPHead((16,)), max_epochs=12, lr=0.01).fit(X, y)
    assert estimator.solver_ == "gradient"
    assert estimator.score(X, y) > 0.8
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict(X), estimator.predict(X))


@pytest.mark.parametrize("strategy", ["feature_extraction", "fine_tuning"])
def test_same_seed_gives_the_same_bits_after_cloning_and_pickling(strategy):
    X, y = shades(24)
    params = {"augmentation": None if strategy == "feature_extraction" else "light"}
    first = regressor(strategy, **params).fit(X, y)
    second = clone(first).set_params(cache=None).fit(X, y)
    assert state_of(first) == state_of(second)
    loaded = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(loaded.predict(X), second.predict(X))


def test_strategies_are_searched_over():
    X, y = shades(40)
    search = GridSearchCV(
        regressor(max_epochs=3),
        {"strategy": [FeatureExtraction(C=1e-6), FineTuning(1)]},
        cv=2,
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_["strategy"].unfreeze == 1
    assert search.best_score_ > 0.5
    nested = regressor(None).set_params(strategy__C=3.0)
    assert nested.strategy.C == 3.0


def test_targets_with_gaps_pass_cross_validation():
    X, y = shades(30)
    Y = np.column_stack([y, -y])
    Y[::3, 1] = np.nan
    scores = cross_val_score(
        regressor("feature_extraction"), X, Y, cv=KFold(2), error_score="raise"
    )
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"strategy": FeatureExtraction(C=-1)}, "'C' parameter of FeatureExtraction"),
        ({"strategy": "fine"}, "'strategy' parameter of TransferRegressor"),
        ({"loss": "focal"}, "loss: found 'focal' for a continuous target"),
        ({"task_weights": [1, 2]}, r"task_weights.*1 target\(s\)"),
        (
            {"strategy": FeatureExtraction("exact"), "loss": "l1"},
            "solver='exact' cannot be used with loss='l1'",
        ),
    ],
)
def test_wrong_parameters_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        regressor(**({"strategy": "fine_tuning"} | params)).fit(*shades(8))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "TransferRegressor requires y"),
        ([1.0] * 7, r"\[8, 7\]"),
        ([1.0] * 7 + [np.nan], "found nan in row 7"),
        (["low"] * 8, "'low' in row 0"),
    ],
)
def test_wrong_targets_are_named(y, message):
    with pytest.raises(ValueError, match=message):
        regressor().fit(shades(8)[0], y)


def test_classifiers_own_parameters_are_not_there():
    names = set(TransferRegressor().get_params())
    assert not names & {"class_weight", "label_smoothing"}
    assert not hasattr(TransferRegressor(), "predict_proba")
