"""Which stages an `unfreeze` parameter means, and how fast each of them learns."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral

from sktransfer.strategies._phases import POOLED, StagePlan

_KINDS = ("norm", "bias")


def chosen_stages(unfreeze, stages, parameter="unfreeze"):
    """Return the names of the stages that learn, and which of their parameters.

    Parameters
    ----------
    unfreeze : str, int or list of str
        ``"all"``, ``"norm"``, ``"bias"``, a stage's name (it and all above it), a
        number of topmost stages with parameters, or exactly these stages.
    stages : sequence of Stage
        The backbone's stages.
    parameter : str, default="unfreeze"
        What errors call the parameter.

    Returns
    -------
    names : set of str
        Names of stages that have parameters.
    kind : {"all", "norm", "bias"}
        Which of their parameters learn.

    Raises
    ------
    ValueError
        If a name or number fits no stage; the message lists the stages there are.
    """
    owning = _owning(stages)
    if isinstance(unfreeze, str):
        if unfreeze == "all" or unfreeze in _KINDS:
            return set(owning), "all" if unfreeze == "all" else unfreeze
        names = _from_name_on(unfreeze, stages, parameter)
        names = [name for name in names if name in owning]
    elif isinstance(unfreeze, Integral):
        counted = counted_stages(stages)
        if not 1 <= unfreeze <= len(counted):
            raise ValueError(
                f"Parameter {parameter}: found {unfreeze}. Expected a number from 1 "
                f"to {len(counted)}, the number of stages with parameters, which are "
                f"{counted}."
            )
        names = topmost(stages, unfreeze)
    else:
        names = _names(unfreeze, parameter)
        names = [_checked(name, stages, parameter) for name in names]
        names = [name for name in names if name in owning]
    if not names:
        raise ValueError(
            f"Parameter {parameter}: found {unfreeze!r}, which names no stage with "
            f"parameters. Expected at least one of {owning}."
        )
    return set(names), "all"


def counted_stages(stages):
    """Names of the stages that a number counts: those with layers of their own.

    The norm that some networks have behind the average (ConvNeXt, transformers) makes
    no stage: it learns with what is below it.
    """
    owning = _owning(stages)
    return owning[:-1] if len(owning) > 1 and owning[-1] == POOLED else owning


def topmost(stages, n):
    """Names of the n topmost stages with parameters, and of the norm above them."""
    return _owning(stages)[len(counted_stages(stages)) - n :]


def stage_plans(stages, names, kind, backbone_lr_ratio, lr_decay):
    """Plan in which the named stages learn, each lower one slower by `lr_decay`."""
    plans, factor = [], backbone_lr_ratio
    for stage in reversed(stages):
        if stage.name in names:
            plans.append(StagePlan(stage.name, stage.n_parameters, kind, factor))
        else:
            plans.append(StagePlan(stage.name, stage.n_parameters))
        if stage.n_parameters > 0:
            factor *= lr_decay
    return tuple(reversed(plans))


def stages_up_to(layer, stages):
    """Return the stages up to the one whose output the head sees."""
    names = [stage.name for stage in stages]
    return stages[: names.index(_checked(layer, stages, "layer")) + 1]


def _owning(stages):
    """Names of the stages that have parameters."""
    return [stage.name for stage in stages if stage.n_parameters > 0]


def _names(unfreeze, parameter):
    if not isinstance(unfreeze, Iterable):
        raise TypeError(
            f"Parameter {parameter}: found {unfreeze!r}. Expected 'all', 'norm', "
            "'bias', a stage's name, a number of stages, or a list of names."
        )
    return list(unfreeze)


def _from_name_on(name, stages, parameter):
    all_names = [stage.name for stage in stages]
    return all_names[all_names.index(_checked(name, stages, parameter)) :]


def _checked(name, stages, parameter):
    names = [stage.name for stage in stages]
    if name not in names:
        near = get_close_matches(str(name), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Parameter {parameter}: there is no stage {name!r}. The stages are "
            f"{names}.{hint}"
        )
    return name
