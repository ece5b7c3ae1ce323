"""Estimators that train: the probe, early stopping, stops, and what a fit leaves."""

import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from _networks import (
    base_tensors_of,
    changed,
    classifier,
    images,
    tensors_of,
    three_convs,
)
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback, EarlyStopping, EpochScoring
from torch import nn

from sktransfer import (
    FeatureCache,
    FeatureExtraction,
    FineTuning,
    GradualUnfreezing,
    MLPHead,
    ParameterSharing,
)
from sktransfer._cache.memory import SHARED
from sktransfer._engine.activations import Activations
from sktransfer._engine.normalization import normalized_batch
from sktransfer.exceptions import InvalidImageError

STOPPING = {"early_stopping": True, "validation_fraction": 0.4}


def logits(estimator, X):
    return estimator.decision_function(X)


def state_of(estimator):
    """What predictions are made of, to the last bit."""
    heads = estimator.head_ if isinstance(estimator.head_, list) else [estimator.head_]
    return tensors_of(estimator), [
        (h.coef.tobytes(), h.intercept.tobytes()) for h in heads
    ]


def without_seconds(history):
    return history.drop(columns="seconds")


# Never worse than the probe


def split_of(estimator, X, y, groups=None):
    """Rows of the training and validation parts of a fit, as the engine gets them."""
    seen = {}

    class Looker(Callback):
        def on_train_begin(self, net, X=None, **kwargs):
            seen["train"] = X.rows
            seen["valid"] = net.get_split_datasets(X)[1].rows

    estimator.set_params(callbacks=[Looker()]).fit(X, y, groups=groups)
    return seen["train"], seen["valid"]


@pytest.mark.parametrize(
    "strategy", [FineTuning(), GradualUnfreezing(), ParameterSharing()]
)
def test_probe_is_kept_where_training_only_does_harm(strategy):
    X, y = images(60)
    estimator = classifier(
        strategy, max_epochs=3, lr=10.0, gradient_clip=None, **STOPPING
    )
    train, valid = split_of(estimator, X, y)
    assert sorted([*train, *valid]) == list(range(60))
    assert estimator.gain_over_probe_ == 0.0
    assert changed(estimator) == set()
    probe = classifier("feature_extraction").fit(X[train], y[train])
    np.testing.assert_allclose(logits(estimator, X), logits(probe, X), atol=1e-5)
    on_all_rows = classifier("feature_extraction").fit(X, y)
    assert np.abs(logits(probe, X) - logits(on_all_rows, X)).max() > 0.01
    assert (estimator.history_["valid_score"] <= probe.score(X[valid], y[valid])).all()


def test_gain_is_what_training_adds_on_the_validation_part():
    X, y = images(90, noise=250)
    strategy = FineTuning(backbone_lr_ratio=1.0)
    estimator = classifier(strategy, max_epochs=8, lr=0.01, **STOPPING)
    train, valid = split_of(estimator, X, y)
    probe = classifier("feature_extraction").fit(X[train], y[train])
    reached = estimator.score(X[valid], y[valid])
    assert reached == estimator.history_["valid_score"].max()
    gain = reached - probe.score(X[valid], y[valid])
    assert estimator.gain_over_probe_ == pytest.approx(gain)
    assert gain > 0


def same_split(one, other):
    return all(map(np.array_equal, one, other))


@pytest.mark.parametrize("random_state", [0, None, np.random.RandomState(0)], ids=str)
@pytest.mark.parametrize("strategy", ["fine_tuning", FeatureExtraction("gradient")])
def test_warm_start_is_not_judged_on_rows_it_has_learnt_from(strategy, random_state):
    X, y = images(60)
    params = {"random_state": random_state, "warm_start": True, **STOPPING}
    estimator = classifier(strategy, **params)
    first = split_of(estimator, X, y)
    seeds = [estimator._seed_of_this_fit()]
    estimator = pickle.loads(pickle.dumps(estimator.set_params(callbacks=None)))
    estimator.fit(X, y)
    seeds.append(estimator._seed_of_this_fit())
    assert same_split(split_of(estimator, X, y), first)
    assert seeds[0] != seeds[1]  # the order of the rows is another


def test_fresh_fit_splits_anew():
    X, y = images(60)
    estimator = classifier(random_state=None, warm_start=True, **STOPPING)
    first = split_of(estimator, X, y)
    assert not same_split(split_of(clone(estimator), X, y), first)
    anew = split_of(estimator.set_params(warm_start=False), X, y)
    assert not same_split(anew, first)
    assert same_split(split_of(estimator.set_params(warm_start=True), X, y), anew)


def test_fits_with_an_int_split_alike():
    X, y = images(60)
    estimator = classifier(warm_start=True, **STOPPING)
    splits = [split_of(estimator, X, y) for _ in range(2)]
    splits += [split_of(clone(estimator), X, y)]
    splits += [split_of(estimator.set_params(warm_start=False), X, y)]
    assert all(same_split(split, splits[0]) for split in splits)


def test_partial_fit_splits_nothing_off():
    rows = []

    class Looker(Callback):
        def on_train_begin(self, net, X=None, **kwargs):
            rows.append((X.rows.tolist(), net.get_split_datasets(X)[1]))

    estimator = classifier(warm_start=True, callbacks=[Looker()], **STOPPING)
    estimator.partial_fit(*images(60)).partial_fit(*images(60))
    assert rows == [(list(range(60)), None)] * 2


@pytest.mark.parametrize("strategy", [FineTuning("top"), "gradual_unfreezing"])
@pytest.mark.parametrize("in_file", [False, True])
def test_one_pass_serves_the_probe_and_training_behind_the_first_cut(
    strategy, in_file, tmp_path, monkeypatch
):
    X, y = images(24)
    alone = classifier(strategy, cache=None, max_epochs=4).fit(X, y)
    SHARED.clear()
    cache = FeatureCache(tmp_path / "features.sqlite") if in_file else "auto"
    passed = []
    forward = Activations._forward

    def watched(self, pixels):
        passed.append(self.network)
        return forward(self, pixels)

    monkeypatch.setattr(Activations, "_forward", watched)
    together = classifier(strategy, cache=cache, max_epochs=4).fit(X, y)
    first = together.backbone_.base.prefix("middle", torch.device("cpu"))
    assert first not in passed
    np.testing.assert_array_equal(logits(together, X), logits(alone, X))


def test_best_weights_are_restored_not_the_last():
    X, y = images(90)
    params = {"max_epochs": 7, "lr": 0.02, "lr_schedule": "constant", **STOPPING}
    estimator = classifier(
        FineTuning(init="random"), gradient_clip=None, n_iter_no_change=8, **params
    )
    _, valid = split_of(estimator, X, y)
    scores = estimator.history_["valid_score"]
    assert scores.iloc[-1] < scores.max()
    assert estimator.score(X[valid], y[valid]) == scores.max()


def test_gain_is_told_only_where_a_probe_competed():
    X, y = images(60)
    estimator = classifier(FineTuning(init="random"), warm_start=True, **STOPPING)
    assert not hasattr(estimator.fit(X, y), "gain_over_probe_")
    estimator.set_params(strategy=FineTuning(), warm_start=False).fit(X, y)
    assert hasattr(estimator, "gain_over_probe_")
    estimator.set_params(warm_start=True).fit(X, y)
    assert not hasattr(estimator, "gain_over_probe_")


def test_fit_ends_when_nothing_improves():
    estimator = classifier(max_epochs=30, lr=1e-9, n_iter_no_change=3, **STOPPING)
    estimator.fit(*images(60))
    # None of these epochs is better than the probe.
    assert estimator.n_iter_ == len(estimator.history_) == 3


def test_validation_part_is_stratified_and_seeded():
    X, y = images(60)
    parts = [
        split_of(classifier(random_state=s, **STOPPING), X, y)[1] for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(parts[0], parts[1])
    assert set(parts[0]) != set(parts[2])
    assert np.bincount(y[parts[0]]).tolist() == [8, 8, 8]


def test_early_stopping_is_off_with_a_warning_where_few_rows_would_judge():
    X, y = images(60)
    estimator = classifier(early_stopping=True, validation_fraction=0.3)
    with pytest.warns(UserWarning, match="Early stopping is off.* is 18"):
        estimator.fit(X, y)
    plain = classifier().fit(X, y)
    np.testing.assert_array_equal(logits(estimator, X), logits(plain, X))
    assert "valid_loss" not in estimator.history_
    assert not hasattr(estimator, "gain_over_probe_")


def grouped_images():
    """Images that show their group in their first pixel."""
    X, y = images(120)
    groups = np.arange(120) // 6
    X[:, 0, 0, 0] = groups
    return X, y, groups


def test_groups_are_not_split():
    X, y, groups = grouped_images()
    train, valid = split_of(classifier(**STOPPING), X, y, groups)
    assert set(groups[train]) & set(groups[valid]) == set()
    train, valid = split_of(classifier(**STOPPING), X, y)
    assert set(groups[train]) & set(groups[valid]) != set()


def test_groups_arrive_by_metadata_routing_in_a_pipeline_in_cross_validation():
    X, y, groups = grouped_images()
    seen = []

    class Looker(Callback):
        def on_train_begin(self, net, X=None, **kwargs):
            valid = net.get_split_datasets(X)[1]
            seen.append((len(X), len(valid), {*X.rows // 6} & {*valid.rows // 6}))

    with config_context(enable_metadata_routing=True):
        estimator = classifier(callbacks=[Looker()], **STOPPING)
        pipeline = make_pipeline(estimator.set_fit_request(groups=True))
        params = {"groups": groups}
        cross_validate(
            pipeline, X, y, cv=GroupKFold(2), params=params, error_score="raise"
        )
        assert len(seen) == 2
        for n_train, n_valid, _ in seen:
            assert n_train + n_valid == 60
            # Whole groups of six only.
            assert n_valid % 6 == 0
        seen.clear()
        pipeline.fit(X, y, groups=groups)
        assert seen[0][2] == set()
        assert sum(seen[0][:2]) == 120


# Between the probe and what was trained


def float_tensors(backbone):
    state = backbone.trunk.state_dict()
    return {k: v.double() for k, v in state.items() if v.is_floating_point()}


@pytest.mark.parametrize(
    "kind",
    [
        FineTuning,
        partial(FineTuning, "top", batch_norm="train"),
        GradualUnfreezing,
        ParameterSharing,
    ],
)
@pytest.mark.parametrize("mixing", [0.25, 0.5])
def test_fit_ends_between_the_probe_and_what_was_trained(kind, mixing):
    X, y = images(24)
    trained, mixed = (
        classifier(kind(mixing=m), lr=0.05, max_epochs=4).fit(X, y)
        for m in (1.0, mixing)
    )
    probe = classifier("feature_extraction").fit(X, y)
    assert changed(mixed) == changed(trained) != set()
    start, end = (float_tensors(e.backbone_) for e in (probe, trained))
    for name, found in float_tensors(mixed.backbone_).items():
        if "running" in name and mixed.strategy.batch_norm == "train":
            continue  # statistics are of the network that it has become
        expected = (1 - mixing) * start[name] + mixing * end[name]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for part in ("coef", "intercept"):
        start, end, found = (getattr(e.head_, part) for e in (probe, trained, mixed))
        expected = (1 - mixing) * start + mixing * end
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert np.abs(start - end).max() > 0.01
    # Each row of the history is of what was trained.
    pd.testing.assert_frame_equal(
        without_seconds(mixed.history_), without_seconds(trained.history_)
    )


@pytest.mark.parametrize(
    "params",
    [
        {"strategy": partial(FineTuning, init="random")},
        {"strategy": FineTuning, "head": MLPHead((4,))},
    ],
)
def test_where_no_probe_was_solved_there_is_nothing_to_go_back_to(params):
    X, y = images(24)
    params = dict(params)
    make = params.pop("strategy")
    logits_of = [
        logits(classifier(make(mixing=m), lr=0.05, **params).fit(X, y), X)
        for m in (0.5, 1.0)
    ]
    np.testing.assert_array_equal(*logits_of)


def test_training_that_goes_on_does_not_go_back_to_the_first_probe():
    X, y = images(24)
    pair = [
        classifier(FineTuning(mixing=m), lr=0.05, warm_start=True) for m in (0.5, 1.0)
    ]
    for estimator in pair:
        estimator.fit(X, y)
    # From the same weights on, what is left of the mixing would be seen.
    pair[1].backbone_, pair[1].head_ = pair[0].backbone_, pair[0].head_
    for estimator in pair:
        estimator.fit(X, y)
    np.testing.assert_array_equal(*(logits(estimator, X) for estimator in pair))


# Augmentation


class Camera:
    """A transform that records what it sees and returns it darker."""

    def __init__(self):
        self.seen = []

    def __call__(self, image):
        self.seen.append(np.asarray(image).tobytes())
        return image.point(lambda value: value // 2)

    def __deepcopy__(self, memo):
        """Clones of an estimator have copies of its callables."""
        return self


@pytest.mark.parametrize("strategy", [FineTuning(1), FeatureExtraction()])
def test_augmentation_sees_training_images_only_and_each_once_an_epoch(strategy):
    X, y = images(60)
    camera = Camera()
    estimator = classifier(strategy, augmentation=camera, max_epochs=3, **STOPPING)
    train, valid = split_of(estimator, X, y)
    estimator.predict(X)
    estimator.score(X, y)
    assert estimator.solver_ == "gradient"
    assert len(camera.seen) == 3 * len(train)
    assert set(camera.seen) == {X[row].tobytes() for row in train}
    assert set(camera.seen) & {X[row].tobytes() for row in valid} == set()


def test_probe_does_not_see_augmentation():
    X, y = images(60)
    seen = []

    class Looker(Callback):
        def on_train_begin(self, net, **kwargs):
            seen.append([p.detach().clone() for p in net.module_.heads.parameters()])

    for augmentation in (None, Camera()):
        classifier(augmentation=augmentation, callbacks=[Looker()]).fit(X, y)
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)


def test_augmentation_stays_off_the_test_folds_of_cross_validation():
    X, y = images(40)
    camera = Camera()
    estimator = classifier(FineTuning(1), augmentation=camera, max_epochs=1)
    results = cross_validate(
        estimator, X, y, cv=2, return_indices=True, error_score="raise"
    )
    n = [len(train) for train in results["indices"]["train"]]
    for start, train in zip((0, n[0]), results["indices"]["train"], strict=True):
        seen = camera.seen[start : start + len(train)]
        assert set(seen) == {X[row].tobytes() for row in train}
    assert len(camera.seen) == sum(n)


@pytest.mark.parametrize("name", ["light", "standard", "trivial"])
def test_named_augmentations_change_the_fit_and_not_its_reproducibility(name):
    X, y = images(24)
    one, two = (classifier(augmentation=name).fit(X, y) for _ in range(2))
    assert state_of(one) == state_of(two)
    assert state_of(one) != state_of(classifier().fit(X, y))


# Checkpoints


CHILD = """
import os, signal, sys
import numpy as np
sys.path.insert(0, {tests!r})
from _networks import classifier, images
from sktransfer import ParameterSharing

class Turn:
    n = 0
    def __call__(self, image):
        Turn.n += 1
        if Turn.n == 48 * 2 + 20:  # two epochs, and some of the third
            os.kill(os.getpid(), signal.SIGKILL)
        return image.rotate(np.random.uniform(-20, 20))

X, y = images(80)
classifier(ParameterSharing("delta", unfreeze=2), augmentation=Turn(), max_epochs=5,
           checkpoint={folder!r}, early_stopping=True, validation_fraction=0.4,
           batch_size=16).fit(X, y)
"""


class Turn:
    """A random transform, as a user would write it, that counts its calls."""

    n = 0

    def __call__(self, image):
        Turn.n += 1
        return image.rotate(np.random.uniform(-20, 20))  # noqa: NPY002


def test_fit_goes_on_after_a_kill_with_the_bits_of_one_that_was_never_stopped(tmp_path):
    folder = tmp_path / "state"
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in folder.iterdir()] == ["fit.checkpoint"]

    X, y = images(80)
    params = {"augmentation": Turn(), "max_epochs": 5, "batch_size": 16, **STOPPING}
    strategy = ParameterSharing("delta", unfreeze=2)
    resumed = classifier(strategy, checkpoint=folder, **params).fit(X, y)
    assert list(folder.iterdir()) == []
    assert Turn.n == 3 * 48
    whole = classifier(strategy, **params).fit(X, y)
    assert state_of(resumed) == state_of(whole)
    pd.testing.assert_frame_equal(
        without_seconds(resumed.history_), without_seconds(whole.history_)
    )
    assert resumed.gain_over_probe_ == whole.gain_over_probe_
    assert resumed.n_iter_ == whole.n_iter_


class InterruptIn:
    """A callable that is interrupted once so many images or batches have passed."""

    def __init__(self, calls):
        self.calls = calls

    def count(self):
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt


class InterruptingAugmentation(InterruptIn):
    def __call__(self, image):
        self.count()
        return image


class InterruptingLoss(InterruptIn):
    def __call__(self, output, target):
        self.count()
        return nn.functional.cross_entropy(output, target, reduction="none")


class InterruptingCallback(Callback):
    def __init__(self):
        self.epochs = 0

    def on_epoch_begin(self, net, **kwargs):
        self.epochs += 1
        if self.epochs == 2:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(folder, **params):
    estimator = classifier(checkpoint=folder, max_epochs=4, batch_size=12, **params)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(*images(36))
    return estimator


@pytest.mark.usefixtures("keyboard")
@pytest.mark.parametrize(
    "params",
    [
        {"augmentation": InterruptingAugmentation(50)},
        {"loss": InterruptingLoss(5)},
        {"callbacks": [InterruptingCallback()]},
    ],
    ids=["augmentation", "loss", "callback"],
)
def test_interrupted_fit_leaves_a_checkpoint_and_nothing_that_looks_fitted(
    params, tmp_path
):
    estimator = interrupted(tmp_path, **params)
    X, _ = images(36)
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)
    with pytest.raises(NotFittedError):
        estimator.predict(X)
    assert [name for name in vars(estimator) if name.endswith("_")] == []
    assert [path.name for path in tmp_path.iterdir()] == ["fit.checkpoint"]


def test_interrupted_fit_goes_on_in_the_same_estimator(tmp_path):
    loss = InterruptingLoss(5)
    estimator = interrupted(tmp_path, loss=loss)
    X, y = images(36)
    estimator.fit(X, y)
    # The first of four epochs was done; at the end rows judge two kinds of weights.
    assert -loss.calls == 3 * 3 + 2 * 3
    whole = classifier(max_epochs=4, batch_size=12, loss=InterruptingLoss(10**6))
    assert state_of(estimator) == state_of(whole.fit(X, y))


def test_fit_whose_callbacks_record_what_they_like_goes_on(tmp_path):
    class Recorder(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.history.record("counts", np.arange(3) + len(net.history))
            net.history.record("when", pd.Timestamp("2026-11-24"))

    params = {"max_epochs": 4, "batch_size": 12, "callbacks": [Recorder()]}
    X, y = images(36)
    estimator = classifier(loss=InterruptingLoss(8), checkpoint=tmp_path, **params)
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="'when'"):
        estimator.fit(X, y)
    with pytest.warns(UserWarning, match=r"record 'when' \(Timestamp\)") as caught:
        estimator.fit(X, y)
    assert len(caught) == 1
    whole = classifier(loss=InterruptingLoss(10**6), **params).fit(X, y)
    assert state_of(estimator) == state_of(whole)
    counts, when = estimator.history_["counts"], estimator.history_["when"]
    assert np.stack(counts).tolist() == np.stack(whole.history_["counts"]).tolist()
    assert when.isna().tolist() == [True, True, False, False]


def test_fitted_estimator_that_is_interrupted_is_not_fitted_any_more():
    X, y = images(36)
    estimator = classifier().fit(X, y).set_params(loss=InterruptingLoss(2))
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, y)
    with pytest.raises(NotFittedError):
        estimator.predict(X)


OTHERS = {
    "labels": ({}, lambda X, y: (X, y[::-1])),
    "images": ({}, lambda X, y: (X // 2, y)),
    "rate": ({"lr": 0.5}, None),
    "strategy": ({"strategy": FineTuning(1)}, None),
    "seed": ({"random_state": 7}, None),
    "head": ({"head": MLPHead((8,))}, None),
    "optimizer": ({"optimizer": torch.optim.SGD}, None),
}


@pytest.mark.parametrize("other", OTHERS)
def test_checkpoint_of_another_fit_is_refused(other, tmp_path):
    first = {"optimizer": torch.optim.Adam, "lr": 0.1, "head": MLPHead((4,))}
    interrupted(tmp_path, loss=InterruptingLoss(5), **first)
    params, change = OTHERS[other]
    params = {"max_epochs": 4, "batch_size": 12, **first} | params
    X, y = images(36)
    X, y = change(X, y) if change else (X, y)
    loss = InterruptingLoss(10**6)
    strategy = params.pop("strategy", "fine_tuning")
    estimator = classifier(strategy, checkpoint=tmp_path, loss=loss, **params)
    with pytest.raises(ValueError, match="belongs to a fit on other data"):
        estimator.fit(X, y)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.checkpoint"]
    with pytest.raises(NotFittedError):
        estimator.predict(X)


def test_checkpoint_is_of_the_groups_too(tmp_path):
    X, y, groups = grouped_images()
    params = {"checkpoint": tmp_path, "max_epochs": 4, **STOPPING}
    estimator = classifier(loss=InterruptingLoss(12), **params)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, y, groups=groups)
    with pytest.raises(ValueError, match="belongs to a fit on other data"):
        estimator.fit(X, y, groups=groups[::-1] // 2)


def fitted_once(folder, strategy="fine_tuning", **params):
    """An estimator whose next fit goes on from its first, of four epochs."""
    params = {"max_epochs": 4, "batch_size": 12, "warm_start": True} | params
    loss = InterruptingLoss(10**6)
    estimator = classifier(strategy, checkpoint=folder, loss=loss, **params)
    return estimator.fit(*images(36))


def stop_second_fit(estimator):
    estimator.set_params(loss=InterruptingLoss(8))  # in the third epoch
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(*images(36))
    return estimator.set_params(loss=InterruptingLoss(10**6))


@pytest.mark.parametrize("head", ["linear", MLPHead((4,))], ids=str)
@pytest.mark.parametrize("strategy", [FeatureExtraction("gradient"), FineTuning()])
def test_script_that_was_stopped_in_its_second_fit_goes_on_there(
    strategy, head, tmp_path
):
    X, y = images(36)
    whole = fitted_once(None, strategy, head=head)
    first = logits(whole, X)
    whole.fit(X, y)
    stop_second_fit(fitted_once(tmp_path, strategy, head=head))
    (file,) = tmp_path.iterdir()

    again = fitted_once(tmp_path, strategy, head=head)
    np.testing.assert_array_equal(logits(again, X), first)
    assert list(tmp_path.iterdir()) == [file]
    loss = InterruptingLoss(10**6)
    again.set_params(loss=loss).fit(X, y)
    assert loss.calls == 10**6 - (4 - 2) * 3
    np.testing.assert_array_equal(logits(again, X), logits(whole, X))
    assert again.n_iter_ == whole.n_iter_ == 4
    assert list(tmp_path.iterdir()) == []


def test_second_fit_does_not_take_up_a_first_one_that_was_stopped(tmp_path):
    X, y = images(36)
    interrupted(tmp_path, loss=InterruptingLoss(5), warm_start=True)
    second = fitted_once(None).set_params(checkpoint=tmp_path).fit(X, y)
    assert state_of(second) == state_of(fitted_once(None).fit(X, y))
    assert [path.name for path in tmp_path.iterdir()] == ["fit.checkpoint"]
    assert state_of(fitted_once(tmp_path)) == state_of(fitted_once(None))
    assert list(tmp_path.iterdir()) == []


def test_second_fit_that_was_stopped_goes_on_in_the_same_estimator_only(tmp_path):
    X, y = images(36)
    stopped = stop_second_fit(fitted_once(tmp_path))
    files = list(tmp_path.iterdir())
    for other in ({"lr": 0.5}, {"lr": "auto", "max_epochs": 9}):
        with pytest.raises(ValueError, match="belongs to a fit on other data"):
            stopped.set_params(**other).fit(X, y)
    stopped.set_params(max_epochs=4)
    with pytest.raises(ValueError, match="belongs to a fit on other data"):
        stopped.fit(X // 2, y)
    assert list(tmp_path.iterdir()) == files
    resumed = pickle.loads(pickle.dumps(stopped)).fit(X, y)
    assert list(tmp_path.iterdir()) == []
    assert state_of(resumed) == state_of(fitted_once(None).fit(X, y))


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(0)])
def test_seed_that_was_drawn_is_kept_in_the_checkpoint(random_state, tmp_path):
    seeds = []

    class Looker(Callback):
        def on_train_begin(self, net, **kwargs):
            seeds.append(net.seed)

    loss = InterruptingLoss(5)
    params = {"random_state": random_state, "callbacks": [Looker()], "loss": loss}
    estimator = interrupted(tmp_path, **params)
    estimator.fit(*images(36))
    estimator.fit(*images(36))
    assert seeds[0] == seeds[1] != seeds[2]


# Callbacks of skorch, history, lines


def test_skorchs_early_stopping_ends_a_phase():
    stop = EarlyStopping("train_loss", patience=2, threshold=1e9, threshold_mode="abs")
    estimator = classifier(max_epochs=9, callbacks=[stop]).fit(*images(24))
    assert estimator.n_iter_ == 3


@pytest.mark.parametrize("entry", ["abc", print, ("name", 3), (3, Callback())])
def test_what_is_no_callback_is_refused_before_an_image_is_read(entry, tmp_path):
    callbacks = [EarlyStopping, entry]
    with pytest.raises(ValueError, match=r"callbacks: found .* at position 1"):
        classifier(callbacks=callbacks).fit([tmp_path / "none.png"] * 4, [0, 1, 0, 1])


def test_custom_callbacks_see_the_whole_training():
    told = []

    class Teller(Callback):
        def on_train_begin(self, net, **kwargs):
            told.append("begin")

        def on_epoch_end(self, net, **kwargs):
            told.append(net.history[-1, "train_loss"])

        def on_train_end(self, net, **kwargs):
            told.append("end")

    estimator = classifier(callbacks=[("teller", Teller())], max_epochs=3)
    estimator.fit(*images(24))
    losses = estimator.history_["train_loss"].tolist()
    assert told == ["begin", *losses, "end"]


def logits_accuracy(net, rows, y=None):
    return accuracy_score(
        rows.labels(rows.rows)[0][0], net.predict(rows).argmax(axis=1)
    )


def test_scores_of_skorchs_epoch_scoring_are_in_the_history():
    scoring = EpochScoring(
        logits_accuracy, lower_is_better=False, name="valid_acc", use_caching=False
    )
    estimator = classifier(max_epochs=3, callbacks=[scoring], **STOPPING)
    history = estimator.fit(*images(60)).history_
    np.testing.assert_allclose(history["valid_acc"], history["valid_score"])


def test_history_has_one_row_an_epoch():
    history = classifier(GradualUnfreezing(), max_epochs=5, **STOPPING)
    history = history.fit(*images(60)).history_
    assert isinstance(history, pd.DataFrame)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert history["phase"].tolist() == [
        "unfreeze to top",
        "unfreeze to middle",
        *["unfreeze to low"] * 3,
    ]
    numbers = ["train_loss", "valid_loss", "valid_score", "seconds", "lr_head.decay"]
    assert history[numbers].notna().all(axis=None)
    assert history["lr_low.decay"].isna().tolist() == [True, True, False, False, False]
    assert (history["seconds"] > 0).all()
    of_stages = [
        f"lr_{s}.{d}" for s in ("low", "middle", "top") for d in ("decay", "no_decay")
    ]
    expected = {"phase", "epoch", *numbers, "lr_head.no_decay", *of_stages}
    assert set(history.columns) == expected


def test_rates_of_the_stages_are_those_of_the_strategy():
    strategy = FineTuning(2, backbone_lr_ratio=0.1, lr_decay=0.5)
    estimator = classifier(strategy, lr=0.01, lr_schedule="constant").fit(*images(24))
    rates = estimator.history_.iloc[-1].filter(like="lr_").to_dict()
    expected = {"head": 0.01, "top": 0.001, "middle": 0.0005}
    assert rates == {
        f"lr_{name}.{kind}": pytest.approx(rate)
        for name, rate in expected.items()
        for kind in ("decay", "no_decay")
    }
    assert estimator.lr_ == 0.01
    assert estimator.weight_decay_ == 1e-3


@pytest.mark.parametrize("verbose", [0, 1])
def test_verbose_prints_a_line_an_epoch(verbose, capsys):
    capsys.readouterr()
    classifier(max_epochs=3, verbose=verbose, **STOPPING).fit(*images(60))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    if verbose:
        assert "Phase 'fine_tuning'" in lines.pop(0)
        assert "valid_score" in lines[0]
        assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3"]
    else:
        assert lines == []


# Settings of training


class SmallMemory(torch.nn.Module):
    """Leaves images as they are, if there are no more than eight to train on."""

    def forward(self, batch):
        return limited(batch)


def limited(batch):
    if torch.is_grad_enabled() and len(batch) > 8:
        raise torch.OutOfMemoryError("no room for more than 8")
    return batch


torch.fx.wrap("limited")


def small_memory():
    layers = three_convs()
    return nn.Sequential(layers.low, layers.middle, SmallMemory(), layers.top)


def test_out_of_memory_halves_the_batch_with_the_same_result():
    X, y = images(40)
    with pytest.warns(RuntimeWarning, match="Out of memory with 16 rows"):
        short = classifier(backbone=small_memory, batch_size=16).fit(X, y)
    plain = classifier(batch_size=16).fit(X, y)
    np.testing.assert_allclose(logits(short, X), logits(plain, X), atol=1e-4)
    pd.testing.assert_series_equal(
        short.history_["train_loss"], plain.history_["train_loss"], rtol=1e-5
    )


def test_loss_may_be_a_callable_of_one_value_a_row():
    def by_hand(output, target):
        probabilities = output.log_softmax(dim=1)
        return -probabilities.gather(1, target[:, None])[:, 0]

    X, y = images(24)
    own, named = (
        classifier(loss=loss).fit(X, y) for loss in (by_hand, "cross_entropy")
    )
    np.testing.assert_allclose(logits(own, X), logits(named, X), atol=1e-4)


@pytest.mark.parametrize("params", [{"loss": "focal"}, {"label_smoothing": 0.3}])
def test_loss_parameters_train_the_head_of_a_frozen_network_too(params):
    X, y = images(60)
    estimator = classifier("feature_extraction", max_epochs=30, lr=0.03, **params)
    estimator.fit(X, y)
    assert estimator.solver_ == "gradient"
    assert estimator.score(X, y) > 0.7
    plain = classifier(FeatureExtraction("gradient"), max_epochs=30, lr=0.03).fit(X, y)
    sure, unsure = (e.predict_proba(X).max(axis=1).mean() for e in (plain, estimator))
    assert unsure < sure


def two_layers(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 5), nn.Tanh(), nn.Linear(5, n_outputs))


@pytest.mark.parametrize("head", [MLPHead((8,)), two_layers], ids=["mlp", "callable"])
@pytest.mark.parametrize("strategy", ["feature_extraction", "fine_tuning"])
def test_other_heads_train_alone_at_first(head, strategy):
    X, y = images(60)
    estimator = classifier(strategy, head=head, max_epochs=12, lr=0.02).fit(X, y)
    assert estimator.score(X, y) > 0.6
    np.testing.assert_allclose(estimator.predict_proba(X).sum(axis=1), 1, rtol=1e-6)
    phases = estimator.history_["phase"].tolist()
    tuned = strategy == "fine_tuning"
    assert phases == ["head"] + ["fine_tuning" if tuned else "head"] * 11
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(logits(again, X), logits(estimator, X))


def test_optimizer_may_be_a_class_with_its_own_arguments():
    X, y = images(24)
    params = {"lr": 0.05, "weight_decay": 0.0}
    named = classifier(optimizer="sgd", **params).fit(X, y)
    own = classifier(
        optimizer=torch.optim.SGD,
        optimizer_params={"momentum": 0.9, "nesterov": True},
        **params,
    ).fit(X, y)
    assert state_of(named) == state_of(own)
    plain = classifier(optimizer=torch.optim.SGD, **params).fit(X, y)
    assert state_of(plain) != state_of(own)


def test_own_schedule_is_stepped_with_the_batches():
    def schedule(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    estimator = classifier(lr=0.01, lr_schedule=schedule, batch_size=12)
    estimator.fit(*images(24))
    rates = estimator.history_["lr_head.decay"].tolist()
    assert rates == pytest.approx([0.01 * 0.5**2, 0.01 * 0.5**4])


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"optimizer": "adamm"}, "adamw"),
        ({"optimizer": int}, "adamw"),
        ({"optimizer_params": {"momentun": 0.9}, "optimizer": "sgd"}, "momentum"),
        ({"optimizer": torch.optim.SGD}, "lr"),
        ({"lr_schedule": "cosin"}, "cosine"),
        ({"loss": "hinge"}, "cross_entropy"),
        ({"augmentation": "strong"}, "standard"),
        ({"head": "mlp"}, "linear"),
        ({"strategy": FineTuning("layer4")}, "middle"),
        ({"strategy": FineTuning(["top", "botom"])}, "low"),
        ({"strategy": FineTuning(9)}, "low"),
        ({"strategy": GradualUnfreezing(stop="stem")}, "low"),
        ({"strategy": FeatureExtraction(layer="stem")}, "low"),
        ({"strategy": "finetuning"}, "fine_tuning"),
        ({"strategy": GradualUnfreezing(), "max_epochs": 2}, "unfreeze to middle"),
        ({"strategy": FeatureExtraction("exact"), "loss": "focal"}, "loss='focal'"),
        ({"task_weights": [1, 2]}, "task_weights"),
    ],
    ids=str,
)
def test_names_that_match_nothing_are_errors_with_those_there_are(params, named):
    params = {"strategy": "fine_tuning"} | params
    estimator = classifier(params.pop("strategy"), **params)
    with pytest.raises((ValueError, TypeError), match=named):
        estimator.fit(*images(24))
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)


# What a fit leaves


@pytest.mark.parametrize("strategy", ["feature_extraction", "fine_tuning"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("loaded", [False, True])
def test_net_maps_normalized_images_to_the_logits(strategy, n_classes, loaded):
    X, y = images(24, n_classes)
    estimator = classifier(strategy).fit(X, y)
    estimator = pickle.loads(pickle.dumps(estimator)) if loaded else estimator
    preprocessing = estimator.backbone_.preprocessing
    batch = normalized_batch(list(X), preprocessing, torch.device("cpu"))
    (output,) = estimator.net_.forward(batch)
    expected = logits(estimator, X)
    given = output.numpy() if n_classes > 2 else (output[:, 1] - output[:, 0]).numpy()
    np.testing.assert_allclose(given, expected, atol=1e-4)
    with torch.no_grad():
        module_output = estimator.net_.module_(batch)[0]
    torch.testing.assert_close(module_output, output)
    assert not estimator.net_.module_.training
    n_epochs = 0 if strategy == "feature_extraction" else 2
    assert len(estimator.net_.history) == n_epochs


@pytest.mark.parametrize("solver", ["exact", "gradient"])
@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax"])
def test_net_of_a_lower_layer_maps_images_to_logits_too(solver, pooling):
    X, y = images(24)
    strategy = FeatureExtraction(solver, layer="middle", pooling=pooling)
    estimator = classifier(strategy).fit(X, y)
    preprocessing = estimator.backbone_.preprocessing
    batch = normalized_batch(list(X), preprocessing, torch.device("cpu"))
    (output,) = estimator.net_.forward(batch)
    np.testing.assert_allclose(output.numpy(), logits(estimator, X), atol=1e-4)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("params", [{}, {"augmentation": "standard"}], ids=str)
@pytest.mark.parametrize("init", ["linear_probe", "random"])
def test_all_images_that_cannot_be_read_are_named_before_training(
    method, params, init, colour_paths, tmp_path
):
    paths, y = colour_paths
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    paths = [*paths[:5], str(broken), *paths[6:20], "missing.png", *paths[21:]]
    estimator = classifier(FineTuning(init=init), **params)
    with pytest.raises(InvalidImageError, match=r"(?s)broken\.png.*missing\.png"):
        getattr(estimator, method)(paths, y)
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)


def test_fit_keeps_no_optimizer_and_no_gradients():
    estimator = classifier(ParameterSharing("delta")).fit(*images(24))
    net = estimator.net_
    assert getattr(net, "optimizer_", None) is None
    assert all(p.grad is None for p in net.module_.parameters())
    assert not any(p.requires_grad for p in net.module_.parameters())


def test_training_attributes_are_there_only_where_something_was_trained():
    X, y = images(24)
    names = ("history_", "n_iter_", "lr_", "weight_decay_")
    estimator = classifier("fine_tuning").fit(X, y)
    assert all(hasattr(estimator, name) for name in names)
    estimator.set_params(strategy="feature_extraction").fit(X, y)
    assert estimator.solver_ == "exact"
    assert not any(hasattr(estimator, name) for name in names)
    assert len(estimator.net_.history) == 0


def test_max_epochs_counts_all_phases():
    estimator = classifier(GradualUnfreezing(epochs_per_stage=2), max_epochs=7)
    assert estimator.fit(*images(24)).n_iter_ == 7


def test_strategy_parameters_are_set_where_there_is_a_name():
    estimator = classifier("gradual_unfreezing").set_params(strategy__stop=1)
    assert estimator.strategy.stop == 1
    assert changed(estimator.fit(*images(24))) <= {
        f"top.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")
    }


# From one task to the next


def test_tuned_network_is_the_base_of_the_next_task(tmp_path):
    X, y = images(24)
    first = classifier(max_epochs=3).fit(X, y)
    path = tmp_path / "first.safetensors"
    first.backbone_.save(path)
    frozen = classifier("feature_extraction", weights=path).fit(X, y)
    assert tensors_of(frozen) == tensors_of(first) != base_tensors_of(first)
    layer = ("pooled", "avg")
    features = [
        e._compute_features(e._read_images(X, reset=False), layer=layer)
        for e in (first, frozen)
    ]
    np.testing.assert_array_equal(*features)
    next_one = classifier(FineTuning(1), weights=path).fit(X, 1 - y % 2)
    assert base_tensors_of(next_one) == tensors_of(first)


@pytest.mark.parametrize("penalty", ["l2_sp", "delta"])
def test_penalty_pulls_toward_the_tuned_network(penalty, tmp_path):
    X, y = images(24)
    path = tmp_path / "first.safetensors"
    classifier(max_epochs=3, lr=0.01).fit(X, y).backbone_.save(path)

    def distance(strength):
        strategy = ParameterSharing(penalty, strength=strength)
        params = {"max_epochs": 6, "lr": 0.01, "gradient_clip": None}
        tuned = classifier(strategy, weights=path, **params).fit(
            X, (y == 1).astype(int)
        )
        squares = [
            np.square(np.frombuffer(a, np.float32) - np.frombuffer(b, np.float32)).sum()
            for name, a in tensors_of(tuned).items()
            if name.endswith("0.weight")
            for b in [base_tensors_of(tuned)[name]]
        ]
        return np.sqrt(sum(squares))

    assert distance(1000.0) < 0.5 * distance(0.0)


def test_pickle_of_a_tuned_model_holds_what_changed():
    X, y = images(16, 2)
    params = {"backbone": "mini", "image_size": 48, "max_epochs": 1}
    small = classifier(FineTuning(1), **params).fit(X, y)
    large = classifier(FineTuning(1), store_weights_in_pickle=True, **params).fit(X, y)
    data = pickle.dumps(small)
    n_changed = sum(len(tensors_of(small)[name]) for name in changed(small))
    assert len(data) < n_changed + 100_000
    assert len(pickle.dumps(large)) > len(data) + 1_000_000
    for estimator in (small, large):
        again = pickle.loads(pickle.dumps(estimator))
        np.testing.assert_array_equal(logits(again, X), logits(small, X))
        assert tensors_of(again) == tensors_of(small)
