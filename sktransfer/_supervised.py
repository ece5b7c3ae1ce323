"""What estimators that learn from y share: a call of fit, its heads, and predict."""

from abc import ABC, abstractmethod
from contextlib import closing
from copy import deepcopy

import numpy as np
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sktransfer._base import checked_weights
from sktransfer._fit import Fit, check_rows
from sktransfer._sources import setting_of
from sktransfer._trained import TrainedEstimator


class SupervisedEstimator(TrainedEstimator, ABC):
    """Base of the estimators that learn from y; what y may hold, subclasses say."""

    @abstractmethod
    def _read_targets(self, y, sample_weight, known, announced):
        """Read y, in a fit that goes on by the `known` targets of the first one.

        `announced` is what the first call of `partial_fit` said about y.
        """

    @abstractmethod
    def _row_weights(self, targets, sample_weight):
        """Weights of the rows for gradients, (n, n_heads)."""

    @abstractmethod
    def _solve(self, features, targets, c, rows, C, sample_weight):
        """Solve the head of a column exactly, on some rows of features."""

    @abstractmethod
    def _heads_of(self, layer, columns, targets):
        """Heads as `predict` uses them, of one trained head of the module."""

    @abstractmethod
    def _head_attributes(self, heads, targets):
        """Fitted attributes that follow from the heads."""

    def _fit(self, X, y, sample_weight, groups, announced=None):
        from sktransfer._engine.modes import own_modes

        goes_on = self.warm_start and hasattr(self, "head_")
        with self._nothing_half_fitted(goes_on), own_modes():
            fit = self._read(
                X, y, sample_weight, groups, goes_on=goes_on, announced=announced
            )
            phases, module = self._phases(fit.strategy), None
            if goes_on:
                module = self._fitted_module()
                phases = [p for p in phases if p.solver != "exact"] or phases
            self._fit_phases(fit, phases, module)
        return self

    def _partial_fit(self, X, y, sample_weight, announced=None):
        from sktransfer._engine.modes import own_modes

        goes_on = hasattr(self, "head_")
        with self._nothing_half_fitted(goes_on), own_modes():
            fit = self._read(
                X, y, sample_weight, None, goes_on=goes_on, announced=announced
            )
            self._train_one_epoch(fit, goes_on)
        return self

    def _read(self, X, y, sample_weight, groups, *, goes_on=False, announced=None):
        """Check and read all that `fit` is given."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is "
                "None."
            )
        check_consistent_length(X, y, groups)
        sample_weight = checked_weights(sample_weight, X)
        if goes_on:
            self._check_same_structure()
        else:
            self._forget_fit()
            self._structure = self._structural_params()
        images = self._start_fit(X, sample_weight, goes_on=goes_on)
        strategy = self._strategy()
        strategy.validate()
        if goes_on:
            self._check_same_layer(strategy)
        known = self._targets if goes_on else None
        targets = self._read_targets(y, sample_weight, known, announced)
        weights = self._row_weights(targets, sample_weight)
        check_rows(targets, sample_weight, weights)
        self._targets = targets.without_rows()
        self._layer = strategy.layer, strategy.pooling
        return Fit(
            X,
            y,
            images,
            targets,
            sample_weight,
            weights,
            groups,
            strategy,
            self._seed_of_this_fit(),
        )

    def _solved(self, fit, C, views=None, features=None):
        """Exact heads, one a column of y, on the training rows, or on views of them.

        `features` are those of all views, where they are known.
        """
        n_views, heads = 1 if views is None else views.n, []
        features = features or [
            self._features(fit.images, views and (views, number))
            for number in range(n_views)
        ]
        for c in range(fit.targets.known.shape[1]):
            rows = fit.train[fit.targets.known[fit.train, c]]
            seen = np.concatenate([of_view[rows] for of_view in features])
            weight = None if fit.sample_weight is None else fit.sample_weight[rows]
            if n_views > 1:
                # All views of an image together weigh as much as the image.
                weight = np.ones(len(rows)) if weight is None else weight
                rows, weight = (
                    np.tile(rows, n_views),
                    np.tile(weight, n_views) / n_views,
                )
            heads.append(self._solve(seen, fit.targets, c, rows, C, weight))
        return heads

    def _trained_heads(self, module, targets):
        """Heads as `predict` uses them, of a trained module."""
        pairs = zip(module.heads, targets.columns_of_heads, strict=True)
        return [
            head
            for layer, columns in pairs
            for head in self._heads_of(layer, columns, targets)
        ]

    def _apply_heads(self, method, X):
        """Call a method of each head on the features of X; a list with one result."""
        check_is_fitted(self)
        features = self._features(self._read_images(X, reset=False))
        heads = self.head_ if isinstance(self.head_, list) else [self.head_]
        return [getattr(head, method)(features) for head in heads]

    def _fitted_module(self):
        """Build a module that computes what this estimator predicts by."""
        from sktransfer._engine.heads import ModuleHead, Standardized

        fitted = self.head_ if isinstance(self.head_, list) else [self.head_]
        if isinstance(fitted[0], ModuleHead):
            return self._module(lambda _: [deepcopy(h.module).float() for h in fitted])
        module = self._new_module(self._targets, seed=0)
        if fitted[0].standardization is not None:
            known = fitted[0].standardization  # of the features, so of all heads
            module.set_heads([Standardized(head, *known) for head in module.heads])
        self._load(module, fitted, self._targets)
        return module

    def _train_one_epoch(self, fit, goes_on):
        """Train the last phase for one epoch, with the optimizer of the call before."""
        phases = self._phases(fit.strategy, least=True)
        self._check_training(fit.targets)
        self.solver_ = "gradient"
        net = self.__dict__.get("_net") if goes_on else None
        setting = setting_of(self)
        self._join(fit)
        if net is not None:
            module = net.module_
            # Only a net of an earlier call with the same parameters is set up for this.
            net = net if net.setting == setting else None
        elif goes_on:
            module = self._fitted_module()
        else:
            module = self._start_module(fit, phases)
            if phases[0].solver == "exact" and fit.targets.can_be_solved():
                self._solve_into(module, fit, phases[0].C)
        training = self._training(fit, module, net=net)
        if net is None and goes_on:
            training.go_on(self.__dict__.get("_history", []))
        with closing(training.task.activations):
            self._check_images(training, phases[-1].cut)
            # Taken out: an interrupted call leaves a module that is trained in part.
            self.__dict__.pop("_net", None)
            training.one_more_epoch(phases[-1], len(phases) - 1)
        training.net.forget_data()
        training.net.setting = setting
        self._take_over(training.net, fit)
        self._net = training.net
