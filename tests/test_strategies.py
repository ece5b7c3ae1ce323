"""Strategies as parameter objects, and the phases into which they turn themselves."""

from collections import namedtuple

import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import InvalidParameterError

from sktransfer import (
    FeatureExtraction,
    FineTuning,
    GradualUnfreezing,
    MLPHead,
    ParameterSharing,
    TransferClassifier,
)
from sktransfer.strategies._phases import Phase, StagePlan, with_epochs
from sktransfer.strategies._shorthand import NAMES, resolve_strategy

Stage = namedtuple("Stage", ["name", "n_parameters"])

STAGES = [
    Stage("stem", 10),
    Stage("layer1", 100),
    Stage("layer2", 200),
    Stage("pooled", 0),
]
STRATEGIES = [FeatureExtraction, FineTuning, GradualUnfreezing, ParameterSharing]


def other_head(n_features, n_outputs):
    raise AssertionError("a strategy builds no head")


def learning(phase):
    """Learning-rate factors of the stages that learn, by name."""
    return {p.stage: p.lr_factor for p in phase.stages if p.trainable != "none"}


def summary(phases):
    """Name, epochs, and the stages that learn, of each phase."""
    return [(phase.name, phase.epochs, list(learning(phase))) for phase in phases]


# Parameter objects


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (FeatureExtraction(), "FeatureExtraction()"),
        (FeatureExtraction("exact", 1.0), "FeatureExtraction(C=1.0, solver='exact')"),
        (FineTuning(["layer1"]), "FineTuning(unfreeze=['layer1'])"),
        (FineTuning(2, lr_decay=0.5), "FineTuning(lr_decay=0.5, unfreeze=2)"),
        (GradualUnfreezing(), "GradualUnfreezing()"),
        (
            GradualUnfreezing(2, "layer1"),
            "GradualUnfreezing(epochs_per_stage=2, start='layer1')",
        ),
        (ParameterSharing("bss"), "ParameterSharing(penalty='bss')"),
    ],
)
def test_repr_shows_what_differs_from_the_defaults(strategy, text):
    assert repr(strategy) == text


@pytest.mark.parametrize("kind", STRATEGIES)
def test_strategy_has_parameters_and_no_fit(kind):
    strategy = kind()
    assert isinstance(strategy, BaseEstimator)
    assert not hasattr(strategy, "fit")
    assert set(strategy.get_params()) == set(kind._parameter_constraints)


@pytest.mark.parametrize(
    "strategy",
    [
        FeatureExtraction("gradient", 3.0, "layer2", "max"),
        FineTuning(["layer1", "layer2"], 0.2, 0.5, "random", 3, "train", 0.9),
        GradualUnfreezing(2, "layer2", 3, 0.5, 0.2, "frozen", 0.9),
        ParameterSharing("delta", 0.3, 1, 0.2, 0.5, "random", 3, "train", 0.9),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_clone_has_the_same_parameters_and_is_another_object(strategy):
    copy = clone(strategy)
    assert copy is not strategy
    assert type(copy) is type(strategy)
    assert copy.get_params() == strategy.get_params()
    # Nothing of the above is a default.
    defaults = type(strategy)().get_params()
    assert all(copy.get_params()[name] != value for name, value in defaults.items())


def test_parameters_of_a_strategy_are_parameters_of_the_estimator():
    estimator = TransferClassifier(strategy=FineTuning(unfreeze="layer4"))
    assert estimator.get_params()["strategy__unfreeze"] == "layer4"
    estimator.set_params(strategy__unfreeze=2, strategy__lr_decay=0.5)
    assert repr(estimator.strategy) == "FineTuning(lr_decay=0.5, unfreeze=2)"


def test_clone_of_an_estimator_clones_its_strategy():
    estimator = TransferClassifier(strategy=FineTuning())
    copy = clone(estimator).set_params(strategy__unfreeze=1)
    assert copy.strategy.unfreeze == 1
    assert estimator.strategy.unfreeze == "all"


@pytest.mark.parametrize("short", [None, *NAMES])
def test_nested_parameter_turns_none_and_names_into_objects(short):
    estimator = TransferClassifier(strategy=short)
    assert estimator.strategy is short  # the constructor leaves it
    expected = type(resolve_strategy(short))
    name = next(iter(expected().get_params()))
    estimator.set_params(**{f"strategy__{name}": "changed"})
    assert type(estimator.strategy) is expected
    assert getattr(estimator.strategy, name) == "changed"


def test_nested_parameter_applies_to_the_strategy_that_is_set_beside_it():
    estimator = TransferClassifier()
    estimator.set_params(strategy="fine_tuning", strategy__unfreeze="norm")
    assert repr(estimator.strategy) == "FineTuning(unfreeze='norm')"
    estimator.set_params(strategy=None, strategy__C=1.0)
    assert repr(estimator.strategy) == "FeatureExtraction(C=1.0)"


def test_other_parameters_leave_the_shorthand_alone():
    estimator = TransferClassifier(strategy="fine_tuning").set_params(lr=0.1)
    assert estimator.strategy == "fine_tuning"


def test_unknown_nested_parameter_is_refused():
    with pytest.raises(ValueError, match="Invalid parameter 'unfreeze'"):
        TransferClassifier().set_params(strategy__unfreeze=1)


@pytest.mark.parametrize(
    ("short", "kind"), [(None, FeatureExtraction), *NAMES.items()], ids=str
)
def test_shorthand_means_a_strategy_with_its_defaults(short, kind):
    resolved = resolve_strategy(short)
    assert type(resolved) is kind
    assert resolved.get_params() == kind().get_params()


def test_shorthands_are_the_names_of_all_strategies():
    assert list(NAMES.values()) == STRATEGIES
    assert list(NAMES) == [
        "feature_extraction",
        "fine_tuning",
        "gradual_unfreezing",
        "parameter_sharing",
    ]


def test_strategy_object_is_its_own_resolution():
    strategy = FineTuning()
    assert resolve_strategy(strategy) is strategy


@pytest.mark.parametrize(
    "strategy",
    [
        FeatureExtraction(),
        FeatureExtraction("exact", 5, "layer1", "avgmax"),
        FineTuning(),
        FineTuning(3, freeze_epochs=0),
        FineTuning(["layer1"], batch_norm="frozen"),
        FineTuning(("layer1",), init="random"),
        GradualUnfreezing(),
        GradualUnfreezing(3, "layer2", "all"),
        ParameterSharing("l2_sp", 0.0),
        ParameterSharing("bss", "auto", 2),
    ],
    ids=repr,
)
def test_valid_parameters_pass(strategy):
    strategy.validate()


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        (FeatureExtraction(solver="lbfgs"), "solver"),
        (FeatureExtraction(C=0), "C"),
        (FeatureExtraction(C="best"), "C"),
        (FeatureExtraction(layer=4), "layer"),
        (FeatureExtraction(pooling="mean"), "pooling"),
        (FineTuning(unfreeze=0), "unfreeze"),
        (FineTuning(unfreeze=-1), "unfreeze"),
        (FineTuning(unfreeze=1.0), "unfreeze"),
        (FineTuning(unfreeze=None), "unfreeze"),
        (FineTuning(backbone_lr_ratio=0), "backbone_lr_ratio"),
        (FineTuning(lr_decay=-1), "lr_decay"),
        (FineTuning(init="probe"), "init"),
        (FineTuning(freeze_epochs=-1), "freeze_epochs"),
        (FineTuning(batch_norm="eval"), "batch_norm"),
        (GradualUnfreezing(epochs_per_stage=0), "epochs_per_stage"),
        (GradualUnfreezing(start=0), "start"),
        (GradualUnfreezing(start=["layer1"]), "start"),
        (GradualUnfreezing(stop=0), "stop"),
        (GradualUnfreezing(lr_decay=0), "lr_decay"),
        (GradualUnfreezing(backbone_lr_ratio="auto"), "backbone_lr_ratio"),
        (GradualUnfreezing(batch_norm=None), "batch_norm"),
        (ParameterSharing(penalty="l2"), "penalty"),
        (ParameterSharing(penalty=None), "penalty"),
        (ParameterSharing(strength=-0.1), "strength"),
        (ParameterSharing(strength="strong"), "strength"),
        (ParameterSharing(unfreeze=0), "unfreeze"),
        (ParameterSharing(init="probe"), "init"),
    ],
    ids=repr,
)
def test_parameter_out_of_its_range_is_named(strategy, name):
    message = f"The '{name}' parameter of {type(strategy).__name__} must be"
    with pytest.raises(InvalidParameterError, match=message):
        strategy.validate()


# Phases of feature extraction


def frozen_plans(n=4):
    return tuple(StagePlan(*stage) for stage in STAGES[:n])


def test_feature_extraction_is_one_phase_in_which_only_the_head_is_solved():
    assert FeatureExtraction(C=0.3).phases(STAGES) == [
        Phase("head", frozen_plans(), solver="exact", C=0.3)
    ]


def test_feature_extraction_is_trained_where_something_is_in_the_way():
    (phase,) = FeatureExtraction().phases(STAGES, in_the_way=["loss='focal'"])
    assert (phase.solver, phase.epochs, phase.cut) == ("gradient", None, "pooled")


@pytest.mark.parametrize("in_the_way", [[], ["loss='focal'"]])
def test_gradient_is_gradient_in_any_case(in_the_way):
    (phase,) = FeatureExtraction("gradient").phases(STAGES, in_the_way=in_the_way)
    assert phase.solver == "gradient"


def test_exact_where_it_cannot_be_raises_with_all_that_is_in_the_way():
    strategy = FeatureExtraction("exact")
    assert strategy.phases(STAGES)[0].solver == "exact"
    in_the_way = ["loss='focal'", "label_smoothing=0.1"]
    with pytest.raises(
        ValueError, match=r"solver='exact' .* loss='focal', label_smoothing=0\.1\."
    ):
        strategy.phases(STAGES, in_the_way=in_the_way)


@pytest.mark.parametrize("solver", ["exact", "gradient"])
def test_head_on_a_lower_layer_cuts_right_behind_it(solver):
    (phase,) = FeatureExtraction(solver, layer="layer1").phases(STAGES)
    assert phase.cut == "layer1"
    assert phase.stages == frozen_plans(2)


def test_unknown_layer_raises_with_the_stages():
    strategy = FeatureExtraction(layer="layer9")
    with pytest.raises(ValueError, match=r"Parameter layer: .*'layer9'.*'stem'"):
        strategy.phases(STAGES)


# Phases of fine-tuning


def test_fine_tuning_starts_from_the_probe_and_then_trains_everything():
    assert FineTuning(backbone_lr_ratio=0.1, lr_decay=0.5).phases(STAGES) == [
        Phase("probe", frozen_plans(), solver="exact"),
        Phase(
            "fine_tuning",
            (
                StagePlan("stem", 10, "all", 0.025),
                StagePlan("layer1", 100, "all", 0.05),
                StagePlan("layer2", 200, "all", 0.1),
                StagePlan("pooled", 0),
            ),
        ),
    ]


@pytest.mark.parametrize(
    ("unfreeze", "kind", "names", "cut"),
    [
        ("layer2", "all", ["layer2"], "layer1"),
        ("layer1", "all", ["layer1", "layer2"], "stem"),
        (1, "all", ["layer2"], "layer1"),
        (3, "all", ["stem", "layer1", "layer2"], None),
        (["layer1"], "all", ["layer1"], "stem"),
        (["layer2", "stem"], "all", ["stem", "layer2"], None),
        ("norm", "norm", ["stem", "layer1", "layer2"], None),
        ("bias", "bias", ["stem", "layer1", "layer2"], None),
    ],
)
def test_fine_tuning_trains_what_unfreeze_names(unfreeze, kind, names, cut):
    phase = FineTuning(unfreeze).phases(STAGES)[-1]
    assert list(learning(phase)) == names
    assert {p.trainable for p in phase.stages} == {kind, "none"}
    assert phase.cut == cut


def test_unfreeze_that_fits_no_stage_raises():
    with pytest.raises(ValueError, match=r"Did you mean 'layer2'\?"):
        FineTuning("layer22").phases(STAGES)
    with pytest.raises(ValueError, match="a number from 1 to 3"):
        FineTuning(4).phases(STAGES)


def test_linear_head_that_starts_at_random_trains_with_the_backbone_at_once():
    phases = FineTuning(init="random").phases(STAGES)
    assert [phase.name for phase in phases] == ["fine_tuning"]


@pytest.mark.parametrize("init", ["linear_probe", "random"])
def test_other_heads_train_alone_at_first(init):
    strategy = FineTuning("layer2", init=init, freeze_epochs=3)
    assert summary(strategy.phases(STAGES, head=other_head)) == [
        ("head", 3, []),
        ("fine_tuning", None, ["layer2"]),
    ]
    strategy.set_params(freeze_epochs=0)
    assert summary(strategy.phases(STAGES, head=other_head)) == [
        ("fine_tuning", None, ["layer2"])
    ]


def test_freeze_epochs_have_no_effect_on_a_linear_head():
    phases = FineTuning(freeze_epochs=7).phases(STAGES)
    assert summary(with_epochs(phases, 5)) == [
        ("probe", 0, []),
        ("fine_tuning", 5, ["stem", "layer1", "layer2"]),
    ]


def test_what_forbids_the_exact_solver_does_not_forbid_the_probe():
    phases = FineTuning().phases(STAGES, in_the_way=["loss='focal'"])
    assert phases == FineTuning().phases(STAGES)


@pytest.mark.parametrize("kind", [FineTuning, GradualUnfreezing, ParameterSharing])
@pytest.mark.parametrize("batch_norm", ["affine", "frozen", "train"])
def test_batch_norm_is_a_matter_of_the_phases_that_train(kind, batch_norm):
    phases = kind(batch_norm=batch_norm).phases(STAGES)
    assert {p.batch_norm for p in phases if learning(p)} == {batch_norm}


# Phases of gradual unfreezing


def test_gradual_unfreezing_adds_a_stage_in_each_phase():
    phases = GradualUnfreezing(2).phases(STAGES)
    assert summary(phases) == [
        ("probe", None, []),
        ("unfreeze to layer2", 2, ["layer2"]),
        ("unfreeze to layer1", 2, ["layer1", "layer2"]),
        ("unfreeze to stem", None, ["stem", "layer1", "layer2"]),
    ]
    assert [p.cut for p in phases] == ["pooled", "layer1", "stem", None]
    assert [p.epochs for p in with_epochs(phases, 7)] == [0, 2, 2, 3]
    with pytest.raises(ValueError, match=r"found 4 .* at least 5: 4 for"):
        with_epochs(phases, 4)


def test_gradual_unfreezing_lowers_the_rate_stage_by_stage():
    phases = GradualUnfreezing(backbone_lr_ratio=0.5).phases(STAGES)
    assert learning(phases[1]) == {"layer2": 0.5}
    assert learning(phases[-1]) == pytest.approx(
        {"layer2": 0.5, "layer1": 0.5 / 2.6, "stem": 0.5 / 2.6 / 2.6}
    )


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (1, 2, ["layer2", "layer1"]),
        (2, 2, ["layer1"]),
        (2, "all", ["layer1", "stem"]),
        (3, 3, ["stem"]),
        ("all", "all", ["stem"]),
        ("layer1", "stem", ["layer1", "stem"]),
        ("layer2", 1, ["layer2"]),
        (1, "layer1", ["layer2", "layer1"]),
    ],
)
def test_gradual_unfreezing_goes_from_start_to_stop(start, stop, expected):
    phases = GradualUnfreezing(start=start, stop=stop).phases(STAGES)
    lowest = [next(iter(learning(phase))) for phase in phases[1:]]
    assert lowest == expected
    assert phases[-1].epochs is None


@pytest.mark.parametrize(
    ("start", "stop"), [(2, 1), ("stem", "layer2"), ("all", 2), ("layer1", 1)]
)
def test_stop_above_start_raises_with_the_stages_from_the_top(start, stop):
    with pytest.raises(
        ValueError, match=r"Parameter stop: found .* above start=.*\['layer2', 'layer1'"
    ):
        GradualUnfreezing(start=start, stop=stop).phases(STAGES)


@pytest.mark.parametrize("name", ["start", "stop"])
@pytest.mark.parametrize("value", ["norm", "bias", "layer9", "pooled", 4])
def test_start_and_stop_are_stages_or_numbers_of_them(name, value):
    with pytest.raises(ValueError, match=f"^Parameter {name}: "):
        GradualUnfreezing(**{name: value}).phases(STAGES)


def test_other_heads_train_alone_for_one_phase_of_gradual_unfreezing():
    phases = GradualUnfreezing(4, stop=2).phases(STAGES, head=other_head)
    assert summary(phases) == [
        ("head", 4, []),
        ("unfreeze to layer2", 4, ["layer2"]),
        ("unfreeze to layer1", None, ["layer1", "layer2"]),
    ]


# Phases of parameter sharing


def test_parameter_sharing_is_fine_tuning_with_a_penalty():
    options = {"unfreeze": "layer1", "lr_decay": 0.5, "backbone_lr_ratio": 0.2}
    probe, tuning = ParameterSharing("delta", 0.3, **options).phases(STAGES)
    same_probe, without = FineTuning(**options).phases(STAGES)
    assert probe == same_probe
    assert (tuning.penalty, tuning.strength) == ("delta", 0.3)
    assert (without.penalty, without.strength) == (None, "auto")
    assert tuning.stages == without.stages


def test_head_that_trains_alone_has_no_penalty():
    phases = ParameterSharing().phases(STAGES, head=other_head)
    assert [phase.penalty for phase in phases] == [None, "l2_sp"]


# Plans


def test_plan_has_a_row_a_phase_and_stage_and_the_head_last():
    plan = FineTuning("layer4", backbone_lr_ratio=0.1).plan(
        "resnet18", lr=0.01, max_epochs=7
    )
    assert list(plan.columns) == [
        "phase",
        "stage",
        "trainable",
        "n_parameters",
        "lr",
        "epochs",
    ]
    stages = ["stem", "layer1", "layer2", "layer3", "layer4", "pooled", "head"]
    assert plan["stage"].tolist() == stages * 2
    assert plan["phase"].tolist() == ["probe"] * 7 + ["fine_tuning"] * 7
    assert plan["epochs"].tolist() == [0] * 7 + [7] * 7
    tuning = plan[7:].set_index("stage")
    assert tuning["trainable"].tolist() == ["none"] * 4 + ["all", "none", "all"]
    assert tuning.loc["layer4", "lr"] == pytest.approx(0.001)
    assert tuning.loc["head", "lr"] == pytest.approx(0.01)
    assert (tuning["lr"].drop(["layer4", "head"]) == 0).all()


def test_plan_counts_parameters_but_not_those_of_the_head():
    plan = FineTuning(init="random").plan("resnet18").set_index("stage")
    # Without the last linear layer, ResNet-18 has 11,176,512 parameters.
    assert plan["n_parameters"].sum() == 11_176_512
    assert plan.loc["pooled", "n_parameters"] == 0
    assert plan["n_parameters"].isna().tolist() == [False] * 6 + [True]
    assert plan["n_parameters"].dtype == "Int64"


def test_plan_has_no_rate_where_the_head_is_solved():
    plan = FeatureExtraction().plan("resnet18")
    assert plan["lr"].isna().tolist() == [False] * 6 + [True]
    assert set(plan["trainable"][:-1]) == {"none"}
    assert set(plan["epochs"]) == {0}
    trained = FeatureExtraction("gradient").plan("resnet18", lr=0.5)
    assert trained["lr"].iloc[-1] == 0.5
    assert set(trained["epochs"]) == {20}


def test_plan_of_gradual_unfreezing_goes_down_the_network():
    plan = GradualUnfreezing(2, lr_decay=0.5).plan("resnet18", max_epochs=10)
    learns = plan[plan["trainable"] == "all"].query("stage != 'head'")
    assert learns.groupby("phase", sort=False)["stage"].agg(list).tolist() == [
        ["layer4"],
        ["layer3", "layer4"],
        ["layer2", "layer3", "layer4"],
        ["layer1", "layer2", "layer3", "layer4"],
        ["stem", "layer1", "layer2", "layer3", "layer4"],
    ]
    last = learns["lr"].tail(5).tolist()
    assert last == pytest.approx([1e-4 * 0.5**n for n in (4, 3, 2, 1, 0)])
    epochs = plan.groupby("phase", sort=False)["epochs"].first()
    assert epochs.tolist() == [0, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("kind", STRATEGIES)
def test_plan_of_the_default_backbone_by_default(kind):
    plan = kind().plan()
    assert plan["stage"].iloc[-2:].tolist() == ["pooled", "head"]
    assert plan.groupby("phase")["epochs"].first().sum() == (
        0 if kind is FeatureExtraction else 20
    )


def two_blocks():
    import torch

    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 8, 3, stride=2),
        torch.nn.ReLU(),
    )


@pytest.mark.parametrize("as_module", [False, True])
def test_plan_of_a_network_of_ones_own(as_module):
    plan = FineTuning(1).plan(two_blocks() if as_module else two_blocks)
    assert plan["n_parameters"].sum() == 2 * (3 * 4 * 9 + 4 + 4 * 8 * 9 + 8)
    learns = plan[plan["trainable"] == "all"].query("stage != 'head'")
    assert learns["n_parameters"].tolist() == [4 * 8 * 9 + 8]


def one_size():
    import torch

    return torch.nn.Sequential(
        two_blocks(), torch.nn.Flatten(), torch.nn.Linear(392, 2)
    )


def test_plan_of_a_network_of_one_size():
    plan = FineTuning(1).plan(one_size, image_size=32)
    assert plan["stage"].nunique() == 4


def test_plan_knows_the_head():
    plan = FineTuning(1).plan(max_epochs=3, head=MLPHead((8,)))
    epochs = plan.groupby("phase", sort=False)["epochs"].first()
    assert epochs.to_dict() == {"head": 1, "fine_tuning": 2}


def test_plan_knows_the_hidden_layer():
    plan = FeatureExtraction(layer="hidden").plan("mobilenet_v3_small")
    assert plan["stage"].tolist()[-2:] == ["hidden", "head"]


def test_norm_behind_the_average_can_be_unfrozen_first():
    plan = GradualUnfreezing(start="pooled", stop=1).plan("convnext_tiny")
    learns = plan[plan["trainable"] == "all"].query("stage != 'head' and lr > 0")
    assert learns.groupby("phase", sort=False)["stage"].agg(list).to_dict() == {
        "unfreeze to pooled": ["pooled"],
        "unfreeze to features.7": ["features.7", "pooled"],
    }


def test_plan_raises_for_parameters_stages_and_epochs_that_do_not_fit():
    with pytest.raises(InvalidParameterError, match="'lr_decay' parameter"):
        FineTuning(lr_decay=0).plan("resnet18")
    with pytest.raises(ValueError, match=r"Did you mean 'layer4'\?"):
        FineTuning("layer5").plan("resnet18")
    with pytest.raises(ValueError, match=r"found 4 for the phases .* at least 5"):
        GradualUnfreezing().plan("resnet18", max_epochs=4)
    with pytest.raises(ValueError, match="no backbone named 'resnet19'"):
        FineTuning().plan("resnet19")
