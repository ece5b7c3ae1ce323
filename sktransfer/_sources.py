"""Where a fit's activations come from, and what a fit is told apart by."""

from hashlib import blake2b

import numpy as np

from sktransfer._cache.memory import SHARED, MemoryStore
from sktransfer._images.loading import n_threads

# Parameters that do not change what a fit computes, up to the last bits.
_WITHOUT_EFFECT = {"cache", "callbacks", "checkpoint", "n_jobs", "verbose"}


class Sources:
    """The sources of activations of one fit: one for each cut, and for training.

    Parameters
    ----------
    estimator : ImageEstimator
        Whose parameters hold.
    images : ImageSequence
        The images of the fit.
    device : torch.device
        Where training happens.
    views : Views or None
        How training sees images; None is as they are.
    """

    def __init__(self, estimator, images, device, views):
        self.estimator, self.images = estimator, images
        self.device, self.views = device, views
        self._made = {}
        # Epochs of this fit share what no other fit may use.
        self._own_store = MemoryStore()

    def __call__(self, cut, training):
        """Return the source of inputs behind a cut; None cuts before everything."""
        views = self.views if training else None
        key = cut, views is not None
        if key not in self._made:
            self._made[key] = self._make(cut, views)
        return self._made[key]

    def close(self):
        """Say that the fit is over."""
        for source in self._made.values():
            if source.store is not None:
                source.store.end()

    def _make(self, cut, views):
        from sktransfer._engine.activations import Activations

        estimator = self.estimator
        backbone, engine = estimator.backbone_, estimator._engine()
        source = Activations(
            self.images,
            None if cut is None else backbone.prefix(cut, self.device, engine.or_none),
            backbone.preprocessing,
            self.device,
            n_threads(estimator.n_jobs),
            engine.min_rows,
            engine.max_rows,
        )
        if views is None or views.n is not None:
            source.store, source.key_of = self._store_at(cut, views, engine)
        if views is not None:
            source.augment = views.pixels_of(backbone.preprocessing)
            source.decode_factor = views.decode_factor
        return source

    def _store_at(self, cut, views, engine):
        backbone, store = self.estimator.backbone_, None
        if self.estimator.cache is None or not (views is None or views.are_lasting):
            store = self._own_store
        elif cut is None:
            store = SHARED  # files hold what a network has computed, not pixels
        network = "" if cut is None else backbone.fingerprint_at(cut)
        name = "pixels" if cut is None else cut
        return self.estimator._store(network, name, engine, store, views)


def identity_of(estimator, fit):
    """Digest of the data and parameters of a fit, for its checkpoint.

    Parameters
    ----------
    estimator : ImageEstimator
        With its backbone loaded.
    fit : Fit
        The fit.

    Returns
    -------
    str
        Hexadecimal.
    """
    hasher = blake2b(digest_size=20)
    for name, value in sorted(estimator.get_params().items()):
        if name not in _WITHOUT_EFFECT:
            hasher.update(f"{name}={_described(value)};".encode())
    backbone = estimator.backbone_
    hasher.update(f"{backbone.name} {backbone.digest};".encode())
    hasher.update(repr(backbone.preprocessing).encode())
    hasher.update(fit.targets.content())
    hasher.update(fit.weights.tobytes())
    if fit.groups is not None:
        hasher.update(repr(np.asarray(fit.groups).tolist()).encode())
    for content in fit.images.contents():
        hasher.update(content)
    return hasher.hexdigest()


def _described(value):
    """Describe a parameter as any process does: code and generators by their names."""
    if callable(value) or isinstance(value, np.random.RandomState):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value)


def training_params(estimator):
    """Parameters on which a training that is set up depends."""
    callbacks = {"callbacks"}
    return {
        name: value
        for name, value in estimator.get_params().items()
        if name not in _WITHOUT_EFFECT - callbacks
    }


def are_same(params, others):
    """Tell whether two sets of parameters mean the same; functions are not compared."""
    return params.keys() == others.keys() and all(
        value is others[name]
        or (
            not (callable(value) or callable(others[name]))
            and _described(value) == _described(others[name])
        )
        for name, value in params.items()
    )
