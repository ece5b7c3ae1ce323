"""Running phases: their order, their ends, going on after a stop, one more epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from _networks import Ready, Stage
from skorch.callbacks import Callback
from torch import nn

from sktransfer._engine.checkpoint import CheckpointFile
from sktransfer._engine.data import Rows
from sktransfer._engine.losses import resolve_loss
from sktransfer._engine.module import TransferModule
from sktransfer._engine.net import untrained_net
from sktransfer._engine.task import Recipe, Task
from sktransfer._engine.training import Training
from sktransfer._engine.validation import BestWeights
from sktransfer._randomness import seeded_globals
from sktransfer.strategies._phases import Phase, StagePlan

N, N_VALID = 40, 10
CPU = torch.device("cpu")
NAMES = ("low", "top", "pooled")
LOSS = resolve_loss("auto", "multiclass", 0.0)


def stages():
    with seeded_globals(0):
        low = Stage("low", nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        top = Stage("top", nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2))
        return [low, top, Stage("pooled", nn.AdaptiveAvgPool2d(1), nn.Flatten())]


def phase(name, learning, epochs=2, **options):
    plans = [StagePlan(n, 1, *(("all", 0.5) * (n in learning))) for n in NAMES]
    return Phase(name, tuple(plans), epochs, **options)


ALL = phase("all", ("low", "top"))
TOP = phase("top", ("top",))
PROBE = phase("probe", (), 0, solver="exact")


class Tasks:
    """What the estimator would tell scikit-learn's callbacks; can stop a training."""

    def __init__(self, stop_after=None, interrupt_after=None):
        self.told, self.n_epochs = [], 0
        self.stop_after, self.interrupt_after = stop_after, interrupt_after

    def begin_phase(self, phase):
        self.told.append(f"begin {phase.name}")

    def end_phase(self):
        self.told.append("end phase")

    def begin_epoch(self):
        self.told.append("begin epoch")

    def end_epoch(self):
        self.told.append("end epoch")
        self.n_epochs += 1
        if self.n_epochs == self.interrupt_after:
            raise KeyboardInterrupt
        return self.n_epochs == self.stop_after


def make_task(solved, n_valid=0, scale=1.0):
    """Images in which the brightest channel is the class, and all that goes with it."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(N) % 3
    images = torch.randn(N, 3, 6, 6, generator=generator)
    images[torch.arange(N), target] += 1
    images *= scale
    sources = {}

    def activations(cut, training):
        network = nn.Sequential(*stages()[: NAMES.index(cut) + 1 if cut else 0]).eval()
        with torch.no_grad():
            return sources.setdefault((cut, training), Ready(network(images)))

    task = Task(
        activations,
        [target],
        torch.ones(N, 1),
        [LOSS],
        [1.0],
        np.arange(N - n_valid),
        np.arange(N - n_valid, N),
        lambda *args: solved.append(args),
    )
    return task, sources


def accuracy(outputs, targets, weights):
    return float((outputs[0].argmax(axis=1) == targets[0]).mean())


def make_training(tasks=None, n_valid=0, folder=None, net=None, scale=1.0, **recipe):
    recipe = {
        "optimizer": "adamw",
        "optimizer_params": None,
        "lr": 0.01,
        "weight_decay": 1e-3,
        "lr_schedule": "cosine",
        "gradient_clip": 1.0,
        "batch_size": 8,
        "device": CPU,
        "seed": 0,
    } | recipe
    solved = []
    task, sources = make_task(solved, n_valid, scale)
    with seeded_globals(1):
        module = TransferModule(stages(), nn.Identity(), [nn.Linear(4, 3)])
    training = Training(
        module if net is None else net.module_,
        stages,
        task,
        Recipe(**recipe),
        best=BestWeights(accuracy, 5, 0.0) if n_valid else None,
        checkpoint=None if folder is None else CheckpointFile(folder, "this fit"),
        tasks=Tasks() if tasks is None else tasks,
        net=net,
    )
    training.solved, training.sources = solved, sources
    return training


def state_of(training):
    return {n: t.clone() for n, t in training.net.module_.state_dict().items()}


def history_of(training):
    rows = training.net.history.to_list()
    dropped = ("dur", "batches", "train_loss_best", "valid_loss_best")
    return [{k: v for k, v in row.items() if k not in dropped} for row in rows]


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


def changed_tensors(training):
    start = make_training().module.state_dict()
    return {n for n, t in state_of(training).items() if not torch.equal(t, start[n])}


def test_phases_run_in_order_and_what_is_solved_takes_no_epoch():
    training = make_training()
    training.run([PROBE, TOP, ALL])
    assert training.solved == [(PROBE, TOP.cut)]
    assert [row["phase"] for row in training.net.history] == ["top"] * 2 + ["all"] * 2
    one_phase = ["begin epoch", "end epoch"] * 2 + ["end phase"]
    assert training.tasks.told == [
        *("begin probe", "end phase"),
        *("begin top", *one_phase),
        *("begin all", *one_phase),
    ]


def test_only_named_stages_change_and_epochs_start_behind_the_cut():
    training = make_training()
    training.run([TOP])
    names = {"segments.1.0.weight", "segments.1.0.bias", "segments.1.1.weight"}
    names |= {"segments.1.1.bias", "heads.0.weight", "heads.0.bias"}
    assert changed_tensors(training) == names
    assert set(training.sources) == {("low", True)}


def test_training_lowers_the_loss():
    training = make_training()
    training.run([phase("all", ("low", "top"), 10)])
    losses = [row["train_loss"] for row in training.net.history]
    assert losses[-1] < 0.7 * losses[0]


def test_each_phase_runs_the_whole_schedule_with_an_optimizer_of_its_own():
    rates, optimizers = [], []

    class Recorder(Callback):
        def on_batch_begin(self, net, training=None, **kwargs):
            rates.append(net.optimizer_.param_groups[-1]["lr"])
            optimizers.append(net.optimizer_)

    training = make_training(callbacks=[Recorder()])
    training.run([TOP, ALL])
    assert len(set(map(id, optimizers))) == 2
    assert rates[:10] == rates[10:]
    assert rates[0] == 0.005
    assert max(rates) == 0.01
    assert rates[9] < 0.0005


def test_callbacks_see_one_training_that_begins_and_ends():
    told = []

    class Recorder(Callback):
        def on_train_begin(self, net, **kwargs):
            told.append("train begin")

        def on_epoch_begin(self, net, **kwargs):
            told.append(net.phase_.name)

        def on_train_end(self, net, **kwargs):
            told.append("train end")

    make_training(callbacks=[("recorder", Recorder())]).run([PROBE, TOP, ALL])
    assert told == ["train begin", "top", "top", "all", "all", "train end"]


class StopIn(Callback):
    """Asks for the end of a phase in its first epoch, at the end of something."""

    def __init__(self, phase, moment="on_epoch_end"):
        self.phase, self.moment = phase, moment

    def stop(self, net, moment):
        if net.phase_.name == self.phase and moment == self.moment:
            raise KeyboardInterrupt

    def on_epoch_end(self, net, **kwargs):
        self.stop(net, "on_epoch_end")

    def on_batch_end(self, net, **kwargs):
        self.stop(net, "on_batch_end")


@pytest.mark.parametrize("moment", ["on_epoch_end", "on_batch_end"])
def test_callback_that_stops_ends_its_phase_and_not_the_next(moment):
    training = make_training(callbacks=[StopIn("top", moment)])
    training.run([TOP, ALL])
    phases = [row["phase"] for row in training.net.history]
    assert phases == ["top", "all", "all"]


def test_callback_that_stops_does_not_keep_the_epoch_from_being_judged():
    training = make_training(n_valid=N_VALID, callbacks=[StopIn("top")])
    training.run([TOP, ALL])
    assert all("valid_score" in row for row in training.net.history)
    assert len(training.net.history) == 3


def test_task_that_asks_for_it_ends_its_phase():
    training = make_training(Tasks(stop_after=1))
    training.run([TOP, ALL])
    assert [row["phase"] for row in training.net.history] == ["top", "all", "all"]


def test_patience_starts_anew_with_each_phase():
    training = make_training(n_valid=N_VALID, lr=1e-12)
    training.best.n_iter_no_change = 2
    long = [phase("top", ("top",), 9), phase("all", ("low", "top"), 9)]
    training.run(long)
    assert len([r for r in training.net.history if r["phase"] == "all"]) == 2


def test_best_weights_are_those_at_the_end():
    training = make_training(n_valid=N_VALID, lr=0.3, gradient_clip=None)
    training.run([phase("all", ("low", "top"), 6)])
    scores = [row["valid_score"] for row in training.net.history]
    task, net = training.task, training.net
    outputs = net.forward(task.dataset(None, training=False))
    target = task.targets[0][task.valid]
    assert (outputs[0].argmax(dim=1) == target).float().mean() == max(scores)


def test_solved_head_is_judged_before_the_first_step_of_what_is_trained_then():
    training = make_training(n_valid=N_VALID)
    training.run([PROBE, TOP])
    assert training.best.probe_score is not None
    training = make_training(n_valid=N_VALID)
    training.run([TOP])
    assert training.best.probe_score is None


CASES = {
    "plain": ([TOP, ALL], {}),
    "sgd and steps": ([ALL], {"optimizer": "sgd", "lr_schedule": "step"}),
    "plateau": ([ALL], {"lr_schedule": "plateau"}),
    "own schedule": (
        [ALL],
        {"lr_schedule": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)},
    ),
    "validation": ([PROBE, TOP, ALL], {"n_valid": N_VALID}),
    "train statistics": ([phase("all", ("low", "top"), batch_norm="train")], {}),
    "l2_sp": ([TOP, phase("all", ("low", "top"), penalty="l2_sp")], {}),
    "delta": ([TOP, phase("all", ("low", "top"), penalty="delta")], {}),
    "bss": ([phase("all", ("low", "top"), penalty="bss")], {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("interrupt_after", [1, 2])
def test_resumed_training_ends_with_the_same_bits(case, interrupt_after, tmp_path):
    phases, options = CASES[case]
    whole = make_training(**options)
    whole.run(phases)
    stopped = make_training(
        Tasks(interrupt_after=interrupt_after), folder=tmp_path, **options
    )
    with pytest.raises(KeyboardInterrupt):
        stopped.run(phases)
    resumed = make_training(folder=tmp_path, **options)
    resumed.run(phases)
    n_epochs = sum(phase.epochs for phase in phases)
    assert resumed.tasks.n_epochs == n_epochs - interrupt_after
    assert resumed.solved == []
    assert_same_bits(state_of(resumed), state_of(whole))
    assert history_of(resumed) == history_of(whole)
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_is_there_while_phases_run_and_gone_afterwards(tmp_path):
    seen = []

    class Looker(Callback):
        def on_epoch_begin(self, net, **kwargs):
            seen.append([path.name for path in tmp_path.iterdir()])

    make_training(folder=tmp_path, callbacks=[Looker()]).run([TOP])
    assert seen == [[], ["fit.checkpoint"]]
    assert list(tmp_path.iterdir()) == []


def test_l2_sp_takes_the_place_of_weight_decay():
    decays = {}

    class Recorder(Callback):
        def on_epoch_end(self, net, **kwargs):
            groups = net.optimizer_.param_groups
            decays[net.phase_.name] = {group["weight_decay"] for group in groups}

    l2_sp = phase("l2_sp", ("top",), penalty="l2_sp", strength="auto")
    make_training(callbacks=[Recorder()]).run([TOP, l2_sp])
    assert decays == {"top": {1e-3, 0.0}, "l2_sp": {0.0}}


def test_strong_penalty_keeps_the_network_near_its_base():
    distances = []
    for strength in (0.0, 100.0):
        training = make_training(optimizer="sgd", gradient_clip=None)
        training.run(
            [phase("all", ("low", "top"), 4, penalty="l2_sp", strength=strength)]
        )
        base = torch.cat([p.flatten() for s in stages() for p in s.parameters()])
        segments = training.module.segments
        tuned = torch.cat([p.flatten() for s in segments for p in s.parameters()])
        distances.append((tuned - base).norm().item())
    assert distances[1] < 0.2 * distances[0]


def test_one_more_epoch_has_constant_rates_and_keeps_the_optimizer():
    rates = []

    class Recorder(Callback):
        def on_batch_begin(self, net, training=None, **kwargs):
            rates.append([group["lr"] for group in net.optimizer_.param_groups])

    training = make_training(callbacks=[Recorder()])
    training.one_more_epoch(ALL, 1)
    optimizer = training.net.optimizer_
    again = make_training(net=training.net)
    again.one_more_epoch(ALL, 1)
    assert again.net.optimizer_ is optimizer
    assert {len(state) for state in optimizer.state.values()} == {3}
    assert {int(state["step"]) for state in optimizer.state.values()} == {10}
    assert rates == 10 * [[0.005] * 2 + [0.01] * 2]
    assert [row["epoch"] for row in again.net.history] == [1, 2]


def test_one_more_epoch_tells_callbacks_that_training_begins_and_ends():
    told = []

    class Recorder(Callback):
        def on_train_begin(self, net, **kwargs):
            told.append("begin")

        def on_train_end(self, net, **kwargs):
            told.append("end")

    training = make_training(callbacks=[Recorder(), StopIn("all")])
    training.one_more_epoch(ALL, 0)
    assert told == ["begin", "end"]
    assert len(training.net.history) == 1


def test_training_that_goes_on_counts_epochs_from_a_history():
    first = make_training()
    first.one_more_epoch(ALL, 1)
    rows = [dict(row) for row in first.net.history.to_list()]
    rows[0].pop("batches")
    second = make_training()
    second.go_on(rows)
    second.one_more_epoch(ALL, 1)
    assert [row["epoch"] for row in second.net.history] == [1, 2]
    orders = [t.sources[None, True].batches for t in (first, second)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("n_rows", [1, 2, 7, 8, 9, 16, 17, 18])
def test_schedules_end_with_the_last_batch_and_not_before(n_rows):
    rates = []

    class Recorder(Callback):
        def on_batch_begin(self, net, training=None, **kwargs):
            rates.append(net.optimizer_.param_groups[-1]["lr"])

    training = make_training(callbacks=[Recorder()])
    training.task.train = np.arange(n_rows)
    training.run([ALL])
    assert min(rates) > 1e-6
    assert training.net.optimizer_.param_groups[-1]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("scores", "winner", "best_score"),
    [
        ([0.1, 0.5, 0.4, 0.6], "between", 0.6),
        ([0.1, 0.5, 0.4, 0.3], "first epoch", 0.5),
        ([0.7, 0.5, 0.4, 0.3], "probe", 0.7),
    ],
)
def test_weights_between_are_kept_where_they_score_better(scores, winner, best_score):
    training = make_training(n_valid=N_VALID)
    training.mixing, told = 0.25, iter(scores)
    training.best.score = lambda *parts: next(told)  # probe, epochs, between
    states = [state_of(training)]

    class Watch(Tasks):
        def end_epoch(self):
            states.append(state_of(training))
            return super().end_epoch()

    training.tasks = Watch()
    training.run([PROBE, TOP])
    assert next(told, None) is None
    start, first, _ = states
    between = {
        name: tensor
        if name.endswith("tracked")
        else torch.lerp(tensor, start[name], 0.75)
        for name, tensor in first.items()
    }
    expected = {"between": between, "first epoch": first, "probe": start}[winner]
    assert_same_bits(state_of(training), expected)
    assert training.best.best_score == best_score
    assert training.best.probe_score == scores[0]


def test_barrier_between_the_probe_and_what_was_trained_is_told(monkeypatch):
    losses = iter([3.0, 1.0, 2.0])  # between, probe, trained
    training = make_training()
    training.mixing, states = 0.5, []

    def loss(dataset):
        states.append(state_of(training))
        return next(losses)

    monkeypatch.setattr(training.net, "mean_loss", loss)
    with pytest.warns(UserWarning, match="loss on training rows is 3, against 1"):
        training.run([PROBE, TOP])
    assert_same_bits(state_of(training), states[-1])
    assert_same_bits(states[1], make_training().module.state_dict())


TRAIN = phase("train", ("low", "top"), 6, batch_norm="train")


def make_slow_training(settles=True, **options):
    """Batch norms that follow at .001 a step, and images that hardly vary."""
    training = make_training(scale=0.1, **options)
    for layer in training.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.001
    if not settles:
        training.net.settle_statistics = lambda: None
    return training


def test_trained_batch_norms_have_the_statistics_of_what_was_trained():
    losses = []
    for settles in (True, False):
        training = make_slow_training(settles)
        training.run([TRAIN])
        losses.append(training.net.mean_loss(training._plain()))
    last = training.net.history[-1, "train_loss"]
    assert losses[0] < 1.1 * last
    assert losses[1] > 1.4 * last


def test_epochs_are_judged_by_the_statistics_that_will_be_used():
    training = make_slow_training(n_valid=N_VALID)
    training.run([TRAIN])
    rows = [(row["valid_loss"], row["train_loss"]) for row in training.net.history]
    assert all(valid < 1.5 * train for valid, train in rows)
    best = training.best.best_loss
    valid = training.task.dataset(None, training=False)
    assert training.net.mean_loss(valid) == pytest.approx(best)


def test_what_is_mixed_is_judged_and_used_with_statistics_of_its_own():
    losses = []
    for settles in (True, False):
        training = make_slow_training(settles)
        training.mixing = 0.5
        training.run([PROBE, TRAIN])
        losses.append(training.net.mean_loss(training._plain()))
    training.net.plain_rows_ = training._plain
    vars(training.net).pop("settle_statistics")
    training.net.settle_statistics()
    assert losses[0] == pytest.approx(training.net.mean_loss(training._plain()))
    assert losses[0] < 0.9 * losses[1]


def test_one_more_epoch_keeps_the_running_statistics():
    # Its rows may be few, while running statistics know those of earlier calls.
    states = []
    for settles in (True, False):
        training = make_slow_training(settles)
        training.one_more_epoch(TRAIN, 0)
        states.append(state_of(training))
    assert_same_bits(*states)


@pytest.mark.parametrize("last", [TOP, TRAIN])
@pytest.mark.parametrize("mixing", [0.25, 1.0])
def test_looking_at_the_end_shows_it_and_changes_nothing(last, mixing):
    class Look(Tasks):
        def end_epoch(self):
            before = state_of(training)
            with training.as_if_over():
                self.seen = state_of(training)
            assert_same_bits(state_of(training), before)
            return super().end_epoch()

    ends = []
    for tasks in (Look(), Tasks()):
        training = make_slow_training(tasks=tasks)
        training.mixing = mixing
        training.run([PROBE, last])
        ends.append(state_of(training))
        if isinstance(tasks, Look):
            assert_same_bits(tasks.seen, ends[0])
            with training.as_if_over():
                assert_same_bits(state_of(training), ends[0])
    assert_same_bits(*ends)


def test_mean_loss_counts_each_row_once_whatever_the_batches():
    training = make_training()
    training.run([TOP])
    rows = replace(training._plain(), rows=np.arange(13))
    found = training.net.mean_loss(rows)
    by_row = [
        training.net.mean_loss(replace(rows, rows=np.array([row]))) for row in range(13)
    ]
    assert found == pytest.approx(np.mean(by_row), rel=1e-5)


def test_untrained_net_computes_and_keeps_a_history():
    with seeded_globals(1):
        module = TransferModule(stages(), nn.Identity(), [nn.Linear(4, 3)])
    net = untrained_net(module, [LOSS], 8, [{"epoch": 1, "train_loss": 0.5}])
    images = torch.randn(12, 3, 6, 6)
    torch.testing.assert_close(
        net.forward(images)[0], module.eval()(images)[0].detach()
    )
    assert net.history[-1, "train_loss"] == 0.5


def test_dataset_of_a_task_is_one_part_of_the_rows():
    task, _ = make_task([], N_VALID)
    for training, rows in ((True, task.train), (False, task.valid)):
        dataset = task.dataset("low", training)
        assert isinstance(dataset, Rows)
        np.testing.assert_array_equal(dataset.rows, rows)
