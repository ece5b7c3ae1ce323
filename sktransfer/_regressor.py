"""TransferRegressor: images in, numbers out."""

from sklearn.base import RegressorMixin
from sklearn.utils.metaestimators import available_if

from sktransfer._callbacks import with_callbacks
from sktransfer._regression import RegressionEstimator


class TransferRegressor(RegressorMixin, RegressionEstimator):
    """Predict numbers from images with a pretrained network.

    The strategy says which part of the network learns. With
    :class:`FeatureExtraction`, the default, nothing of it does: each image passes the
    network once, and a ridge regression on its features is solved exactly. Several
    targets share one network. X may be a table, in which columns of images stand beside
    others.

    Parameters
    ----------
    backbone : str, callable or torch.nn.Module, default="mini"
        Name from :func:`sktransfer.backbones.list_backbones`, a callable without
        arguments that returns a module, or a module, which is copied.
    weights : str, Path or None, default="default"
        ``"default"`` is torchvision's newest, the shipped file for ``"mini"``, and the
        module's own for a callable or a module. Else the name of torchvision's weights
        (``"IMAGENET1K_V1"``), the path of a .safetensors or .pth file, or None for
        random weights (of all but a module, which has its own).
    strategy : Strategy, str or None, default=None
        What learns: an object such as ``FineTuning(unfreeze=1)``, or the name of one,
        such as ``"fine_tuning"``. None is ``FeatureExtraction()``: where the head is
        solved exactly, parameters that only training needs have no effect.
    head : "linear", MLPHead or callable, default="linear"
        Layers on top of the features, one such head a target. A callable gets
        ``(n_features, n_outputs)`` and returns a ``torch.nn.Module``; `n_outputs` is 1,
        the standardized target.
    image_columns : str, int, list of them or None, default=None
        Columns of a DataFrame that hold images; they share the network. None finds
        them: all columns of PIL images, bytes, arrays, paths, or names of image files.
        Their cells may be missing (None or NaN) where a row has anything else.
    tabular : {"auto", "drop"} or transformer, default="auto"
        What becomes of the columns beside the images. ``"auto"`` imputes and
        standardizes numbers and encodes categories; a transformer of scikit-learn is
        cloned and fitted on them and y; ``"drop"`` leaves them out.
    modality_dropout : float, default=0.0
        Probability that `fit` sees a row without its images, or else without its table,
        so that predictions stay useful where one is missing. Without effect on images
        alone.
    on_invalid : {"raise", "nan"}, default="raise"
        Whether broken or absent image files beside other columns raise an error that
        lists them, or count as missing.
    image_size : int, default=None
        Height and width, in pixels, at which the network sees images. None is the size
        that belongs to the weights. Those of ``"mini"`` have two, 96 and 160: the one
        that is nearer to the shorter side of the images of ``fit``, by the median of up
        to 100 of positive weight.
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
    augmentation : str, Augmentation, callable or None, default=None
        Random changes of the training images, anew in each epoch: ``"light"``,
        ``"standard"``, ``"trivial"``, an :class:`Augmentation`, or a callable that maps
        an RGB PIL image to a PIL image. Only training sees it.
    augmentation_views : int or None, default=None
        Number of fixed random views an image has, which epochs see in turn; None is a
        new one in each. They are kept like images: a frozen part of the network sees
        each view once, and a linear head on a frozen network is solved exactly on all
        of them. With an int as `random_state` other fits share them. Without effect
        where `augmentation` is None.
    loss : {"auto", "mse", "l1", "huber"} or callable, default="auto"
        Of the standardized target. ``"auto"`` is ``"mse"``; ``"huber"`` is squared up
        to an error of 1, one standard deviation, and linear from there on. A callable
        ``f(output, target)`` gets and returns one value a row.
    task_weights : array-like of shape (n_targets,), default=None
        Weights of the losses of several targets in training; None is 1 for each.
    optimizer : {"adamw", "adam", "rmsprop", "sgd"} or type, default="adamw"
        A name, ``"sgd"`` with Nesterov momentum 0.9, or a torch optimizer class.
    optimizer_params : dict, default=None
        Further arguments of the optimizer.
    lr : float or "auto", default="auto"
        Learning rate of the head; the strategy's `backbone_lr_ratio` scales the
        backbone's. ``"auto"`` is 1e-3, for ``"sgd"`` 1e-2.
    weight_decay : float or "auto", default="auto"
        Of weights, not of norms and biases. ``"auto"`` is 1e-3 for ``"adamw"``, 5e-4
        for ``"sgd"``, else 0; always 0 under the penalties L2-SP and DELTA.
    lr_schedule : str or callable, default="cosine"
        ``"cosine"``, ``"one_cycle"``, ``"step"``, ``"plateau"``, ``"constant"``, or a
        callable from the optimizer to a torch scheduler; each phase runs it anew.
    gradient_clip : float or None, default=1.0
        Largest norm of a step's gradient; with a penalty, of the head's and of the
        backbone's each.
    max_epochs : int, default=20
        Epochs of all phases together; the last phase gets what the others leave.
    batch_size : int, default=32
        Images per forward pass and per training step. Where a GPU's memory is too
        short for a step, it is taken in halves, with a warning.
    early_stopping : bool, default=False
        Whether a part of the rows only judges: training then ends when their R2 (with
        the variance of all rows) has not improved for `n_iter_no_change` epochs, and
        the best weights are kept, the linear probe's among them. Off, with a warning,
        where the part has fewer than 20 rows.
    validation_fraction : float, default=0.1
        Share of the rows in that part, which is random, or made of whole groups.
    n_iter_no_change : int, default=5
        Epochs of a phase without improvement after which it ends.
    tol : float, default=0.0
        Improvement of the R2 that counts.
    warm_start : bool, default=False
        Whether a further `fit` goes on from where the last one ended. On the same rows
        it splits them for early stopping as the first one did.
    checkpoint : str, Path or None, default=None
        Folder in which the state is kept at ends of epochs. The same `fit` on the same
        data goes on there after a stop, with the same result as if there had been none.
    callbacks : list or None, default=None
        Callbacks of skorch. Those of scikit-learn come with ``set_callbacks``.
    device : str, default="auto"
        ``"auto"`` is cuda, else mps, else cpu, whichever there is first; or a device in
        torch's notation. With ``"auto"``, parallel workers share several CUDA devices.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        What the network computes with; ``"bfloat16"`` where its layers can. ``"auto"``
        is bfloat16 on CUDA, else float32.
    engine : {"eager", "compile", "onnxruntime"}, default="eager"
        What runs the frozen part of the network: torch as it is, ``torch.compile``,
        which needs a C++ compiler and takes up to a minute for each new network, or
        onnxruntime, which computes on the CPU and is installed with
        ``pip install 'sktransfer[onnx]'``. Values differ by less than 1e-4 of the
        largest, 2e-2 in bfloat16.
    cache : "auto", str, Path, FeatureCache or None, default="auto"
        Where what the frozen network says about images is kept: ``"auto"`` is in
        memory, 512 MiB at most, shared by all estimators of the process; a path or
        :class:`FeatureCache` is a file, shared with other processes and kept for later
        sessions. With None nothing outlives a call of a method.
    store_weights_in_pickle : bool, default=False
        Pickles hold where the weights can be found again, with their digest; True puts
        the weights in. Weights that cannot be found again are always put in.
    n_jobs : int, default=None
        Threads that read and decode images. None is 4 at most, and 1 inside a joblib
        worker.
    random_state : int, RandomState instance or None, default=None
        Seed of all that is random in training: initial heads, order, augmentation,
        dropout, the validation part. An int gives the same bits each time. Also the
        seed of random weights (``weights=None``, and what a callable draws) if it is an
        int; otherwise that seed is 0.
    verbose : int, default=0
        Whether each epoch prints a line.

    Attributes
    ----------
    backbone_ : Backbone
        The network, tuned if the strategy tunes it; ``backbone_.save(path)`` writes it
        to a file that the next task may take as `weights`.
    head_ : RegressionHead, RegressionModuleHead or list of them
        The fitted head on top of the features; a list with one a target where `y` had
        columns. Its `target_mean` and `target_scale` standardize the target.
    net_ : skorch.NeuralNet
        Network and head together, for skorch's tools; maps normalized images, or, where
        X is a table, dicts of ``images``, ``present``, ``table``, ``has_table``, to
        standardized targets.
    solver_ : {"exact", "gradient"}
        How the head was fitted.
    history_ : DataFrame
        One row an epoch, from the last `fit` on: phase, losses, scores, learning rates,
        seconds. This and the four below are there where something was trained.
    n_iter_ : int
        Number of epochs.
    lr_ : float
        The learning rate of the head.
    weight_decay_ : float
        The weight decay.
    gain_over_probe_ : float
        With early stopping, for fine-tuning that starts from the linear probe: by how
        much the R2 of the kept weights beats its own on the validation part; 0 if they
        are the probe's.
    image_shape_ : tuple of int or None
        Shape of the flattened images; None where images have their own shape.
    value_range_ : tuple of two floats or None
        The values that mean black and white; None where the dtype of images says it.
    image_columns_ : list
        Names of the image columns; this and ``tabular_`` where X is a table.
    tabular_ : transformer or None
        What encodes the columns beside them.
    n_features_in_ : int
        Number of columns seen in ``fit``, where X has columns.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, where they are strings.

    See Also
    --------
    TransferClassifier : The same for labels.
    FeatureExtractorTransformer : The features alone.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import TransferRegressor
    >>> digits = load_digits()
    >>> X, images = digits.data[:800], digits.images[:800]
    >>> on_the_right = images[:, :, 4:].sum(axis=(1, 2)) / images.sum(axis=(1, 2))
    >>> regressor = TransferRegressor().fit(X[:400], on_the_right[:400])
    >>> regressor.score(X[400:], on_the_right[400:]) > 0.8
    True
    """

    def __init__(
        self,
        backbone="mini",
        *,
        weights="default",
        strategy=None,
        head="linear",
        image_columns=None,
        tabular="auto",
        modality_dropout=0.0,
        on_invalid="raise",
        image_size=None,
        image_shape=None,
        value_range="auto",
        resize="auto",
        augmentation=None,
        augmentation_views=None,
        loss="auto",
        task_weights=None,
        optimizer="adamw",
        optimizer_params=None,
        lr="auto",
        weight_decay="auto",
        lr_schedule="cosine",
        gradient_clip=1.0,
        max_epochs=20,
        batch_size=32,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
        tol=0.0,
        warm_start=False,
        checkpoint=None,
        callbacks=None,
        device="auto",
        precision="auto",
        engine="eager",
        cache="auto",
        store_weights_in_pickle=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.strategy = strategy
        self.head = head
        self.image_columns = image_columns
        self.tabular = tabular
        self.modality_dropout = modality_dropout
        self.on_invalid = on_invalid
        self.image_size = image_size
        self.image_shape = image_shape
        self.value_range = value_range
        self.resize = resize
        self.augmentation = augmentation
        self.augmentation_views = augmentation_views
        self.loss = loss
        self.task_weights = task_weights
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.lr = lr
        self.weight_decay = weight_decay
        self.lr_schedule = lr_schedule
        self.gradient_clip = gradient_clip
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.callbacks = callbacks
        self.device = device
        self.precision = precision
        self.engine = engine
        self.cache = cache
        self.store_weights_in_pickle = store_weights_in_pickle
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X, y, sample_weight=None, groups=None):
        """Fit the head, and what the strategy says of the network.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            Arrays (n, H, W) or (n, H, W, C), flattened images (n, n_features), or one
            path, encoded image, PIL image or array a row; or a DataFrame with images
            in some of its columns.
        y : array-like of shape (n,) or (n, n_targets)
            Numbers. In several columns they may be missing (None or NaN).
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows, not negative.
        groups : array-like of shape (n,), default=None
            Rows that belong together: early stopping does not split them.

        Returns
        -------
        self : TransferRegressor
            The fitted regressor.

        Raises
        ------
        InvalidImageError
            If images are broken, or missing where the row has nothing else.
        ValueError
            If X, y or a parameter is not as described.
        FeatureCacheError, EngineError
            If the file of `cache`, or `engine`, cannot be used.
        """
        return self._fit(X, y, sample_weight, groups)

    @available_if(lambda self: self._trains())
    def partial_fit(self, X, y, sample_weight=None):
        """Train one epoch of the strategy's last phase, at constant learning rates.

        The optimizer's state is kept from call to call, as long as the parameters stay
        the same, and not in pickles. The rows of the first call decide how the target
        is standardized.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.
        y : array-like of shape (n,) or (n, n_targets)
            Numbers.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        self : TransferRegressor
            The regressor.

        Raises
        ------
        InvalidImageError, ValueError
            As in ``fit``.
        """
        return self._partial_fit(X, y, sample_weight)

    def score(self, X, y, sample_weight=None):
        """R2; with several targets the mean of theirs.

        Parameters
        ----------
        X : array, list, Series or DataFrame of images
            As in ``fit``.
        y : array-like of shape (n,) or (n, n_targets)
            True numbers. Of several targets, missing numbers do not count, nor do those
            of which fewer than two are known.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        r2 : float
            1 at best, 0 for a prediction that is always the mean; NaN if no target
            counts.
        """
        return self._r2(y, self.predict(X), sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
