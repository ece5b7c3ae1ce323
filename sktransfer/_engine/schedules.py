"""How the learning rate moves through one phase.

A schedule multiplies the learning rate each parameter group starts with, so ratios
between groups stay as the strategy set them. It is stepped after each step of the
optimizer and told the loss at the end of each epoch.

torch's schedulers do the work; only the curve of one_cycle is written out here, since
OneCycleLR raises once it is stepped too often and starts a phase of one or two steps at
its end. Momentum stays as it is, which OneCycleLR would cycle, too.
"""

import math
from copy import deepcopy
from functools import partial

import torch
from torch import nn
from torch.optim import lr_scheduler

from sktransfer._engine.optimizers import make_optimizer, parameter_groups

NAMES = ("cosine", "one_cycle", "step", "constant", "plateau")

_WARM_UP = 10  # one step in ten
_DROP = 0.1
_CYCLE_PEAK = 0.3
_CYCLE_START = 1 / 25
_CYCLE_END = _CYCLE_START / 1e4


class Schedule:
    """The learning rates of an optimizer through one phase.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its groups have the learning rates that are multiplied. Make a schedule before
        the state of an interrupted phase is loaded into the optimizer.
    schedule : {"cosine", "one_cycle", "step", "constant", "plateau"} or callable
        ``"cosine"``: linear warm-up over the first tenth of the steps, at least one,
        then down to 0 along half a cosine [1]_.
        ``"one_cycle"``: from 1/25 up along a cosine over the first 30 %, then down to
        4e-6 [2]_.
        ``"step"``: that warm-up, then 1, a tenth from two thirds of the steps on and a
        hundredth from eight ninths on [3]_.
        ``"constant"``: 1 from the first step on, whatever `n_steps` is.
        ``"plateau"``: that warm-up, then a tenth of it each time the loss has not gone
        down by 1e-4 for `patience` epochs [3]_.
        A callable makes any scheduler of torch, ``f(optimizer)``; it is stepped after
        each step of the optimizer, ReduceLROnPlateau after each epoch.
    n_steps : int
        Steps of the phase. Further ones stay at the schedule's end.
    patience : int, default=3
        For ``"plateau"``.

    References
    ----------
    .. [1] Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
       Restarts", ICLR 2017; warm-up: Goyal et al., "Accurate, Large Minibatch SGD",
       2017.
    .. [2] Smith, "A disciplined approach to neural network hyper-parameters: Part 1",
       2018.
    .. [3] He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR
       2016.
    """

    def __init__(self, optimizer, schedule, n_steps, patience=3):
        self.optimizer = optimizer
        self._schedulers = _make(optimizer, schedule, max(1, n_steps), patience)

    def step(self):
        """Move on; to be called after each step of the optimizer."""
        for scheduler in self._schedulers:
            if not _waits_for_loss(scheduler):
                scheduler.step()

    def end_epoch(self, loss):
        """Take note of an epoch's loss.

        Parameters
        ----------
        loss : float
            Of the validation part where there is one, else of training.
        """
        for scheduler in self._schedulers:
            if _waits_for_loss(scheduler):
                scheduler.step(loss)

    def state_dict(self):
        """Return all that is needed to go on as if nothing had happened."""
        return {
            "schedulers": [deepcopy(s.state_dict()) for s in self._schedulers],
            "lrs": [group["lr"] for group in self.optimizer.param_groups],
        }

    def load_state_dict(self, state):
        """Go on from a state; also puts the learning rates into the optimizer."""
        for scheduler, its_state in zip(
            self._schedulers, state["schedulers"], strict=True
        ):
            scheduler.load_state_dict(its_state)
        for group, lr in zip(self.optimizer.param_groups, state["lrs"], strict=True):
            group["lr"] = lr


def _waits_for_loss(scheduler):
    return isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)


def _make(optimizer, schedule, n_steps, patience):
    """Make the schedulers of torch that a schedule consists of."""
    if isinstance(schedule, str) and schedule in _FACTORS:
        factor = partial(_FACTORS[schedule], n_steps=n_steps)
        return [lr_scheduler.LambdaLR(optimizer, factor)]
    if isinstance(schedule, str) and schedule == "plateau":
        return _plateau(optimizer, n_steps, patience)
    if not callable(schedule):
        names = ", ".join(repr(name) for name in NAMES)
        raise ValueError(
            f"Parameter lr_schedule: found {schedule!r}. Expected {names}, or a "
            "callable f(optimizer) that returns a scheduler of torch."
        )
    made = schedule(optimizer)
    if not isinstance(made, lr_scheduler.LRScheduler):
        raise ValueError(
            f"Parameter lr_schedule: the callable returned {type(made).__name__}. "
            "Expected a torch.optim.lr_scheduler.LRScheduler."
        )
    return [made]


def _plateau(optimizer, n_steps, patience):
    # Both multiply what they find, so neither undoes the other.
    n_warm_up = _n_warm_up(n_steps)
    warm_up = lr_scheduler.LinearLR(
        optimizer, start_factor=1 / (n_warm_up + 1), total_iters=n_warm_up
    )
    # torch counts the epochs it lets pass. eps: a group with a tiny learning rate is
    # reduced as the others are. The threshold is absolute since losses may be negative.
    plateau = lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=_DROP,
        patience=patience - 1,
        threshold=1e-4,
        threshold_mode="abs",
        eps=0,
    )
    return [warm_up, plateau]


def _n_warm_up(n_steps):
    return min(max(1, n_steps // _WARM_UP), n_steps - 1)


def _warm_up_factor(step, n_steps):
    """From above 0 at the first step to 1 at the first one after the warm-up."""
    return min(1.0, (step + 1) / (_n_warm_up(n_steps) + 1))


def _half_cosine(start, end, share):
    """From start to end, flat at both."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def _cosine(step, n_steps):
    n_warm_up = _n_warm_up(n_steps)
    if step < n_warm_up:
        return _warm_up_factor(step, n_steps)
    return _half_cosine(1.0, 0.0, (step - n_warm_up) / (n_steps - n_warm_up))


def _one_cycle(step, n_steps):
    last = n_steps - 1
    peak = max(0.0, _CYCLE_PEAK * n_steps - 1)
    if step < peak:
        return _half_cosine(_CYCLE_START, 1.0, step / peak)
    return _half_cosine(1.0, _CYCLE_END, (step - peak) / max(1, last - peak))


def _step(step, n_steps):
    n_drops = (3 * step >= 2 * n_steps) + (9 * step >= 8 * n_steps)
    return _warm_up_factor(step, n_steps) * _DROP**n_drops


def _constant(step, n_steps):  # noqa: ARG001 - one signature for all
    return 1.0


_FACTORS = {
    "cosine": _cosine,
    "one_cycle": _one_cycle,
    "step": _step,
    "constant": _constant,
}


def check_optimizer(optimizer, optimizer_params, lr, weight_decay, lr_schedule):
    """Raise for parameters that no optimizer or schedule can be made of."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(2, 2))
    groups = parameter_groups([("all", module, 1.0)], lr, weight_decay)
    made = make_optimizer(optimizer, groups, optimizer_params)
    if not callable(lr_schedule):  # a callable may count on the real groups
        Schedule(made, lr_schedule, 1)
