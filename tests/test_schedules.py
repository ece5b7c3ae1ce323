"""Schedules: factors at points computed by hand, ratios of groups, going on."""

import io
import math

import pytest
import torch
from torch.optim import lr_scheduler

from sktransfer._engine.schedules import NAMES, Schedule

LRS = (1e-2, 1e-3)


def optimizer(lrs=LRS):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups)


def lrs_of(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def run(schedule, n_steps, losses=()):
    """Learning rates before each step; with losses, epochs of equal length."""
    found = []
    every = n_steps // len(losses) if losses else n_steps + 1
    for step in range(1, n_steps + 1):
        found.append(lrs_of(schedule.optimizer))
        schedule.optimizer.step()
        schedule.step()
        if step % every == 0:
            schedule.end_epoch(losses[step // every - 1])
    return found


def factors(name, n_steps, losses=(), **options):
    lrs = run(Schedule(optimizer(), name, n_steps, **options), n_steps, losses)
    return [first / LRS[0] for first, _ in lrs]


def test_cosine_warms_up_and_falls_to_zero():
    found = factors("cosine", 20)
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found[11] == pytest.approx(0.5)  # half of the 18 steps after the warm-up
    assert found[19] == pytest.approx((1 + math.cos(math.pi * 17 / 18)) / 2)
    assert found[2:] == sorted(found[2:], reverse=True)


def test_cosine_is_zero_at_its_end_and_stays_there():
    schedule = Schedule(optimizer(), "cosine", 4)
    run(schedule, 7)
    assert lrs_of(schedule.optimizer) == [0, 0]


@pytest.mark.parametrize(("n_steps", "n_warm_up"), [(2, 1), (9, 1), (19, 1), (30, 3)])
def test_warm_up_is_a_tenth_and_at_least_one_step(n_steps, n_warm_up):
    for name in ("cosine", "step", "plateau"):
        found = factors(name, n_steps)
        assert found[0] == pytest.approx(1 / (n_warm_up + 1))
        assert found[n_warm_up] == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_steps", [1, 2, 3, 4])
def test_shortest_phases_come_near_the_full_rate(name, n_steps):
    found = factors(name, n_steps)
    assert max(found) > 0.8
    assert min(found) >= 0


@pytest.mark.parametrize("n_steps", [10, 37, 200])
def test_one_cycle_is_the_curve_of_torch(n_steps):
    reference = optimizer()
    scheduler = lr_scheduler.OneCycleLR(
        reference, list(LRS), n_steps, cycle_momentum=False
    )
    for found in run(Schedule(optimizer(), "one_cycle", n_steps), n_steps):
        assert found == pytest.approx(lrs_of(reference), rel=1e-9, abs=1e-15)
        reference.step()
        scheduler.step()


def test_one_cycle_starts_low_peaks_at_30_percent_and_ends_at_next_to_nothing():
    found = factors("one_cycle", 20)
    assert found[0] == pytest.approx(1 / 25)
    assert found[5] == pytest.approx(1)
    assert found[19] == pytest.approx(4e-6)


def test_step_falls_to_a_tenth_at_two_thirds_and_again_at_eight_ninths():
    found = factors("step", 18)
    assert found[1:12] == pytest.approx([1] * 11)
    assert found[12:16] == pytest.approx([0.1] * 4)
    assert found[16:] == pytest.approx([0.01] * 2)


def test_constant_is_one_from_the_first_step_on():
    assert factors("constant", 5) == [1] * 5


def test_plateau_falls_after_patience_epochs_without_a_lower_loss():
    losses = [3.0, 2.0, 2.0, 2.5, 1.9, 1.9, 1.8, 1.8, 1.8, 1.8]
    found = factors("plateau", 20, losses, patience=2)
    by_epoch = [round(f, 6) for f in found[::2]]
    assert by_epoch == [pytest.approx(1 / 3, abs=1e-6), 1, 1, 1, *[0.1] * 5, 0.01]


def test_plateau_counts_negative_losses_and_nan_as_they_are():
    falling = [-1.0, -2.0, -3.0, -4.0]
    assert factors("plateau", 4, falling, patience=1)[-1] == pytest.approx(1)
    diverged = [math.nan] * 4
    assert factors("plateau", 4, diverged, patience=1)[-1] == pytest.approx(1e-3)


def test_only_plateau_heeds_the_loss():
    for name in set(NAMES) - {"plateau"}:
        assert factors(name, 8, [math.inf] * 4) == factors(name, 8)


@pytest.mark.parametrize("name", NAMES)
def test_ratios_between_groups_stay(name):
    lrs = (1e-2, 3e-6, 1e-10)
    found = run(Schedule(optimizer(lrs), name, 30, patience=1), 30, [1.0] * 10)
    assert len({tuple(row) for row in found}) > (name != "constant")
    for row in found:
        if row[0] > 1e-9:
            assert row[1] / row[0] == pytest.approx(3e-4, rel=1e-9)
            assert row[2] / row[0] == pytest.approx(1e-8, rel=1e-9)


def exponential(optimizer):
    return lr_scheduler.ExponentialLR(optimizer, gamma=0.5)


def test_callable_makes_a_scheduler_that_moves_with_each_step():
    assert factors(exponential, 3) == [1, 0.5, 0.25]


def test_callable_may_make_a_scheduler_that_waits_for_the_loss():
    found = factors(
        lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0), 6, [1.0, 1.0, 1.0]
    )
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1])


@pytest.mark.parametrize("order", ["optimizer first", "schedule first"])
@pytest.mark.parametrize("name", [*NAMES, exponential])
def test_going_on_gives_the_bits_of_an_uninterrupted_phase(name, order):
    losses = [2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    whole = run(Schedule(optimizer(), name, 24, patience=2), 24, losses)
    interrupted = Schedule(optimizer(), name, 24, patience=2)
    first = run(interrupted, 12, losses[:4])
    file = io.BytesIO()
    torch.save([interrupted.optimizer.state_dict(), interrupted.state_dict()], file)
    run(interrupted, 5)  # what is saved does not move on
    optimizer_state, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again = Schedule(optimizer(), name, 24, patience=2)
    if order == "optimizer first":
        again.optimizer.load_state_dict(optimizer_state)
        again.load_state_dict(state)
    else:
        again.load_state_dict(state)
        again.optimizer.load_state_dict(optimizer_state)
    assert first + run(again, 12, losses[4:]) == whole


@pytest.mark.parametrize("name", NAMES)
def test_state_does_not_move_on_with_its_schedule(name):
    schedule = Schedule(optimizer(), name, 12, patience=1)
    run(schedule, 6, [1.0] * 3)
    state = schedule.state_dict()
    rest = run(schedule, 6, [1.0] * 3)
    schedule.load_state_dict(state)
    assert run(schedule, 6, [1.0] * 3) == rest


@pytest.mark.parametrize("name", ["cosin", None, 3])
def test_unknown_schedule_is_refused_with_the_names_there_are(name):
    with pytest.raises(ValueError, match="Parameter lr_schedule: found") as caught:
        Schedule(optimizer(), name, 10)
    assert all(repr(known) in str(caught.value) for known in NAMES)


def test_callable_that_makes_no_scheduler_is_refused():
    with pytest.raises(
        ValueError, match="Parameter lr_schedule: the callable returned"
    ):
        Schedule(optimizer(), lambda _: 0.1, 10)
