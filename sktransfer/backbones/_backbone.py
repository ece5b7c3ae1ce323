"""A backbone with its weights: a small handle that loads itself when it is used.

The handle is what `backbone_` holds and what a pickle stores. Networks of named
backbones are shared by all handles of a process that mean the same weights, so that the
clones and folds of a search load one network.
"""

import copy
import os
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from threading import RLock

from sktransfer._images.preprocessing import Preprocessing
from sktransfer.backbones._registry import BackboneSpec, WeightsSource, get_backbone
from sktransfer.exceptions import WeightsMismatchError

_MAX_SHARED = 4
_shared = OrderedDict()
# Building draws from torch's global generator, inside a fork of it: one at a time.
_lock = RLock()


@dataclass(eq=False)
class _Network:
    """A loaded trunk and what is known of it."""

    trunk: object
    n_features: int
    digest: str
    fingerprint: str
    needs_full_batches: bool
    fused: dict = field(default_factory=dict)


@dataclass(eq=False)
class Backbone:
    """A pretrained network, cut where its features are.

    Parameters
    ----------
    name : str
        Name of the backbone, or of the callable or class that made it.
    preprocessing : Preprocessing
        What is done to images before the network sees them.
    n_features : int
        Width of the features.
    digest : str
        Digest of the weights.
    fingerprint : str
        Determines, with the preprocessing, what the network computes.
    """

    name: str
    preprocessing: Preprocessing
    _origin: object = field(repr=False)
    _source: WeightsSource = field(repr=False)
    _seed: int = field(repr=False)
    n_features: int = 0
    digest: str = ""
    fingerprint: str = field(default="", repr=False)
    _network: _Network | None = field(default=None, repr=False)
    _stored: dict | None = field(default=None, repr=False)

    @property
    def trunk(self):
        """The network up to its features: a torch.nn.Module in eval mode."""
        return self._loaded().trunk

    @property
    def needs_full_batches(self):
        """Whether a row's last bits depend on how many rows are beside it."""
        return self._loaded().needs_full_batches

    def _loaded(self):
        with _lock:
            if self._network is None:
                network = _network(self)
                if network.digest != self.digest:
                    raise _changed_weights(self, network)
                self._network, self._stored = network, None
            return self._network

    def for_inference(self, device):
        """Return a fused copy of the trunk on a device, made at first use."""
        with _lock:
            network = self._loaded()
            if device not in network.fused:
                from sktransfer.backbones._graph import fused

                network.fused[device] = fused(network.trunk).to(device)
            return network.fused[device]

    def save(self, path):
        """Save the network as the base of another task.

        Parameters
        ----------
        path : str or Path
            File to write, ending in .safetensors; pass it as ``weights``.

        Raises
        ------
        ValueError
            If the path ends otherwise.
        """
        from sktransfer.backbones._weights import save_weights

        if Path(path).suffix != ".safetensors":
            raise ValueError(
                f"Parameter path: found {str(path)!r}. Expected a file name that ends "
                "in .safetensors."
            )
        save_weights(self.trunk, path, self.preprocessing)

    def with_weights_in_pickle(self):
        """Return a copy whose pickle holds the weights, not where they can be found."""
        source = replace(self._source, findable=False)
        return replace(self, _network=self._loaded(), _source=source)

    def __getstate__(self):
        """Drop what can be found again; keep the tensors of what cannot."""
        state = self.__dict__ | {"_network": None}
        if self._network is not None and not self._source.findable:
            from sktransfer.backbones._graph import tensors

            own = tensors(self._network.trunk)
            state["_stored"] = {n: t.detach().numpy() for n, t in own.items()}
        return state

    def __deepcopy__(self, memo):
        """Share the network: nothing ever changes it."""
        return replace(self)


def open_backbone(backbone, weights, image_size, resize, random_state):
    """Load the backbone that an estimator's parameters describe.

    Parameters
    ----------
    backbone : str, callable or torch.nn.Module
        Name, factory or instance; an instance is copied.
    weights : str, Path or None
        As the estimators document it.
    image_size : int or None
        None is the weights' own.
    resize : {"auto", "crop", "squash"}
        ``"auto"`` is the weights' own.
    random_state : int, RandomState or None
        Seed of initial weights if it is an int, else the seed is 0.

    Returns
    -------
    Backbone
        Loaded and checked.
    """
    spec, origin = _resolve(backbone)
    source = _weights_source(spec, weights, _is_module(origin))
    preprocessing = source.preprocessing or spec.preprocessing or Preprocessing()
    opened = Backbone(
        spec.name,
        preprocessing.adapted(image_size, resize),
        _origin=origin,
        _source=source,
        _seed=int(random_state) if _is_int(random_state) else 0,
    )
    opened._network = network = _network(opened)
    opened.n_features, opened.digest = network.n_features, network.digest
    opened.fingerprint = network.fingerprint
    return opened


def _is_int(random_state):
    return hasattr(random_state, "__index__")


def _is_module(origin):
    return hasattr(origin, "named_parameters") and not isinstance(origin, type)


def _resolve(backbone):
    """Return the spec of a parameter, and what it is rebuilt from."""
    if isinstance(backbone, str):
        return get_backbone(backbone), backbone
    if _is_module(backbone):
        spec = BackboneSpec(type(backbone).__name__, lambda: backbone)
        return spec, backbone
    if callable(backbone):
        name = getattr(backbone, "__name__", type(backbone).__name__)
        return BackboneSpec(name, backbone), backbone
    raise TypeError(
        f"Parameter backbone: found {type(backbone).__name__}. Expected the name of a "
        "backbone, a callable that returns a torch.nn.Module, or a torch.nn.Module."
    )


def _weights_source(spec, weights, is_module):
    if weights is None:
        if is_module:
            raise ValueError(
                "Parameter weights: found None with a torch.nn.Module as backbone, "
                "which has weights already. Leave weights='default' to use them, or "
                "pass a callable that builds the module."
            )
        return WeightsSource("built", label="None", findable=False)
    text = os.fspath(weights) if hasattr(weights, "__fspath__") else weights
    if text in ("default", *spec.weights_names):
        return spec.weights_source(text)
    if text.endswith((".safetensors", ".pth", ".pt")) or os.path.isfile(text):
        from sktransfer.backbones._weights import stored_preprocessing

        path = os.path.abspath(text)
        return WeightsSource("file", path, repr(text), stored_preprocessing(path))
    return spec.weights_source(text)


def _network(backbone):
    """Build and load a network, or return the one this process has already."""
    if not isinstance(backbone._origin, str) or backbone._stored is not None:
        return _build(backbone)
    source, size = backbone._source, backbone.preprocessing.image_size
    key = (backbone._origin, source, _stamp(source), backbone._seed, size)
    with _lock:
        if key not in _shared:
            _shared[key] = _build(backbone)
        _shared.move_to_end(key)
        while len(_shared) > _MAX_SHARED:
            _shared.popitem(last=False)
        return _shared[key]


def _stamp(source):
    """Change time and size of a weights file, which may be written anew."""
    if source.kind != "file" or not os.path.exists(source.location):
        return None
    status = os.stat(source.location)
    return status.st_mtime_ns, status.st_size


def _build(backbone):
    from sktransfer.backbones import _graph, _weights

    module = _build_module(backbone)
    size = backbone.preprocessing.image_size
    trunk = _graph.cut_pooled(module.float().cpu(), size)
    source = backbone._source
    if backbone._stored is not None:
        _graph.restore(trunk, backbone._stored)
    elif source.kind != "built":
        state = _weights.read_weights(source, backbone.name)
        _weights.load_into(trunk, state, source, backbone.name)
    digest = _graph.weights_digest(trunk)
    # What an untraceable forward computes cannot be read off: it is never shared.
    text = _graph.structure(trunk) or os.urandom(20).hex()
    fingerprint = blake2b(f"{text}\n{digest}".encode(), digest_size=20).hexdigest()
    n_features = _graph.count_features(trunk, size, backbone.name)
    full = _graph.needs_full_batches(trunk)
    return _Network(trunk, n_features, digest, fingerprint, full)


def _build_module(backbone):
    import torch

    spec, _ = _resolve(backbone._origin)
    with _lock, torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the accelerators' generators too.
        torch.default_generator.manual_seed(backbone._seed)
        module = spec.builder()
    if isinstance(module, torch.nn.Module):
        return copy.deepcopy(module)  # it may be in use where it comes from
    raise TypeError(
        f"Parameter backbone: the callable {spec.name} returned "
        f"{type(module).__name__}. Expected a torch.nn.Module."
    )


def _changed_weights(backbone, network):
    return WeightsMismatchError(
        backbone._source.label,
        backbone.name,
        f"their digest is {network.digest[:12]}, but this estimator was fitted with "
        f"{backbone.digest[:12]}",
        "Bring the original weights back, fit again, or store the weights in the "
        "pickle with store_weights_in_pickle=True.",
    )
