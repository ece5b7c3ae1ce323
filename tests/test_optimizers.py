"""Optimizers by name, their defaults, and which parameter is in which group."""

import math

import pytest
import torch
from torch import nn

from sktransfer._engine.optimizers import (
    default_lr,
    default_weight_decay,
    make_optimizer,
    parameter_groups,
)

NAMES = ("adam", "adamw", "rmsprop", "sgd")


@pytest.fixture
def groups():
    return parameter_groups([("head", nn.Linear(2, 3), 1.0)], 0.5, 0.25)


def names_by_group(module, groups):
    names = {id(p): name for name, p in module.named_parameters()}
    return {tuple(g["names"]): [names[id(p)] for p in g["params"]] for g in groups}


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("rmsprop", torch.optim.RMSprop),
        ("sgd", torch.optim.SGD),
        (torch.optim.Adagrad, torch.optim.Adagrad),
    ],
)
def test_name_or_class_makes_the_optimizer_with_the_groups(name, cls, groups):
    optimizer = make_optimizer(name, groups)
    assert type(optimizer) is cls
    settings = [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert settings == [(0.5, 0.25), (0.5, 0.0)]


def test_sgd_by_name_has_nesterovs_momentum(groups):
    defaults = make_optimizer("sgd", groups).defaults
    assert (defaults["momentum"], defaults["nesterov"]) == (0.9, True)
    plain = make_optimizer(torch.optim.SGD, groups).defaults
    assert (plain["momentum"], plain["nesterov"]) == (0, False)


@pytest.mark.parametrize(
    ("params", "nesterov"),
    [
        ({"momentum": 0.5}, True),
        ({"momentum": 0}, False),
        ({"dampening": 0.1}, False),
        ({"nesterov": False}, False),
    ],
)
def test_sgd_keeps_to_what_the_user_sets(params, nesterov, groups):
    defaults = make_optimizer("sgd", groups, params).defaults
    assert defaults["nesterov"] is nesterov
    assert {name: defaults[name] for name in params} == params


def test_further_arguments_reach_the_optimizer(groups):
    optimizer = make_optimizer("adamw", groups, {"betas": (0.8, 0.9), "eps": 1e-6})
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["eps"] == 1e-6


def test_unknown_arguments_are_refused_with_those_there_are(groups):
    message = (
        r"Parameter optimizer_params: found 'beta', 'x'\. AdamW has 'betas', 'eps'"
    )
    with pytest.raises(ValueError, match=message) as caught:
        make_optimizer("adamw", groups, {"beta": 1, "eps": 1e-6, "x": 2})
    assert "'lr'" not in str(caught.value)


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_arguments_with_a_parameter_of_their_own_are_refused(name, groups):
    with pytest.raises(ValueError, match=f"found '{name}'.*pass {name}=0.1"):
        make_optimizer("adam", groups, {name: 0.1})


def test_values_torch_refuses_are_reported_under_our_name(groups):
    message = "optimizer_params: SGD refused .*Invalid momentum value: -1"
    with pytest.raises(ValueError, match=message):
        make_optimizer("sgd", groups, {"momentum": -1})


def test_class_may_take_any_argument(groups):
    class Own(torch.optim.SGD):
        def __init__(self, params, **options):
            self.options = options
            super().__init__(params, lr=1.0)

    assert make_optimizer(Own, groups[1:], {"colour": 1}).options == {"colour": 1}


def test_decay_without_an_argument_for_it_is_refused(groups):
    message = r"Parameter weight_decay: Rprop has none\. Pass weight_decay=0"
    with pytest.raises(ValueError, match=message):
        make_optimizer(torch.optim.Rprop, groups)
    without = parameter_groups([("head", nn.Linear(2, 3), 1.0)], 0.5, 0.0)
    assert type(make_optimizer(torch.optim.Rprop, without)) is torch.optim.Rprop


@pytest.mark.parametrize("optimizer", ["adamax", None, nn.Linear])
def test_unknown_optimizer_is_refused_with_the_names_there_are(optimizer, groups):
    for function in (
        lambda o: make_optimizer(o, groups),
        default_lr,
        default_weight_decay,
    ):
        with pytest.raises(ValueError, match="Parameter optimizer: found") as caught:
            function(optimizer)
        assert all(repr(name) in str(caught.value) for name in NAMES)


def test_instance_of_an_optimizer_is_refused(groups):
    with pytest.raises(ValueError, match="the class, not an instance"):
        make_optimizer(torch.optim.SGD(groups), groups)


def test_defaults_of_the_names():
    assert [default_lr(name) for name in NAMES] == [1e-3, 1e-3, 1e-3, 1e-2]
    assert [default_weight_decay(name) for name in NAMES] == [0, 1e-3, 0, 5e-4]


def test_class_has_no_default_learning_rate_and_no_decay():
    with pytest.raises(ValueError, match=r"Parameter lr: .*a number for AdamW"):
        default_lr(torch.optim.AdamW)
    assert default_weight_decay(torch.optim.AdamW) == 0


def test_norms_biases_and_vectors_are_not_decayed():
    module = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 3),
            "batch": nn.BatchNorm2d(4),
            "layer": nn.LayerNorm((4, 5, 5)),
            "group": nn.GroupNorm(2, 4),
            "rms": nn.RMSNorm((5, 5)),
            "attention": nn.MultiheadAttention(4, 2),
            "linear": nn.Linear(4, 1),
            "prelu": nn.PReLU(4),
        }
    )
    module.class_token = nn.Parameter(torch.zeros(1, 1, 4))
    module.position = nn.Parameter(torch.zeros(1, 7, 4))
    module.bias_table = nn.Parameter(torch.zeros(9, 2))
    found = names_by_group(module, parameter_groups([("all", module, 1.0)], 1, 1))
    assert set(found["all.decay",]) == {
        "conv.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "linear.weight",
        "position",
    }
    every = {name for name, _ in module.named_parameters()}
    assert set(found["all.no_decay",]) == every - set(found["all.decay",])


def test_each_part_has_its_own_learning_rate():
    parts = [("layer4", nn.Linear(2, 2), 0.1), ("head", nn.Linear(2, 2), 1.0)]
    groups = parameter_groups(parts, 1e-2, 1e-3)
    assert [(g["names"], g["weight_decay"]) for g in groups] == [
        (["layer4.decay"], 1e-3),
        (["layer4.no_decay"], 0),
        (["head.decay"], 1e-3),
        (["head.no_decay"], 0),
    ]
    assert [g["lr"] for g in groups] == pytest.approx([1e-3, 1e-3, 1e-2, 1e-2])


def test_what_has_the_same_rate_and_decay_is_one_group():
    a, b, head = (nn.Linear(2, 2) for _ in range(3))
    groups = parameter_groups([("a", a, 0.1), ("b", b, 0.1), ("head", head, 1)], 1, 0.5)
    assert [(g["names"], g["params"]) for g in groups] == [
        (["a.decay", "b.decay"], [a.weight, b.weight]),
        (["a.no_decay", "b.no_decay"], [a.bias, b.bias]),
        (["head.decay"], [head.weight]),
        (["head.no_decay"], [head.bias]),
    ]
    without = parameter_groups([("a", a, 1), ("head", head, 1)], 1, 0)
    assert [g["names"] for g in without] == [
        ["a.decay", "a.no_decay", "head.decay", "head.no_decay"]
    ]


def test_frozen_parameters_and_empty_groups_are_left_out():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4, bias=False))
    module[0].requires_grad_(False)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    groups = parameter_groups([("a", module, 1), ("b", frozen, 1)], 1, 1)
    assert names_by_group(module, groups) == {("a.decay",): ["1.weight"]}


def test_shared_tensor_is_in_one_group():
    shared = nn.Linear(2, 2)
    groups = parameter_groups([("a", shared, 1), ("b", shared, 1)], 1, 1)
    assert [g["names"] for g in groups] == [["a.decay"], ["a.no_decay"]]


@pytest.mark.parametrize("name", NAMES)
def test_training_moves_the_parameters(name):
    module = nn.Linear(2, 1)
    before = math.fsum(p.sum().item() for p in module.parameters())
    optimizer = make_optimizer(name, parameter_groups([("m", module, 1)], 0.1, 0))
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert math.fsum(p.sum().item() for p in module.parameters()) < before


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_named_optimizers_take_the_steps_of_torchs_default(name):
    def trained(**params):
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        module = nn.Sequential(conv, nn.Flatten(), nn.Linear(8 * 36, 2))
        groups = parameter_groups([("m", module, 1)], 1e-2, 1e-2)
        optimizer = make_optimizer(name, groups, params)
        for _ in range(5):
            optimizer.zero_grad()
            module(torch.randn(4, 3, 8, 8)).square().sum().backward()
            optimizer.step()
        return optimizer.defaults["fused"], list(module.parameters())

    with torch.random.fork_rng():
        (fused, ours), (plain, torchs) = trained(), trained(foreach=False)
    assert (fused, plain) == (True, None)
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_user_decides_how_an_optimizer_runs(groups):
    for params in ({"fused": False}, {"foreach": True}, {"differentiable": True}):
        defaults = make_optimizer("adamw", groups, params).defaults
        assert params.items() <= defaults.items()
        assert not defaults["fused"]
    assert make_optimizer(torch.optim.AdamW, groups).defaults["fused"] is None


def test_views_with_gaps_are_trained_where_they_are():
    # Fused optimizers would write into the gaps.
    memory = torch.zeros(4, 6)
    module = nn.Module()
    module.weight = nn.Parameter(memory[:, :3])
    optimizer = make_optimizer("adamw", parameter_groups([("m", module, 1)], 1.0, 0))
    module.weight.grad = torch.ones(4, 3)
    optimizer.step()
    assert (memory[:, :3] < 0).all()
    assert (memory[:, 3:] == 0).all()
