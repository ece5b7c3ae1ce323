"""What is particular to classes: reading y, solving heads, and what a fit leaves."""

from copy import deepcopy

import numpy as np
from sklearn.utils.validation import (
    _check_sample_weight,
    _num_samples,
    check_consistent_length,
    check_is_fitted,
)

from sktransfer._fit import Fit
from sktransfer._targets import (
    Targets,
    column_class_weights,
    encode_known,
    read_targets,
)
from sktransfer._trained import TrainedEstimator


class ClassEstimator(TrainedEstimator):
    """Base of the estimators that predict classes."""

    def _fit(self, X, y, sample_weight, groups):
        goes_on = self.warm_start and hasattr(self, "classes_")
        with self._nothing_half_fitted(goes_on):
            fit = self._read(X, y, sample_weight, groups, goes_on=goes_on)
            phases, module = self._phases(fit.strategy), None
            if goes_on:
                module = self._fitted_module()
                phases = [p for p in phases if p.solver != "exact"] or phases
            self._fit_phases(fit, phases, module)
        return self

    def _partial_fit(self, X, y, classes, sample_weight):
        goes_on = hasattr(self, "classes_")
        with self._nothing_half_fitted(goes_on):
            fit = self._read(X, y, sample_weight, None, goes_on=goes_on, all_=classes)
            self._train_one_epoch(fit, goes_on)
        return self

    def _read(self, X, y, sample_weight, groups, *, goes_on=False, all_=None):
        """Check and read all that `fit` is given."""
        if y is None:
            raise ValueError(
                "TransferClassifier requires y to be passed, but the target y is None."
            )
        check_consistent_length(X, y, groups)
        if sample_weight is not None:
            rows = np.empty(_num_samples(X))
            sample_weight = _check_sample_weight(
                sample_weight, rows, ensure_non_negative=True
            )
        if goes_on:
            self._check_same_structure()
        else:
            self._forget_fit()
            self._structure = self._structural_params()
        images = self._start_fit(X, sample_weight, goes_on=goes_on)
        strategy = self._strategy()
        strategy.validate()
        if goes_on:
            targets = encode_known(y, self._targets)
        else:
            targets = read_targets(y, sample_weight, all_)
        self._targets = Targets(targets.kind, targets.classes, targets.codes[:0])
        class_weights = column_class_weights(self.class_weight, targets.classes)
        self._layer = strategy.layer, strategy.pooling
        return Fit(
            X,
            y,
            images,
            targets,
            sample_weight,
            class_weights,
            groups,
            strategy,
            self._seed_of_this_fit(),
        )

    def _solved(self, fit, C):
        """Exact heads, one a column of y, on the training rows."""
        from sktransfer._engine.exact import fit_linear_head

        features = self._compute_features(fit.images, layer=self._layer)
        weight, heads = fit.sample_weight, []
        for c, class_weight in enumerate(fit.class_weights):
            known, labels = fit.targets.column(c)
            used = np.isin(known, fit.train)
            known, labels = known[used], labels[used]
            of_rows = None if weight is None else weight[known]
            head = fit_linear_head(features[known], labels, C, of_rows, class_weight)
            heads.append(head.with_classes(fit.targets.classes[c]))
        return heads

    def _trained_heads(self, module, targets):
        """Heads as `predict` uses them, of a trained module."""
        from sktransfer._engine.heads import ModuleHead, trained_linear_heads

        heads, multilabel = [], targets.kind == "multilabel"
        for head, columns in zip(module.heads, targets.columns_of_heads, strict=True):
            classes = [targets.classes[c] for c in columns]
            if isinstance(self.head, str):
                heads += trained_linear_heads(head, classes)
                continue
            names = np.arange(len(columns)) if multilabel else classes[0]
            n_features = self.backbone_.n_features_of(*self._layer)
            head = deepcopy(head)
            heads.append(
                ModuleHead(head, names, multilabel, self.batch_size, n_features)
            )
        return heads

    def _head_attributes(self, heads, targets):
        classes = targets.classes[0] if targets.kind == "single" else targets.classes
        if targets.kind == "multilabel":
            classes = np.arange(len(targets.classes))
        several = targets.kind == "multioutput" or len(heads) > 1
        return {"head_": heads if several else heads[0], "classes_": classes}

    def _apply_heads(self, method, X):
        """Call a method of each head on the features of X; a list with one result."""
        check_is_fitted(self)
        images = self._read_images(X, reset=False)
        features = self._compute_features(images, layer=self._layer)
        heads = self.head_ if isinstance(self.head_, list) else [self.head_]
        return [getattr(head, method)(features) for head in heads]

    def _fitted_module(self):
        """Build a module that computes what this estimator predicts by."""
        from sktransfer._engine.heads import ModuleHead, Standardized, load_solution

        fitted = self.head_ if isinstance(self.head_, list) else [self.head_]
        if isinstance(fitted[0], ModuleHead):
            return self._module(lambda _: [deepcopy(h.module).float() for h in fitted])
        module = self._new_module(self._targets, seed=0)
        if fitted[0].standardization is not None:
            known = fitted[0].standardization  # of the features, so of all heads
            module.set_heads([Standardized(head, *known) for head in module.heads])
        columns_of_heads = self._targets.columns_of_heads
        for head, columns in zip(module.heads, columns_of_heads, strict=True):
            load_solution(head, [fitted[c] for c in columns])
        return module

    def _train_one_epoch(self, fit, goes_on):
        """Train the last phase for one epoch, with the optimizer of the call before."""
        phases = self._phases(fit.strategy, least=True)
        self._check_training(fit.targets)
        self.solver_ = "gradient"
        # Taken out: an interrupted call leaves a module that is trained in part.
        net = self.__dict__.pop("_net", None) if goes_on else None
        if net is not None:
            module = net.module_
            # Only a net of an earlier call is set up for this one.
            net = net if getattr(net, "optimizer_", None) is not None else None
        elif goes_on:
            module = self._fitted_module()
        else:
            module = self._start_module(fit, phases)
            if phases[0].solver == "exact" and fit.targets.shows_all_classes():
                self._solve_into(module, fit, phases[0].C)
        training = self._training(fit, module, net=net)
        if net is None and goes_on:
            training.go_on(self.__dict__.get("_history", []))
        self._check_images(training, phases[-1].cut)
        training.one_more_epoch(phases[-1], len(phases) - 1)
        training.net.forget_data()
        self._take_over(training.net, fit)
        self._net = training.net


def side_by_side(labels):
    """Stack the labels of several targets as columns; 0 does not become "0"."""
    if len({column.dtype.kind in "OUS" for column in labels}) > 1:
        labels = [column.astype(object) for column in labels]
    return np.column_stack(labels)
