"""What estimators that train share: parameters, phases, and what a fit leaves."""

from contextlib import closing
from functools import partial
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sktransfer._callbacks import CallbackSupportMixin, FitTasks
from sktransfer._fit import history_frame, rows_of
from sktransfer._fitted_state import FittedState
from sktransfer._fusion import FusedEstimator, FusedRows, FusedSources
from sktransfer._images.augmentation import NAMES as AUGMENTATIONS
from sktransfer._images.augmentation import Augmentation
from sktransfer._images.views import training_views
from sktransfer._randomness import derived_seed, seeded_globals
from sktransfer._sources import Sources, checkpoint_of
from sktransfer._validation import validation_split
from sktransfer.strategies._base import Strategy
from sktransfer.strategies._phases import with_epochs
from sktransfer.strategies._shorthand import NAMES, resolve_strategy

_HEADS = 0
# Private attributes without which nothing can be predicted.
_NEEDED = {"_joint", "_layer", "_table_columns", "_targets"}


class TrainedEstimator(FittedState, CallbackSupportMixin, FusedEstimator):
    """Base of the estimators whose strategy may train the network."""

    _parameter_constraints: dict = {
        **FusedEstimator._parameter_constraints,
        "strategy": [Strategy, StrOptions(set(NAMES)), None],
        "head": [StrOptions({"linear"}), callable],
        "augmentation": [StrOptions(set(AUGMENTATIONS)), Augmentation, callable, None],
        "augmentation_views": [Interval(Integral, 1, None, closed="left"), None],
        "loss": [str, callable],
        "task_weights": ["array-like", None],
        "optimizer": [str, type],
        "optimizer_params": [dict, None],
        "lr": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "lr_schedule": [str, callable],
        "gradient_clip": [Interval(Real, 0, None, closed="neither"), None],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "checkpoint": [str, Path, None],
        "callbacks": [list, None],
        "verbose": ["verbose"],
    }

    def set_params(self, **params):
        """Set parameters; ``strategy__...`` also where `strategy` is None or a name.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self : estimator
            This estimator.
        """
        nested = any(name.startswith("strategy__") for name in params)
        strategy = params.get("strategy", self.strategy)
        by_name = isinstance(strategy, str) and strategy in NAMES
        if nested and (strategy is None or by_name):
            params = {**params, "strategy": resolve_strategy(strategy)}
        return super().set_params(**params)

    def _last_stage(self):
        return "hidden" if self._strategy().layer == "hidden" else super()._last_stage()

    def _strategy(self):
        return resolve_strategy(self.strategy)

    def _trains(self):
        """Whether the strategy trains by gradients, as far as parameters tell."""
        solver = getattr(self._strategy(), "solver", "gradient")
        return solver == "gradient" or bool(solver == "auto" and self._in_the_way())

    def _in_the_way(self):
        """Describe the parameters that forbid solving the head exactly."""
        found = []
        if not isinstance(self.head, str):
            found.append(f"head={self.head!r}")
        if not isinstance(self.loss, str) or self.loss != "auto":
            found.append(f"loss={self.loss!r}")
        if getattr(self, "label_smoothing", 0.0):
            found.append(f"label_smoothing={self.label_smoothing!r}")
        if self.augmentation is not None and self.augmentation_views is None:
            found.append(f"augmentation={self.augmentation!r}")
        return found

    def _views(self, fit):
        return training_views(
            self.augmentation, self.augmentation_views, self.random_state, fit.seed
        )

    def _phases(self, strategy, *, least=False):
        """Phases with their epochs, or (`least`) with as few as can be."""
        phases = strategy.phases(
            self.backbone_.stages, head=self.head, in_the_way=self._in_the_way()
        )
        fewest = sum(phase.epochs or 1 for phase in phases)
        return with_epochs(phases, fewest if least else self.max_epochs)

    def _fit_phases(self, fit, phases, start=None):
        """Go through the phases; `start` is a fitted module to go on from."""
        exact = all(phase.solver == "exact" for phase in phases)
        self.solver_ = "exact" if exact else "gradient"
        if not exact:
            self._train(fit, phases, start)
            return
        self._forget_training()
        self._join(fit)
        tasks = FitTasks(self, phases, fit.data, self._fitted_attributes)
        for phase in phases:
            tasks.begin_phase(phase)
            solved = self._solved(fit, phase.C, self._views(fit))
            self._set_heads(solved, fit.targets)
            tasks.end_phase()
        tasks.end()

    def _fitted_attributes(self):
        return {
            name: value
            for name, value in vars(self).items()
            if name.endswith("_") or name in _NEEDED
        }

    def _train(self, fit, phases, start):
        from sktransfer._engine.validation import BestWeights

        checkpoint = checkpoint_of(self, fit, start)
        state = None if checkpoint is None else checkpoint.load()
        fit.seed = fit.seed if state is None else state["seed"]
        self._check_training(fit.targets)
        best, goes_on = None, start is not None
        if self.early_stopping:
            fit.train, fit.valid = validation_split(
                fit.targets,
                fit.train,
                fit.groups,
                self.validation_fraction,
                self._seed_of_split(fit.seed),
            )
        if len(fit.valid):
            best = BestWeights(fit.targets.score, self.n_iter_no_change, self.tol)
        self._join(fit)
        module = start if goes_on else self._start_module(fit, phases)
        training = self._training(fit, module, best=best, checkpoint=checkpoint)
        training.mixing = fit.strategy.mixing
        training.tasks = FitTasks(
            self, phases, fit.data, lambda: self._snapshot(training, fit)
        )
        with closing(training.task.activations):
            if phases[0].solver != "exact":
                self._check_images(training, phases[0].cut)
            training.run(phases, state, goes_on=goes_on)
        self._take_over(training.net, fit)
        training.tasks.end()
        if best is not None and best.probe_score is not None:
            self.gain_over_probe_ = best.best_score - best.probe_score

    def _check_images(self, training, cut):
        """Raise for all images that cannot be read, before the first step."""
        plain = training.task.activations(cut, training=False)
        plain.check(keep=plain is training.task.activations(cut, training=True))

    def _training(self, fit, module, **more):
        """Assemble one fit; `more` goes to the engine's Training."""
        from sktransfer._engine.module import segments_up_to
        from sktransfer._engine.task import Recipe, Task
        from sktransfer._engine.training import Training

        engine, views = self._engine(), self._views(fit)
        kind = FusedSources if isinstance(fit.images, FusedRows) else Sources
        sources = kind(self, fit.images, engine.device, views)
        task = Task(
            sources,
            [_tensor(values) for values in fit.targets.values()],
            _tensor(fit.weights),
            self._losses(fit.targets),
            self._checked_task_weights(len(fit.targets.n_outputs)),
            fit.train,
            fit.valid,
            partial(self._solve_probe, fit, module, sources),
        )
        recipe = Recipe(
            self.optimizer,
            self.optimizer_params,
            self.lr_,
            self.weight_decay_,
            self.lr_schedule,
            self.gradient_clip,
            int(self.batch_size),
            engine.device,
            fit.seed,
            None if views is None else views.n,
            modality_dropout=0.0 if self._joint is None else self._joint.dropout,
            callbacks=self.callbacks,
            verbose=int(self.verbose),
            precision=engine.precision,
        )
        return Training(
            module,
            lambda: segments_up_to(self.backbone_.base.segments(), fit.strategy.layer),
            task,
            recipe,
            **more,
        )

    def _losses(self, targets):
        from sktransfer._engine.losses import resolve_loss

        smoothing = getattr(self, "label_smoothing", 0.0)
        loss = resolve_loss(self.loss, targets.loss_kind, smoothing)
        return [loss] * len(targets.n_outputs)

    def _checked_task_weights(self, n):
        if self.task_weights is None:
            return [1.0] * n
        weights = [float(weight) for weight in self.task_weights]
        if len(weights) != n or min(weights) < 0 or not any(weights):
            raise ValueError(
                f"Parameter task_weights: found {self.task_weights!r} for {n} "
                f"target(s). Expected {n} number(s) of at least 0, not all 0."
            )
        return weights

    def _check_training(self, targets):
        """Fix the rates; raise for what would fail only after the first pass."""
        from sktransfer._engine.optimizers import default_lr, default_weight_decay
        from sktransfer._engine.penalties import make_penalty
        from sktransfer._engine.schedules import check_optimizer
        from sktransfer._engine.training import check_callbacks

        check_callbacks(self.callbacks)
        lr, decay = self.lr, self.weight_decay
        self.lr_ = default_lr(self.optimizer) if lr == "auto" else float(lr)
        if decay == "auto":
            decay = default_weight_decay(self.optimizer)
        penalty = getattr(self._strategy(), "penalty", None)
        if penalty is not None and make_penalty(penalty).replaces_weight_decay:
            decay = 0.0
        self.weight_decay_ = float(decay)
        check_optimizer(
            self.optimizer,
            self.optimizer_params,
            self.lr_,
            self.weight_decay_,
            self.lr_schedule,
        )
        self._losses(targets)
        self._checked_task_weights(len(targets.n_outputs))

    def _new_module(self, targets, seed):
        """Build the module: the backbone as it is, and heads with random weights."""
        from sktransfer._engine.heads import build_head

        def build(n_features):
            with seeded_globals(derived_seed(seed, _HEADS)):
                return [build_head(self.head, n_features, n) for n in targets.n_outputs]

        return self._module(build)

    def _start_module(self, fit, phases):
        """Build the module; a head that trains alone sees standardized features."""
        from sktransfer._engine.exact import mean_and_scale
        from sktransfer._engine.heads import Standardized

        module = self._new_module(fit.targets, fit.seed)
        alone = all(plan.trainable == "none" for plan in phases[0].stages)
        if phases[0].solver == "exact" or not alone:
            return module
        features = self._features(fit.images)[fit.train]
        weight = fit.sample_weight
        weight = None if weight is None else weight[fit.train]
        mean, scale = mean_and_scale(features, weight)
        if self._joint is not None:
            scale = scale / self._joint.factors()
        heads = [Standardized(head, mean, scale) for head in module.heads]
        module.set_heads(heads)
        return module

    def _module(self, build_heads):
        from sktransfer._engine.module import TransferModule, segments_up_to

        layer, pooling = self._layer
        segments = segments_up_to(self.backbone_.segments(), layer)
        joint = None
        if self._joint is not None:
            from sktransfer._engine.fusion import JointRows

            joint = JointRows(self._joint)
        return TransferModule(
            segments,
            self.backbone_.pool(layer, pooling),
            build_heads(self._n_features()),
            joint,
        )

    @property
    def net_(self):
        """The skorch net of network and head, built when it is first asked for."""
        check_is_fitted(self)
        if "_net" not in vars(self):
            from sktransfer._engine.net import untrained_net

            self._net = untrained_net(
                self._fitted_module(),
                self._losses(self._targets),
                int(self.batch_size),
                self.__dict__.get("_history"),
            )
        return self._net

    def __getstate__(self):
        """Leave out the net, which can be built again."""
        state = super().__getstate__()
        state.pop("_net", None)
        return state

    def _solve_probe(self, fit, module, sources, phase, cut):
        """Solve the heads; the same pass of the images serves training behind `cut`."""
        beside = None
        alone = isinstance(sources, Sources) and sources.views is None
        if cut is not None and alone:
            beside = sources(cut, training=True)
        features = self._features(fit.images, cut=cut, beside=beside)
        self._solve_into(module, fit, phase.C, features)

    def _solve_into(self, module, fit, C, features=None):
        """Put the exact solution on the training rows into a module's heads."""
        features = None if features is None else [features]
        self._load(module, self._solved(fit, C, features=features), fit.targets)

    def _load(self, module, heads, targets):
        from sktransfer._engine.heads import load_solution

        pairs = zip(module.heads, targets.columns_of_heads, strict=True)
        for layer, columns in pairs:
            load_solution(layer, [heads[c] for c in columns])

    def _take_over(self, net, fit):
        """Turn what was trained into what `predict` uses."""
        module = net.module_.eval()
        module.first = 0
        module.requires_grad_(False)
        vars(self).update(self._snapshot_of(module, fit))
        self._history = rows_of(net.history)
        self.history_ = history_frame(self._history)
        self.n_iter_ = len(net.history)
        self._n_epochs = self.__dict__.get("_n_epochs", 0) + self.n_iter_
        for name in ("gain_over_probe_", "_net"):  # of an earlier fit
            self.__dict__.pop(name, None)

    def _snapshot(self, training, fit):
        """Fitted attributes as if training had stopped now."""
        with training.as_if_over():
            state = self._snapshot_of(training.net.module_, fit)
        return {**self._fitted_attributes(), **state}

    def _snapshot_of(self, module, fit):
        heads = self._trained_heads(module, fit.targets)
        return {
            "backbone_": self.backbone_.with_changes(_learnt_tensors(module)),
            **self._head_attributes(heads, fit.targets),
        }

    def _set_heads(self, heads, targets):
        vars(self).update(self._head_attributes(heads, targets))


def _tensor(array):
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _learnt_tensors(module):
    """Tensors of the stages that learn, by name."""
    return {
        name: tensor.detach().cpu().numpy().copy()
        for segment in module.segments
        if segment.name in module.learns
        for name, tensor in (*segment.named_parameters(), *segment.named_buffers())
    }
