"""What `unfreeze` means: which stages learn, and how fast each of them."""

from collections import namedtuple

import numpy as np
import pytest

from sktransfer.strategies._phases import Phase, StagePlan
from sktransfer.strategies._unfreezing import (
    chosen_stages,
    stage_plans,
    stages_up_to,
)

Stage = namedtuple("Stage", ["name", "n_parameters"])

# A network like VGG: a stage in the middle, and the last, have no parameters.
STAGES = [
    Stage("stem", 10),
    Stage("layer1", 100),
    Stage("pool1", 0),
    Stage("layer2", 200),
    Stage("layer3", 300),
    Stage("pooled", 0),
]
OWNING = {"stem", "layer1", "layer2", "layer3"}


@pytest.mark.parametrize(
    ("unfreeze", "expected"),
    [
        ("all", OWNING),
        ("stem", OWNING),
        ("layer1", {"layer1", "layer2", "layer3"}),
        ("pool1", {"layer2", "layer3"}),
        ("layer3", {"layer3"}),
        (1, {"layer3"}),
        (2, {"layer2", "layer3"}),
        (3, {"layer1", "layer2", "layer3"}),
        (4, OWNING),
        (np.int64(2), {"layer2", "layer3"}),
        (["layer1"], {"layer1"}),
        (["layer3", "stem"], {"stem", "layer3"}),
        (("layer1", "layer2"), {"layer1", "layer2"}),
        (["layer1", "pool1", "layer1"], {"layer1"}),
    ],
)
def test_unfreeze_names_the_stages_that_learn(unfreeze, expected):
    assert chosen_stages(unfreeze, STAGES) == (expected, "all")


@pytest.mark.parametrize("kind", ["norm", "bias"])
def test_norm_and_bias_mean_a_part_of_all_stages(kind):
    assert chosen_stages(kind, STAGES) == (OWNING, kind)


def test_int_counts_stages_with_parameters_only():
    # `pooled` is the topmost stage, but 1 is the last block of layers.
    assert chosen_stages(1, STAGES)[0] == {"layer3"}


@pytest.mark.parametrize("unfreeze", ["layer22", ["stem", "layer22"], ("layer22",)])
def test_unknown_name_raises_with_the_names_there_are_and_the_nearest(unfreeze):
    with pytest.raises(ValueError, match="there is no stage 'layer22'") as caught:
        chosen_stages(unfreeze, STAGES)
    message = str(caught.value)
    assert message.startswith("Parameter unfreeze: ")
    assert str([stage.name for stage in STAGES]) in message
    assert message.endswith("Did you mean 'layer2'?")


def test_name_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match="there is no stage 'xyz'") as caught:
        chosen_stages("xyz", STAGES)
    assert "Did you mean" not in str(caught.value)


def test_names_of_a_list_are_stages_and_nothing_else():
    with pytest.raises(ValueError, match="there is no stage 'all'"):
        chosen_stages(["all"], STAGES)
    with pytest.raises(ValueError, match="there is no stage 1"):
        chosen_stages([1], STAGES)


@pytest.mark.parametrize("n", [0, -1, 5, 100])
def test_number_out_of_range_raises_with_the_range_and_the_stages(n):
    with pytest.raises(ValueError, match=f"found {n}. Expected a number from 1 to 4,"):
        chosen_stages(n, STAGES)


@pytest.mark.parametrize("unfreeze", ["pooled", ["pooled"], ["pool1", "pooled"], []])
def test_stages_without_parameters_cannot_learn(unfreeze):
    with pytest.raises(ValueError, match="names no stage with parameters") as caught:
        chosen_stages(unfreeze, STAGES)
    assert "['stem', 'layer1', 'layer2', 'layer3']" in str(caught.value)


@pytest.mark.parametrize("unfreeze", ["nowhere", 9, []])
def test_errors_name_the_parameter_they_are_told(unfreeze):
    with pytest.raises(ValueError, match=r"^Parameter start: "):
        chosen_stages(unfreeze, STAGES, "start")


@pytest.mark.parametrize("unfreeze", [None, 1.5])
def test_unfreeze_of_another_type_is_refused(unfreeze):
    with pytest.raises(TypeError, match=r"Parameter start: found .* Expected 'all'"):
        chosen_stages(unfreeze, STAGES, "start")


def factors(plans):
    return {p.stage: p.lr_factor for p in plans if p.trainable != "none"}


def test_each_stage_learns_slower_than_the_one_above_it():
    plans = stage_plans(STAGES, OWNING, "all", 0.5, 0.1)
    assert factors(plans) == pytest.approx(
        # Stages without parameters do not count as steps down.
        {"layer3": 0.5, "layer2": 0.05, "layer1": 0.005, "stem": 0.0005}
    )


def test_stages_that_do_not_learn_count_as_steps_down():
    plans = stage_plans(STAGES, {"stem", "layer2"}, "all", 1.0, 0.5)
    assert factors(plans) == {"layer2": 0.5, "stem": 0.125}


def test_without_decay_all_stages_learn_alike():
    plans = stage_plans(STAGES, OWNING, "all", 0.1, 1.0)
    assert set(factors(plans).values()) == {0.1}


def test_plans_keep_the_order_of_the_stages_and_freeze_the_others():
    assert stage_plans(STAGES, {"layer1"}, "bias", 2.0, 1.0) == (
        StagePlan("stem", 10, "none", 0.0),
        StagePlan("layer1", 100, "bias", 2.0),
        StagePlan("pool1", 0, "none", 0.0),
        StagePlan("layer2", 200, "none", 0.0),
        StagePlan("layer3", 300, "none", 0.0),
        StagePlan("pooled", 0, "none", 0.0),
    )


@pytest.mark.parametrize(
    ("unfreeze", "cut"),
    [
        ("all", None),
        ("layer2", "pool1"),
        (1, "layer2"),
        (3, "stem"),
        (["layer1", "layer3"], "stem"),
        (["stem"], None),
        ("norm", None),
    ],
)
def test_cut_is_right_before_what_unfreeze_names(unfreeze, cut):
    names, kind = chosen_stages(unfreeze, STAGES)
    assert Phase("tuning", stage_plans(STAGES, names, kind, 1.0, 1.0)).cut == cut


def test_head_on_a_lower_stage_uses_the_stages_up_to_it():
    assert stages_up_to("layer1", STAGES) == STAGES[:2]
    assert stages_up_to("pooled", STAGES) == STAGES


def test_unknown_layer_raises_with_the_nearest():
    with pytest.raises(ValueError, match=r"^Parameter layer: there is no stage 'pool'"):
        stages_up_to("pool", STAGES)
