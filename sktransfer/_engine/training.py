"""Run the phases of a strategy: what is solved is solved, the rest is trained."""

import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from skorch.callbacks import Callback
from skorch.history import History
from torch import nn

from sktransfer._engine.data import split_batches
from sktransfer._engine.mixing import Mixing
from sktransfer._engine.net import StopPhase, TransferNet
from sktransfer._engine.optimizers import make_optimizer, parameter_groups
from sktransfer._engine.penalties import make_penalty
from sktransfer._engine.schedules import Schedule
from sktransfer._engine.task import Recipe, Task
from sktransfer._randomness import derived_seed

# Training rows, at most, on which a penalty measures what it needs to know: DELTA
# passes them through the network once a channel.
_PENALTY_ROWS = 64
_PENALTY_ORDER = 4


def check_callbacks(callbacks):
    """Raise if `callbacks` holds something that skorch would not call.

    Parameters
    ----------
    callbacks : list or None
        skorch's callbacks, or pairs (name, callback).

    Raises
    ------
    ValueError
        If one is none.
    """
    for position, entry in enumerate(callbacks or []):
        pair = isinstance(entry, tuple) and len(entry) == 2
        callback = entry[1] if pair and isinstance(entry[0], str) else entry
        kind = callback if isinstance(callback, type) else type(callback)
        if not issubclass(kind, Callback):
            raise ValueError(
                f"Parameter callbacks: found {entry!r} at position {position}. "
                "Expected skorch callbacks, or pairs (name, callback)."
            )


@dataclass
class Training:
    """One fit: a net that goes through phases, and can be stopped and continued.

    Parameters
    ----------
    module : TransferModule
        The module, on the CPU.
    base_segments : callable
        Makes frozen copies of the base network's stages.
    task : Task
        What is learnt.
    recipe : Recipe
        How.
    best : BestWeights or None, default=None
        Judges each epoch on the validation part.
    checkpoint : CheckpointFile or None, default=None
        Where the state is kept.
    tasks : object
        Is told of phases and epochs; ``end_epoch()`` may ask for an end of the phase.
    net : TransferNet or None, default=None
        The net of a training that goes on; None makes one.
    mixing : float, default=1.0
        WiSE-FT's coefficient: how far from the probe towards the weights at the end.
    """

    module: object
    base_segments: object
    task: Task
    recipe: Recipe
    best: object = None
    checkpoint: object = None
    tasks: object = None
    net: TransferNet | None = None
    mixing: float = 1.0
    _mixing = None

    def __post_init__(self):
        if self.net is not None:
            return
        recipe, task = self.recipe, self.task
        callbacks = list(recipe.callbacks or [])
        if self.best is not None:
            # First, so that one that ends training does not keep it from judging.
            callbacks.insert(0, ("best_weights", self.best))
        self.module.to(recipe.device, memory_format=torch.channels_last)
        self.net = TransferNet(
            self.module,
            losses=task.losses,
            task_weights=task.task_weights,
            seed=recipe.seed,
            n_views=recipe.n_views,
            gradient_clip=recipe.gradient_clip,
            modality_dropout=recipe.modality_dropout,
            precision=recipe.precision,
            batch_size=recipe.batch_size,
            device=str(recipe.device),
            train_split=self._split,
            callbacks=callbacks,
            verbose=recipe.verbose,
        ).initialize()

    def _split(self, dataset, y=None):  # noqa: ARG002 (skorch's signature)
        return dataset, self._valid

    def run(self, phases, state=None, *, goes_on=False):
        """Go through all phases.

        Parameters
        ----------
        phases : list of Phase
            With their numbers of epochs.
        state : dict or None, default=None
            State of an interrupted fit; None looks for one in the checkpoint.
        goes_on : bool, default=False
            Whether the module was trained before; then its start is a candidate for
            the best weights.

        Returns
        -------
        TransferNet
            The trained net: weights between those of the probe, if there was one, and
            the last; or the best, where there is a validation part.
        """
        learns = {p.stage for phase in phases for p in phase.stages if p.lr_factor}
        self.module.learns = frozenset(learns)
        self._check_that_all_learn(phases)
        if state is None and self.checkpoint is not None:
            state = self.checkpoint.load()
        self._mixing = Mixing(self.net, self.mixing, state and state["probe"])
        first, done, begun = 0, 0, False
        cuts = [following.cut for following in phases[1:]] + [None]
        if state is not None:
            first, done = state["phase"], state["epoch"]
        for number, phase in enumerate(phases[first:], first):
            self.tasks.begin_phase(phase)
            if phase.solver == "exact":
                self.task.solve(phase, cuts[number])
                self.tasks.end_phase()
                continue
            self._begin(number, phase, state)
            if not begun:
                with suppress(StopPhase):
                    self.net.notify("on_train_begin", X=self._train, y=None)
                if state is None:
                    self._start(phases[:number], goes_on)
                begun = True
            self._train_phase(number, phase, done)
            self.tasks.end_phase()
            state, done = None, 0
        with suppress(StopPhase):
            self.net.notify("on_train_end", X=self._train, y=None)
        self._end()
        self.net.plain_rows_ = None  # what it has become is not to be judged again
        if self.checkpoint is not None:
            self.checkpoint.remove()
        return self.net

    def _start(self, before, goes_on):
        probe = any(phase.solver == "exact" for phase in before)
        if probe:
            self._mixing.keep_probe()
        if self.best is not None and (probe or goes_on):
            self.best.try_start(self.net, self._valid, is_probe=probe)

    def _end(self):
        """Take the best weights, or those between the probe and the last ones."""
        mixing = self._mixing
        if self.best is not None:
            self.best.restore(self.net)
        if mixing.probe is None:
            return
        if self.best is not None:
            mixing.move()
            self.best.try_weights(self.net, self._valid)
            self.best.restore(self.net)
        elif problem := mixing.move_if_no_worse(self._judges()):
            warnings.warn(problem, stacklevel=2)
        mixing.probe = None

    @contextmanager
    def as_if_over(self):
        """Let the weights and statistics of now be settled and mixed as at the end."""
        trained = self.module.snapshot()
        try:
            self.net.settle_statistics()
            if self._mixing.probe is not None:
                self._mixing.move_if_no_worse(self._judges())
            yield
        finally:
            self.module.restore(trained)

    def _judges(self):
        """Return the training rows as the cache may know them: plain, or a view."""
        return self._plain() if self.recipe.n_views is None else self._train

    def _plain(self):
        """Return the training rows without augmentation."""
        source = self.task.activations(self._cut, training=False)
        return replace(self._train, source=source)

    def _check_that_all_learn(self, phases):
        for phase in phases:
            plans = [plan for plan in phase.stages if plan.trainable != "none"]
            self.module.begin(phase)
            segments = self.module.segments
            if plans and not any(p.requires_grad for p in segments.parameters()):
                kinds = sorted({plan.trainable for plan in plans})
                raise ValueError(
                    f"Parameter strategy: nothing of the network would learn in the "
                    f"phase {phase.name!r}. Its stages have no parameters of the kind "
                    f"{kinds} (batch_norm={phase.batch_norm!r}). Expected another "
                    "`unfreeze` or `batch_norm`, or FeatureExtraction()."
                )

    def _enter(self, phase):
        """Make ready the rows that a phase learns from, and those that judge it."""
        self._cut = phase.cut
        self._train = self.task.dataset(phase.cut, training=True)
        self._valid = None
        if len(self.task.valid):
            self._valid = self.task.dataset(phase.cut, training=False)
        self.net.plain_rows_ = self._plain

    def _begin(self, number, phase, state):
        self._enter(phase)
        if self.best is not None:
            self.best.begin_phase()
        if state is not None:
            self.module.restore(state["module"])
        penalty = self._penalty(phase, state)
        self.net.begin_phase(number, phase, self._optimizer_of(phase, penalty), penalty)
        if state is not None:
            self._restore(state)

    def _restore(self, state):
        net = self.net
        net.optimizer_.load_state_dict(state["optimizer"])
        net.schedule_.load_state_dict(state["schedule"])
        net.history_ = History(state["history"])
        net.phase_epoch_ = state["epoch"]
        if self.best is not None:
            self.best.load_state_dict(state["best"])

    def _optimizer_of(self, phase, penalty):
        recipe = self.recipe
        replaces_decay = penalty is not None and penalty.replaces_weight_decay

        def make(parts):
            decay = 0.0 if replaces_decay else recipe.weight_decay
            groups = parameter_groups(parts, recipe.lr, decay)
            optimizer = make_optimizer(
                recipe.optimizer, groups, recipe.optimizer_params
            )
            steps = split_batches(self._train.rows, recipe.batch_size)
            n_steps = len(steps) * phase.epochs
            return optimizer, Schedule(optimizer, recipe.lr_schedule, n_steps)

        return make

    def _penalty(self, phase, state):
        if phase.penalty is None:
            return None
        self.module.begin(phase)
        first = self.module.first
        penalty = make_penalty(phase.penalty, phase.strength)
        base = None
        if penalty.needs_base:
            device = self.recipe.device
            base = [s.to(device).eval() for s in self.base_segments()[first:]]
        segments = list(self.module.segments[first:])
        penalty.start(segments, base, list(self.module.heads))
        if state is not None:
            penalty.load_state_dict(state["penalty"])
        elif penalty.needs_batches:
            self.module.eval()
            seed = derived_seed(self.recipe.seed, _PENALTY_ORDER)
            some = self._plain().some(_PENALTY_ROWS, seed)
            images = self._of_images(self.net.get_iterator(some, training=False))
            penalty.prepare(images, self._loss_of_features, nn.Identity())
        return penalty

    def _of_images(self, batches):
        """Yield what the trunk sees of batches, and what judges its features."""
        for inputs, labels in batches:
            beside = dict(inputs) if isinstance(inputs, dict) else {}
            images = beside.pop("images")[beside["present"]] if beside else inputs
            if len(images):
                yield images, (beside, labels)

    def _loss_of_features(self, features, target):
        beside, labels = target
        return self.net.get_loss(self.module.logits(features, **beside), labels)

    def _train_phase(self, number, phase, done):
        net = self.net
        for epoch in range(done, phase.epochs):
            if self.best is not None and self.best.exhausted:
                break
            self.tasks.begin_epoch()
            try:
                net.fit_loop(self._train, epochs=1)
            except StopPhase:
                self.tasks.end_epoch()
                break
            row = net.history[-1]
            net.schedule_.end_epoch(row.get("valid_loss", row["train_loss"]))
            if self.checkpoint is not None:
                self._save(number, epoch + 1)
            if self.tasks.end_epoch():
                break
        net.settle_statistics()

    def _save(self, number, epoch):
        net = self.net
        self.checkpoint.save(
            seed=self.recipe.seed,
            phase=number,
            epoch=epoch,
            module=self.module.snapshot(),
            probe=self._mixing.probe,
            optimizer=net.optimizer_.state_dict(),
            schedule=net.schedule_.state_dict(),
            penalty={} if net.penalty_ is None else net.penalty_.state_dict(),
            history=net.history.to_list(),
            best=None if self.best is None else self.best.state_dict(),
        )

    def go_on(self, history):
        """Take over the history of a net that is gone."""
        self.net.history_ = History(history)

    def one_more_epoch(self, phase, number):
        """Train one epoch of a phase at constant rates, keeping the optimizer.

        Parameters
        ----------
        phase : Phase
            The phase.
        number : int
            Its number.
        """
        net = self.net
        self._enter(phase)
        net.train_split = self._split
        if getattr(net, "optimizer_", None) is None:
            # Without warm-up: a schedule sets the rates as soon as it is made.
            self.recipe = replace(self.recipe, lr_schedule="constant")
            penalty = self._penalty(phase, None)
            make = self._optimizer_of(phase, penalty)
            net.begin_phase(number, phase, make, penalty)
            net.phase_epoch_ = len(net.history)
        net.module_.begin(phase)
        net.module_.keeps_outputs = net.penalty_ is not None
        for step in (
            partial(net.notify, "on_train_begin", X=self._train, y=None),
            partial(net.fit_loop, self._train, epochs=1),
            partial(net.notify, "on_train_end", X=self._train, y=None),
        ):
            with suppress(StopPhase):
                step()
