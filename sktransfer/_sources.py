"""Where a fit's activations come from, and what a fit is told apart by."""

import copyreg
import re
from functools import partial
from hashlib import blake2b

import numpy as np

from sktransfer._cache.memory import SHARED, MemoryStore
from sktransfer._images.loading import n_threads

# Parameters that do not change what a fit computes, up to the last bits.
_WITHOUT_EFFECT = {"cache", "callbacks", "checkpoint", "n_jobs", "verbose"}
_LITERALS = {bool, complex, float, int, str, type(None)}


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


def checkpoint_of(estimator, fit, module):
    """Return the checkpoint of a fit, or None where the estimator keeps none.

    Parameters
    ----------
    estimator : TrainedEstimator
        With its backbone loaded.
    fit : Fit
        The fit.
    module : TransferModule or None
        What was fitted before, where the fit goes on from it.

    Returns
    -------
    CheckpointFile or None
        That of a fit that goes on is named after its start.
    """
    if estimator.checkpoint is None:
        return None
    from sktransfer._engine.checkpoint import CheckpointFile

    start = "" if module is None else start_of(estimator, module)
    identity = identity_of(estimator, fit, start)
    return CheckpointFile(estimator.checkpoint, identity, start)


def start_of(estimator, module):
    """Digest of what a fit goes on from.

    Parameters
    ----------
    estimator : TrainedEstimator
        As the fits before left it.
    module : TransferModule
        What they have learnt.

    Returns
    -------
    str
        Hexadecimal.
    """
    start = (
        estimator.backbone_.digest,
        dict(module.heads.state_dict()),
        estimator._joint,
        # Fits that change nothing, as the best was there already, are not the same.
        vars(estimator).get("_n_epochs"),
        vars(estimator).get("_split_seed"),
    )
    return blake2b(_described(start).encode(), digest_size=20).hexdigest()


def identity_of(estimator, fit, start=""):
    """Digest of the data, parameters and start of a fit, for its checkpoint.

    Parameters
    ----------
    estimator : ImageEstimator
        With its backbone loaded.
    fit : Fit
        The fit.
    start : str, default=""
        Digest of what it goes on from; empty where it starts anew.

    Returns
    -------
    str
        Hexadecimal.
    """
    hasher = blake2b(f"{start};".encode(), digest_size=20)
    for name, value in sorted(_params_with_effect(estimator).items()):
        hasher.update(f"{name}={_described_parameter(value)};".encode())
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


def setting_of(estimator):
    """Return what is equal as long as a training that is set up may go on.

    Functions of one name may differ, and callbacks change while they are used: of these
    it has to be the same ones.
    """
    params = _params_with_effect(estimator)
    texts = {n: _described_parameter(v) for n, v in params.items()}
    own = [value for value in params.values() if callable(value)]
    return texts, own, list(estimator.callbacks or [])


def _params_with_effect(estimator):
    params = estimator.get_params(deep=False)
    return {n: v for n, v in params.items() if n not in _WITHOUT_EFFECT}


def _described_parameter(value):
    """Describe a parameter; those that change while they are used by their class.

    An own loss may count its calls, and what a generator draws is in the checkpoint.
    """
    is_own = callable(value) and not hasattr(value, "get_params")
    if is_own and not isinstance(value, partial) and _name(value) is None:
        value = type(value)
    if isinstance(value, np.random.RandomState):
        value = type(value)
    return _described(value)


def _described(value, around=()):
    """Describe a value as any process does; `repr` tells addresses, and not all values.

    Functions and classes are described by their names, estimators by their parameters,
    and everything else by what pickle takes it apart into.
    """
    if type(value) in _LITERALS:
        return repr(value)
    if id(value) in around:
        return "itself"
    name, parts = _taken_apart(value)
    around = (*around, id(value))
    return f"{name}({','.join(_described(part, around) for part in parts)})"


def _taken_apart(value):
    """Return the name of a value or of its class, and what the value consists of."""
    kind, own_name = type(value), _name(value)
    if kind in (list, tuple):
        parts = value
    elif kind in (set, frozenset):
        parts = sorted(value, key=_described)
    elif kind is dict:
        parts = sorted(value.items(), key=lambda item: _described(item[0]))
    elif isinstance(value, bytes):
        parts = [blake2b(value, digest_size=20).hexdigest()]
    elif isinstance(value, partial):
        parts = value.func, value.args, value.keywords
    elif own_name is not None:
        return own_name, []
    elif hasattr(value, "get_params"):
        parts = sorted(value.get_params(deep=False).items())
    else:
        parts = _as_pickled(value)
    return kind.__qualname__, parts


def _as_pickled(value):
    import torch

    if isinstance(value, torch.Tensor):  # pickled with the address of its storage
        flat = value.detach().cpu().contiguous().flatten()
        content = flat.view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), content
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        reduced = reduce(value) if reduce else value.__reduce_ex__(2)
    except Exception:  # a lock, an open file: nothing that a fit could depend on
        return [re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))]
    if isinstance(reduced, str):
        return [reduced]
    items = [list(part) for part in reduced[3:5] if part is not None]
    return [*reduced[:3], *items]


def _name(value):
    """Return the name of a function, class or module; None for everything else."""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return name if isinstance(name, str) else None
