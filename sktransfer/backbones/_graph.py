"""Where a network is cut: `pooled`, the last feature map averaged over its pixels.

The cut is found in the network's graph (torch.fx with torchvision's tracer), not in a
table of names. The classification part is what lives under a top-level module called
`fc`, `classifier`, `head` or `heads`, and otherwise the last linear layer; the last
feature map is the last tensor with height and width before it. Norms that the network
itself applies between averaging and classifying (ConvNeXt) belong to the trunk; hidden
linear layers (VGG, MobileNetV3) do not.

A network that cannot be traced, or has no feature map, is used as it is: its output is
averaged over height and width, or over tokens, if it has any.
"""

import copy
import math
from collections import Counter
from contextlib import suppress
from functools import partial

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.optimization import fuse
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.testing import assert_close

from sktransfer._randomness import seeded_globals
from sktransfer.backbones._tracer import trace
from sktransfer.exceptions import WeightsMismatchError

_CLASSIFIER_NAMES = {"fc", "classifier", "head", "heads"}
_FULL_SIZE = 224


class OutputPool(nn.Module):
    """A module whose output, averaged over pixels or tokens, is the features."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, batch):
        """Return the features (b, d) of a batch."""
        return pool_output(self.module, self.module(batch))


def pool_output(module, output):
    """Average what a module puts out over pixels or tokens, if it has any."""
    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4):
        found = (
            f"a tensor of shape {tuple(output.shape)}"
            if isinstance(output, torch.Tensor)
            else type(output).__name__
        )
        raise WeightsMismatchError(
            "of the module",
            type(module).__name__,
            f"its graph cannot be traced and its output is {found}",
            "Expected a module that returns a tensor of shape (b, d), (b, t, d) or "
            "(b, c, h, w).",
        )
    if output.ndim == 4:
        return output.mean((2, 3))
    return output.mean(1) if output.ndim == 3 else output


def cut_pooled(module, image_size):
    """Cut a network at `pooled`.

    Parameters
    ----------
    module : torch.nn.Module
        Maps images (b, 3, s, s) to anything. It is put into eval mode.
    image_size : int
        Height and width, in pixels, of the images the network is meant for.

    Returns
    -------
    torch.nn.Module
        Maps images to features (b, d); its tensors are the module's own, under their
        own names.
    """
    graph = _frozen_graph(module, image_size)
    found = graph and _find_pooled(module, graph)
    if not found:
        return OutputPool(module)
    return _pruned(module, graph, *found)


def cut_hidden(module, image_size, backbone):
    """Cut a network before its last linear layer, as `cut_pooled` does at `pooled`.

    Raises
    ------
    ValueError
        If no other linear layer comes before it in the classification part.
    """
    graph = _frozen_graph(module, image_size)
    linear = []
    if graph:
        nodes = list(graph.nodes)
        layer = partial(layer_of, module)
        start = _first_of_classifier(nodes, layer)
        linear = [n for n in nodes[start:] if isinstance(layer(n), nn.Linear)]
    if len(linear) < 2:
        raise ValueError(
            f"The backbone {backbone!r} has no layer 'hidden': there is no hidden "
            "linear layer between its last feature map and its last linear layer. Use "
            "'pooled' or another stage."
        )
    return _pruned(module, graph, linear[-1].all_input_nodes[0], is_map=False)


def _frozen_graph(module, image_size):
    """Freeze a module and return its graph with shapes; None if it has none."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    try:
        graph = trace(module)
        _find_shapes(module, graph, image_size)
    except Exception:  # anything a user's forward does may defeat the tracer
        return None
    graph.eliminate_dead_code()
    return graph if _computes_the_same(module, graph, image_size) else None


def _computes_the_same(module, graph, image_size):
    """Tell whether a graph puts out what its module does.

    A trace does not know that two names are one tensor, of which one is changed, nor of
    a statement like ``x.relu_()``.
    """
    traced = fx.GraphModule(module, graph)
    for size in dict.fromkeys((image_size, max(_FULL_SIZE, image_size))):
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(
            (1, 3, size, size), generator=generator, dtype=torch.float32
        )
        outputs = []
        with suppress(Exception), torch.no_grad():  # a wrong size is told elsewhere
            for network in (module, traced):
                with seeded_globals(0):
                    outputs.append(network(images.clone()))
        if len(outputs) == 2:
            with suppress(TypeError, ValueError):  # outputs that cannot be compared
                return _are_equal(*outputs)
    return True


def _are_equal(output, other):
    try:
        assert_close(other, output, rtol=0, atol=0, equal_nan=True)
    except AssertionError:
        return False
    return True


def layer_of(module, node):
    """Return the layer that a node of a module's graph calls, or None."""
    return module.get_submodule(node.target) if node.op == "call_module" else None


def _find_shapes(module, graph, image_size):
    """Let all nodes know their shapes, on fake tensors: nothing is computed.

    Small images shrink to one pixel before the last block of a deep network, which
    hides what a feature map is: a usual size is tried first. A recurrence over pixels
    would take minutes there, since fake tensors go through it step by step.
    """
    traced = fx.GraphModule(module, graph)
    recurs = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
    usual = image_size if recurs else max(_FULL_SIZE, image_size)
    for size in dict.fromkeys((usual, image_size)):
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                images = torch.empty(2, 3, size, size, dtype=torch.float32)
                FakeTensorProp(traced, mode).propagate_dont_convert_inputs(images)
            return
        except Exception as error:
            failure = error
    raise failure


def _find_pooled(module, graph):
    """Return (node, whether it is a map still to be averaged), or None."""
    layer = partial(layer_of, module)

    def shape(node):
        value = node.meta.get("val")
        return tuple(value.shape) if isinstance(value, torch.Tensor) else ()

    nodes = list(graph.nodes)
    stop = _first_of_classifier(nodes, layer)
    before = nodes[:stop]
    maps = [
        node
        for node in before
        if node.op not in ("placeholder", "get_attr", "output")
        and len(shape(node)) == 4
        and max(shape(node)[2:]) > 1
        and not isinstance(layer(node), nn.AdaptiveAvgPool2d)
        and _top(node) not in _CLASSIFIER_NAMES
    ]
    if not maps:
        return None
    feature_map = maps[-1]
    if stop < len(nodes):
        entry = nodes[stop].all_input_nodes[0]
        if shape(entry)[1:] == shape(feature_map)[1:2]:
            return entry, False
    elif shape(nodes[-1].all_input_nodes[0])[1:] == shape(feature_map)[1:2]:
        return nodes[-1].all_input_nodes[0], False
    return feature_map, True


def _top(node):
    """Return the name of the top-level module that a node belongs to."""
    return node.meta["path"].split(".")[0]


def _first_of_classifier(nodes, layer):
    """Index of the first layer that classifies; the number of nodes if none does."""
    for i, node in enumerate(nodes):
        classifies = isinstance(layer(node), (nn.Linear, nn.Conv2d))
        if classifies and _top(node) in _CLASSIFIER_NAMES:
            return i
    linear = [i for i, node in enumerate(nodes) if isinstance(layer(node), nn.Linear)]
    later = [i for i, node in enumerate(nodes) if isinstance(layer(node), nn.Conv2d)]
    if linear and (not later or linear[-1] > later[-1]):
        return next(i for i in linear if not later or i > later[-1])
    return len(nodes)


def _pruned(module, graph, node, is_map):
    """Return the graph up to a node, as a module of the tensors it needs."""
    for last in [n for n in graph.nodes if n.op == "output"]:
        graph.erase_node(last)
    with graph.inserting_after(node):
        if is_map:
            node = graph.call_method("mean", (node, (2, 3)))
    graph.output(node)
    graph.eliminate_dead_code()
    return graph_module(module, graph)


def graph_module(module, graph):
    """Return a graph as a module of the layers and tensors it needs, in eval mode."""
    made = fx.GraphModule(module, graph, class_name=type(module).__name__)
    made.delete_all_unused_submodules()
    for path, holder in made.named_modules():
        # Torch 2.11 and older would store all buffers that belong to no layer.
        not_stored = module.get_submodule(path)._non_persistent_buffers_set
        holder._non_persistent_buffers_set |= not_stored & holder._buffers.keys()
    return made.eval()


def fused(trunk, whole=None):
    """Copy a trunk for inference: batch norms folded into convolutions, channels last.

    The original is left as it is. A part of a network computes to the bit what the
    `whole` does only if norms are folded in both or in none.
    """
    copied = copy.deepcopy(trunk)
    if _can_fold(trunk if whole is None else whole):
        copied = fuse(copied, inplace=True, no_trace=True)
    copied = copied.eval().to(memory_format=torch.channels_last)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied


def needs_full_batches(trunk):
    """Tell whether a row's value may depend on the number of rows beside it.

    A layer that sees one pixel an image (squeeze-and-excitation, a linear layer) is a
    matrix product with one row an image, whose kernel is chosen by the number of rows.
    Measured: there the last bits change with the batch at any size, elsewhere only
    below sixteen rows. What cannot be traced is taken to be of this kind.
    """
    if not isinstance(trunk, fx.GraphModule):
        return True
    for node in trunk.graph.nodes:
        layer = layer_of(trunk, node)
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            pixels = node.all_input_nodes[0].meta["val"].shape
            pixels = pixels[2:] if isinstance(layer, nn.Conv2d) else pixels[1:-1]
            if math.prod(pixels) == 1:
                return True
    return False


def _can_fold(trunk):
    """Tell whether `fuse` may change the weights of all layers before a norm.

    It may not if a layer is called twice, if something else reads its tensors, or if a
    hook sets them.
    """
    if not isinstance(trunk, fx.GraphModule):
        return False
    nodes = trunk.graph.nodes
    read = {n.target.rpartition(".")[0] for n in nodes if n.op == "get_attr"}
    calls = Counter(n.target for n in nodes if n.op == "call_module")
    for path, count in calls.items():
        layer = trunk.get_submodule(path)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and (
            count > 1 or path in read or layer._forward_pre_hooks
        ):
            return False
    return True


def tensors(trunk):
    """All parameters and buffers by name, those that are not in `state_dict` too."""
    named = _named(trunk)
    own = dict(named.named_parameters(remove_duplicate=False))
    return {**own, **dict(named.named_buffers(remove_duplicate=False))}


def stored_tensors(trunk):
    """Parameters and buffers by name, as the original module's `state_dict`."""
    return _named(trunk).state_dict()


def _named(trunk):
    """Return the module whose names the tensors of a trunk bear."""
    return trunk.module if isinstance(trunk, OutputPool) else trunk


def restore(trunk, arrays):
    """Copy arrays, by name, into tensors of a trunk."""
    own = tensors(trunk)
    with torch.no_grad():
        for name, array in arrays.items():
            own[name].copy_(torch.from_numpy(array))


def count_features(trunk, image_size, backbone):
    """Width of a trunk's features, found by running it on blank images."""
    try:
        with torch.inference_mode():
            blank = torch.zeros(2, 3, image_size, image_size, dtype=torch.float32)
            return int(trunk(blank).shape[1])
    except RuntimeError as error:
        raise ValueError(
            f"The backbone {backbone!r} cannot work on images of {image_size} x "
            f"{image_size} pixels ({error}). Set image_size to a size it can."
        ) from error
