"""The graph of a network in train mode, beside the one in eval mode; parts of both.

The eval graph is the trunk's own. The train graph is traced from the network's
skeleton, which holds no weights, and is of use if it does with the trunk's.
"""

import copy
from itertools import takewhile

import torch
from torch import fx, nn

from sktransfer._randomness import seeded_globals
from sktransfer.backbones._tracer import trace, works_in_place


def skeleton(module):
    """Copy a module without its weights, to trace it later in train mode."""
    memo = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=False)
        memo[id(tensor)] = empty
    bare = copy.deepcopy(module, memo)
    for name in [n for n in vars(bare) if n.startswith("_tensor_constant")]:
        delattr(bare, name)  # the next trace numbers its constants anew
    return bare


def training_graph(bare, trunk):
    """Trace a skeleton in train mode up to the trunk's end; None where that fails."""
    output = next(n for n in trunk.graph.nodes if n.op == "output").args[0]
    is_map = not output.meta.get("path")  # the mean that cutting added
    end = output.args[0] if is_map else output
    try:
        with seeded_globals(0):  # for a forward that draws while it is traced
            graph = trace(bare.train())
        node = counterpart(trunk.graph, end, graph)
        if node is None or _has_statement_before(node, graph, bare):
            return None
        if is_map:
            with graph.inserting_after(node):
                node = graph.call_method("mean", (node, (2, 3)))
        graph = between(graph, placeholder(graph), node, bare)
    except Exception:  # anything a user's forward does may defeat the tracer
        return None
    finally:
        bare.eval()
    return graph if _has_all_tensors(graph, bare, trunk) else None


def _has_statement_before(node, graph, bare):
    """Tell of what changes a tensor and is not used: no piece would hold it."""
    before = takewhile(lambda other: other is not node, graph.nodes)
    return any(not other.users and works_in_place(other, bare) for other in before)


def _has_all_tensors(graph, bare, trunk):
    """Tell whether a graph does with the tensors of a trunk."""
    for node in graph.nodes:
        if node.op == "call_module" and find(trunk, node.target) is None:
            layer = bare.get_submodule(node.target)
            if any(True for _ in (*layer.parameters(), *layer.buffers())):
                return False
        if node.op == "get_attr":
            own, other = find(trunk, node.target), find(bare, node.target)
            if own is None or own.shape != other.shape:
                return False
            if not other.is_meta and not bool((own == other).all()):
                return False  # a constant that training computes otherwise
    return True


def counterpart(graph, node, other):
    """Find the node of another trace of the same network that stands for a node."""

    def same(candidate):
        if node.meta["modules"]:
            return node.meta["modules"][-1] in candidate.meta["modules"]
        return not candidate.meta["modules"] and (
            node.meta["path"] == candidate.meta["path"]
        )

    before = [n for n in graph.nodes if "modules" in n.meta and same(n)]
    after = [n for n in other.nodes if "modules" in n.meta and same(n)]
    position = before.index(node)
    return after[position] if position < len(after) else None


def placeholder(graph):
    """Return the node that stands for the input of a graph."""
    return next(n for n in graph.nodes if n.op == "placeholder")


def between(graph, start, end, root):
    """Copy what leads from one node to another into a graph of its own."""
    needed, waiting = {start}, [end]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    piece = fx.Graph()
    copies = {start: piece.placeholder("batch")}
    if any(user in needed and works_in_place(user, root) for user in start.users):
        copies[start] = piece.call_method("clone", (copies[start],))
    for node in graph.nodes:
        if node in needed and node is not start:
            copies[node] = piece.node_copy(node, copies.__getitem__)
    piece.output(copies[end])
    return piece


def find(module, path):
    """Return what is at a path of a module, or None."""
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
