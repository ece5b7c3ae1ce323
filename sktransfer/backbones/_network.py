"""Networks with weights: built, loaded, shared by all handles that mean the same.

A loaded network never changes. One with other values in some tensors is a new network
that has the others in common with the first.
"""

import copy
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import RLock

import numpy as np

from sktransfer._images.preprocessing import Preprocessing
from sktransfer._randomness import seeded_globals
from sktransfer.backbones._registry import BackboneSpec, WeightsSource, get_backbone
from sktransfer.exceptions import WeightsMismatchError

POOLED, HIDDEN = "pooled", "hidden"
_MAX_SHARED = 4
# Copies of a network for inference, of several cuts and devices, and as many of what
# engines made of them.
_MAX_FUSED = 4
_shared = OrderedDict()
# Taken before the lock of `seeded_globals`, never after it.
lock = RLock()


@dataclass(eq=False)
class Network:
    """A loaded trunk and what is known of it."""

    trunk: object
    n_features: int
    digest: str
    fingerprint: str
    is_readable: bool
    needs_full_batches: bool
    plan: object
    fused: dict = field(default_factory=dict)
    engines: dict = field(default_factory=dict)

    @property
    def is_traced(self):
        """Whether the network has a graph, and so may have several stages."""
        return hasattr(self.trunk, "graph")

    def for_inference(self, device):
        """Return a fused copy on a device, made at first use."""
        return self._fused(device, device, lambda: self.trunk)

    def prefix(self, cut, device):
        """Return a fused copy of the stages up to one."""
        part = self.plan.prefix
        return self._fused((cut, device), device, lambda: part(self.trunk, cut))

    def tapped(self, cut, device):
        """Return a fused copy that also returns what a stage puts out."""
        part, key = self.plan.tapped, ("tapped", cut, device)
        return self._fused(key, device, lambda: part(self.trunk, cut))

    def run_by(self, engine, part, make):
        """Return what an engine made of a part of the network, at first use."""
        return _kept(self.engines, (engine, part), lambda: engine(make()))

    def _fused(self, key, device, make):
        from sktransfer.backbones._graph import fused

        return _kept(self.fused, key, lambda: fused(make(), self.trunk).to(device))


def _kept(known, key, make):
    """Return what is known by a key, made at first use; few are kept."""
    value = known.pop(key, None)
    if value is None:
        value = make()
    known[key] = value  # the last used one is the last
    while len(known) > _MAX_FUSED:
        del known[next(iter(known))]
    return value


def is_module(origin):
    """Tell a torch.nn.Module from its class, without importing torch."""
    return hasattr(origin, "named_parameters") and not isinstance(origin, type)


def resolve(backbone):
    """Return the spec of a parameter, and what it is rebuilt from."""
    if isinstance(backbone, str):
        return get_backbone(backbone), backbone
    if is_module(backbone):
        spec = BackboneSpec(type(backbone).__name__, lambda: backbone)
        return spec, backbone
    if callable(backbone):
        name = getattr(backbone, "__name__", type(backbone).__name__)
        return BackboneSpec(name, backbone), backbone
    raise TypeError(
        f"Parameter backbone: found {type(backbone).__name__}. Expected the name of a "
        "backbone, a callable that returns a torch.nn.Module, or a torch.nn.Module."
    )


def weights_source(spec, weights, is_module):
    """Return where the weights are that a parameter stands for."""
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


def shared_network(origin, source, seed, image_size, last):
    """Build and load a network, or return the one this process has already."""
    key = (origin, source, _stamp(source), seed, image_size, last)
    with lock:
        if key not in _shared:
            _shared[key] = build_network(origin, source, seed, image_size, last)
        _shared.move_to_end(key)
        while len(_shared) > _MAX_SHARED:
            _shared.popitem(last=False)
        return _shared[key]


def _stamp(source):
    """Tell a weights file from one in its place, also of the same age and size."""
    if source.kind != "file" or not os.path.exists(source.location):
        return None
    status = os.stat(source.location)
    times = status.st_mtime_ns, status.st_ctime_ns
    return *times, status.st_size, status.st_dev, status.st_ino


def build_network(origin, source, seed, image_size, last, stored=None):
    """Build a network and load its weights.

    Parameters
    ----------
    origin : str, callable or torch.nn.Module
        What it is built from.
    source : WeightsSource
        Where the weights are.
    seed : int
        Seed of initial weights.
    image_size : int
        Height and width, in pixels, of its images.
    last : {"pooled", "hidden"}
        Where it is cut.
    stored : dict of str to ndarray, default=None
        All tensors; None: they are read from the source.

    Returns
    -------
    Network
        On the CPU.
    """
    import torch

    from sktransfer.backbones import _graph, _weights
    from sktransfer.backbones._fingerprint import identity

    spec, _ = resolve(origin)
    # Others in this process, who may share it, do not live in a user's inference mode.
    with torch.inference_mode(False):
        module = _build_module(spec, seed)
        layout = _weights.Layout.of(module)  # cutting may change it
        trunk, plan = _cut(spec, module, image_size, last)
        if stored is not None:
            _graph.restore(trunk, stored)
        elif source.kind != "built":
            state = _weights.named_as(layout, _weights.read_weights(source, spec.name))
            if last == HIDDEN:
                _check_hidden(trunk, state, source, spec)
            _weights.load_into(trunk, layout, state, source, spec.name)
        n_features = _graph.count_features(trunk, image_size, spec.name)
        full = _graph.needs_full_batches(trunk)
        return Network(trunk, n_features, *identity(trunk), full, plan)


def _cut(spec, module, image_size, last):
    from sktransfer.backbones import _graph
    from sktransfer.backbones._parameters import parameter_kinds
    from sktransfer.backbones._stages import StageChain
    from sktransfer.backbones._traces import skeleton

    module = module.float().cpu()
    kinds = parameter_kinds(module)  # cutting freezes it
    if last == HIDDEN:
        trunk = _graph.cut_hidden(module, image_size, spec.name)
    else:
        trunk = _graph.cut_pooled(module, image_size)
    bare = skeleton(module) if hasattr(trunk, "graph") else None
    return trunk, StageChain(trunk, bare, kinds, image_size, last)


def _check_hidden(trunk, state, source, spec):
    """Say so where a file holds a network without its classification layers."""
    from sktransfer.backbones._graph import stored_tensors

    missing = [n for n in stored_tensors(trunk) if n not in state]
    missing = [n for n in missing if not n.endswith("batches_tracked")]
    if missing:
        raise WeightsMismatchError(
            source.label,
            spec.name,
            f"layer='hidden' needs {missing[0]}, which they do not hold",
            "Use layer='pooled' or another stage, or weights of the whole network.",
        )


def _build_module(spec, seed):
    from torch import nn

    with lock, seeded_globals(seed):
        module = spec.builder()
    if isinstance(module, nn.Module):
        return copy.deepcopy(module)  # it may be in use where it comes from
    raise TypeError(
        f"Parameter backbone: the callable {spec.name} returned "
        f"{type(module).__name__}. Expected a torch.nn.Module."
    )


def stages_of(spec, image_size=None, last=POOLED):
    """Find the stages of a backbone; its weights are not loaded.

    Parameters
    ----------
    spec : BackboneSpec
        The backbone.
    image_size : int or None, default=None
        Height and width, in pixels, of its images; None is the default weights' own.
    last : {"pooled", "hidden"}, default="pooled"
        Where it is cut.

    Returns
    -------
    tuple of Stage
        From the image up.
    """
    source = spec.weights_source("default")
    preprocessing = source.preprocessing or spec.preprocessing or Preprocessing()
    size = preprocessing.adapted(image_size, "auto").image_size
    with lock:
        return _cut(spec, _build_module(spec, 0), size, last)[1].stages


def changed_network(network, tensors):
    """Return a network with other values in some tensors, and what did change.

    Parameters
    ----------
    network : Network
        The base, which is left as it is; unchanged tensors are shared with it.
    tensors : dict of str to ndarray
        Values by name.

    Returns
    -------
    Network
        The changed network.
    dict of str to ndarray
        Copies of the values that differ from the base.
    """
    from sktransfer.backbones import _graph
    from sktransfer.backbones._fingerprint import identity

    own = _graph.tensors(network.trunk)
    changes = {}
    for name, value in tensors.items():
        before = _array(own, name)
        value = np.array(value, dtype=before.dtype, order="C")
        if value.shape != before.shape:
            raise ValueError(
                f"Tensor {name!r}: found shape {value.shape}. Expected {before.shape}."
            )
        if value.tobytes() != before.tobytes():
            changes[name] = value
    if not changes:
        return network, changes
    replaced = {id(own[name]) for name in changes}
    # Deep copying takes a tensor in the memo for copied.
    memo = {id(t): t for t in own.values() if id(t) not in replaced}
    trunk = copy.deepcopy(network.trunk, memo)
    _graph.restore(trunk, changes)
    changed = Network(
        trunk,
        network.n_features,
        *identity(trunk),
        network.needs_full_batches,
        network.plan,
    )
    return changed, changes


def _array(own, name):
    if name not in own:
        raise ValueError(
            f"Tensor {name!r}: the network has no tensor of that name. Its "
            f"{len(own)} tensors are {list(own)[:3]} and so on."
        )
    return own[name].detach().numpy()
