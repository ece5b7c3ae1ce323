"""FeatureExtractorTransformer: images in, features out."""

from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from sktransfer._base import ImageEstimator


class FeatureExtractorTransformer(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, ImageEstimator
):
    """Turn images into the features of a pretrained network.

    The features are the network's last feature map, averaged over height and width, or
    what `layer` and `pooling` say. Nothing is learnt from X but how to read it; the
    network never changes. Each image passes the network once per process: folds,
    candidates and other estimators with the same network get its features from a cache.

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
    image_size : int, default=None
        Height and width, in pixels, at which the network sees images. None is the size
        that belongs to the weights.
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
        torch's notation.
    cache : "auto", str, Path, FeatureCache or None, default="auto"
        Where features are kept: ``"auto"`` is in memory, 512 MB at most, shared by all
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
        int; otherwise the seed is 0.

    Attributes
    ----------
    backbone_ : Backbone
        The loaded network; ``backbone_.save(path)`` writes it to a file.
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
    """

    _parameter_constraints: dict = {
        **ImageEstimator._parameter_constraints,
        "layer": [str],
        "pooling": [StrOptions({"avg", "max", "avgmax"})],
        "on_invalid": [StrOptions({"raise", "nan"})],
    }

    def __init__(
        self,
        backbone="mini",
        *,
        weights="default",
        layer="pooled",
        pooling="avg",
        image_size=None,
        image_shape=None,
        value_range="auto",
        resize="auto",
        batch_size=32,
        device="auto",
        cache="auto",
        on_invalid="raise",
        store_weights_in_pickle=False,
        n_jobs=None,
        random_state=None,
    ):
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.image_size = image_size
        self.image_shape = image_shape
        self.value_range = value_range
        self.resize = resize
        self.batch_size = batch_size
        self.device = device
        self.cache = cache
        self.on_invalid = on_invalid
        self.store_weights_in_pickle = store_weights_in_pickle
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X, y=None):  # noqa: ARG002 (scikit-learn's signature)
        """Load the network and learn how to read X.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            Arrays (n, H, W) or (n, H, W, C), flattened images (n, n_features), or one
            path, encoded image, PIL image or array a row.
        y : None
            Ignored.

        Returns
        -------
        self : FeatureExtractorTransformer
            The fitted transformer.

        Raises
        ------
        ValueError
            If the network has no such `layer`, or `layer` needs no `pooling`.
        """
        self._start_fit(X)
        self.backbone_.n_features_of(self.layer, self.pooling)
        return self

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
        images = self._read_images(X, reset=False)
        return self._compute_features(
            images,
            layer=(self.layer, self.pooling),
            nan_rows=self.on_invalid == "nan",
            hint="Or pass on_invalid='nan' to get rows of NaN for them.",
        )

    @property
    def _n_features_out(self):
        return self.backbone_.n_features_of(self.layer, self.pooling)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags
