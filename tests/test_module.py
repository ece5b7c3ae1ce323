"""The module that is trained: what learns, in which mode, and what is kept of it."""

import copy

import pytest
import torch
from torch import nn

from sktransfer._engine.module import TransferModule, segments_up_to
from sktransfer._randomness import seeded_globals
from sktransfer.backbones._parameters import parameter_kinds
from sktransfer.strategies._phases import Phase, StagePlan

NAMES = ("stem", "layer1", "layer2", "pooled")


class Named(nn.Sequential):
    """A stage as the engine sees it: a module with a name and kinds of parameters."""

    def __init__(self, name, *layers):
        super().__init__(*layers)
        self.name = name
        self.kinds = parameter_kinds(self)


class Scale(nn.Module):
    """A user's norm, which is known by its name only."""

    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, batch):
        return batch * self.gain


class ScaleNorm(Scale):
    pass


class LayerNorm2d(nn.LayerNorm):
    """As torchvision's in ConvNeXt."""

    def forward(self, batch):
        return super().forward(batch.movedim(1, -1)).movedim(-1, 1)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)

    def forward(self, batch):
        tokens = batch.flatten(2).movedim(1, -1)
        return self.attention(tokens, tokens, tokens)[0].movedim(-1, 1)[..., None]


def stages():
    """A tiny network; no bias before a batch norm, which takes it out again."""
    convs = [nn.Conv2d(3, 4, 3, bias=False)]
    convs += [nn.Conv2d(4, 4, 1, bias=False) for _ in range(2)]
    return [
        Named("stem", convs[0], nn.BatchNorm2d(4), nn.Dropout(0.5)),
        Named("layer1", convs[1], nn.BatchNorm2d(4), nn.Dropout(0.5)),
        Named("layer2", convs[2], nn.BatchNorm2d(4), nn.LeakyReLU()),
        Named("pooled", nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ]


def module(segments=None, heads=None):
    with seeded_globals(0):
        segments = stages() if segments is None else segments()
        heads = [nn.Linear(4, 3)] if heads is None else heads()
        made = TransferModule(segments, nn.Identity(), heads)
    # Statistics by which batch norms in train and in eval mode differ.
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean += 0.5
            layer.running_var *= 3
    return made


def phase(names=(), kind="all", batch_norm="affine", factors=(), stage_names=NAMES):
    factors = dict(factors)
    plans = tuple(
        StagePlan(n, 9, kind if n in names else "none", factors.get(n, 0.0))
        for n in stage_names
    )
    return Phase("some", plans, batch_norm=batch_norm)


def images(n=6, seed=0):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def learning(made):
    return {name for name, p in made.named_parameters() if p.requires_grad}


def of_stage(made, i):
    return {n for n, _ in made.named_parameters() if n.startswith(f"segments.{i}.")}


HEAD = {"heads.0.weight", "heads.0.bias"}


# What learns


def test_without_a_stage_only_the_heads_learn():
    made = module(heads=lambda: [nn.Linear(4, 3), nn.Linear(4, 2)])
    made.begin(phase())
    assert learning(made) == HEAD | {"heads.1.weight", "heads.1.bias"}


@pytest.mark.parametrize("names", [("layer2",), ("layer1", "layer2"), ("stem",), NAMES])
def test_exactly_the_stages_of_the_phase_learn(names):
    made = module()
    made.begin(phase(names))
    stages = [of_stage(made, NAMES.index(name)) for name in names]
    assert learning(made) == HEAD.union(*stages)


def test_phase_forgets_the_phase_before():
    made = module()
    made.begin(phase(NAMES, batch_norm="train"))
    made.begin(phase(("layer2",)))
    assert learning(made) == HEAD | of_stage(made, 2)
    made.train()
    assert not made.segments[0].training
    assert not made.segments[2][1].training


def test_backbone_that_came_with_gradients_is_frozen_all_the_same():
    made = module()
    assert of_stage(made, 0) <= learning(made)
    made.begin(phase())
    assert learning(made) == HEAD


@pytest.mark.parametrize(
    ("batch_norm", "kept"),
    [("affine", set()), ("train", set()), ("frozen", {"1.weight", "1.bias"})],
)
def test_frozen_batch_norms_keep_scale_and_shift(batch_norm, kept):
    made = module()
    made.begin(phase(("layer1",), batch_norm=batch_norm))
    kept = {f"segments.1.{name}" for name in kept}
    assert learning(made) == (HEAD | of_stage(made, 1)) - kept


def norms():
    return [
        Named("stem", nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        Named("layer1", nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)),
        Named("layer2", nn.Sequential(LayerNorm2d(4), ScaleNorm(4), Scale(4))),
        Named("pooled", nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.RMSNorm(4)),
    ]


def test_norm_means_norms_of_every_kind_and_nothing_else():
    made = module(norms)
    made.begin(phase(NAMES, "norm"))
    assert learning(made) - HEAD == {
        "segments.0.1.weight",
        "segments.0.1.bias",
        "segments.1.0.weight",
        "segments.1.0.bias",
        "segments.1.1.weight",
        "segments.1.1.bias",
        "segments.2.0.0.weight",
        "segments.2.0.0.bias",
        "segments.2.0.1.gain",
        "segments.3.2.weight",
    }


class ConvNorm(nn.Sequential):
    """A block with the name of a norm."""


def test_block_is_no_norm_by_its_name():
    block = ConvNorm(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    made = module(lambda: [Named("stem", block, nn.AdaptiveAvgPool2d(1), nn.Flatten())])
    made.begin(phase(["stem"], "norm", stage_names=["stem"]))
    assert learning(made) - HEAD == {
        "segments.0.0.1.weight",
        "segments.0.0.1.bias",
    }


def test_what_the_builder_fixed_never_learns():
    def build():
        first, *rest = stages()
        first[0].requires_grad_(False)
        rest[0].register_parameter(
            "order", nn.Parameter(torch.arange(4), requires_grad=False)
        )
        return [Named("stem", *first), *rest]

    made = module(build)
    made.segments[1].kinds = parameter_kinds(made.segments[1])
    for kind in ("all", "norm", "bias"):
        made.begin(phase(NAMES, kind))
        assert {"segments.0.0.weight", "segments.1.order"} & learning(made) == set()
    made.begin(phase(NAMES))
    assert of_stage(made, 0) - {"segments.0.0.weight"} <= learning(made)


def test_network_that_is_frozen_as_a_whole_has_nothing_fixed():
    network = nn.Sequential(*stages()).requires_grad_(False)
    assert parameter_kinds(network).fixed == frozenset()
    network.register_parameter(
        "order", nn.Parameter(torch.arange(4), requires_grad=False)
    )
    assert parameter_kinds(network).fixed == {"order"}


def test_norm_keeps_batch_norms_where_they_are_frozen():
    made = module(norms)
    made.begin(phase(NAMES, "norm", batch_norm="frozen"))
    assert of_stage(made, 0) & learning(made) == set()
    assert of_stage(made, 1) <= learning(made)


def test_bias_means_biases_of_every_kind_and_nothing_else():
    def segments():
        return [
            Named("stem", nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            Named("layer1", nn.Conv2d(4, 4, 1, bias=False)),
            Named("layer2", Attention(4)),
            Named("pooled", nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        ]

    made = module(segments)
    made.begin(phase(NAMES, "bias"))
    biases = {"segments.0.0.bias", "segments.0.1.bias"}
    biases |= {
        "segments.2.0.attention.in_proj_bias",
        "segments.2.0.attention.out_proj.bias",
    }
    assert learning(made) - HEAD == biases
    made.begin(phase(NAMES, "bias", batch_norm="frozen"))
    assert learning(made) - HEAD == biases - {"segments.0.1.bias"}


def step(made, n=1):
    """Train a little, as a net does; return what changed, by the names of tensors."""
    before = copy.deepcopy(made.state_dict())
    parameters = [p for p in made.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    made.train()
    for i in range(n):
        inputs = images(seed=i)
        with torch.no_grad():
            for segment in made.segments[: made.first]:
                inputs = segment(inputs)
        sum(out.square().sum() for out in made(inputs)).backward()
        optimizer.step()
    after = made.state_dict()
    return {name for name in after if not torch.equal(before[name], after[name])}


STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("batch_norm", ["affine", "frozen", "train"])
@pytest.mark.parametrize("names", [(), ("layer2",), ("layer1",), NAMES[:3]])
def test_step_changes_what_learns_and_not_a_byte_else(names, batch_norm):
    made = module()
    made.begin(phase(names, batch_norm=batch_norm))
    expected = learning(made)
    if batch_norm == "train":
        indices = [NAMES.index(name) for name in names]
        expected |= {f"segments.{i}.1.{name}" for i in indices for name in STATISTICS}
    assert step(made) == expected


def test_batch_norms_of_a_head_are_trained_in_every_mode():
    made = module(heads=lambda: [nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))])
    made.begin(phase(("layer2",), batch_norm="frozen"))
    made.train()
    assert made.heads[0][0].training
    assert {f"heads.0.0.{name}" for name in STATISTICS} <= step(made)


# Modes


def modes(made):
    return [[layer.training for layer in segment] for segment in made.segments]


OFF = [False] * 3


@pytest.mark.parametrize("batch_norm", ["affine", "frozen"])
def test_frozen_stages_and_batch_norms_are_in_eval_mode(batch_norm):
    made = module()
    made.begin(phase(("layer1", "layer2"), batch_norm=batch_norm))
    assert made.train() is made
    assert made.training
    assert made.heads.training
    assert modes(made)[0] == OFF
    assert modes(made)[1] == [True, False, True]  # dropout is on
    assert modes(made)[2] == [True, False, True]
    assert [segment.training for segment in made.segments] == [False, True, True, False]


def test_train_means_batch_norms_of_stages_that_learn():
    made = module()
    made.begin(phase(("layer1",), batch_norm="train"))
    made.train()
    assert modes(made)[:3] == [OFF, [True] * 3, OFF]


def test_eval_is_eval_everywhere():
    made = module()
    made.begin(phase(NAMES, batch_norm="train"))
    made.train()
    made.eval()
    assert not any(layer.training for layer in made.modules())


def test_frozen_stage_between_stages_that_learn_stays_in_eval_mode():
    made = module()
    made.begin(phase(("stem", "layer2"), batch_norm="train"))
    made.train()
    assert modes(made)[:3] == [[True] * 3, OFF, [True] * 3]
    assert made.first == 0


def test_module_that_has_begun_nothing_is_in_eval_mode_but_its_heads():
    made = module()
    made.train()
    assert not any(segment.training for segment in made.segments)
    assert made.heads.training


# Cuts


@pytest.mark.parametrize(
    ("names", "first"),
    [((), 4), (("layer2",), 2), (("layer1",), 1), (("stem",), 0), (NAMES, 0)],
)
def test_forward_begins_behind_the_cut(names, first):
    made = module().eval()
    inputs = images()
    (expected,) = made(inputs)
    made.begin(phase(names))
    assert made.first == first
    for segment in made.segments[:first]:
        inputs = segment(inputs)
    (found,) = made(inputs)
    assert torch.equal(found, expected)


def test_phase_may_name_stages_that_the_module_leaves_out_above():
    made = module(lambda: stages()[:2])
    made.begin(phase(("stem",)))
    assert (made.first, learning(made)) == (0, HEAD | of_stage(made, 0))
    made.begin(phase(("layer1",)))
    assert (made.first, learning(made)) == (1, HEAD | of_stage(made, 1))


def test_every_head_sees_the_pooled_features():
    with seeded_globals(0):
        heads = [nn.Linear(4, 3), nn.Linear(4, 2)]
    made = TransferModule(stages()[:3], nn.AvgPool2d(6), heads).eval()
    made.pool = nn.Sequential(made.pool, nn.Flatten())
    features = images()
    for segment in made.segments:
        features = segment(features)
    features = features.mean((2, 3))
    for found, head in zip(made(images()), heads, strict=True):
        torch.testing.assert_close(found, head(features))


def test_outputs_of_stages_are_kept_only_where_they_are_wanted():
    made = module().eval()
    made.begin(phase(("layer2",)))
    inputs = made.segments[1](made.segments[0](images()))
    made(inputs)
    assert made.stage_outputs == []
    made.keeps_outputs = True
    made(inputs)
    came_in, layer2, pooled, features = made.stage_outputs
    assert torch.equal(came_in, inputs)
    assert torch.equal(layer2, made.segments[2](inputs))
    assert torch.equal(pooled, layer2.mean((2, 3)))
    assert torch.equal(features, pooled)
    made.keeps_outputs = False
    made(inputs)
    assert made.stage_outputs == []


def test_parts_are_the_stages_behind_the_cut_and_the_heads():
    made = module()
    some = phase(("layer1", "layer2"), factors={"layer1": 0.1, "layer2": 0.5})
    made.begin(some)
    parts = made.parts(some)
    assert [(name, factor) for name, _, factor in parts] == [
        ("layer1", 0.1),
        ("layer2", 0.5),
        ("pooled", 0.0),
        ("head", 1.0),
    ]
    assert [part for _, part, _ in parts] == [*made.segments[1:], made.heads]


# Snapshots


def test_snapshot_holds_the_heads_and_what_learns_in_any_phase():
    made = module()
    made.learns = frozenset({"layer1", "layer2"})
    made.begin(phase(("layer2",)))
    whole = made.state_dict()
    expected = {n for n in whole if n.startswith(("segments.1", "segments.2", "heads"))}
    snapshot = made.snapshot()
    assert set(snapshot) == expected
    assert "segments.1.1.running_mean" in snapshot
    assert all(torch.equal(snapshot[name], whole[name]) for name in snapshot)


def test_everything_may_learn_until_it_is_known_what_does():
    made = module()
    assert set(made.snapshot()) == set(made.state_dict())


def test_restore_undoes_training():
    made = module()
    made.learns = frozenset({"layer1"})
    made.begin(phase(("layer1",), batch_norm="train"))
    before = copy.deepcopy(made.state_dict())
    snapshot = made.snapshot()
    changed = step(made, n=3)
    assert changed == set(snapshot)
    made.restore(snapshot)
    after = made.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    # The parameters are those of before, so that an optimizer still knows them.
    assert step(made) == changed


def test_snapshot_is_a_copy_that_training_does_not_change():
    made = module()
    made.begin(phase(NAMES))
    snapshot = made.snapshot()
    copied = copy.deepcopy(snapshot)
    step(made)
    assert all(torch.equal(snapshot[name], copied[name]) for name in copied)
    made.restore(snapshot)
    step(made)
    assert all(torch.equal(snapshot[name], copied[name]) for name in copied)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_restore_goes_a_share_of_the_way(dtype):
    made = module()
    made.heads.register_parameter("scale", nn.Parameter(torch.zeros(2, dtype=dtype)))
    snapshot = made.snapshot()
    with torch.no_grad():
        made.heads.scale.fill_(4)
    made.restore(snapshot, 0.25)
    assert (made.heads.scale == 3).all()


def test_restore_leaves_other_tensors_alone():
    made = module()
    made.learns = frozenset({"layer2"})
    snapshot = made.snapshot()
    with torch.no_grad():
        made.segments[0][0].weight.fill_(7)
    made.restore(snapshot)
    assert (made.segments[0][0].weight == 7).all()


def test_stages_up_to_a_layer_end_with_it():
    segments = stages()
    assert segments_up_to(segments, "layer1") == segments[:2]
    assert segments_up_to(segments, "pooled") == segments
