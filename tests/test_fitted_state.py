"""What a fit leaves behind: nothing of its data, and never half of itself."""

import gc
import pickle
import weakref

import numpy as np
import pytest
from _networks import classifier, images, interruptible_loss, three_convs
from torch import nn

from sktransfer import FeatureExtraction, FineTuning
from sktransfer._engine.activations import Activations
from sktransfer.exceptions import InvalidImageError


def logits(estimator, X):
    return estimator.decision_function(X)


class Branching(nn.Module):
    """A network that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.layers = three_convs()

    def forward(self, batch):
        return self.layers(batch) if batch.sum() > -1e9 else batch


class InterruptedLoss:
    """Presses the keys once, in the second epoch of the first fit."""

    n_calls = 0

    def __call__(self, output, target):
        type(self).n_calls += 1
        if self.n_calls == 2:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(output, target, reduction="none")


def test_fitted_estimator_does_not_hold_on_to_its_training_images():
    X, y = images(24)
    X = X.copy()
    watched = weakref.ref(X)
    estimator = classifier(FineTuning(1), cache=None).fit(X, y)
    expected = estimator.net_  # built from what was fitted
    del X
    gc.collect()
    assert watched() is None
    assert expected is estimator.net_


def test_images_are_read_once_whatever_the_number_of_epochs(monkeypatch):
    X, y = images(24)
    reads, read = [], Activations._pixels_of

    def counted(self, *args, **kwargs):
        reads.append(args)
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Activations, "_pixels_of", counted)
    classifier(FineTuning(1), max_epochs=5, cache=None).fit(X, y)
    assert len(reads) == 24


def test_failed_warm_start_leaves_the_earlier_fit_as_it_was():
    X, y = images(24)
    estimator = classifier(FineTuning(1), warm_start=True).fit(X, y)
    before = logits(estimator, X)
    with pytest.raises(ValueError, match="classes"):
        estimator.fit(X, np.where(np.arange(24) == 3, 99, y))
    np.testing.assert_array_equal(logits(estimator, X), before)


def test_failed_partial_fit_keeps_its_optimizer_unless_training_had_begun():
    X, y = images(24)
    loss, interrupt = interruptible_loss()
    estimator = classifier(FineTuning(1), loss=loss).partial_fit(X, y)
    optimizer = estimator.net_.optimizer_
    with pytest.raises(ValueError, match="classes"):
        estimator.partial_fit(X, np.where(np.arange(24) == 3, 99, y))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        estimator.partial_fit(X, y[:23])
    with pytest.raises(InvalidImageError, match="Row 1"):
        estimator.partial_fit([X[0], "missing.png"], y[:2])
    assert estimator.partial_fit(X, y).net_.optimizer_ is optimizer
    interrupt.append(True)
    with pytest.raises(KeyboardInterrupt):
        estimator.partial_fit(X, y)
    interrupt.clear()
    assert estimator.partial_fit(X, y).net_.optimizer_ is not optimizer
    assert estimator.n_iter_ == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"image_size": 24}, "Parameter image_size: found 24 in a fit"),
        (
            {"strategy": FeatureExtraction("gradient", layer="low")},
            "Parameter strategy: found {'layer': 'low'.* in a fit .* 'pooled'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "message",
)
def test_going_on_refuses_another_structure(params, message):
    X, y = images(24)
    estimator = classifier(FineTuning(1), warm_start=True).fit(X, y)
    estimator.set_params(**params)
    for go_on in (estimator.fit, estimator.partial_fit):
        with pytest.raises(ValueError, match=message):
            go_on(X, y)


def test_warm_start_does_not_repeat_the_order_of_the_fit_before():
    X, y = images(24)
    estimator = classifier(FineTuning(1), warm_start=True, max_epochs=1)
    seeds = []
    for _ in range(2):
        estimator.fit(X, y)
        seeds.append(estimator._seed_of_this_fit())
    assert seeds[0] != seeds[1]


def test_net_of_an_exact_fit_is_that_of_the_last_fit():
    X, y = images(24)
    estimator = classifier(None, warm_start=True).fit(X, y)
    first = estimator.net_
    estimator.fit(X, np.roll(y, 1))
    assert estimator.net_ is not first


@pytest.mark.parametrize("params", [{"unfreeze": "norm", "batch_norm": "frozen"}])
def test_strategy_under_which_nothing_would_learn_is_refused(params):
    with pytest.raises(ValueError, match="nothing of the network would learn"):
        classifier(FineTuning(**params)).fit(*images(24))


def test_checkpoint_of_a_network_that_cannot_be_traced_is_taken_up(tmp_path):
    X, y = images(24)
    params = {"backbone": Branching, "checkpoint": tmp_path, "max_epochs": 3}
    stopped = classifier(FineTuning(), loss=InterruptedLoss(), **params)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(X, y)
    assert list(tmp_path.iterdir())
    resumed = classifier(FineTuning(), loss=InterruptedLoss(), **params).fit(X, y)
    assert resumed.n_iter_ == 3
    assert list(tmp_path.iterdir()) == []


def test_head_trained_on_standardized_features_goes_on_so_after_unpickling():
    X, y = images(24)
    estimator = classifier(FeatureExtraction("gradient")).fit(X, y)
    other = pickle.loads(pickle.dumps(estimator))
    for same in (estimator, other):
        same.partial_fit(X, y)
    np.testing.assert_array_equal(logits(other, X), logits(estimator, X))
