"""TransferClassifier: images in, labels out."""

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_sample_weight,
    _num_samples,
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
)

from sktransfer._base import ImageEstimator
from sktransfer.strategies._base import Strategy
from sktransfer.strategies._shorthand import NAMES, resolve_strategy


class TransferClassifier(ClassifierMixin, ImageEstimator):
    """Classify images with a pretrained network.

    The strategy says which part of the network learns. With
    :class:`FeatureExtraction`, the default, nothing of it does: each image passes the
    network once, and a logistic regression on its features is solved exactly.

    Parameters
    ----------
    backbone : str, callable or torch.nn.Module, default="mini"
        Name from :func:`sktransfer.backbones.list_backbones`, a callable without
        arguments that returns a module, or a module, which is copied.
    weights : str, Path or None, default="default"
        ``"default"`` is torchvision's newest, the shipped file for ``"mini"``, and the
        module's own for a callable or a module. Else the name of torchvision's weights
        (``"IMAGENET1K_V1"``), the path of a .safetensors or .pth file, or None for
        random weights.
    strategy : Strategy, {"feature_extraction"} or None, default=None
        What learns. None is ``FeatureExtraction()``.
    image_size : int, default=None
        Height and width, in pixels, at which the network sees images. None is the size
        that belongs to the weights.
    image_shape : tuple of int, default=None
        ``(height, width)`` or ``(height, width, channels)`` of the images when X holds
        flattened images, one a row. None is a square if the number of features is one,
        else one row of pixels.
    value_range : "auto" or tuple of two floats, default="auto"
        The values that mean black and white in arrays. ``"auto"``: by dtype for uint8
        and uint16, [0, 1] for arrays of float images, and the minimum and maximum of
        the rows of positive weight in ``fit`` for flattened images.
    resize : {"auto", "crop", "squash"}, default="auto"
        ``"crop"`` scales the shorter side and cuts the centre out, ``"squash"`` scales
        to a square; ``"auto"`` is what the weights' own preprocessing says.
    class_weight : dict, list of dicts, "balanced" or None, default=None
        Weights of the classes, as in LogisticRegression; with several targets
        ``"balanced"`` or one dict a target.
    batch_size : int, default=32
        Images per forward pass.
    device : str, default="auto"
        ``"auto"`` is cuda, else mps, else cpu, whichever there is first; or a device in
        torch's notation.
    cache : "auto" or None, default="auto"
        ``"auto"`` keeps features in memory, 512 MB at most, shared by all estimators of
        the process. None computes them each time.
    store_weights_in_pickle : bool, default=False
        Pickles hold where the weights can be found again, with their digest; True puts
        the weights in. Weights that cannot be found again are always put in.
    n_jobs : int, default=None
        Threads that read and decode images. None is 4 at most, and 1 inside a joblib
        worker.
    random_state : int, RandomState instance or None, default=None
        Seed of random weights (``weights=None``, and what a callable draws) if it is an
        int; otherwise the seed is 0.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,), or list of them
        The labels, sorted; a list with one array a target where there are several, and
        the numbers of the columns for a multilabel target.
    backbone_ : Backbone
        The loaded network; ``backbone_.save(path)`` writes it to a file.
    head_ : LinearHead or list of LinearHead
        The fitted layer on top of the features; one a target.
    solver_ : str
        How the head was fitted.
    image_shape_ : tuple of int or None
        Shape of the flattened images; None where images have their own shape.
    value_range_ : tuple of two floats or None
        The values that mean black and white; None where the dtype of images says it.
    n_features_in_ : int
        Number of columns seen in ``fit``, where X has columns.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, where they are strings.

    See Also
    --------
    FeatureExtractorTransformer : The features alone.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import TransferClassifier
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> classifier = TransferClassifier().fit(X[:40], y[:40])
    >>> classifier.score(X[40:80], y[40:80]) > 0.9
    True
    """

    _parameter_constraints: dict = {
        **ImageEstimator._parameter_constraints,
        "strategy": [Strategy, StrOptions(set(NAMES)), None],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self,
        backbone="mini",
        *,
        weights="default",
        strategy=None,
        image_size=None,
        image_shape=None,
        value_range="auto",
        resize="auto",
        class_weight=None,
        batch_size=32,
        device="auto",
        cache="auto",
        store_weights_in_pickle=False,
        n_jobs=None,
        random_state=None,
    ):
        self.backbone = backbone
        self.weights = weights
        self.strategy = strategy
        self.image_size = image_size
        self.image_shape = image_shape
        self.value_range = value_range
        self.resize = resize
        self.class_weight = class_weight
        self.batch_size = batch_size
        self.device = device
        self.cache = cache
        self.store_weights_in_pickle = store_weights_in_pickle
        self.n_jobs = n_jobs
        self.random_state = random_state

    def set_params(self, **params):
        """Set parameters; ``strategy__...`` also where `strategy` is None or a name.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self : TransferClassifier
            This classifier.
        """
        nested = any(name.startswith("strategy__") for name in params)
        strategy = params.get("strategy", self.strategy)
        if nested and (strategy is None or strategy in NAMES):
            params = {**params, "strategy": resolve_strategy(strategy)}
        return super().set_params(**params)

    def fit(self, X, y, sample_weight=None):
        """Fit the head on the features of the images.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            Arrays (n, H, W) or (n, H, W, C), flattened images (n, n_features), or one
            path, encoded image, PIL image or array a row.
        y : array-like of shape (n,) or (n, n_targets)
            Labels: numbers or strings. A 0/1 matrix is multilabel.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows, not negative.

        Returns
        -------
        self : TransferClassifier
            The fitted classifier.

        Raises
        ------
        InvalidImageError
            If images are missing or broken.
        ValueError
            If X, y or a parameter is not as described, or y holds a single class.
        """
        if y is None:
            raise ValueError(
                "TransferClassifier requires y to be passed, but the target y is None."
            )
        check_consistent_length(X, y)
        if sample_weight is not None:
            rows = np.empty(_num_samples(X))
            sample_weight = _check_sample_weight(
                sample_weight, rows, ensure_non_negative=True
            )
        images = self._start_fit(X, sample_weight)
        strategy = resolve_strategy(self.strategy)
        strategy.validate()
        y = self._check_targets(y, sample_weight)
        features = self._compute_features(images)
        self._solve(features, y, strategy, sample_weight)
        return self

    def _check_targets(self, y, sample_weight):
        """Return y, (n,) or (n, n_targets), after looking for what cannot be fitted."""
        y = check_array(y, dtype=None, ensure_2d=False, input_name="y")
        check_classification_targets(y)
        self._target_type = type_of_target(y, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if y.ndim == 2:
            return y
        weighted = y if sample_weight is None else y[sample_weight > 0]
        n_classes = len(np.unique(weighted))
        if n_classes < 2:
            of_weight = (
                "" if sample_weight is None else " among rows of positive weight"
            )
            raise ValueError(
                f"y: found {n_classes} class(es){of_weight}. Expected at least two "
                "classes."
            )
        return y

    def _solve(self, features, y, strategy, sample_weight):
        from sktransfer._engine.exact import fit_linear_head

        columns = [y] if y.ndim == 1 else list(y.T)
        weights = self.class_weight
        if not isinstance(weights, list):
            if isinstance(weights, dict) and len(columns) > 1:
                raise ValueError(
                    "Parameter class_weight: found one dict for several targets. "
                    "Expected 'balanced' or a list with one dict a target."
                )
            weights = [weights] * len(columns)
        if len(weights) != len(columns):
            raise ValueError(
                f"Parameter class_weight: found a list of {len(weights)} for "
                f"{len(columns)} target(s). Expected one dict a target."
            )
        heads = [
            fit_linear_head(features, column, strategy.C, sample_weight, weight)
            for column, weight in zip(columns, weights, strict=True)
        ]
        self.solver_ = strategy.solver
        if y.ndim == 1:
            self.head_, self.classes_ = heads[0], heads[0].classes
        else:
            self.head_, self.classes_ = heads, [head.classes for head in heads]
        if self._is_multilabel():
            self.classes_ = np.arange(len(heads))

    def _apply_heads(self, method, X):
        """Call a method of each head on the features of X; a list with one result."""
        check_is_fitted(self)
        features = self._compute_features(self._read_images(X, reset=False))
        heads = self.head_ if isinstance(self.head_, list) else [self.head_]
        return [getattr(head, method)(features) for head in heads]

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.

        Returns
        -------
        labels : ndarray of shape (n,) or (n, n_targets)
            The most probable labels.
        """
        labels = self._apply_heads("predict", X)
        return np.column_stack(labels) if isinstance(self.head_, list) else labels[0]

    def predict_proba(self, X):
        """Predict probabilities.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.

        Returns
        -------
        probabilities : ndarray of shape (n, n_classes), or list of them
            In the order of ``classes_``; for multilabel targets an array
            (n, n_labels) of the probability of 1, for several targets a list.
        """
        probabilities = self._apply_heads("predict_proba", X)
        if not isinstance(self.head_, list):
            return probabilities[0]
        if not self._is_multilabel():
            return probabilities
        of_one = [
            p[:, -1] if head.classes[-1] == 1 else 1 - p[:, 0]
            for p, head in zip(probabilities, self.head_, strict=True)
        ]
        return np.column_stack(of_one)

    def decision_function(self, X):
        """Compute the logits of the linear head.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.

        Returns
        -------
        scores : ndarray of shape (n,) or (n, n_classes), or list of them
            (n,) for two classes; (n, n_labels) for multilabel targets; a list for
            several targets.
        """
        scores = self._apply_heads("decision_function", X)
        if not isinstance(self.head_, list):
            return scores[0]
        return np.column_stack(scores) if self._is_multilabel() else scores

    def score(self, X, y, sample_weight=None):
        """Accuracy; with several targets a row counts if all of them are right.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.
        y : array-like of shape (n,) or (n, n_targets)
            True labels.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        accuracy : float
            Share of the rows (of their weight) that are predicted right.
        """
        if not isinstance(getattr(self, "head_", None), list):
            return super().score(X, y, sample_weight)
        right = (self.predict(X) == np.asarray(y)).all(axis=1)
        return float(np.average(right, weights=sample_weight))

    def _is_multilabel(self):
        return self._target_type == "multilabel-indicator"

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags
