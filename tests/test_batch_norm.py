"""Statistics of batch norms: what is measured, and when that is kept."""

import copy

import numpy as np
import pytest
import torch
from _networks import Stage
from torch import nn

from sktransfer._engine.batch_norm import measured_statistics, settle_statistics
from sktransfer._engine.data import Rows
from sktransfer._engine.module import TransferModule
from sktransfer._randomness import seeded_globals
from sktransfer.strategies._phases import Phase, StagePlan

# The last one differs, and batches of a few rows are less certain of anything.
SIZES = (8, 8, 3)


class Masked(nn.BatchNorm2d):
    """Takes more than a batch."""

    def forward(self, batch, mask=None):
        return super().forward(batch)


class WithMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = Masked(3)

    def forward(self, batch):
        return self.norm(batch, torch.ones(1))


class ByName(nn.Module):
    """Calls its norm as some networks do."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, batch):
        return self.norm(input=batch)


def module(first=None, head=None, trainable=("low", "top"), batch_norm="train"):
    with seeded_globals(0):
        first = nn.BatchNorm2d(3, momentum=0.01) if first is None else first
        low = Stage("low", first, nn.Conv2d(3, 4, 3), nn.Dropout(0.5))
        top = Stage("top", nn.BatchNorm2d(4, momentum=None), nn.ReLU())
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        made = TransferModule([low, top], pool, [head or nn.Linear(4, 2)])
    plans = tuple(
        StagePlan(name, 9, "all" if name in trainable else "none", 1.0)
        for name in ("low", "top")
    )
    made.begin(Phase("some", plans, batch_norm=batch_norm))
    return made


def batches(center=0.3, spread=2.0):
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(sum(SIZES), 3, 6, 6, generator=generator) * spread + center
    # Batches differ, so that a mean of their variances is not the variance.
    batch += torch.arange(len(batch)).view(-1, 1, 1, 1) * spread / 4
    return batch.split(SIZES)


def measure(made, parts):
    layers = made.eval().learning_batch_norms()
    with torch.no_grad(), measured_statistics(layers):
        for part in parts:
            made(part)
    return layers


@pytest.mark.parametrize("center", [0.3, 3000.0])
@pytest.mark.parametrize("first", [None, ByName, WithMask])
def test_statistics_are_those_of_all_that_passed(first, center):
    made = module(first and first())
    parts = batches(center)
    layer = measure(made, parts)[0]
    variance, mean = torch.var_mean(torch.cat(parts), dim=(0, 2, 3))
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, variance, rtol=1e-4, atol=0)


def test_deeper_layers_see_what_they_see_in_training_but_for_dropout():
    made = module()
    parts = batches()
    norm, conv, _ = copy.deepcopy(made.segments[0])
    with torch.no_grad():
        seen = [conv(norm.train()(part)) for part in parts]
    variance, mean = torch.var_mean(torch.cat(seen), dim=(0, 2, 3))
    layer = measure(made, parts)[1]
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.running_var, variance, rtol=1e-4, atol=1e-4)


NORMED_HEAD = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["segments.0.0", "segments.1.0"]),
        ({"trainable": ("top",)}, ["segments.1.0"]),
        ({"batch_norm": "affine"}, []),
        ({"batch_norm": "frozen"}, []),
        ({"trainable": ()}, []),
        ({"first": nn.BatchNorm2d(3, track_running_stats=False)}, ["segments.1.0"]),
        ({"head": NORMED_HEAD, "trainable": ("top",)}, ["segments.1.0"]),
    ],
)
def test_only_what_training_would_change_is_measured(options, expected):
    made = module(**options).eval()
    before = copy.deepcopy(made.state_dict())
    parts = batches()
    for segment in made.segments[: made.first]:
        parts = [segment(part) for part in parts]
    layers = measure(made, parts)
    names = {layer: name for name, layer in made.named_modules()}
    assert [names[layer] for layer in layers] == expected
    after = made.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    statistics = ("running_mean", "running_var")
    assert changed == {f"{layer}.{name}" for layer in expected for name in statistics}


def test_layers_are_left_as_they_were():
    made = module()
    layers = measure(made, batches())
    assert [layer.momentum for layer in layers] == [0.01, None]
    assert not any(layer.training for layer in made.modules())
    before = copy.deepcopy(made.state_dict())
    made(batches()[0])
    assert all(torch.equal(t, before[name]) for name, t in made.state_dict().items())
    made.train()
    assert all(layer.training for layer in layers)


def test_measuring_again_gives_the_same_bits_whatever_was_known_before():
    made = module()
    parts = batches()
    measure(made, parts)
    before = copy.deepcopy(made.state_dict())
    made.train()
    made(parts[0] * 9)
    measure(made, parts)
    counts = "num_batches_tracked"
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, before[name]) or name.endswith(counts)


@pytest.mark.parametrize("n", [0, 1])
def test_what_was_known_is_kept_where_not_everything_passed(n):
    made = module()
    before = copy.deepcopy(made.state_dict())
    if n == 0:
        measure(made, [])
    else:
        with pytest.raises(RuntimeError, match="no more"):
            measure(made, failing())
    assert all(torch.equal(t, before[name]) for name, t in made.state_dict().items())
    assert not any(layer.training for layer in made.modules())


def failing():
    yield batches()[0]
    raise RuntimeError("no more")


def dataset(rows):
    return Rows(None, rows, [], None)


class Net:
    """A net that is told its losses, and whose batches are parts of the rows."""

    seed = 0

    def __init__(self, made, losses):
        self.module_, self.losses, self.judged = made, iter(losses), []
        self.images = torch.cat(batches())

    def mean_loss(self, dataset):
        self.module_.eval()
        self.judged.append(dataset.rows)
        return next(self.losses)

    def get_iterator(self, dataset, training):
        assert not training
        return [(self.images[dataset.rows], None)]

    def infer(self, images):
        self.module_(images)


@pytest.mark.parametrize(
    ("by_running", "by_measured", "kept"),
    [
        (0.5, 0.4, "measured"),
        (0.5, 0.5, "running"),
        (0.4, 0.5, "running"),
        (0.4, float("nan"), "running"),
        (float("nan"), 0.5, "measured"),
    ],
)
def test_statistics_with_the_lower_loss_are_kept(by_running, by_measured, kept):
    running, measured, settled = module(), module(), module()
    net = Net(settled, [by_running, by_measured])
    n = len(net.images)
    settle_statistics(net, lambda: dataset(np.arange(n)))
    measure(measured, [net.images])
    expected = {"measured": measured, "running": running}[kept].state_dict()
    for name, tensor in settled.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    for rows in net.judged:
        assert sorted(rows) == list(range(n))
        assert np.array_equal(rows, net.judged[0])
        assert list(rows) != sorted(rows)  # classes often stand together


@pytest.mark.parametrize("n_judged", [1, 2])
def test_statistics_are_as_they_were_after_an_error(n_judged):
    made = module()
    net = Net(made, [0.5] * (n_judged - 1))
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(StopIteration):
        settle_statistics(net, lambda: dataset(np.arange(19)))
    assert len(net.judged) == n_judged
    assert all(torch.equal(t, before[name]) for name, t in made.state_dict().items())


def test_some_rows_of_many_are_enough():
    net = Net(module(), [0.5, 0.4])
    settle_statistics(net, lambda: dataset(np.arange(5000) % len(net.images)))
    assert [len(rows) for rows in net.judged] == [512, 512]


def test_nothing_is_read_where_no_statistics_are_learnt():
    def rows():
        raise AssertionError("asked for rows")

    settle_statistics(Net(module(batch_norm="affine"), []), rows)
