"""Where a fit ends between the probe and what was trained, and where it does not."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer._engine.mixing import Mixing
from sktransfer._engine.module import TransferModule


@dataclass
class Dataset:
    rows: np.ndarray


class Net:
    """A net whose loss depends on its one weight alone, as a table says."""

    def __init__(self, losses):
        self.losses, self.asked, self.settled = losses, [], []
        self.module_ = TransferModule([], nn.Identity(), [nn.Linear(1, 1, bias=False)])

    @property
    def weight(self):
        return self.module_.heads[0].weight.item()

    def set_weight(self, value):
        with torch.no_grad():
            self.module_.heads[0].weight.fill_(value)

    def settle_statistics(self):
        self.settled.append(self.weight)

    def mean_loss(self, dataset):
        self.asked.append(dataset.rows)
        return self.losses[self.weight]


def trained(losses, coefficient=0.25, probe=0.0, end=4.0):
    """A mixing between the weights 0 and 4, of which 1 is a quarter of the way."""
    net = Net(losses)
    mixing = Mixing(net, coefficient)
    net.set_weight(probe)
    mixing.keep_probe()
    net.set_weight(end)
    return net, mixing


@pytest.mark.parametrize(
    "losses",
    [
        {0.0: 0.5, 1.0: 0.4, 4.0: 0.1},
        {0.0: 0.5, 1.0: 0.5, 4.0: 0.1},
        {0.0: 0.5, 1.0: 0.6, 4.0: 0.7},
        {0.0: 0.5, 1.0: 0.7, 4.0: 0.7},
        {0.0: 0.5, 1.0: 0.1, 4.0: float("nan")},
    ],
)
def test_weights_between_are_taken_unless_they_are_worse_than_both_ends(losses):
    net, mixing = trained(losses)
    assert mixing.move_if_no_worse(Dataset(np.arange(3))) == ""
    assert net.weight == 1.0
    assert net.settled == [1.0]


@pytest.mark.parametrize("between", [0.8, float("nan")])
def test_trained_weights_stay_where_the_line_leads_over_a_barrier(between):
    net, mixing = trained({0.0: 0.5, 1.0: between, 4.0: 0.7})
    problem = mixing.move_if_no_worse(Dataset(np.arange(3)))
    assert net.weight == 4.0
    assert f"found 0.25, but there the loss on training rows is {between}" in problem
    assert "0.5 for the probe and 0.7 for what was trained" in problem
    assert "mixing=1.0" in problem


@pytest.mark.parametrize(("n", "n_asked"), [(3, 3), (512, 512), (5000, 512)])
def test_rows_that_judge_are_few_and_from_all_over_the_set(n, n_asked):
    net, mixing = trained({0.0: 0.5, 1.0: 0.4, 4.0: 0.1})
    mixing.move_if_no_worse(Dataset(np.arange(n) + 7))
    for rows in net.asked:
        assert len(set(rows)) == len(rows) == n_asked
        assert (rows[0], rows[-1]) == (7, n + 6)
        assert np.diff(rows).max() <= n // n_asked + 1


def test_all_the_way_needs_no_probe():
    _, mixing = trained({}, coefficient=1.0)
    assert mixing.probe is None
