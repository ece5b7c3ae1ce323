"""What makes the transformer learn from y: tuning, out-of-fold values, outputs."""

from copy import copy
from inspect import signature

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _num_samples, check_is_fitted

from sktransfer._base import ImageEstimator, checked_weights
from sktransfer._classifier import TransferClassifier
from sktransfer._cross_fitting import Tuning, n_scores
from sktransfer._fitted_state import FittedState
from sktransfer._regressor import TransferRegressor
from sktransfer.backbones._backbone import open_backbone
from sktransfer.exceptions import InvalidImageError
from sktransfer.strategies._base import Strategy
from sktransfer.strategies._shorthand import NAMES, resolve_strategy

_HINT = "Or pass on_invalid='nan' to get rows of NaN for them."
# What an estimator decides, where one is given.
_OF_THE_ESTIMATOR = (
    "backbone",
    "weights",
    "image_size",
    "image_shape",
    "value_range",
    "resize",
    "target_type",
)
# What it leaves to the transformer, though it has parameters of these names.
_OF_THE_TRANSFORMER = {"strategy", "on_invalid", "store_weights_in_pickle"}
_ESTIMATORS = TransferClassifier, TransferRegressor
_READING = ("image_shape_", "value_range_", "n_features_in_", "feature_names_in_")


class TargetAware(FittedState, ImageEstimator):
    """Base of the transformer, whose strategy may tune the network with y."""

    _parameter_constraints: dict = {
        **ImageEstimator._parameter_constraints,
        "strategy": [
            Strategy,
            StrOptions(set(NAMES)),
            *_ESTIMATORS,
            FrozenEstimator,
            None,
        ],
        "cv": ["cv_object"],
        "output": [StrOptions({"auto", "decision_function", "predict", "embedding"})],
        "target_type": [StrOptions({"auto", "continuous", "binary", "multiclass"})],
        "on_invalid": [StrOptions({"raise", "nan"})],
        "verbose": ["verbose"],
    }

    def set_params(self, **params):
        """Set parameters; ``strategy__...`` also where `strategy` is a name.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self : FeatureExtractorTransformer
            This transformer.
        """
        nested = [name for name in params if name.startswith("strategy__")]
        strategy = params.get("strategy", self.strategy)
        if nested and strategy is None:
            raise ValueError(
                f"Parameter {nested[0]}: found strategy=None, which learns nothing and "
                "has no parameters. Expected a strategy such as FineTuning(), or a "
                "TransferClassifier, whose parameters can be searched too: set that "
                "first."
            )
        if nested and isinstance(strategy, str) and strategy in NAMES:
            params = {**params, "strategy": resolve_strategy(strategy)}
        return super().set_params(**params)

    @property
    def _is_frozen(self):
        return isinstance(self.strategy, FrozenEstimator)

    @property
    def _learns(self):
        """Whether y is needed."""
        return self.strategy is not None and not self._is_frozen

    def _fit_on_all(self, X, y, sample_weight, groups, *, cross_fit=False):
        """Fit on all rows; where something is learnt, return outputs out of fold."""
        with self._nothing_half_fitted(goes_on=False):
            self._forget_fit()
            sample_weight = checked_weights(sample_weight, X)
            if self.strategy is None:
                self._start_fit(X, sample_weight)
                self.output_ = self._resolved_output()
                self.backbone_.n_features_of(self.layer, self.pooling)
                return None
            self._validate_params()
            self._check_left_at_default()
            if not self._learns:
                self._take_over(self._frozen_estimator(X))
                return None
            tuning = Tuning(self, X, y, sample_weight, groups)
            estimator = self._new_estimator(tuning.target_type)
            self._check_layer(estimator)
            splits = tuning.splits() if cross_fit else None
            tuning.fit(estimator)
            self.target_type_ = tuning.target_type
            self._take_over(estimator)
            return tuning.out_of_fold(splits) if cross_fit else None

    def _check_left_at_default(self):
        if isinstance(self.strategy, (str, Strategy)):
            return
        parameters, changed = signature(type(self).__init__).parameters, []
        for name in _OF_THE_ESTIMATOR:
            value, default = getattr(self, name), parameters[name].default
            if value is not default and not (
                isinstance(value, str) and value == default
            ):
                changed.append(f"{name}={value!r}")
        if changed:
            raise ValueError(
                f"Parameter strategy: found an estimator beside {', '.join(changed)}. "
                "Expected these at their defaults, for the estimator has its own. Set "
                "them there."
            )

    def _frozen_estimator(self, X):
        """Return the fitted estimator that is used as it is, after a look at X."""
        estimator = self.strategy.estimator
        if not isinstance(estimator, _ESTIMATORS):
            raise TypeError(
                f"Parameter strategy: found {type(estimator).__name__} in a "
                "FrozenEstimator. Expected a fitted TransferClassifier or "
                "TransferRegressor."
            )
        check_is_fitted(estimator)
        estimator._read_images(X, reset=False)
        if self._resolved_output(estimator) == "embedding":
            estimator.backbone_.n_features_of(self.layer, self.pooling)
        return estimator

    def _declared_type(self):
        """Return what is said about y; a given estimator says it by what it is."""
        given_regressor = isinstance(self.strategy, TransferRegressor)
        return "continuous" if given_regressor else self.target_type

    def _new_estimator(self, target_type):
        """Return an unfitted estimator that tunes the network."""
        if not isinstance(self.strategy, (str, Strategy)):
            return clone(self.strategy)
        continuous = target_type.startswith("continuous")
        tuner = TransferRegressor if continuous else TransferClassifier
        shared = set(tuner._get_param_names()) - _OF_THE_TRANSFORMER
        own = self.get_params(deep=False)
        strategy = clone(resolve_strategy(self.strategy))
        return tuner(
            strategy=strategy, **{name: own[name] for name in own if name in shared}
        )

    def _resolved_output(self, estimator=None):
        """Decide what `transform` returns, after a check that it can."""
        if estimator is None:
            possible = ["embedding"]
        elif is_classifier(estimator):
            possible = ["decision_function", "embedding"]
        else:
            possible = ["predict", "embedding"]
        if getattr(estimator, "_joint", None) is not None:
            possible = possible[:1]  # a row of images and a table has no one embedding
        output = self.output
        if output == "auto":
            output = possible[0] if self._learns else possible[-1]
        if output not in possible:
            kind = "strategy=None" if estimator is None else type(estimator).__name__
            raise ValueError(
                f"Parameter output: found {output!r} with {kind}. Expected 'auto' or "
                f"{' or '.join(map(repr, possible))}."
            )
        for name, default in (("layer", "pooled"), ("pooling", "avg")):
            if output != "embedding" and getattr(self, name) != default:
                raise ValueError(
                    f"Parameter {name}: found {getattr(self, name)!r} with "
                    f"output={output!r}, which the head computes from its own layer. "
                    f"Expected {default!r}, or output='embedding'."
                )
        return output

    def _take_over(self, estimator):
        """Keep the estimator that was fitted on all rows."""
        self.estimator_ = estimator
        self.output_ = self._resolved_output(estimator)
        self.backbone_ = estimator.backbone_
        for name in _READING:
            if hasattr(estimator, name):
                setattr(self, name, getattr(estimator, name))

    def _check_layer(self, estimator):
        """Raise for a layer that the network has not, before it is tuned."""
        output = self._resolved_output(estimator)
        if output == "embedding" and (self.layer, self.pooling) != ("pooled", "avg"):
            open_backbone(
                estimator.backbone,
                estimator.weights,
                estimator.image_size,
                estimator.resize,
                estimator.random_state,
                last=estimator._last_stage(),
            ).n_features_of(self.layer, self.pooling)

    @property
    def _n_features_out(self):
        if self.output_ == "embedding":
            return self.backbone_.n_features_of(self.layer, self.pooling)
        targets = self.estimator_._targets
        if self.output_ == "predict":
            return len(targets.n_outputs)
        return n_scores(targets)

    def _outputs(self, X, estimator=None, *, keep=True):
        """Features of images: of the network, or what an estimator's head says.

        `estimator` is that of a fold, or else the one fitted on all rows, if any;
        `keep` is whether features are stored.
        """
        estimator = estimator or self.__dict__.get("estimator_")
        if self.output_ != "embedding":
            return self._head_outputs(X, estimator)
        reader = estimator or self
        # Not copy(), which would ask for a pickle's state.
        network = object.__new__(type(self))
        vars(network).update(vars(self), backbone_=reader.backbone_)
        network.cache = self.cache if keep else None
        return network._compute_features(
            reader._read_images(X, reset=False),
            layer=(self.layer, self.pooling),
            nan_rows=self.on_invalid == "nan",
            hint=_HINT,
        )

    def _head_outputs(self, X, estimator):
        values = np.full(
            (_num_samples(X), self._n_features_out), np.nan, dtype=np.float32
        )
        call = getattr(estimator, self.output_)
        try:
            found, rows = self._on_readable_rows(lambda X, _: call(X), X)
        except InvalidImageError:
            if self.on_invalid == "raise":
                raise
            return values  # not one of them can be read
        found = found if isinstance(found, list) else [found]
        values[rows] = np.hstack([f.reshape(len(rows), -1) for f in found])
        return values

    def _on_readable_rows(self, function, X):
        """Call a function of X and rows; again without those whose image is invalid.

        Returns its result and the rows.
        """
        X = indexable(X)[0]
        rows = np.arange(_num_samples(X))
        try:
            return function(X, rows), rows
        except InvalidImageError as error:
            invalid = [row for row, _ in error.problems]
            if self.on_invalid == "raise":
                error.hint = _HINT
            if self.on_invalid == "raise" or len(set(invalid)) == len(rows):
                raise
        rows = np.delete(rows, invalid)
        return function(_safe_indexing(X, rows), rows), rows

    def __getstate__(self):
        """Hold the weights once, though two estimators refer to them."""
        state = super().__getstate__()
        if "estimator_" in state and self.store_weights_in_pickle:
            state["estimator_"] = copy(self.estimator_)
            state["estimator_"].backbone_ = state["backbone_"]
        return state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self._learns
        return tags
