"""Penalties: values computed by hand, gradients, and what happens at the edges."""

import copy
import math

import pytest
import torch
from torch import nn

from sktransfer._engine.penalties import channel_attention, make_penalty

NAMES = ("l2_sp", "delta", "bss")


class Scale(nn.Module):
    """Multiplies each channel; maps (b, c, h, w) or vectors (b, c)."""

    def __init__(self, *factors):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(factors))

    def forward(self, batch):
        return batch * self.weight.view(1, -1, *[1] * (batch.ndim - 2))


class Average(nn.Module):
    def forward(self, batch):
        return batch.mean((2, 3))


def frozen(segments):
    return [copy.deepcopy(s).eval().requires_grad_(False) for s in segments]


def linear(weight, bias):
    head = nn.Linear(len(weight[0]), len(weight))
    head.weight.data, head.bias.data = torch.tensor(weight), torch.tensor(bias)
    return head


def call(penalty, segments, inputs):
    outputs = []
    for segment in segments:
        outputs.append(segment(outputs[-1] if outputs else inputs))
    return penalty(inputs, outputs, outputs[-1])


def started(name, segments, heads, strength="auto", base=None):
    penalty = make_penalty(name, strength)
    penalty.start(segments, base or frozen(segments), heads)
    return penalty


def squared(output, target):
    return (output - target).square().sum(1)


def test_l2_sp_is_half_the_squared_distance_from_the_start():
    segments = [nn.Sequential(Scale(1.0, 2.0)), Average()]
    head = linear([[3.0, 4.0]], [100.0])
    penalty = started("l2_sp", segments, [head], strength=0.1)
    segments[0][0].weight.data = torch.tensor([2.0, 4.0])
    found = call(penalty, segments, torch.ones(1, 2, 1, 1))
    # 0.1/2 (1 + 4), and 0.01/2 (9 + 16) for the head without its bias.
    assert found.item() == pytest.approx(0.25 + 0.125)
    found.backward()
    assert segments[0][0].weight.grad.tolist() == pytest.approx([0.1, 0.2])
    assert head.weight.grad.tolist() == [pytest.approx([0.03, 0.04])]
    assert head.bias.grad is None


def test_l2_sp_leaves_frozen_parameters_and_norms_of_the_head_alone():
    segments = [Scale(1.0), Scale(1.0)]
    segments[0].requires_grad_(False)
    penalty = started("l2_sp", segments, [nn.LayerNorm(1)], strength=2.0)
    segments[0].weight.data += 5
    segments[1].weight.data += 3
    assert call(penalty, segments, torch.ones(1, 1)).item() == pytest.approx(9)


def test_l2_sp_counts_the_heads_of_all_targets():
    heads = [linear([[1.0]], [0.0]), linear([[2.0], [3.0]], [0.0, 0.0])]
    penalty = started("l2_sp", [Scale(1.0)], heads)
    found = call(penalty, [Scale(1.0)], torch.ones(1, 1))
    assert found.item() == pytest.approx(0.01 / 2 * (1 + 4 + 9))


def test_delta_is_the_weighted_mean_square_between_maps():
    segments = [Scale(1.0, 1.0), Average()]
    penalty = started("delta", segments, [linear([[2.0, 0.0]], [7.0])], strength=0.5)
    penalty.load_state_dict({"attention": [torch.tensor([0.25, 0.75]), None]})
    segments[0].weight.data = torch.tensor([2.0, 3.0])
    inputs = torch.tensor([[[[1.0, 2.0]], [[1.0, 0.0]]], [[[0.0, 0.0]], [[0.0, 2.0]]]])
    # Squared differences, the mean over two pixels: row one (1 + 4)/2 and 4 (1 + 0)/2,
    # row two 0 and 4 (0 + 4)/2; two channels; attention 1/4 and 3/4; mean over rows.
    distance = (2 * (0.25 * 2.5 + 0.75 * 2) + 2 * (0.75 * 8)) / 2
    found = call(penalty, segments, inputs)
    assert found.item() == pytest.approx(0.5 / 2 * 64 * distance + 0.01 / 2 * 4)
    found.backward()
    # d/dw: 64 strength (w - 1) n_channels attention mean(x^2)
    assert segments[0].weight.grad.tolist() == pytest.approx(
        [32 * 1 * 0.5 * (5 / 2 / 2), 32 * 2 * 1.5 * (5 / 2 / 2)]
    )


def test_delta_of_a_batch_is_the_mean_of_its_rows():
    segments = [Scale(1.0, 2.0), Average()]
    penalty = started("delta", segments, [nn.Identity()])
    penalty.load_state_dict({"attention": [torch.tensor([0.5, 0.5]), None]})
    segments[0].weight.data += 1
    inputs = torch.arange(16.0).view(2, 2, 2, 2)
    alone = [call(penalty, segments, inputs[[row]]).item() for row in (0, 1)]
    assert call(penalty, segments, inputs).item() == pytest.approx(sum(alone) / 2)


def test_delta_is_only_the_head_where_nothing_moved():
    segments = [Scale(1.0, 2.0), Average()]
    penalty = started("delta", segments, [linear([[3.0, 0.0]], [1.0])])
    batches = [(torch.ones(3, 2, 2, 2), torch.zeros(3, 1))]
    penalty.prepare(batches, squared)
    assert call(penalty, segments, batches[0][0]).item() == pytest.approx(0.045)


def increases_of_one_channel_each():
    """A base network, a head, and batches whose increases of the loss are known.

    Outputs are the sums of two maps; targets are right, so zeroing the first channel
    costs the square of its mean, and the second likewise.
    """
    base = frozen([Scale(1.0, 1.0), Average()])
    head = linear([[1.0, 1.0]], [0.0])
    one = torch.tensor([[[[1.0]], [[2.0]]]])
    three = torch.tensor([[[[3.0]], [[0.0]]]] * 3)
    return base, head, [(one, torch.tensor([[3.0]])), (three, torch.full((3, 1), 3.0))]


def test_attention_is_the_softmax_of_standardized_increases():
    base, head, batches = increases_of_one_channel_each()
    attention, pooled = channel_attention(base, head, batches, squared)
    # Mean over the four rows: (1 + 3 * 9) / 4 = 7 and 4 / 4 = 1, standardized 1 and -1.
    high, low = math.exp(1 / 5), math.exp(-1 / 5)
    assert attention.tolist() == pytest.approx(
        [high / (high + low), low / (high + low)]
    )
    assert pooled is None


def test_attention_sums_batches_however_the_loss_is_reduced():
    base, head, batches = increases_of_one_channel_each()
    expected, _ = channel_attention(base, head, batches, squared)
    reduced, _ = channel_attention(base, head, iter(batches), nn.MSELoss())
    torch.testing.assert_close(reduced, expected)


def test_attention_is_even_where_no_channel_matters():
    base = frozen([Scale(1.0, 2.0, 3.0)])
    (attention,) = channel_attention(
        base, lambda x: 0 * x, [(torch.ones(2, 3), torch.zeros(2, 3))], squared
    )
    assert attention.tolist() == pytest.approx([1 / 3] * 3)


def test_attention_sees_stages_as_they_are_before_an_activation_in_place():
    base = frozen([Scale(1.0, 1.0), nn.Sequential(nn.Hardswish(inplace=True))])
    apart = frozen([Scale(1.0, 1.0), nn.Sequential(nn.Hardswish())])
    batches = [(torch.tensor([[2.0, 1.0], [-1.0, 1.0]]), torch.ones(2, 2))]
    for found, expected in zip(
        channel_attention(base, nn.Identity(), batches, squared),
        channel_attention(apart, nn.Identity(), batches, squared),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
    assert batches[0][0].tolist() == [[2, 1], [-1, 1]]


@pytest.mark.parametrize(
    ("shape", "n_channels"),
    [((2, 3, 4, 4), 3), ((2, 4, 4, 3), 3), ((2, 7, 5), 5), ((2, 6), 6)],
    ids=["maps", "maps with channels last", "tokens", "vectors"],
)
def test_attention_finds_the_channels(shape, n_channels):
    base = [nn.Identity()]
    (attention,) = channel_attention(
        base, lambda x: x.flatten(1), [(torch.rand(shape), 0.0)], squared
    )
    assert attention.shape == (n_channels,)
    assert attention.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 16, 3)])
def test_delta_does_not_depend_on_where_the_channels_are(shape):
    found = []
    maps = torch.rand(2, 3, 4, 4)
    for inputs in (maps, maps.permute(0, 2, 3, 1).reshape(shape)):
        segments = [nn.Hardshrink(0.5)]
        penalty = started("delta", segments, [], base=[nn.Identity()])
        penalty.load_state_dict({"attention": [torch.tensor([0.2, 0.3, 0.5])]})
        found.append(call(penalty, segments, inputs).item())
    assert found[0] == pytest.approx(found[1])


def test_prepare_gives_the_loss_one_output_or_a_list_of_them():
    segments = [Scale(1.0, 2.0)]
    batches = [(torch.ones(2, 2), torch.zeros(2, 1))]
    seen = []

    def loss(output, target):
        seen.append(type(output))
        return squared(output[1] if isinstance(output, list) else output, target)

    for heads in ([linear([[1.0, 1.0]], [0.0])], [nn.Identity(), nn.Identity()]):
        started("delta", segments, heads).prepare(batches, loss)
    assert set(seen[:3]) == {torch.Tensor}
    assert set(seen[3:]) == {list}


def test_prepare_runs_heads_without_dropout_and_leaves_them_as_they_were():
    segments = [Scale(1.0, 2.0), Average()]
    head = nn.Sequential(nn.Dropout(0.9), nn.Linear(2, 1))
    batches = [(torch.ones(2, 2, 1, 1), torch.zeros(2, 1))]
    attentions = []
    for training in (True, False):
        penalty = started("delta", segments, [head.train(training)])
        penalty.prepare(batches, squared)
        assert all(m.training is training for m in head.modules())
        attentions.append(penalty.attention[0])
    assert torch.equal(*attentions)
    assert head[1].weight.grad is None


def test_state_of_delta_is_its_attention_and_start_forgets_it():
    segments = [Scale(1.0, 2.0), Average()]
    heads = [linear([[1.0, 3.0]], [0.0])]
    penalty = started("delta", segments, heads)
    penalty.prepare([(torch.ones(2, 2, 1, 1), torch.zeros(2, 1))], squared)
    again = started("delta", segments, heads)
    assert again.attention is None
    again.load_state_dict(penalty.state_dict())
    segments[0].weight.data += 1
    inputs = torch.ones(2, 2, 1, 1)
    assert torch.equal(call(again, segments, inputs), call(penalty, segments, inputs))
    assert started("bss", segments, heads).state_dict() == {}


def test_bss_is_the_smallest_singular_value_squared():
    penalty = started("bss", [], [], strength=0.5)
    features = torch.tensor([[3.0, 0, 0], [0, 0.5, 0]], requires_grad=True)
    found = penalty(None, [features], features)
    assert found.item() == pytest.approx(0.5 * 0.25)
    found.backward()
    torch.testing.assert_close(features.grad, torch.tensor([[0, 0, 0], [0, 0.5, 0.0]]))


def test_bss_of_one_row_is_its_squared_norm():
    features = torch.tensor([[3.0, 4.0]], requires_grad=True)
    found = started("bss", [], [])(None, [features], features)
    assert found.item() == pytest.approx(0.001 * 25)
    found.backward()
    torch.testing.assert_close(features.grad, 0.002 * features.detach())


@pytest.mark.parametrize(
    "features",
    [
        torch.zeros(4, 6),
        torch.zeros(1, 6),
        torch.ones(4, 6),
        torch.ones(9, 3),
        torch.eye(4),
        torch.cat([torch.rand(3, 6)] * 2),
    ],
    ids=["zeros", "zero row", "rank 1", "rank 1, tall", "equal", "rows twice"],
)
def test_bss_of_a_rank_deficient_batch_has_finite_gradients(features):
    features = features.clone().requires_grad_()
    found = started("bss", [], [])(None, [features], features)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4)])
def test_gradients_of_bss_are_those_of_its_values(shape):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    penalty = started("bss", [], [])
    assert torch.autograd.gradcheck(
        lambda x: penalty(None, [x], x), features.requires_grad_()
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bss_of_a_diverged_batch_is_not_finite(bad):
    features = torch.tensor([[1.0, bad], [0.0, 1.0]])
    assert not torch.isfinite(started("bss", [], [])(None, [features], features))


@pytest.fixture
def seeded():
    """Initial weights can be drawn from torch's global generator only."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("name", NAMES)
def test_penalties_are_float32_under_autocast(name):
    segments = [nn.Conv2d(3, 4, 3), Average()]
    penalty = started(name, segments, [nn.Linear(4, 2)])
    inputs = torch.rand(2, 3, 6, 6)
    penalty.prepare([(inputs, torch.zeros(2, 2))], squared)
    segments[0].weight.data += 0.1
    full = call(penalty, segments, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = call(penalty, segments, inputs)
    assert found.dtype == torch.float32
    assert found.ndim == 0
    assert found.item() == pytest.approx(full.item(), rel=0.2)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("name", NAMES)
def test_penalty_pulls_the_network_back(name):
    segments = [nn.Conv2d(3, 4, 3, bias=False), Average()]
    base = frozen(segments)
    penalty = started(name, segments, [nn.Identity()], base=base)
    inputs = torch.rand(6, 3, 6, 6)
    penalty.prepare([(inputs, torch.zeros(6, 4))], squared)
    segments[0].weight.data += 0.1 * torch.randn(4, 3, 3, 3)
    optimizer = torch.optim.SGD(segments[0].parameters(), lr=0.1)
    before = call(penalty, segments, inputs)
    before.backward()
    optimizer.step()
    assert call(penalty, segments, inputs) < before
    assert base[0].weight.grad is None


def test_strengths_of_the_papers_are_the_default():
    assert [make_penalty(name).strength for name in NAMES] == [0.01, 0.01, 0.001]
    assert make_penalty("bss", 3).strength == 3


def test_penalties_say_what_they_need():
    found = [
        (p.needs_base, p.needs_batches, p.replaces_weight_decay)
        for p in map(make_penalty, NAMES)
    ]
    assert found == [(True, False, True), (True, True, True), (False, False, False)]


@pytest.mark.parametrize("name", ["l2_sp", "delta"])
def test_penalty_without_the_base_network_it_needs_is_refused(name):
    with pytest.raises(ValueError, match="needs the base network"):
        make_penalty(name).start([], None, [])
    make_penalty("bss").start([], None, [])


def test_unknown_penalty_is_refused_with_the_names_there_are():
    message = r"Parameter penalty: found 'l2'\. Expected 'l2_sp', 'delta', 'bss'\."
    with pytest.raises(ValueError, match=message):
        make_penalty("l2")


@pytest.mark.parametrize("strength", [-1, math.nan, "strong"])
def test_strength_is_auto_or_a_number_of_at_least_0(strength):
    with pytest.raises(ValueError, match="Parameter strength: found"):
        make_penalty("l2_sp", strength)
