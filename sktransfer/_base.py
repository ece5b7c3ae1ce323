"""What classifier and transformer share: parameters, reading X, features, pickles.

This is the one place that knows scikit-learn's private helpers for parameters.
"""

from functools import partial
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    _num_samples,
    validate_data,
)

from sktransfer._cache.feature_cache import FeatureCache, open_store
from sktransfer._cache.keys import activation_key, fingerprint
from sktransfer._images.decode import decoding_settings
from sktransfer._images.inputs import (
    check_image_shape,
    input_kind,
    is_frame,
    is_numeric_frame,
    read_items,
    read_pixels,
    read_rows,
    rows_value_range,
)
from sktransfer._images.loading import n_threads
from sktransfer._images.views import view_content
from sktransfer.backbones._backbone import open_backbone
from sktransfer.exceptions import ImageShapeError

_POOLED = "pooled"


def checked_weights(sample_weight, X):
    """Return weights of the rows of X, or raise if one is negative; None stays None."""
    if sample_weight is None:
        return None
    rows = np.empty(_num_samples(X))  # scikit-learn looks at its length and dtype
    return _check_sample_weight(sample_weight, rows, ensure_non_negative=True)


class ImageEstimator(BaseEstimator):
    """Base of the estimators that read images with a backbone."""

    _parameter_constraints: dict = {
        "backbone": [str, callable, HasMethods(["named_parameters"])],
        "weights": [str, Path, None],
        "image_size": [Interval(Integral, 1, None, closed="left"), None],
        "image_shape": ["array-like", None],
        "value_range": [StrOptions({"auto"}), "array-like"],
        "resize": [StrOptions({"auto", "crop", "squash"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "engine": [StrOptions({"eager", "compile", "onnxruntime"})],
        "cache": [str, Path, FeatureCache, None],
        "store_weights_in_pickle": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    }

    def _start_fit(self, X, sample_weight=None, *, goes_on=False):
        """Check parameters, read X and load the backbone; return the images.

        A fit that goes on from an earlier one keeps its backbone and reads X as it did.
        """
        self._validate_params()
        self._check_value_range()
        reset = not goes_on
        images = self._read_images(X, reset=reset, sample_weight=sample_weight)
        if goes_on:
            return images
        resize = self.resize
        if resize == "auto" and self.image_shape is None and self._is_one_row():
            resize = "squash"  # a crop would cut most of a row of features away
        self.backbone_ = open_backbone(
            self.backbone,
            self.weights,
            self.image_size,
            resize,
            self.random_state,
            last=self._last_stage(),
            sides=partial(images.shorter_sides, sample_weight),
        )
        return images

    def _last_stage(self):
        """Where the backbone is cut off: ``"hidden"`` reads layers behind `pooled`."""
        return _POOLED

    def _is_one_row(self):
        return self.image_shape_ is not None and self.image_shape_[0] == 1

    def _given_value_range(self):
        """Black and white, or None where the dtype of images says it."""
        by_dtype = isinstance(self.value_range, str)
        return None if by_dtype else tuple(map(float, self.value_range))

    def _check_value_range(self):
        if isinstance(self.value_range, str):
            return
        numbers = list(self.value_range)
        real = len(numbers) == 2 and all(isinstance(v, Real) for v in numbers)
        if not real or not numbers[0] < numbers[1]:
            raise ValueError(
                f"Parameter value_range: found {self.value_range!r}. Expected "
                "'auto' or two numbers (black, white) with black < white."
            )

    def _read_images(self, X, *, reset, sample_weight=None):
        """Turn any X into an ImageSequence; in fit, learn its shape and range."""
        kind = input_kind(X)
        if kind == "rows":
            return self._read_rows(X, reset, sample_weight)
        value_range = self._given_value_range() if reset else self.value_range_
        # What "auto" found in rows of numbers holds for no dtype that has its own.
        of_rows = not reset and self.image_shape_ is not None
        learnt = of_rows and isinstance(self.value_range, str)
        read = read_pixels if kind == "pixels" else read_items
        images = read(X, value_range, by_dtype=learnt)
        if len(images) == 0:
            raise ValueError(
                "X: found 0 images (0 sample(s)) while a minimum of 1 is required."
            )
        if reset:
            self._forget_columns()
            if is_frame(X):
                self.n_features_in_ = 1
                if isinstance(X.columns[0], str):
                    self.feature_names_in_ = np.array([X.columns[0]], dtype=object)
            self.image_shape_, self.value_range_ = None, value_range
        return images

    def _forget_columns(self):
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)

    def _read_rows(self, X, reset, sample_weight):
        self._refuse_tables(X)
        if not reset and self.image_shape_ is None:
            raise ImageShapeError(
                "X",
                "rows of numbers",
                "fit saw images (files or arrays of pixels); expected the same here. "
                "A single image needs a new first axis: X[np.newaxis].",
            )
        X = validate_data(self, X, reset=reset, dtype="numeric")
        if reset:
            self.image_shape_ = check_image_shape(self.image_shape, X.shape[1])
            self.value_range_ = rows_value_range(X, self.value_range, sample_weight)
        return read_rows(X, self.image_shape_, self.value_range_)

    def _refuse_tables(self, X):
        """Refuse a table of which some columns are no numbers."""
        if not is_frame(X) or X.shape[1] < 2:
            return
        columns = [c for c in X.columns if len(X) and input_kind(X[[c]]) == "items"]
        others = [column for column in columns if not is_numeric_frame(X[[column]])]
        if others:
            raise ValueError(
                f"X: found a table of {X.shape[1]} columns, of which {others} are not "
                f"numbers. {self._table_advice(others)}"
            )

    def _table_advice(self, columns):
        name = type(self).__name__
        return (
            "Expected one column of images. For images beside other columns use "
            f"ColumnTransformer([('images', {name}(), {columns[:1]}), ...])."
        )

    def _compute_features(
        self,
        images,
        *,
        layer=(_POOLED, "avg"),
        nan_rows=False,
        hint="",
        view=None,
        problems=None,
        cut=None,
        beside=None,
    ):
        """Features (n, d), float32, of images; known ones come from the cache.

        `layer` is the name of a stage, and the pooling that makes a vector of it;
        `view` are Views and the number of the one that is wanted. Rows without a
        readable image raise, are NaN, or are told to the list `problems`. What new
        images are at `cut` stays in the cache for the Activations `beside`.
        """
        from sktransfer._engine.modes import own_modes
        from sktransfer._engine.reading import raise_problems

        with own_modes():
            job = self._job(layer, view)
            if beside is not None:
                self._tap(job, layer, cut, beside)
            features = job.run(images)
        if problems is not None:
            problems += job.problems
        elif not nan_rows:
            raise_problems(job.problems, len(images), hint)
        return features

    def _job(self, layer, view=None):
        """One pass through the network up to a layer, connected to the cache."""
        from sktransfer._engine.prefix import PrefixJob

        backbone, engine = self.backbone_, self._engine()
        job = PrefixJob(
            backbone.reader(*layer, engine.device, engine.or_none),
            backbone.preprocessing,
            (backbone.n_features_of(*layer),),
            engine.device,
            int(self.batch_size),
            n_threads(self.n_jobs),
            engine.min_rows,
            parallel=engine.runs_in_torch,
        )
        if view is not None:
            views, number = view
            job.augment = partial(views.pixels_of(job.preprocessing), view=number)
            job.decode_factor = views.decode_factor
        if self.cache is not None and (view is None or view[0].are_lasting):
            self._connect_cache(job, layer, engine, view)
        return job

    def _tap(self, job, layer, cut, beside):
        """Let a pass over the last layer keep what it finds at a cut."""
        from sktransfer._engine.prefix import Tap

        engine = self._engine()
        is_last = layer[0] == self.backbone_.last
        # Other engines might choose other kernels for a network with two outputs.
        if job.store is None or not is_last or engine.name != "eager":
            return
        network = self.backbone_.tapped(cut, engine.device, engine.or_none)
        if network is not None:
            job.tap = Tap(beside.store, partial(beside.key_of, view=0))
            job.network, job.key_of = network, job.tap.follow(job.key_of)

    def _engine(self):
        """Return what runs the frozen network: `engine`, `precision` and `device`."""
        from sktransfer._engine.device import resolve_device
        from sktransfer._engine.engines import Engine, resolve_precision

        device = resolve_device(self.device)
        return Engine(
            self.engine,
            resolve_precision(self.precision, device),
            device,
            int(self.batch_size),
            self.backbone_.preprocessing.image_size,
            self.backbone_.needs_full_batches,
        )

    def _connect_cache(self, job, layer, engine, view):
        # A vector has one pooling; raw activations at a cut are kept by its name alone.
        cut = layer[0] if layer[0] == self.backbone_.last else " ".join(layer)
        network = self.backbone_.fingerprint_at(layer[0])
        views, number = view or (None, 0)
        job.store, key_of = self._store(network, cut, engine, views=views)
        job.key_of = partial(key_of, view=number)

    def _store(self, network, cut, engine, store=None, views=None):
        """One pass over the store, and the function from contents to its keys."""
        more = decoding_settings()
        if views is not None:
            more["views"] = views.determinants()
        everything = fingerprint(
            backbone=network,
            cut=cut,
            preprocessing=self.backbone_.preprocessing.to_dict(),
            **engine.determinants,
            **more,
        )

        def key_of(content, view):
            content = content if views is None else view_content(content, view)
            return activation_key(content, everything)

        return (store or open_store(self.cache)).new_pass(), key_of

    def __getstate__(self):
        """Store weights by reference, or all of them where that is asked for."""
        state = dict(super().__getstate__())
        if "backbone_" in state and self.store_weights_in_pickle:
            state["backbone_"] = self.backbone_.with_weights_in_pickle()
        return state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags
