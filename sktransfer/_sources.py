"""Where a fit's activations come from, and what a fit is told apart by."""

from functools import partial
from hashlib import blake2b

import numpy as np

from sktransfer._cache.memory import MemoryStore
from sktransfer._images.augmentation import augmented_pixels, resolve_augmentation
from sktransfer._images.decode import DecodeError
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
    seed : int
        Seed of the augmentation.
    """

    def __init__(self, estimator, images, device, seed):
        self.estimator, self.images = estimator, images
        self.device, self.seed = device, seed
        self.augmentation = resolve_augmentation(estimator.augmentation)
        self._made = {}
        # Without a cache the epochs of this fit still share what it computes.
        self._own_store = MemoryStore() if estimator.cache is None else None

    def __call__(self, cut, training):
        """Return the source of inputs behind a cut; None cuts before everything."""
        augmentation = self.augmentation if training else None
        key = cut, augmentation is not None
        if key not in self._made:
            self._made[key] = self._make(cut, augmentation)
        return self._made[key]

    def _make(self, cut, augmentation):
        from sktransfer._engine.data import Activations
        from sktransfer._engine.prefix import MIN_ROWS

        estimator = self.estimator
        backbone, size = estimator.backbone_, estimator.batch_size
        full = self.device.type != "cpu" or backbone.needs_full_batches
        source = Activations(
            self.images,
            None if cut is None else backbone.prefix(cut, self.device),
            backbone.preprocessing,
            self.device,
            n_threads(estimator.n_jobs),
            max(MIN_ROWS, size) if full else MIN_ROWS,
            max(MIN_ROWS, size),
        )
        if augmentation is None:
            network = "" if cut is None else backbone.fingerprint_at(cut)
            name = "pixels" if cut is None else cut
            store, key_of = estimator._store(
                network, name, self.device, full, self._own_store
            )
            source.get, source.put = store.get, store.put
            source.key_of = lambda content, view: key_of(content)  # noqa: ARG005
            return source
        source.augment = partial(
            augmented_pixels, augmentation, backbone.preprocessing, self.seed
        )
        source.decode_factor = getattr(augmentation, "decode_factor", 1.0)
        return source


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
    for row in range(len(fit.images)):
        try:
            hasher.update(fit.images[row].load()[1])
        except DecodeError as error:  # raised for all such rows a little later
            hasher.update(str(error).encode())
    return hasher.hexdigest()


def _described(value):
    """Describe a parameter as any process does: code and generators by their names."""
    if callable(value) or isinstance(value, np.random.RandomState):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value)
