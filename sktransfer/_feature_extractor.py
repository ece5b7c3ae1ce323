"""FeatureExtractorTransformer: images in, features out."""

from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from sktransfer._target_aware import TargetAware


class FeatureExtractorTransformer(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, TargetAware
):
    """Turn images into the features of a pretrained network.

    The features are the network's last feature map, averaged over height and width, or
    what `layer` and `pooling` say. Nothing is learnt from X but how to read it; the
    network never changes. Each image passes the network once per process: folds,
    candidates and other estimators with the same network get its features from a cache.

    With a `strategy` the network is tuned with y, and the features are by default what
    its head says. ``fit_transform`` is then cross-fitted: each row gets the output of a
    network that has not seen its label, so that the next model learns how far such
    features can be trusted. ``transform`` uses the network that was tuned on all rows:
    ``fit(X, y).transform(X)`` is not ``fit_transform(X, y)``, and on the rows of the
    fit it leaks their labels.

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
    layer : str, default="pooled"
        Where the features are read: ``"pooled"`` is the last feature map, averaged over
        height and width; a stage of the network, as listed in
        ``get_backbone(name).stages``, lies below it; ``"hidden"`` is the input of the
        last linear layer in networks with hidden layers before it (VGG, AlexNet,
        MobileNetV3).
    pooling : {"avg", "max", "avgmax"}, default="avg"
        How the height and width of a stage, or its tokens, become a vector: by the
        mean, the maximum, or both one after the other. ``"pooled"`` and ``"hidden"``
        are vectors already.
    strategy : Strategy, str, estimator or None, default=None
        How y tunes the network. None: not at all, y is ignored. A strategy such as
        ``FineTuning()``, or the name of one: a :class:`TransferClassifier` or
        :class:`TransferRegressor` with this transformer's network, and otherwise its
        own defaults, does the tuning. An unfitted one of these: its settings hold, and
        can be searched as ``strategy__max_epochs``; this transformer's `backbone`,
        `weights`, `image_size`, `image_shape`, `value_range`, `resize` and
        `target_type` then stay at their defaults. ``FrozenEstimator(fitted)``: the
        fitted one is used as it is, without y and without folds.
    cv : int, splitter, iterable or None, default=5
        Folds of ``fit_transform`` with a strategy. An int is a number of shuffled
        folds, stratified by the classes of a single target, and of whole groups where
        `groups` are given; None is 5. Each row has to be in exactly one test part.
    output : {"auto", "decision_function", "predict", "embedding"}, default="auto"
        What a network with a strategy hands on: what its head says,
        ``"decision_function"`` of classes and ``"predict"`` of numbers, or its
        ``"embedding"``. Embeddings of the folds' networks are turned onto those of the
        one tuned on all rows, by an orthogonal map between both embeddings of the
        fold's training rows. ``"auto"`` is what the head says; without a strategy, or
        with a FrozenEstimator, the embedding.
    target_type : {"auto", "continuous", "binary", "multiclass"}, default="auto"
        With a bare strategy, whether y holds numbers or labels. ``"auto"`` infers it as
        ``TargetEncoder`` does: whole numbers are labels.
    image_size : int, default=None
        Height and width, in pixels, at which the network sees images. None is the size
        that belongs to the weights. Those of ``"mini"`` have two, 96 and 160: the one
        that is nearer to the shorter side of the images of ``fit``, by the median of up
        to 100.
    image_shape : tuple of int, default=None
        ``(height, width)`` or ``(height, width, channels)`` of the images when X holds
        flattened images, one a row. None is a square if the number of features is one,
        else one row of pixels.
    value_range : "auto" or tuple of two floats, default="auto"
        The values that mean black and white in arrays. ``"auto"``: by dtype for uint8
        and uint16, [0, 1] for arrays of float images, and the minimum and maximum seen
        in ``fit`` for flattened images.
    resize : {"auto", "crop", "squash"}, default="auto"
        ``"crop"`` scales the shorter side and cuts the centre out, ``"squash"`` scales
        to a square; ``"auto"`` is what the weights' own preprocessing says.
    batch_size : int, default=32
        Images per forward pass.
    device : str, default="auto"
        ``"auto"`` is cuda, else mps, else cpu, whichever there is first; or a device in
        torch's notation. With ``"auto"``, parallel workers share several CUDA devices.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        What the network computes with; ``"bfloat16"`` where its layers can. ``"auto"``
        is bfloat16 on CUDA, else float32.
    engine : {"eager", "compile", "onnxruntime"}, default="eager"
        What runs the network: torch as it is, ``torch.compile``, which needs a C++
        compiler and takes up to a minute for each new network, or onnxruntime, which
        computes on the CPU and is installed with ``pip install 'sktransfer[onnx]'``.
        Values differ by less than 1e-4 of the largest, 2e-2 in bfloat16.
    cache : "auto", str, Path, FeatureCache or None, default="auto"
        Where features are kept: ``"auto"`` is in memory, 512 MiB at most, shared by all
        estimators of the process; a path or :class:`FeatureCache` is a file, shared
        with other processes and kept for later sessions. None computes them each time.
    on_invalid : {"raise", "nan"}, default="raise"
        What becomes of rows whose image is missing or broken: an error that lists them,
        or NaN in all features.
    store_weights_in_pickle : bool, default=False
        Pickles hold where the weights can be found again, with their digest; True puts
        the weights in. Weights that cannot be found again are always put in.
    n_jobs : int, default=None
        Threads that read and decode images. None is 4 at most, and 1 inside a joblib
        worker.
    random_state : int, RandomState instance or None, default=None
        Seed of random weights (``weights=None``, and what a callable draws) if it is an
        int; otherwise the seed is 0. Also the seed of the folds of an int `cv`, and of
        the tuning by a bare strategy.
    verbose : int, default=0
        Whether each fold prints a line, and with a bare strategy each epoch.

    Attributes
    ----------
    backbone_ : Backbone
        The network of ``transform``, tuned if the strategy tunes it;
        ``backbone_.save(path)`` writes it to a file.
    output_ : {"decision_function", "predict", "embedding"}
        What the features are.
    estimator_ : TransferClassifier or TransferRegressor
        The estimator that is fitted on all rows. Only with a strategy.
    target_type_ : str
        ``"binary"``, ``"multiclass"`` or ``"continuous"``; for several columns
        ``"multilabel-indicator"``, ``"multiclass-multioutput"`` or
        ``"continuous-multioutput"``. Only where y was learnt from.
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
    TransferClassifier : A classifier on top of the same networks.
    sklearn.preprocessing.TargetEncoder : Cross-fitting for categories.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer import FeatureExtractorTransformer
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> pipe = make_pipeline(FeatureExtractorTransformer(), LogisticRegression())
    >>> pipe.fit(X[:40], y[:40]).score(X[40:80], y[40:80]) > 0.9
    True

    What a tuned network says about each image, for a model that sees more than images:

    >>> tuned = FeatureExtractorTransformer(strategy="feature_extraction", cv=4)
    >>> tuned.fit_transform(X[:40], y[:40]).shape
    (40, 1)
    """

    _parameter_constraints: dict = {
        **TargetAware._parameter_constraints,
        "layer": [str],
        "pooling": [StrOptions({"avg", "max", "avgmax"})],
    }

    def __init__(
        self,
        backbone="mini",
        *,
        weights="default",
        layer="pooled",
        pooling="avg",
        strategy=None,
        cv=5,
        output="auto",
        target_type="auto",
        image_size=None,
        image_shape=None,
        value_range="auto",
        resize="auto",
        batch_size=32,
        device="auto",
        precision="auto",
        engine="eager",
        cache="auto",
        on_invalid="raise",
        store_weights_in_pickle=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.strategy = strategy
        self.cv = cv
        self.output = output
        self.target_type = target_type
        self.image_size = image_size
        self.image_shape = image_shape
        self.value_range = value_range
        self.resize = resize
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.engine = engine
        self.cache = cache
        self.on_invalid = on_invalid
        self.store_weights_in_pickle = store_weights_in_pickle
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None, sample_weight=None, groups=None):
        """Load the network, learn how to read X, and tune with y what `strategy` says.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            Arrays (n, H, W) or (n, H, W, C), flattened images (n, n_features), or one
            path, encoded image, PIL image or array a row.
        y : array-like of shape (n,) or (n, n_targets), default=None
            Labels or numbers to tune the network with. Ignored where `strategy` is None
            or a FrozenEstimator.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.
        groups : array-like of shape (n,), default=None
            Rows that belong together: neither early stopping nor the folds of
            ``fit_transform`` split them.

        Returns
        -------
        self : FeatureExtractorTransformer
            The fitted transformer.

        Raises
        ------
        InvalidImageError
            If the network is tuned and images are missing or broken, unless
            ``on_invalid="nan"``: then it is tuned without them.
        ValueError
            If the network has no such `layer`, `layer` needs no `pooling`, or X, y or a
            parameter is not as described.
        """
        self._fit_on_all(X, y, sample_weight, groups)
        return self

    def fit_transform(self, X, y=None, sample_weight=None, groups=None):
        """Fit, and compute the features of the same images, out of fold.

        Where y is learnt from, the features of each row come from a network that was
        tuned on the other folds. Otherwise this is ``fit(X).transform(X)``.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.
        y : array-like of shape (n,) or (n, n_targets), default=None
            As in ``fit``.
        sample_weight : array-like of shape (n,), default=None
            As in ``fit``.
        groups : array-like of shape (n,), default=None
            As in ``fit``; they go to `cv` too.

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float32
            Features in row order.

        Raises
        ------
        InvalidImageError
            If images are missing or broken and ``on_invalid="raise"``.
        ValueError
            As in ``fit``; or if `cv` does not put each row into exactly one test part.
        """
        out_of_fold = self._fit_on_all(X, y, sample_weight, groups, cross_fit=True)
        return self._outputs(X) if out_of_fold is None else out_of_fold

    def _last_stage(self):
        return self.layer if self.layer == "hidden" else super()._last_stage()

    def transform(self, X):
        """Compute the features of images.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float32
            Features in row order.

        Raises
        ------
        InvalidImageError
            If images are missing or broken and ``on_invalid="raise"``.
        """
        check_is_fitted(self)
        return self._outputs(X)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags
