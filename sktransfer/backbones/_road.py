"""Where the stages of a trunk end, read off its graph.

A node is a possible cut when it is the only live tensor there. Of these, a stage ends
at the last block of each resolution: resolutions differ when the number of pixels is
halved at least (149 to 147 pixels is the same), and a block is a module that holds a
convolution or linear layer. Before the first block, and in networks without blocks, the
layers themselves count, with the norms, activations and pooling that follow them.

Inside a block there is no boundary: an inverted bottleneck's tensors are six times
wider there. A module with a forward of its own is such a block, unless it is the road
itself, like the encoder of a vision transformer: it holds several blocks one after the
other, none wider than its end, or passes several resolutions.

Where all blocks have one resolution, as in a vision transformer, they are divided into
four stages, as equal as can be.
"""

from dataclasses import dataclass, replace

from sktransfer.backbones._pooling import Layout

_ISOTROPIC_STAGES = 4


def single_tensors(graph):
    """List the nodes that alone carry everything onward, in order.

    What does not depend on the image, like a parameter, is found again anywhere.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    dependent, singles, in_use_until = set(), [], -1
    for node, i in position.items():
        if node.op == "output":
            break
        if node.op != "placeholder" and dependent.isdisjoint(node.all_input_nodes):
            continue
        dependent.add(node)
        if in_use_until <= i and node.users:
            singles.append(node)
        in_use_until = max(in_use_until, *(position[u] for u in node.users), i)
    return singles


@dataclass(frozen=True)
class _Anchor:
    """A cut at the end of modules that hold a convolution or linear layer."""

    node: object
    index: int
    modules: frozenset
    is_block: bool
    layout: Layout


class _Road:
    """The cuts of a trunk's graph, and the modules they stand in."""

    def __init__(self, trunk, bare):
        self.nodes = list(trunk.graph.nodes)
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.cuts = [n for n in single_tensors(trunk.graph) if self._layout(n)]
        self._trunk = trunk
        self._own_forward = _with_own_forward(bare)
        self._matrices = {n for n in self.nodes if self._holds_matrix(n)}
        self._weighted = self._modules_with_matrices()
        self.anchors = [a for a in map(self._anchor, self.cuts) if a.modules]
        leaves = {node.target for node in self.nodes if node.op == "call_module"}
        containers = {path for anchor in self.anchors for path in anchor.modules}
        containers -= leaves
        closed = {p for p in containers & self._own_forward if self._is_closed(p)}
        self._closed = tuple(f"{path}." for path in closed)
        chains = containers - self._own_forward
        blocks = closed | {p for p in chains if self._is_chain_of_layers(p, leaves)}
        self.anchors = [
            replace(anchor, is_block=not blocks.isdisjoint(anchor.modules))
            for anchor in self.anchors
            if not self.is_inside(anchor.node)
            and not (blocks | leaves).isdisjoint(anchor.modules)
        ]

    def _layout(self, node):
        """Layout of a map or of tokens at a usual image size; None of other values."""
        shape = tuple(getattr(node.meta.get("val"), "shape", ()))[1:]
        layout = Layout(shape)
        is_map = len(shape) in (2, 3) and layout.positions > 1
        return layout if is_map and node.op != "placeholder" else None

    def _modules_with_matrices(self):
        """Paths of the modules that hold a weight of two dimensions or more."""
        return {path for node in self._matrices for path in _lineage(node)}

    def _holds_matrix(self, node):
        if node.op == "call_module":
            parameters = self._trunk.get_submodule(node.target).parameters()
            return any(p.ndim > 1 for p in parameters)
        if node.op != "get_attr":
            return False
        # A scale for each channel has the shape (c, 1, 1).
        return sum(n > 1 for n in _value(self._trunk, node).shape) > 1

    def _anchor(self, node):
        modules = self._weighted.intersection(node.meta["modules"])
        return _Anchor(node, self.index[node], modules, False, self._layout(node))

    def _within(self, path):
        """Anchors inside a module, and the one at its end."""
        ends = [a for a in self.anchors if path in a.modules]
        start = f"{path}."
        return [
            anchor
            for anchor in self.anchors
            if anchor not in ends and anchor.node.meta["path"].startswith(start)
        ], ends[-1]

    def _is_closed(self, path):
        """Tell whether a module with a forward of its own is not the road itself."""
        inside, end = self._within(path)
        if not inside:
            return True
        if len(_runs([*inside, end])) > 2:
            return False
        blocks = [a for a in inside if not self._own_forward.isdisjoint(a.modules)]
        blocks = [a for a in blocks if a.modules != {a.node.target}]
        widest = max(anchor.layout.channels for anchor in inside)
        return len(blocks) < 2 or widest > end.layout.channels

    def _is_chain_of_layers(self, path, leaves):
        """Tell whether a Sequential is a block: it holds layers only."""
        inside, end = self._within(path)
        modules = {module for a in (*inside, end) for module in a.modules}
        parts = {module for module in modules if module.startswith(f"{path}.")}
        return parts <= leaves and len(_runs([*inside, end])) <= 2

    def is_inside(self, node):
        """Tell whether a node stands inside a block, not at its end."""
        path, ends = node.meta["path"], node.meta["modules"]
        return any(path.startswith(b) and b[:-1] not in ends for b in self._closed)

    def is_before(self, node, block):
        """Tell whether a node comes before a block begins."""
        inside = tuple(f"{path}." for path in block.meta["modules"])
        return self.index[node] < self.index[block] and not (
            node.meta["path"].startswith(inside)
        )

    def can_learn(self, start, end):
        """Tell whether a convolution or linear layer stands between two positions."""
        return not self._matrices.isdisjoint(self.nodes[start + 1 : end + 1])

    def past_small_layers(self, anchor):
        """Move a cut past norms, activations and pooling that follow its layer."""
        end, anchors = anchor.node, {a.node for a in self.anchors}
        for node in self.cuts:
            if self.index[node] <= anchor.index:
                continue
            learns = self.can_learn(self.index[end], self.index[node])
            if node in anchors or self.is_inside(node) or learns:
                break
            end = node
        return end


def find_boundaries(trunk, bare, last):
    """Find the ends of a trunk's stages.

    Parameters
    ----------
    trunk : GraphModule
        Its nodes know their shapes and modules.
    bare : torch.nn.Module
        The whole network, which knows the classes of its modules.
    last : str
        Name of the last stage.

    Returns
    -------
    list of (str, Node)
        Names and last nodes of the stages, from the image up.
    """
    road = _Road(trunk, bare)
    output = road.nodes[-1].args[0]
    runs = _runs(road.anchors)
    ends = [_end_of(run, road, run is runs[-1]) for run in runs]
    with_blocks = [run for run in runs if any(a.is_block for a in run)]
    if len(with_blocks) == 1 and with_blocks[0] is runs[-1]:
        ends[-1:] = _ends_of_isotropic(runs[-1], road)
    named, start = [], 0
    for end in dict.fromkeys(ends):
        if end is output or not road.can_learn(start, road.index[end]):
            continue
        name = _name(end, start, road)
        if name in {last, *(n for n, _ in named)}:
            continue  # a module that is passed twice
        named.append((name, end))
        start = road.index[end]
    return [*named, (last, output)]


def _runs(anchors):
    """Group anchors by resolution."""
    runs = []
    for anchor in anchors:
        pixels = anchor.layout.positions
        before = runs[-1][-1].layout.positions if runs else 0
        if max(pixels, before) < 2 * min(pixels, before):
            runs[-1].append(anchor)
        else:
            runs.append([anchor])
    return runs


def _end_of(run, road, is_last):
    blocks = [anchor for anchor in run if anchor.is_block]
    end = blocks[-1] if blocks and not is_last else run[-1]
    return end.node if end.is_block else road.past_small_layers(end)


def _ends_of_isotropic(run, road):
    """Divide the blocks of one resolution; what comes before them is a stage, too."""
    blocks = [anchor.node for anchor in run if anchor.is_block]
    ends = [node for node in road.cuts if road.is_before(node, blocks[0])][-1:]
    n_stages = min(_ISOTROPIC_STAGES, len(blocks))
    last = [len(blocks) * i // n_stages - 1 for i in range(1, n_stages + 1)]
    ends.extend(blocks[i] for i in last)
    return [*ends, _end_of(run, road, is_last=True)]


def _name(end, start, road):
    """Name a stage after the largest module that begins in it and ends it."""
    stage = road.nodes[start + 1 : road.index[end] + 1]
    blocks = [anchor for anchor in road.anchors if anchor.is_block]
    if not start and blocks and blocks[0].index > road.index[end]:
        return "stem"
    for node in reversed(stage):
        for path in reversed(node.meta.get("modules", ())):
            first = next(
                (i for i, n in enumerate(road.nodes) if path in _lineage(n)), -1
            )
            if first > start:
                return path
    return end.meta["path"]


def _lineage(node):
    """Return the modules that a node stands in, from the outermost in."""
    path = node.target if node.op == "get_attr" else node.meta.get("path", "")
    names = path.split(".")
    if node.op != "call_module":
        names = names[:-1]
    return [".".join(names[: i + 1]) for i in range(len(names))]


def _with_own_forward(bare):
    """Paths of the modules that are more than a chain of others."""
    from torch import nn

    return {
        path
        for path, module in bare.named_modules()
        if path and type(module).forward is not nn.Sequential.forward
    }


def _value(trunk, node):
    """Return the tensor that a get_attr node fetches."""
    holder, _, name = node.target.rpartition(".")
    return getattr(trunk.get_submodule(holder), name)
