"""Frozen is frozen: what a strategy does not name keeps every byte, everywhere."""

import pickle
from functools import cache

import numpy as np
import pytest
import torch
from _networks import (
    base_tensors_of,
    changed,
    classifier,
    images,
    regressor,
    shades,
    tensors_of,
)
from sklearn.base import clone
from torchvision import models

from sktransfer import (
    FeatureExtraction,
    FineTuning,
    GradualUnfreezing,
    ParameterSharing,
)

LEARNABLE = {"0.weight", "0.bias", "1.weight", "1.bias"}
STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def named(stages, tensors=LEARNABLE):
    return {f"{stage}.{tensor}" for stage in stages for tensor in tensors}


ALL = ("low", "middle", "top")
# What may change in the tiny network, and all of it does.
CASES = {
    "exact": (FeatureExtraction(), set()),
    "gradient": (FeatureExtraction("gradient"), set()),
    "lower layer": (FeatureExtraction("gradient", layer="middle"), set()),
    "all": (FineTuning(), named(ALL)),
    "one stage": (FineTuning(1), named(["top"])),
    "two stages": (FineTuning(2), named(["middle", "top"])),
    "from a stage on": (FineTuning("middle"), named(["middle", "top"])),
    "in the middle": (FineTuning(["middle"]), named(["middle"])),
    "at the bottom": (FineTuning(["low"]), named(["low"])),
    "with a gap": (FineTuning(["low", "top"]), named(["low", "top"])),
    "norms": (FineTuning("norm"), named(ALL, {"1.weight", "1.bias"})),
    "biases": (FineTuning("bias"), named(ALL, {"0.bias", "1.bias"})),
    "random head": (FineTuning(1, init="random"), named(["top"])),
    "frozen norms": (
        FineTuning(2, batch_norm="frozen"),
        named(["middle", "top"], {"0.weight", "0.bias"}),
    ),
    "trained norms": (
        FineTuning(2, batch_norm="train"),
        named(["middle", "top"], LEARNABLE | STATISTICS),
    ),
    "trained norms in the middle": (
        FineTuning(["middle"], batch_norm="train"),
        named(["middle"], LEARNABLE | STATISTICS),
    ),
    "gradual": (GradualUnfreezing(), named(ALL)),
    "gradual to the middle": (
        GradualUnfreezing(stop="middle"),
        named(["middle", "top"]),
    ),
    "l2_sp": (ParameterSharing(unfreeze=1), named(["top"])),
    "delta": (ParameterSharing("delta", unfreeze=2), named(["middle", "top"])),
    "bss": (ParameterSharing("bss", unfreeze=["middle"]), named(["middle"])),
}


@pytest.fixture(scope="module")
def data():
    return images(24)


def make(strategy, **params):
    return classifier(strategy, **({"max_epochs": 4, "batch_size": 12} | params))


def fit(strategy, data, **params):
    return make(strategy, **params).fit(*data)


@cache
def fitted(case):
    """An estimator that several tests look at and none changes."""
    return fit(CASES[case][0], images(24))


def test_base_network_is_that_which_a_fit_without_training_leaves(data):
    base = tensors_of(fit("feature_extraction", data))
    assert base == base_tensors_of(fit(FineTuning(), data))
    assert set(base) == named(ALL, LEARNABLE | STATISTICS)


@pytest.mark.parametrize("case", CASES)
def test_fit_changes_all_that_is_named_and_not_a_byte_more(case, data):
    estimator, expected = fitted(case), CASES[case][1]
    assert changed(estimator) == expected
    again = pickle.loads(pickle.dumps(estimator))
    assert tensors_of(again) == tensors_of(estimator)
    assert changed(again) == expected
    np.testing.assert_array_equal(
        again.decision_function(data[0]), estimator.decision_function(data[0])
    )


@pytest.mark.parametrize("case", CASES)
def test_regressor_changes_all_that_is_named_and_not_a_byte_more(case):
    strategy, expected = CASES[case]
    estimator = regressor(strategy, max_epochs=4, batch_size=12).fit(*shades(24))
    assert changed(estimator) == expected


@pytest.mark.parametrize("case", CASES)
def test_net_holds_the_same_bytes_as_the_backbone(case, data):
    estimator, own = fitted(case), {}
    for segment in estimator.net_.module_.segments:
        own.update(segment.state_dict())
    theirs = tensors_of(estimator)
    different = [n for n, t in own.items() if t.numpy().tobytes() != theirs[n]]
    assert different == []


@pytest.mark.parametrize("case", [c for c in CASES if c != "exact"])
def test_partial_fit_changes_nothing_else(case, data):
    strategy, expected = CASES[case]
    assert changed(make(strategy).partial_fit(*data)) == expected
    loaded = pickle.loads(pickle.dumps(fitted(case)))
    assert changed(loaded.partial_fit(*data)) == expected


@pytest.mark.parametrize("case", ["all", "trained norms"])
def test_clone_starts_from_the_base_and_leaves_the_original_alone(case, data):
    estimator = fitted(case)
    before = tensors_of(estimator)
    copy = clone(estimator).fit(*data)
    assert tensors_of(copy) == tensors_of(estimator) == before
    copy.set_params(strategy=FineTuning(1)).fit(*data)
    assert changed(copy) == named(["top"])
    assert tensors_of(estimator) == before


def test_module_that_is_handed_over_is_not_touched(data):
    module = classifier("feature_extraction").fit(*data).backbone_.trunk
    before = {n: t.numpy().tobytes() for n, t in module.state_dict().items()}
    estimator = fit(FineTuning(batch_norm="train"), data, backbone=module)
    assert changed(estimator)
    after = {n: t.numpy().tobytes() for n, t in module.state_dict().items()}
    assert after == before
    assert not any(m.training for m in module.modules())


def test_warm_start_with_a_higher_cut_freezes_what_was_trained_before(data):
    estimator = fit(FineTuning(), data, warm_start=True)
    before = tensors_of(estimator)
    estimator.set_params(strategy=FineTuning(1)).fit(*data)
    after = tensors_of(estimator)
    differ = {name for name in before if before[name] != after[name]}
    assert differ == named(["top"])


class ChangesItsInput(torch.nn.Sequential):
    """Cannot be traced, and overwrites what it sees."""

    def forward(self, batch):
        if batch.isfinite().all():
            batch.sub_(0.5).mul_(2)
        return super().forward(batch)


def overwriting():
    return ChangesItsInput(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU())


@pytest.mark.parametrize("strategy", [FineTuning(), ParameterSharing("delta")])
def test_network_may_overwrite_what_it_sees(strategy, data):
    estimator = make(strategy, backbone=overwriting, augmentation=None).fit(*data)
    assert changed(estimator)


def test_validation_and_best_weights_leave_frozen_bytes_alone():
    estimator = fit(
        FineTuning(["middle"], batch_norm="train"),
        images(80),
        early_stopping=True,
        validation_fraction=0.3,
    )
    assert changed(estimator) <= named(["middle"], LEARNABLE | STATISTICS)


# mini and one small member of each family. The smallest size that a network allows.

MINI = {
    "feature_extraction": (FeatureExtraction("gradient"), None),
    "top": (FineTuning(1), "top"),
    "middle": (FineTuning(["features.8"]), "features.8"),
    "all": (FineTuning(), "all"),
    "gradual": (GradualUnfreezing(start=1, stop=2), "two"),
    "l2_sp": (ParameterSharing(unfreeze=1), "top"),
    "delta": (ParameterSharing("delta", unfreeze=1), "top"),
    "bss": (ParameterSharing("bss", unfreeze=1), "top"),
}


def may_change(estimator, which):
    """Names of the parameters of the stages that are meant."""
    segments = estimator.backbone_.segments()
    # What is behind the average goes with the stage below it.
    owning = [i for i, s in enumerate(segments[:-1]) if list(s.parameters())]
    if which == "top":
        segments = segments[owning[-1] :]
    elif which == "two":
        segments = segments[owning[-2] :]
    elif which is None:
        segments = []
    elif which != "all":
        segments = [s for s in segments if s.name == which]
        assert segments
    return {name for s in segments for name, _ in s.named_parameters()}


@pytest.mark.parametrize("case", MINI)
def test_mini_changes_where_it_is_told_to(case):
    strategy, which = MINI[case]
    estimator = classifier(strategy, backbone="mini", image_size=48, max_epochs=2)
    estimator.fit(*images(16, 2))
    allowed = may_change(estimator, which)
    assert changed(estimator) == allowed
    before = tensors_of(estimator)
    again = pickle.loads(pickle.dumps(estimator)).partial_fit(*images(16, 2))
    assert changed(again) == allowed
    assert tensors_of(estimator) == before


FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 96,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "vgg11": 32,
}


def small_vit():
    return models.VisionTransformer(32, 8, 2, 2, 32, 64)


def small_swin():
    return models.SwinTransformer([4, 4], 24, [1, 1], [2, 4], [4, 4])


def small_maxvit():
    return models.MaxVit((64, 64), 16, 2, [16, 32], [1, 1], 16, 0.2)


TRANSFORMERS = {small_vit: 32, small_swin: 32, small_maxvit: 64}


@pytest.mark.parametrize("name", FAMILIES)
def test_one_epoch_of_the_topmost_stage_changes_nothing_below_it(name):
    assert_only_the_top_changes(name, FAMILIES[name], weights=None)


@pytest.mark.parametrize("network", TRANSFORMERS, ids=lambda made: made.__name__)
def test_one_epoch_of_a_transformers_top_changes_nothing_below_it(network):
    assert_only_the_top_changes(network, TRANSFORMERS[network])


def assert_only_the_top_changes(backbone, size, **params):
    params |= {"image_size": size, "max_epochs": 1, "cache": None}
    estimator = classifier(FineTuning(1), backbone=backbone, **params)
    estimator.fit(*images(8, 2))
    assert changed(estimator)
    assert changed(estimator) <= may_change(estimator, "top")
