"""What identifies a trunk: the bytes of its tensors, and what it computes with them."""

import os
from hashlib import blake2b

import torch
from torch import fx, nn

from sktransfer.backbones._graph import tensors

# Whose code a name stands for; builtins of torch bear no module.
_KNOWN = {"torch", "torchvision", "builtins", "_operator", "math", None}
_OF_ALL_MODULES = frozenset(vars(nn.Module()))
_CONSTANTS = (bool, int, float, complex, str, type(None), torch.dtype)


def identity(trunk):
    """Identify a trunk.

    Returns
    -------
    digest : str
        Of its weights.
    fingerprint : str
        Of what it computes.
    is_readable : bool
        Whether it was read off; what cannot be is never shared.
    """
    digest, text = weights_digest(trunk), structure(trunk)
    is_readable = text is not None
    text = text or os.urandom(20).hex()
    fingerprint = blake2b(f"{text}\n{digest}".encode(), digest_size=20).hexdigest()
    return digest, fingerprint, is_readable


def weights_digest(trunk):
    """Digest of the names and bytes of all tensors of a trunk."""
    hasher = blake2b(digest_size=20)
    for name, tensor in sorted(tensors(trunk).items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def structure(trunk):
    """Return a text that says what a trunk computes with its tensors, or None.

    None is a trunk without a graph, or one that runs code which is neither in its graph
    nor torch's own: hooks, parametrizations of the user's, wrapped functions.
    """
    if not isinstance(trunk, fx.GraphModule):
        return None
    texts = [trunk.code]
    for node in trunk.graph.nodes:
        if node.op == "call_function":
            texts.append(_named(node.target))
        elif node.op == "call_module":
            layers = trunk.get_submodule(node.target).named_modules()
            texts += [_joined(node.target, path, _layer(m)) for path, m in layers]
    return _joined(*texts, between="\n")


def _layer(layer):
    """Describe a layer by all that it holds; its repr leaves some of it out."""
    own = vars(layer)
    if any(hooks for name, hooks in own.items() if name.endswith("_hooks")):
        return None
    settings = [
        _joined(name, _constant(value))
        for name, value in sorted(own.items())
        if name not in _OF_ALL_MODULES
    ]
    return _joined(_named(type(layer)), *settings)


def _constant(value):
    if isinstance(value, _CONSTANTS):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return _joined("(", *map(_constant, value), ")")
    return _named(value) if callable(value) else None


def _named(code):
    """Name a function or class that is not the user's own."""
    name = getattr(code, "__qualname__", None)
    module = getattr(code, "__module__", None)
    if name is None or (module and module.split(".")[0]) not in _KNOWN:
        return None
    return f"{module}.{name}"


def _joined(*texts, between=" "):
    """Join texts; None if one of them is missing."""
    return None if None in texts else between.join(texts)
