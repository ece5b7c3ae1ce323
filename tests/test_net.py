"""The net: losses of several heads, batches, memory, randomness, and what stops it."""

import os

import numpy as np
import pytest
import torch
from _networks import Ready, Stage
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sktransfer._engine.data import Rows, epoch_order
from sktransfer._engine.module import TransferModule
from sktransfer._engine.net import StopPhase, TransferNet
from sktransfer._engine.optimizers import parameter_groups
from sktransfer._engine.penalties import Penalty
from sktransfer._engine.schedules import Schedule
from sktransfer._randomness import seeded_globals
from sktransfer.strategies._phases import Phase, StagePlan

PHASE = Phase("fine_tuning", (StagePlan("top", 20, "all", 0.5),))
N = 24


def squared(output, target):
    return (output[:, 0] - target).square()


def absolute(output, target):
    return (output - target[:, None]).abs().sum(dim=1)


def rows(n=N):
    """A dataset with two targets, and weights that differ between rows and heads."""
    generator = torch.Generator().manual_seed(0)
    source = Ready(torch.randn(n, 4, generator=generator))
    targets = [source.activations[:, 0], torch.arange(n) / n]
    weights = torch.stack([torch.ones(n), torch.arange(n) / n], dim=1)
    return Rows(source, np.arange(n), targets, weights)


class Limited(nn.Module):
    """A layer that has memory for some rows only, while it is trained."""

    def __init__(self, most):
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, batch):
        if self.training:
            self.seen.append(len(batch))
            if len(batch) > self.most:
                raise torch.OutOfMemoryError("no room")
        return batch


def make_module(*layers, most=10**6):
    with seeded_globals(0):
        stage = Stage("top", nn.Linear(4, 4), *layers, Limited(most))
        return TransferModule(
            [stage], nn.Identity(), [nn.Linear(4, 1), nn.Linear(4, 2)]
        )


def make_net(module=None, lr=0.1, optimizer=torch.optim.SGD, **options):
    """A net in the middle of a phase, about to train."""
    options = {"seed": 0, "batch_size": 8, "train_split": None, "verbose": 0} | options
    net = TransferNet(
        make_module() if module is None else module,
        losses=[squared, absolute],
        task_weights=[1.0, 2.0],
        **options,
    ).initialize()

    def make(parts):
        made = optimizer(parameter_groups(parts, lr, 0.0))
        return made, Schedule(made, "constant", 10)

    net.begin_phase(0, PHASE, make)
    net.notify("on_train_begin", X=None, y=None)
    return net


def weights_of(net):
    return {n: p.detach().clone() for n, p in net.module_.named_parameters()}


def assert_equal_weights(one, other, **tolerance):
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], msg=name, **tolerance)


def test_loss_is_the_mean_over_rows_of_weighted_losses_summed_over_heads():
    net = make_net()
    outputs = [torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0, 1.0], [2.0, 2.0]])]
    targets = [torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])]
    weights = torch.tensor([[1.0, 3.0], [0.5, 0.0]])
    by_hand = (1 * 1 + 0.5 * 4) / 2 + 2 * (3 * 1 + 0 * 2) / 2
    assert net.get_loss(outputs, (targets, weights)).item() == pytest.approx(by_hand)


def test_recorded_loss_is_that_of_the_epoch_and_no_gradient_is_kept_for_it():
    net, data = make_net(lr=1e-30), rows()
    net.fit_loop(data, epochs=1)
    with torch.no_grad():
        outputs = net.module_.eval()(data.source.activations)
        expected = net.get_loss(outputs, (data.targets, data.weights))
    assert net.history[-1, "train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_history_names_the_phase_and_the_rates_of_all_groups():
    net = make_net()
    net.fit_loop(rows(), epochs=2)
    assert [row["phase"] for row in net.history] == ["fine_tuning"] * 2
    rates = {k: v for k, v in net.history[-1].items() if k.startswith("lr_")}
    assert rates == {
        "lr_top.decay": 0.05,
        "lr_top.no_decay": 0.05,
        "lr_head.decay": 0.1,
        "lr_head.no_decay": 0.1,
    }


def test_each_row_comes_once_an_epoch_in_an_order_of_its_own():
    net, data = make_net(), rows()
    net.fit_loop(data, epochs=2)
    seen = [row for batch in data.source.batches for row in batch]
    for epoch, order in enumerate((seen[:N], seen[N:])):
        np.testing.assert_array_equal(order, epoch_order(N, 0, 0, epoch))
    assert seen[:N] != seen[N:]


@pytest.mark.parametrize(
    ("n_views", "views"), [(None, [0, 1, 2, 3]), (2, [0, 1, 0, 1])]
)
def test_every_epoch_has_a_new_view_unless_there_are_fixed_ones(n_views, views):
    net, data = make_net(n_views=n_views), rows()
    net.fit_loop(data, epochs=4)
    assert data.source.views[::3] == views


def test_evaluation_sees_the_rows_in_their_order_without_augmentation():
    net, data = make_net(), rows()
    net.fit_loop(data, epochs=2)
    data.source.views.clear(), data.source.batches.clear()
    outputs = net.forward(data)
    assert data.source.views == [0, 0, 0]
    assert [row for batch in data.source.batches for row in batch] == list(range(N))
    assert [tuple(output.shape) for output in outputs] == [(N, 1), (N, 2)]


def test_skorchs_own_methods_take_tensors():
    net, data = make_net(), rows()
    images = data.source.activations
    expected = [o.detach() for o in net.module_.eval()(images)]
    for given, wanted in zip(net.forward(images), expected, strict=True):
        torch.testing.assert_close(given, wanted)
    np.testing.assert_allclose(net.predict(images), expected[0].numpy(), rtol=1e-5)
    assert sum(len(batch[0]) for batch in net.forward_iter(images)) == N


@pytest.mark.parametrize(("most", "parts"), [(4, [8, 4, 4]), (3, [8, 4, 2, 2, 2, 2])])
def test_out_of_memory_takes_a_step_in_parts_with_the_same_result(most, parts):
    whole = make_net(gradient_clip=1.0)
    whole.fit_loop(rows(8), epochs=1)
    module = make_module(most=most)
    net = make_net(module, gradient_clip=1.0)
    with pytest.warns(RuntimeWarning, match="Out of memory") as warned:
        net.fit_loop(rows(8), epochs=1)
    seen = module.segments[0][-1].seen
    assert seen == parts
    assert len(warned) == len([n for n in seen if n > most])
    assert_equal_weights(weights_of(net), weights_of(whole))
    assert net.history[-1, "train_loss"] == pytest.approx(
        whole.history[-1, "train_loss"], rel=1e-6
    )


def test_later_steps_remember_how_many_rows_there_is_memory_for():
    module = make_module(most=4)
    net = make_net(module)
    with pytest.warns(RuntimeWarning, match="continuing with 4, gradients accumulated"):
        net.fit_loop(rows(), epochs=1)
    net.fit_loop(rows(), epochs=1)
    assert module.segments[0][-1].seen == [8] + 12 * [4]


@pytest.mark.filterwarnings("ignore:Out of memory")
def test_memory_for_not_even_one_row_is_an_error():
    net = make_net(make_module(most=0))
    with pytest.raises(torch.OutOfMemoryError):
        net.fit_loop(rows(), epochs=1)


def test_gradients_of_a_step_are_clipped_together():
    before_and_after = []
    for clip in (None, 0.01):
        net = make_net(lr=1.0, gradient_clip=clip)
        before = weights_of(net)
        net.fit_loop(rows(8), epochs=1)
        moves = [weights_of(net)[n] - w for n, w in before.items() if "heads" in n]
        before_and_after.append(torch.cat([m.flatten() for m in moves]).norm().item())
    assert before_and_after[0] > 0.5
    assert before_and_after[1] <= 0.01


def test_heads_learn_as_much_however_strong_a_penalty_is():
    class Pull(Penalty):
        def __call__(self, inputs, stage_outputs, features):
            return self.strength * features.square().sum()

    moves = []
    for strength in (1.0, 1e6):
        net = make_net(lr=1.0, gradient_clip=0.01)
        net.begin_phase(0, PHASE, net._make_optimizer, Pull(strength))
        before = weights_of(net)
        net.fit_loop(rows(8), epochs=1)
        moved = {n: w - before[n] for n, w in weights_of(net).items()}
        moves.append({n: move for n, move in moved.items() if "heads" in n})
        for of_heads in (True, False):
            part = [m.flatten() for n, m in moved.items() if ("heads" in n) == of_heads]
            assert 0 < torch.cat(part).norm() <= 0.0101
    assert_equal_weights(*moves, rtol=1e-5, atol=0)


def test_dropout_depends_on_the_place_and_not_on_the_global_generator():
    results = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        state = torch.get_rng_state()
        net = make_net(make_module(nn.Dropout(0.5)))
        net.fit_loop(rows(), epochs=2)
        assert torch.equal(torch.get_rng_state(), state)
        results.append(weights_of(net))
    assert_equal_weights(*results, rtol=0, atol=0)


def test_dropout_differs_between_seeds_and_from_step_to_step():
    kept = []

    class Recorder(nn.Module):
        def forward(self, batch):
            if self.training:
                kept.append(tuple((batch != 0).flatten().tolist()))
            return batch

    for seed in (0, 1):
        net = make_net(make_module(nn.Dropout(0.5), Recorder()), seed=seed)
        net.fit_loop(rows(), epochs=2)
    assert len(set(kept)) == len(kept) == 12


def test_flushing_of_denormals_ends_with_the_step():
    net = make_net()
    torch.set_flush_denormal(False)
    net.fit_loop(rows(), epochs=1)
    assert (torch.tensor(1e-40) * 1).item() > 0


class Stopper(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise KeyboardInterrupt


class KeyPress(Callback):
    def on_epoch_end(self, net, **kwargs):
        os.kill(os.getpid(), 2)


def test_callback_that_raises_as_skorchs_do_asks_for_the_end_of_the_phase():
    net = make_net(callbacks=[Stopper()])
    with pytest.raises(StopPhase):
        net.fit_loop(rows(), epochs=3)
    assert len(net.history) == 1


@pytest.mark.usefixtures("keyboard")
def test_key_press_inside_a_callback_is_not_taken_for_such_a_wish():
    net = make_net(callbacks=[KeyPress()])
    with pytest.raises(KeyboardInterrupt):
        net.fit_loop(rows(), epochs=3)


def test_early_stopping_of_skorch_stops_the_phase():
    stop = EarlyStopping("train_loss", patience=2, threshold=1e9, threshold_mode="abs")
    net = make_net(callbacks=[stop])
    with pytest.raises(StopPhase):
        net.fit_loop(rows(), epochs=9)
    assert len(net.history) == 3


@pytest.mark.parametrize(("verbose", "n_lines"), [(0, 0), (1, 4)])
def test_verbose_prints_a_line_an_epoch_below_a_header(verbose, n_lines, capsys):
    net = make_net(verbose=verbose)
    capsys.readouterr()
    net.fit_loop(rows(), epochs=2)
    assert len(capsys.readouterr().out.splitlines()) == n_lines


def test_new_phase_has_a_new_optimizer_and_counts_its_own_epochs():
    net = make_net()
    net.fit_loop(rows(), epochs=2)
    first = net.optimizer_
    assert net.phase_epoch_ == 2
    make = net._make_optimizer
    net.begin_phase(1, Phase("next", (StagePlan("top", 20),)), make)
    assert net.optimizer_ is not first
    assert (net.phase_number_, net.phase_epoch_) == (1, 0)
    names = [name for g in net.optimizer_.param_groups for name in g["names"]]
    assert sorted(names) == ["head.decay", "head.no_decay"]


def test_forgotten_data_leave_the_optimizer_and_no_gradients():
    net = make_net()
    net.fit_loop(rows(), epochs=1)
    optimizer = net.optimizer_
    net.forget_data()
    assert net.train_split is None
    assert net.optimizer_ is optimizer
    assert all(p.grad is None for p in net.module_.parameters())


class OutputsSum:
    """A penalty that shows what it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, inputs, stage_outputs, features):
        self.seen.append((inputs, stage_outputs, features))
        return features.sum() * 0 + 5


def test_penalty_is_added_to_the_loss_of_training_only():
    plain, data = make_net(lr=1e-30), rows()
    plain.fit_loop(data, epochs=1)
    net = make_net(lr=1e-30)
    penalty = OutputsSum()
    net.begin_phase(0, PHASE, net._make_optimizer, penalty)
    net.set_params(train_split=lambda dataset: (dataset, dataset))
    net.fit_loop(data, epochs=1)
    without = plain.history[-1, "train_loss"]
    assert net.history[-1, "train_loss"] == pytest.approx(without + 5, rel=1e-5)
    assert net.history[-1, "valid_loss"] == pytest.approx(without, rel=1e-5)
    inputs, (stage,), features = penalty.seen[0]
    assert inputs.shape == stage.shape == features.shape == (8, 4)
    net.forget_data()
    net.forward(data)
    assert net.module_.stage_outputs == []
