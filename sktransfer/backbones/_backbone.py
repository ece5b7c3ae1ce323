"""A backbone with its weights: a small handle that loads itself when it is used.

The handle is what `backbone_` holds and what a pickle stores. Networks of named
backbones are shared by all handles of a process that mean the same weights, so that the
clones and folds of a search load one network.
"""

import warnings
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from sktransfer._images.preprocessing import Preprocessing
from sktransfer.backbones._network import (
    POOLED,
    Network,
    build_network,
    changed_network,
    is_module,
    lock,
    resolve,
    shared_network,
    weights_source,
)
from sktransfer.backbones._registry import WeightsSource
from sktransfer.exceptions import WeightsMismatchError


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
    last : {"pooled", "hidden"}
        Name of the last stage, which puts out the features.
    """

    name: str
    preprocessing: Preprocessing
    _origin: object = field(repr=False)
    _source: WeightsSource = field(repr=False)
    _seed: int = field(repr=False)
    n_features: int = 0
    digest: str = ""
    fingerprint: str = field(default="", repr=False)
    last: str = field(default=POOLED, repr=False)
    _network: Network | None = field(default=None, repr=False)
    _stored: dict | None = field(default=None, repr=False)
    _base: "Backbone | None" = field(default=None, repr=False)
    _changes: dict | None = field(default=None, repr=False)

    @property
    def trunk(self):
        """The network up to its features: a torch.nn.Module in eval mode."""
        return self._loaded().trunk

    @property
    def needs_full_batches(self):
        """Whether a row's last bits depend on how many rows are beside it."""
        return self._loaded().needs_full_batches

    @property
    def base(self):
        """The backbone whose tensors were changed; itself if none were."""
        return self if self._base is None else self._base

    @property
    def stages(self):
        """The stages of the network, from the image up; the last is the features."""
        with lock:
            return self._loaded().plan.stages

    def stage(self, name):
        """Return a stage by name, or raise with the names there are."""
        stages = {stage.name: stage for stage in self.stages}
        if name in stages:
            return stages[name]
        near = get_close_matches(str(name), stages, n=1)
        why = "" if self._loaded().is_traced else ", since its graph cannot be traced"
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"The backbone {self.name!r} has no stage {name!r}. Its stages are "
            f"{list(stages)}{why}.{hint}"
        )

    def segments(self):
        """Copy the network, one trainable module a stage.

        Returns
        -------
        list of Segment
            On the CPU, in eval mode, without gradients.
        """
        with lock:
            network = self._loaded()
            return network.plan.segments(network.trunk)

    def prefix(self, cut, device, engine=None):
        """Return the network up to and with the stage `cut`, as `reader` does."""
        return self._part(cut, None, device, engine)

    def n_features_of(self, layer, pooling):
        """Width of the features read at a stage, or raise if there are none."""
        # The stages are not looked for where nobody asks for them.
        last = (self.n_features,)
        shape = last if layer == self.last else self.stage(layer).shape
        if len(shape) == 1 and pooling != "avg":
            raise ValueError(
                f"Parameter pooling: found {pooling!r} with layer={layer!r}, which is "
                "a vector already. Expected 'avg', or another layer."
            )
        from sktransfer.backbones._pooling import Layout

        return Layout(shape).channels * (2 if pooling == "avgmax" else 1)

    def reader(self, layer, pooling, device, engine=None):
        """Return a frozen network from images to the features read at a stage.

        Parameters
        ----------
        layer, pooling : str
            The stage, and what makes a vector of its output.
        device : torch.device
            Where it runs.
        engine : callable or None, default=None
            Hashable; maps a module to what runs it. None: the module itself.

        Returns
        -------
        torch.nn.Module
            A fused copy, or what the engine made of it; kept for the next call.
            Networks whose changed tensors are all above the stage share their base's.
        """
        return self._part(layer, pooling, device, engine)

    def tapped(self, cut, device, engine=None):
        """Return a frozen network from images to features and to a stage's output.

        Both are to the bit what `reader` and `prefix` give. None where a fused network
        does not compute the stage's output.
        """
        self.stage(cut)
        with lock:
            network = self._loaded()
            if network.plan.folds_at(network.trunk, cut):
                return None
            part = partial(network.tapped, cut, device)
            if engine is None:
                return part()
            return network.run_by(engine, ("tapped", cut), part)

    def _part(self, layer, pooling, device, engine):
        is_last = layer == self.last
        if not is_last:
            self.stage(layer)
        with lock:
            if not is_last and self._is_base_up_to(layer):
                return self._base._part(layer, pooling, device, engine)
            network = self._loaded()

            def make():
                if is_last:
                    return network.for_inference(device)
                part = network.prefix(layer, device)
                if pooling is None:
                    return part
                from torch import nn

                return nn.Sequential(part, self.pool(layer, pooling))

            if engine is None:
                return make()
            return network.run_by(engine, (layer, None if is_last else pooling), make)

    def pool(self, layer, pooling):
        """Return the module that turns a stage's activation into features."""
        from sktransfer.backbones._pooling import Pool

        if layer == self.last:
            return Pool(pooling, ())
        self.stage(layer)
        with lock:
            return Pool(pooling, self._loaded().plan.spatial(layer))

    def fingerprint_at(self, cut):
        """Return the fingerprint of what the network computes up to a stage.

        With the name of the stage it is the network's part in the key of a stored
        activation; it is the base's where nothing below the cut was changed.
        """
        self._loaded()  # an unpickled one was not compared with its code yet
        if cut == self.last:
            return self.fingerprint
        self.stage(cut)
        return (self.base if self._is_base_up_to(cut) else self).fingerprint

    def _is_base_up_to(self, cut):
        if self._base is None:
            return False
        below = self._loaded().plan.tensors_up_to(cut)
        names = [name.split(".") for name in self._changes]
        starts = {".".join(n[: i + 1]) for n in names for i in range(len(n))}
        return below.isdisjoint(starts)

    def with_changes(self, tensors):
        """Return a backbone of the same structure with other values in some tensors.

        Its pickle holds these and the base. Changes of a changed backbone are added to
        those it has.

        Parameters
        ----------
        tensors : dict of str to ndarray
            Values by the names of the network's own tensors; what equals the base is
            left out.

        Returns
        -------
        Backbone
            The changed backbone.

        Raises
        ------
        ValueError
            If the network has no tensor of such a name and shape.
        """
        base = self.base
        network, changes = changed_network(
            base._loaded(), {**(self._changes or {}), **tensors}
        )
        if not changes:
            return replace(base)
        return replace(
            base,
            digest=network.digest,
            fingerprint=network.fingerprint,
            _network=network,
            _base=base,
            _changes=changes,
        )

    def _loaded(self):
        with lock:
            if self._network is None:
                network = self._load()
                if network.digest != self.digest:
                    raise _changed_weights(self, network)
                if network.fingerprint != self.fingerprint:
                    self._adopt_structure(network)
                self._network, self._stored = network, None
            return self._network

    def _adopt_structure(self, network):
        """Keep what code that has changed computes apart from what it did before."""
        if network.is_readable and self._base is None:
            warnings.warn(
                f"The network of backbone {self.name!r} is built by other code than "
                "when this estimator was fitted, or by another version of torch. Its "
                "weights are the same, but what it computes may not be: fit again.",
                UserWarning,
                stacklevel=2,
            )
        self.fingerprint = network.fingerprint

    def _load(self):
        if self._base is not None:
            return changed_network(self._base._loaded(), self._changes)[0]
        recipe = self._origin, self._source, self._seed, self.preprocessing.image_size
        if isinstance(self._origin, str) and self._stored is None:
            return shared_network(*recipe, self.last)
        return build_network(*recipe, self.last, self._stored)

    def for_inference(self, device):
        """Return a fused copy of the trunk on a device, made at first use."""
        with lock:
            return self._loaded().for_inference(device)

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
        base = self._base and self._base.with_weights_in_pickle()
        return replace(self, _network=self._loaded(), _source=source, _base=base)

    def __getstate__(self):
        """Drop what can be found again; keep the tensors of what cannot."""
        state = self.__dict__ | {"_network": None}
        has_tensors = self._network is not None and self._base is None
        if has_tensors and not self._source.findable:
            from sktransfer.backbones._graph import tensors

            own = tensors(self._network.trunk)
            state["_stored"] = {n: t.detach().numpy() for n, t in own.items()}
        return state

    def __deepcopy__(self, memo):
        """Share the network: nothing ever changes it."""
        return replace(self)


def open_backbone(
    backbone, weights, image_size, resize, random_state, last=POOLED, sides=None
):
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
    last : {"pooled", "hidden"}, default="pooled"
        Where the features are: ``"hidden"`` is the input of the last linear layer in
        networks with hidden layers before it.
    sides : callable or None, default=None
        Returns the images' shorter sides, where weights have two sizes of their own.

    Returns
    -------
    Backbone
        Loaded and checked.
    """
    spec, origin = resolve(backbone)
    source = weights_source(spec, weights, is_module(origin))
    preprocessing = source.preprocessing or spec.preprocessing or Preprocessing()
    if image_size is None and sides is not None:
        image_size = preprocessing.size_for(sides)
    opened = Backbone(
        spec.name,
        preprocessing.adapted(image_size, resize),
        _origin=origin,
        _source=source,
        _seed=int(random_state) if hasattr(random_state, "__index__") else 0,
        last=last,
    )
    opened._network = network = opened._load()
    opened.n_features, opened.digest = network.n_features, network.digest
    opened.fingerprint = network.fingerprint
    return opened


def _changed_weights(backbone, network):
    return WeightsMismatchError(
        backbone._source.label,
        backbone.name,
        f"their digest is {network.digest[:12]}, but this estimator was fitted with "
        f"{backbone.digest[:12]}",
        "Bring the original weights back, fit again, or store the weights in the "
        "pickle with store_weights_in_pickle=True.",
    )
