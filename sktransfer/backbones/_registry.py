"""One dict of backbones, filled when the first name is looked up.

A backbone here is plain data: how to build the network and where its weights are.
Building and loading are the business of `_backbone`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from threading import RLock

from sktransfer._images.preprocessing import Preprocessing
from sktransfer.exceptions import BackboneNotFoundError, WeightsMismatchError


@dataclass(frozen=True)
class WeightsSource:
    """Where weights come from.

    Parameters
    ----------
    kind : {"shipped", "file", "url", "built"}
        A file inside the package, a file on this machine, a download kept under
        TORCH_HOME, or whatever the builder returns.
    location : str
        File name, path or address; empty for ``"built"``.
    label : str
        What messages call the weights.
    preprocessing : Preprocessing or None
        What the weights' images must look like, where the source knows.
    findable : bool
        Whether another process can load the same weights again from this description.
    """

    kind: str
    location: str = ""
    label: str = ""
    preprocessing: Preprocessing | None = None
    findable: bool = True


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone that can be asked for by name.

    Parameters
    ----------
    name : str
        The name.
    builder : callable
        Called without arguments; returns a ``torch.nn.Module`` that maps images
        (b, 3, s, s) to anything.
    preprocessing : Preprocessing or None, default=None
        What images must look like when the weights do not say.
    weights_names : tuple of str, default=()
        Names that ``weights`` may take beside ``"default"``.
    find_weights : callable or None, default=None
        Maps ``"default"`` or one of `weights_names` to a `WeightsSource`. None means
        that the builder's own weights are the default.
    """

    name: str
    builder: Callable = field(repr=False)
    preprocessing: Preprocessing | None = None
    weights_names: tuple = ()
    find_weights: Callable | None = field(default=None, repr=False)

    @cached_property
    def stages(self):
        """The stages of the network, from the image up.

        Returns
        -------
        tuple of Stage
            Name, shape of one image's activation, and number of parameters of each;
            found without loading weights.
        """
        from sktransfer.backbones._network import stages_of

        return stages_of(self)

    def weights_source(self, weights):
        """Return where the weights of this name are, or raise with the names there are.

        Parameters
        ----------
        weights : str
            ``"default"`` or one of `weights_names`.

        Returns
        -------
        WeightsSource
            The source.
        """
        if weights == "default" and self.find_weights is None:
            return WeightsSource("built", label="of the builder", findable=False)
        if weights == "default" or weights in self.weights_names:
            return self.find_weights(weights)
        names = ["default", *self.weights_names]
        raise WeightsMismatchError(
            repr(weights),
            self.name,
            f"there is no such file and no weights of that name; there are {names}",
            "Pass one of them, a path to a .safetensors or .pth file, or None.",
        )


_specs: dict[str, BackboneSpec] = {}
_sources: list[Callable] = []
_lock = RLock()


def add_source(source):
    """Let `source()`, an iterable of specs, be read when a name is first looked up."""
    _sources.append(source)


def _all_specs():
    with _lock:
        while _sources:
            for spec in _sources.pop(0)():
                _specs[spec.name] = spec
        return _specs


def list_backbones(pattern="*"):
    """List the names of the backbones there are.

    Parameters
    ----------
    pattern : str, default="*"
        Wildcards as in file names.

    Returns
    -------
    list of str
        The names that match, sorted.

    Examples
    --------
    >>> from sktransfer.backbones import list_backbones
    >>> list_backbones("resnet*")
    ['resnet101', 'resnet152', 'resnet18', 'resnet34', 'resnet50']
    """
    return sorted(name for name in _all_specs() if fnmatchcase(name, pattern))


def get_backbone(name):
    """Describe a backbone, without loading its weights.

    Parameters
    ----------
    name : str
        A name from :func:`list_backbones`.

    Returns
    -------
    BackboneSpec
        Its name, the names of its weights (``weights_names``), its ``stages``, and
        ``preprocessing``: what its images must look like, or None where that depends
        on the weights, as for networks of torchvision.

    Raises
    ------
    BackboneNotFoundError
        If there is no such name; the message holds the nearest ones.

    Examples
    --------
    >>> from sktransfer.backbones import get_backbone
    >>> get_backbone("resnet50").weights_names
    ('IMAGENET1K_V1', 'IMAGENET1K_V2')
    >>> get_backbone("mini").preprocessing.image_size
    96
    >>> [stage.name for stage in get_backbone("resnet18").stages]
    ['stem', 'layer1', 'layer2', 'layer3', 'layer4', 'pooled']
    """
    specs = _all_specs()
    if name not in specs:
        raise BackboneNotFoundError(name, get_close_matches(str(name), specs, n=3))
    return specs[name]


def register_backbone(name, builder, *, weights=None, preprocessing=None):
    """Make a network of one's own known by a name, in this process.

    Other processes, workers of ``n_jobs`` among them, do not know the name: register it
    in a module that they import, or pass the callable itself as ``backbone``.

    Parameters
    ----------
    name : str
        The new name.
    builder : callable
        Called without arguments, under a seeded generator; returns a
        ``torch.nn.Module`` that maps images (b, 3, s, s) to anything. The last feature
        map in it, averaged over height and width, becomes the features.
    weights : str or Path, default=None
        A .safetensors or .pth file that ``weights="default"`` loads. None: whatever
        `builder` returns is the default.
    preprocessing : dict or torchvision preset, default=None
        What images must look like: a dict with any of ``image_size``,
        ``resize_size`` (pixels), ``mean``, ``std`` (3 floats for values in [0, 1]),
        ``interpolation``, ``resize`` (``"crop"`` or ``"squash"``) and ``larger_size``
        (a second image size, for images that are nearer to it), or the
        ``transforms()`` of torchvision weights. None: what the file of the weights
        says, else as for torchvision's ImageNet networks, 256/224 pixels.

    Raises
    ------
    TypeError
        If `builder` is not callable.
    ValueError
        If the name is taken, or `preprocessing` has other entries.

    Examples
    --------
    >>> from torch import nn
    >>> from sktransfer.backbones import list_backbones, register_backbone
    >>> def two_layers():
    ...     return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
    >>> register_backbone("two_layers", two_layers, preprocessing={"image_size": 32})
    >>> "two_layers" in list_backbones()
    True
    """
    with _lock:
        if name in _all_specs():
            raise ValueError(
                f"Parameter name: there is already a backbone named {name!r}. Choose "
                "another name."
            )
        if not callable(builder):
            raise TypeError(
                f"Parameter builder: found {type(builder).__name__}. Expected a "
                "callable that returns a torch.nn.Module."
            )
        if isinstance(preprocessing, dict):
            preprocessing = _complete(preprocessing)
        elif preprocessing is not None:
            preprocessing = Preprocessing.from_torchvision(preprocessing)
        find_weights = None
        if weights is not None:
            find_weights = _File(os.path.abspath(weights), preprocessing)
        _specs[name] = BackboneSpec(
            name, builder, preprocessing, find_weights=find_weights
        )


def _complete(preprocessing):
    """Scale the default resize size along where only image_size is given."""
    size = preprocessing.get("image_size")
    base = Preprocessing().adapted(size).to_dict()
    return Preprocessing.from_dict({**base, **preprocessing})


@dataclass(frozen=True)
class _File:
    """A picklable function that describes one file, whatever name is asked for."""

    path: str
    preprocessing: Preprocessing | None

    def __call__(self, name):  # noqa: ARG002 (the signature of find_weights)
        from sktransfer.backbones._weights import stored_preprocessing

        own = self.preprocessing or stored_preprocessing(self.path)
        return WeightsSource("file", self.path, repr(self.path), own)
