"""Which parameters of a network are those of norms, and which its builder fixed."""

import re
from dataclasses import dataclass

from torch import nn

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
# Users' own norms go by their names.
_NORM_NAME = re.compile(r"Norm(\dd)?$")


@dataclass(frozen=True)
class ParameterKinds:
    """Names of some parameters of a network.

    They are found before it is traced: a graph does not know of all modules.

    Parameters
    ----------
    norms : frozenset of str
        Those of norms.
    fixed : frozenset of str
        Those that never learn.
    """

    norms: frozenset = frozenset()
    fixed: frozenset = frozenset()


def parameter_kinds(module):
    """Tell which parameters of a network are of a kind.

    Parameters
    ----------
    module : torch.nn.Module
        The network as its builder returned it. What does not require a gradient is
        fixed, unless nothing does: who freezes all of a network, to extract features,
        says nothing of its parts.

    Returns
    -------
    ParameterKinds
        By their names in the network.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    constant = {n for n, p in named.items() if not _can_learn(p)}
    fixed = {n for n, p in named.items() if not p.requires_grad}
    norms = {
        f"{path}.{name}" if path else name
        for path, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, NORMS) or _NORM_NAME.search(type(layer).__name__)
        for name, _ in layer.named_parameters(recurse=False)
    }
    fixed = constant if fixed == set(named) else fixed | constant
    return ParameterKinds(frozenset(norms), frozenset(fixed))


def _can_learn(parameter):
    return parameter.is_floating_point() or parameter.is_complex()
