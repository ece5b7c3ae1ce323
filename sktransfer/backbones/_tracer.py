"""Traces of networks (torch.fx with torchvision's tracer), and what their nodes do."""

from collections import Counter
from contextlib import suppress
from inspect import signature
from threading import Lock, get_ident

from torch import fx
from torchvision.models.feature_extraction import NodePathTracer

# Tracing patches torch.nn.Module for the whole process: one trace at a time.
_trace_lock = Lock()


class _Tracer(NodePathTracer):
    """A tracer that lets other threads run their modules in the meantime."""

    def __init__(self):
        super().__init__()
        self._thread = get_ident()
        self.modules_of = {}
        self._n_nodes = Counter()

    def call_module(self, m, forward, args, kwargs):
        """Record a call of this thread; run one of another thread."""
        if get_ident() != self._thread:
            return forward(*args, **kwargs)
        output = super().call_module(m, forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            paths = self.modules_of.setdefault(output.node, [])
            paths.append(self.path_of_module(m))
        return output

    def _get_node_qualname(self, module_qualname, node):
        """Count the operations of a module, where the original compares all names."""
        path = module_qualname
        if node.op != "call_module":
            name = node.name.rstrip("0123456789").removesuffix("_")
            path = f"{path}.{name}" if path else name
        self._n_nodes[path] += 1
        n_before = self._n_nodes[path] - 1
        return f"{path}_{n_before}" if n_before else path

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        """Record a look-up of this thread."""
        if get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def trace(module):
    """Return the graph of a module in the mode it is in.

    A node's ``meta["path"]`` is the module path it comes from, with the operation's
    name where it is no module; ``meta["modules"]`` are the paths of the modules that
    return it, from the innermost out.
    """
    with _trace_lock:
        tracer = _Tracer()
        graph = tracer.trace(module)
    for node in graph.nodes:
        path = tracer.node_to_qualname.get(node, "")
        node.meta["path"] = node.target if node.op == "call_module" else path
        node.meta["modules"] = tuple(tracer.modules_of.get(node, ()))
    return graph


def works_in_place(node, root):
    """Tell whether a node of a graph overwrites its input.

    Parameters
    ----------
    node : torch.fx.Node
        The node.
    root : torch.nn.Module
        Holds the layers of the graph.

    Returns
    -------
    bool
        Whether it does.
    """
    if node.op == "call_module":
        return getattr(root.get_submodule(node.target), "inplace", False)
    if node.op not in ("call_function", "call_method"):
        return False
    name = getattr(node.target, "__name__", node.target)
    if name.endswith("_") and not name.endswith("__"):
        return True
    return bool(_arguments(node).get("inplace"))


def _arguments(node):
    """Return a call's arguments by name; of a builtin, those that are given by name."""
    if node.op == "call_function":
        with suppress(ValueError):
            return signature(node.target).bind(*node.args, **node.kwargs).arguments
    return node.kwargs
