"""The stages of a trunk: where it may be cut, and the pieces between the cuts.

Where the stages end is decided in `_road`; here the graph is split there, in its eval
and in its train form, into segments that can be trained.

Functional dropout and stochastic depth bake the mode into a graph, so a network is
traced once in each mode. The boundaries found in the eval graph are looked up in the
train graph by the modules that return them; one that is no cut there is none at all.
A network trains in its eval form if its training form cannot be traced, needs tensors
that its eval form does not have, or changes some by statements. What a forward draws in
Python, by `if random() < p`, is drawn once, when it is traced.
"""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from sktransfer.backbones._graph import (
    OutputPool,
    count_features,
    graph_module,
    layer_of,
    pool_output,
)
from sktransfer.backbones._network import POOLED
from sktransfer.backbones._pooling import Layout
from sktransfer.backbones._road import find_boundaries, single_tensors
from sktransfer.backbones._traces import (
    between,
    counterpart,
    find,
    placeholder,
    training_graph,
)

_LARGER = 64  # pixels; networks that cut windows out want a multiple of some number


@dataclass(frozen=True)
class Stage:
    """A run of layers that ends where one tensor carries everything onward.

    Parameters
    ----------
    name : str
        Path of the module whose output ends the stage; ``"stem"`` is what comes before
        the first block, ``"pooled"`` what comes last.
    shape : tuple of int
        Shape of what the stage puts out for one image.
    n_parameters : int
        Number of parameters in it.
    """

    name: str
    shape: tuple[int, ...]
    n_parameters: int


@dataclass(frozen=True)
class _Piece:
    """One stage without weights: two functions, and what they find on their `self`."""

    name: str
    end: str
    forwards: tuple
    modules: tuple
    tensors: tuple


class Segment(nn.Module):
    """One stage of a network as a module that can be trained.

    Its tensors bear the names they have in the whole network. It computes what the
    network computes in eval mode, or in train mode when it is in train mode itself.

    Parameters
    ----------
    name : str
        Name of the stage.
    body : torch.nn.Module
        Holds the stage's tensors and layers. Segment and body look into the same dicts,
        so that `.to()` reaches all of them, and names do not collide.
    forwards : tuple of two callables
        ``f(body, batch)`` in eval and in train mode.
    kinds : ParameterKinds
        Of the whole network.
    """

    def __init__(self, name, body, forwards, kinds):
        super().__init__()
        self.name = name
        self.kinds = kinds
        self._forwards = forwards
        self._body = (body,)  # in a tuple, else it would be a submodule
        self._parameters = body._parameters
        self._buffers = body._buffers
        self._modules = body._modules
        self._non_persistent_buffers_set = body._non_persistent_buffers_set

    def forward(self, batch):
        """Return what the stage makes of a batch."""
        return self._forwards[self.training](self._body[0], batch)

    def train(self, mode=True):
        """Set the mode of the body, too."""
        self._body[0].training = mode
        return super().train(mode)

    def extra_repr(self):
        """Name the stage."""
        return repr(self.name)


def _run_whole(module, batch):
    # It may overwrite its input, which others look at, too.
    return pool_output(module, module(batch.clone()))


class StageChain:
    """Where a trunk is cut: what networks of one structure have in common.

    Parameters
    ----------
    trunk : torch.nn.Module
        As `cut_pooled` returns it.
    bare : torch.nn.Module or None
        The whole network's skeleton; None where `trunk` has no graph.
    kinds : ParameterKinds
        Of the whole network.
    image_size : int
        Height and width, in pixels, at which shapes are reported.
    last : str
        Name of the last stage.
    """

    def __init__(self, trunk, bare, kinds, image_size, last=POOLED):
        self._trunk, self._bare, self._kinds = trunk, bare, kinds
        self._image_size = image_size
        self._last = last

    @property
    def names(self):
        """The names of the stages, from the image up."""
        return tuple(stage.name for stage in self.stages)

    @cached_property
    def stages(self):
        """The stages, from the image up."""
        if not isinstance(self._trunk, fx.GraphModule):
            width = count_features(self._trunk, self._image_size, self._last)
            n_parameters = sum(p.numel() for p in self._trunk.parameters())
            return (Stage(self._last, (width,), n_parameters),)
        shapes = _shapes_of_one(self._trunk, self._image_size)
        return tuple(
            Stage(piece.name, shapes[piece.end], _count_parameters(self._trunk, piece))
            for piece in self._pieces
        )

    def spatial(self, name):
        """Which dimensions of a stage's activation are height and width, or tokens.

        Three that are equal do not say; then it is those that grow with the image.
        """
        shape, end = next(
            (stage.shape, piece.end)
            for stage, piece in zip(self.stages, self._pieces, strict=True)
            if stage.name == name
        )
        if len(shape) == 3 and len(set(shape)) == 1:
            try:
                larger = _shapes_of_one(self._trunk, self._image_size + _LARGER)[end]
                return tuple(d for d in range(3) if larger[d] != shape[d])
            except Exception:  # a network of one size, of which no other is known
                return Layout(shape).spatial
        return Layout(shape).spatial

    @cached_property
    def _pieces(self):
        training = training_graph(self._bare, self._trunk)
        pieces = None if training is None else self._cut_up(training)
        return pieces or self._cut_up(None)

    def _cut_up(self, training):
        """Pieces in both forms; None if they do not hold the same tensors in both.

        Then what happens in training only was taken for something else: operations
        that are no modules are told apart by their order.
        """
        graph = self._trunk.graph
        ends = find_boundaries(self._trunk, self._bare, self._last)
        if training is not None:
            found = {n: counterpart(graph, end, training) for n, end in ends[:-1]}
            singles = set(single_tensors(training))
            ends = [(n, end) for n, end in ends[:-1] if found[n] in singles] + ends[-1:]
            last = next(n for n in training.nodes if n.op == "output").args[0]
            found[self._last] = last
        pieces, start = [], placeholder(graph)
        twin = training and placeholder(training)
        for name, end in _without_shared_tensors(self._trunk, ends):
            graphs = [between(graph, start, end, self._trunk)]
            if training is not None:
                graphs.append(between(training, twin, found[name], self._bare))
                twin = found[name]
                if _used(graphs[0], self._trunk) != _used(graphs[1], self._trunk):
                    return None
            pieces.append(_piece(name, end.name, graphs))
            start = end
        return pieces

    def segments(self, trunk):
        """Copy a trunk of this structure, piece by piece.

        Parameters
        ----------
        trunk : torch.nn.Module
            The trunk, or one that differs in the values of its tensors.

        Returns
        -------
        list of Segment
            In eval mode, without gradients.
        """
        if isinstance(trunk, OutputPool):
            whole = copy.deepcopy(trunk.module)
            forwards = _run_whole, _run_whole
            return [Segment(self._last, whole, forwards, self._kinds).eval()]
        return [_segment(p, trunk, self._bare, self._kinds) for p in self._pieces]

    def prefix(self, trunk, cut):
        """Return a trunk of this structure up to a stage; it shares the tensors."""
        start, end = placeholder(trunk.graph), self._end_of(cut, trunk.graph)
        graph = between(trunk.graph, start, end, trunk)
        return graph_module(trunk, graph)

    def tapped(self, trunk, cut):
        """Return a trunk of this structure that also returns what a stage puts out."""
        whole = trunk.graph
        last = whole.output_node().args[0]
        graph = between(whole, placeholder(whole), last, trunk)
        node, output = self._end_of(cut, graph), graph.output_node()
        with graph.inserting_after(node):
            # What comes next may overwrite it.
            output.args = ((output.args[0], graph.call_method("clone", (node,))),)
        return graph_module(trunk, graph)

    def folds_at(self, trunk, cut):
        """Tell whether a norm behind a stage is folded into its last layer."""
        node = self._end_of(cut, trunk.graph)
        behind = [layer_of(trunk, user) for user in node.users]
        foldable = isinstance(layer_of(trunk, node), (_ConvNd, nn.Linear))
        return foldable and any(isinstance(layer, _BatchNorm) for layer in behind)

    def _end_of(self, cut, graph):
        end = next(p.end for p in self._pieces if p.name == cut)
        return next(node for node in graph.nodes if node.name == end)

    def tensors_up_to(self, cut):
        """Names of the tensors at or below a stage, and what is below their modules."""
        names = set()
        for piece in self._pieces:
            names.update(piece.modules, piece.tensors)
            if piece.name == cut:
                break
        return names


def _piece(name, end, graphs):
    nodes = [node for graph in graphs for node in graph.nodes]
    forwards = [_compiled(graph) for graph in graphs]
    return _Piece(
        name,
        end,
        (forwards[0], forwards[-1]),
        tuple(dict.fromkeys(n.target for n in nodes if n.op == "call_module")),
        tuple(dict.fromkeys(n.target for n in nodes if n.op == "get_attr")),
    )


def _used(graph, trunk):
    """Paths of the layers with tensors, and of the tensors, that a graph uses."""
    return {
        node.target
        for node in graph.nodes
        if node.op == "get_attr"
        or (node.op == "call_module" and _tensors_of(trunk, [node.target], []))
    }


def _compiled(graph):
    """Return a graph's code as a function of the module that holds its layers.

    A GraphModule would keep a second reference to every buffer, which `.to()` on the
    segment does not reach.
    """
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, "<segment>", "exec"), names)
    return names["forward"]


def _segment(piece, trunk, bare, kinds):
    """Give a piece copies of the layers and tensors it needs."""
    body, memo = nn.Module(), {}
    for path in piece.modules:
        layer = find(trunk, path)
        layer = find(bare, path) if layer is None else layer
        parent, name = _holder(body, path)
        parent.add_module(name, copy.deepcopy(layer, memo))
    for path in piece.tensors:
        if find(body, path) is not None:
            continue  # it came with its layer
        tensor = copy.deepcopy(find(trunk, path), memo)
        parent, name = _holder(body, path)
        if isinstance(tensor, nn.Parameter):
            parent.register_parameter(name, tensor)
        else:
            own = trunk.get_submodule(path.rpartition(".")[0])
            persistent = name not in own._non_persistent_buffers_set
            parent.register_buffer(name, tensor, persistent=persistent)
    segment = Segment(piece.name, body, piece.forwards, kinds)
    return segment.requires_grad_(False).eval()


def _holder(module, path):
    """Return the module that holds a path's last name, made where it is missing."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in module._modules:
            module.add_module(parent, nn.Module())
        module = module._modules[parent]
    return module, name


def _tensors_of(trunk, modules, tensors):
    """All tensors of some layers, each once."""
    found = [find(trunk, path) for path in tensors]
    for path in modules:
        layer = find(trunk, path)
        if layer is not None:
            found += [*layer.parameters(), *layer.buffers()]
    return list({id(tensor): tensor for tensor in found}.values())


def _count_parameters(trunk, piece):
    tensors = _tensors_of(trunk, piece.modules, piece.tensors)
    return sum(t.numel() for t in tensors if isinstance(t, nn.Parameter))


def _without_shared_tensors(trunk, ends):
    """Drop the boundaries between stages that have a parameter or buffer in common."""
    start, first_user, joined = placeholder(trunk.graph), {}, set()
    for i, (_, end) in enumerate(ends):
        nodes = between(trunk.graph, start, end, trunk).nodes
        modules = [n.target for n in nodes if n.op == "call_module"]
        tensors = [n.target for n in nodes if n.op == "get_attr"]
        for tensor in _tensors_of(trunk, modules, tensors):
            joined.update(range(first_user.setdefault(id(tensor), i), i))
        start = end
    return [end for i, end in enumerate(ends) if i not in joined]


class _Measuring(fx.Interpreter):
    """Runs a trunk on blank images and notes the shapes of what its nodes put out."""

    def __init__(self, trunk):
        super().__init__(trunk)
        self.shapes = {}

    def run_node(self, n):
        """Note the shape for one image."""
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n.name] = tuple(value.shape[1:])
        return value


def _shapes_of_one(trunk, image_size):
    """Shapes of what all nodes put out for one image."""
    measuring = _Measuring(trunk)
    # In pairs, as in `count_features`; fake tensors take longer than small images.
    with torch.inference_mode():
        measuring.run(torch.zeros(2, 3, image_size, image_size, dtype=torch.float32))
    return measuring.shapes
