"""Numbers: several targets, gaps, early stopping, partial_fit, checkpoints, the net."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from _networks import changed, regressor, shades, tensors_of
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from skorch.callbacks import Callback
from torch import nn

from sktransfer import FeatureExtraction, FineTuning, MLPHead, ParameterSharing
from sktransfer._engine.normalization import normalized_batch

NAN = np.nan
STRATEGIES = [FeatureExtraction(C=1.0), FineTuning(), FeatureExtraction("gradient")]
STOPPING = {"early_stopping": True, "validation_fraction": 0.4}


def heads_of(estimator):
    return estimator.head_ if isinstance(estimator.head_, list) else [estimator.head_]


def state_of(estimator):
    heads = [(h.coef.tobytes(), h.intercept.tobytes()) for h in heads_of(estimator)]
    return tensors_of(estimator), heads


@pytest.fixture(scope="module")
def two_targets():
    """40 images, how bright they are and how dark, the latter with gaps."""
    X, y = shades(40)
    Y = np.column_stack([y, 7 - y / 100])
    Y[::4, 1] = NAN
    Y[13] = NAN
    return X, Y


# Several targets


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_several_targets_with_gaps_share_one_network(strategy, two_targets):
    X, Y = two_targets
    params = {"max_epochs": 12, "lr": 0.05 if strategy == STRATEGIES[2] else 0.01}
    estimator = regressor(strategy, **params).fit(X, Y)
    predicted = estimator.predict(X)
    known = ~np.isnan(Y)
    scores = [r2_score(Y[k, c], predicted[k, c]) for c, k in enumerate(known.T)]
    assert min(scores) > 0.7
    assert estimator.score(X, Y) == pytest.approx(np.mean(scores))
    assert len(estimator.net_.module_.heads) == len(estimator.head_) == 2
    as_frame = pd.DataFrame(Y.astype(object)).where(known, None)
    again = regressor(strategy, **params).fit(X, as_frame)
    np.testing.assert_array_equal(again.predict(X), predicted)


def test_exact_head_of_a_column_with_gaps_is_that_of_its_known_rows(two_targets):
    X, Y = two_targets
    together = regressor("feature_extraction").fit(X, Y)
    for c, known in enumerate(~np.isnan(Y).T):
        alone = regressor("feature_extraction").fit(X[known], Y[known, c])
        np.testing.assert_allclose(together.predict(X)[:, c], alone.predict(X))


@pytest.mark.parametrize("strategy", STRATEGIES[1:], ids=str)
def test_row_without_any_number_is_not_trained_on(strategy, two_targets):
    X, Y = two_targets
    kept = np.delete(np.arange(40), 13)
    estimator = regressor(strategy).fit(X, Y)
    again = regressor(strategy).fit(X[kept], Y[kept])
    np.testing.assert_allclose(estimator.predict(X), again.predict(X), rtol=1e-4)


def test_target_without_weight_leaves_no_trace(two_targets):
    X, Y = two_targets
    params = {"lr": 0.01, "weight_decay": 0.0, "gradient_clip": None}
    weighted = regressor(task_weights=[1, 0], **params).fit(X, Y)
    probe = regressor("feature_extraction").fit(X, Y)
    np.testing.assert_allclose(
        weighted.head_[1].coef, probe.head_[1].coef, rtol=1e-4, atol=1e-6
    )
    assert np.abs(weighted.head_[0].coef - probe.head_[0].coef).max() > 0.1


@pytest.mark.parametrize("y", [[1.0, 2.0], [[1.0, 2.0, 3.0]] * 2])
def test_score_wants_the_columns_of_fit(y, two_targets):
    X, Y = two_targets
    estimator = regressor("feature_extraction").fit(X, Y)
    with pytest.raises(ValueError, match=r"column\(s\)\. Expected 2, as in the first"):
        estimator.score(X[:2], y)


def test_score_leaves_out_targets_of_which_too_little_is_known(two_targets):
    X, Y = two_targets
    estimator = regressor("feature_extraction").fit(X, Y)
    first = r2_score(Y[:5, 0], estimator.predict(X[:5])[:, 0])
    truth = Y[:5].copy()
    truth[1:, 1] = NAN
    assert estimator.score(X[:5], truth) == pytest.approx(first)
    assert np.isnan(estimator.score(X[:1], [[NAN, NAN]]))


def test_column_whose_numbers_all_judge_is_predicted_by_its_mean():
    X, y = shades(60)
    Y = np.column_stack([y, np.full(60, NAN)])
    Y[:24, 1] = np.arange(24)
    groups = np.where(np.arange(60) < 24, 0, 1)
    ends = set()
    for seed in range(4):
        estimator = regressor(random_state=seed, lr=1e-9, **STOPPING)
        estimator.fit(X, Y, groups=groups)
        ends.add(bool(np.allclose(estimator.predict(X)[:, 1], 11.5, atol=1e-3)))
    assert ends == {True, False}


# Early stopping


def split_of(estimator, X, y):
    """Rows of the training and validation parts of a fit."""
    seen = {}

    class Looker(Callback):
        def on_train_begin(self, net, X=None, **kwargs):
            seen["train"], seen["valid"] = X.rows, net.get_split_datasets(X)[1].rows

    estimator.set_params(callbacks=[Looker()]).fit(X, y)
    return seen["train"], seen["valid"]


def test_probe_is_kept_where_training_only_does_harm():
    X, y = shades(60)
    estimator = regressor(max_epochs=3, lr=10.0, gradient_clip=None, **STOPPING)
    train, _ = split_of(estimator, X, y)
    assert estimator.gain_over_probe_ == 0.0
    assert changed(estimator) == set()
    probe = regressor("feature_extraction").fit(X[train], y[train])
    np.testing.assert_allclose(estimator.predict(X), probe.predict(X), rtol=1e-5)


def test_gain_is_the_r2_that_training_adds_in_units_of_all_rows():
    X, y = shades(90)
    estimator = regressor(max_epochs=8, lr=0.01, **STOPPING)
    train, valid = split_of(estimator, X, y)
    probe = regressor("feature_extraction").fit(X[train], y[train])

    def score(fitted):
        return 1 - np.square(fitted.predict(X[valid]) - y[valid]).mean() / y.var()

    reached = estimator.history_["valid_score"].max()
    assert reached == pytest.approx(score(estimator), abs=1e-5)
    assert estimator.gain_over_probe_ == pytest.approx(
        score(estimator) - score(probe), abs=1e-5
    )
    assert estimator.gain_over_probe_ > 0.01


# Penalties and the net


def test_deltas_attention_comes_from_the_loss_of_the_numbers():
    seen = []

    class Looker(Callback):
        def on_train_begin(self, net, **kwargs):
            seen.append(torch.cat([a for a in net.penalty_.attention if a is not None]))

    X, y = shades(24)
    for target in (y, X[..., 0].astype(float).std(axis=(1, 2))):
        strategy = ParameterSharing("delta")
        regressor(strategy, max_epochs=1, callbacks=[Looker()]).fit(X, target)
    assert all(torch.isfinite(attention).all() for attention in seen)
    assert all(attention.std() > 1e-3 for attention in seen)
    assert not torch.allclose(*seen)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("loaded", [False, True])
def test_net_maps_normalized_images_to_standardized_targets(
    strategy, loaded, two_targets
):
    X, Y = two_targets
    estimator = regressor(strategy).fit(X, Y)
    estimator = pickle.loads(pickle.dumps(estimator)) if loaded else estimator
    preprocessing = estimator.backbone_.preprocessing
    batch = normalized_batch(list(X), preprocessing, torch.device("cpu"))
    outputs = estimator.net_.forward(batch)
    expected = estimator.predict(X)
    for c, head in enumerate(estimator.head_):
        found = outputs[c][:, 0].numpy() * head.target_scale + head.target_mean
        np.testing.assert_allclose(found, expected[:, c], rtol=1e-4)
    np.testing.assert_allclose(estimator.head_[0].target_mean, np.nanmean(Y[:, 0]))


# Going on


def test_partial_fit_is_there_for_strategies_that_train():
    assert not hasattr(regressor("feature_extraction"), "partial_fit")
    assert hasattr(regressor("fine_tuning"), "partial_fit")
    assert hasattr(regressor("feature_extraction", loss="l1"), "partial_fit")


def test_partial_fit_learns_in_the_units_of_its_first_call():
    X, y = shades(60)
    estimator = regressor(FineTuning(init="random"), lr=0.01)
    estimator.partial_fit(X[:20], y[:20])
    units = estimator.head_.target_mean, estimator.head_.target_scale
    assert units == (pytest.approx(y[:20].mean()), pytest.approx(y[:20].std()))
    for _ in range(15):
        estimator.partial_fit(X, y)
    assert (estimator.head_.target_mean, estimator.head_.target_scale) == units
    assert estimator.score(X, y) > 0.8
    assert estimator.n_iter_ == 16
    loaded = pickle.loads(pickle.dumps(estimator))
    loaded.set_params(lr=1e-12).partial_fit(X, y + 1000)
    assert (loaded.head_.target_mean, loaded.head_.target_scale) == units
    np.testing.assert_allclose(loaded.predict(X), estimator.predict(X), rtol=1e-5)


def test_batch_that_cannot_be_read_changes_nothing(two_targets):
    X, Y = two_targets
    estimator = regressor().partial_fit(X, Y)
    before = state_of(estimator)
    with pytest.raises(ValueError, match=r"found 1 column\(s\)\. Expected 2"):
        estimator.partial_fit(X, X[:, 0, 0, 0])
    assert state_of(estimator) == before
    missing = np.column_stack([Y[:, 0], np.full(40, NAN)])
    assert estimator.partial_fit(X, missing).n_iter_ == 2
    fresh = regressor()
    with pytest.raises(ValueError, match="found no number in column 1"):
        fresh.partial_fit(X, missing)
    with pytest.raises(NotFittedError):
        fresh.predict(X)


@pytest.mark.parametrize("head", ["linear", MLPHead((8,), dropout=0.0)], ids=str)
def test_warm_start_goes_on_from_where_the_last_fit_ended(head):
    X, y = shades(60)
    estimator = regressor(FineTuning(init="random"), head=head, warm_start=True)
    first = estimator.set_params(lr=0.01).fit(X, y).predict(X)
    second = estimator.set_params(lr=1e-12).fit(X, y + 1000).predict(X)
    np.testing.assert_allclose(second, first, rtol=1e-5)
    estimator.set_params(lr=0.01, max_epochs=6).fit(X, y)
    assert estimator.score(X, y) > r2_score(y, first)


def test_warm_start_of_an_exact_solution_solves_again():
    X, y = shades(40)
    estimator = regressor("feature_extraction", warm_start=True).fit(X[:20], y[:20])
    anew = regressor("feature_extraction").fit(X, y)
    np.testing.assert_array_equal(estimator.fit(X, y).predict(X), anew.predict(X))


class InterruptedLoss:
    """Absolute errors, until it was called so often."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self, output, target):
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt
        return nn.functional.l1_loss(output, target, reduction="none")


def test_interrupted_fit_goes_on_to_the_bits_of_one_that_was_not(tmp_path):
    X, y = shades(80)
    params = {"max_epochs": 4, "batch_size": 12, **STOPPING}
    loss = InterruptedLoss(20)
    estimator = regressor(loss=loss, checkpoint=tmp_path, **params)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, y)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.checkpoint"]
    with pytest.raises(ValueError, match="belongs to a fit on other data"):
        estimator.fit(X, y + 1e-6)
    resumed = estimator.fit(X, y)
    whole = regressor(loss=InterruptedLoss(10**6), **params).fit(X, y)
    assert state_of(resumed) == state_of(whole)
    assert resumed.gain_over_probe_ == whole.gain_over_probe_
