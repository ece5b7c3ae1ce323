"""Optimizers by name, their defaults, and parameter groups."""

import inspect

import torch

from sktransfer.backbones._parameters import NORMS

_OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
_LR = {"adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3, "sgd": 1e-2}
# In adam and rmsprop the decay is part of the gradient that is then divided by its own
# size, so its strength differs from weight to weight (Loshchilov and Hutter, "Decoupled
# Weight Decay Regularization", ICLR 2019): nothing to have by default.
_WEIGHT_DECAY = {"adam": 0.0, "adamw": 1e-3, "rmsprop": 0.0, "sgd": 5e-4}
# One pass over memory a step: on a CPU several times as fast as torch's default.
_FUSED = ("adam", "adamw", "sgd")
_LOOPS = {"fused", "foreach", "differentiable"}
# These have parameters of their own, and differ between groups.
_SET_ELSEWHERE = ("lr", "weight_decay")


def make_optimizer(optimizer, groups, optimizer_params=None):
    """Build an optimizer.

    Parameters
    ----------
    optimizer : {"adam", "adamw", "rmsprop", "sgd"} or type
        A name, or a subclass of torch.optim.Optimizer. ``"sgd"`` has Nesterov's
        momentum 0.9.
    groups : list of dict
        From `parameter_groups`.
    optimizer_params : dict, default=None
        Further arguments of the optimizer.

    Returns
    -------
    torch.optim.Optimizer
        The optimizer.
    """
    cls = _optimizer_class(optimizer)
    params = dict(optimizer_params or {})
    known = _argument_names(cls)
    _check_params(cls, params, known)
    if "weight_decay" not in known and any(g.get("weight_decay") for g in groups):
        raise ValueError(
            f"Parameter weight_decay: {cls.__name__} has none. Pass weight_decay=0."
        )
    if isinstance(optimizer, str) and optimizer == "sgd":
        params.setdefault("momentum", 0.9)
        # torch refuses Nesterov's form without momentum or with dampening.
        plain = params["momentum"] == 0 or params.get("dampening", 0) != 0
        params.setdefault("nesterov", not plain)
    if optimizer in _FUSED and not _LOOPS.intersection(params) and _can_fuse(groups):
        params["fused"] = True
    try:
        return cls(groups, **params)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Parameters optimizer and optimizer_params: {cls.__name__} refused "
            f"{params!r} ({error})."
        ) from error


def _can_fuse(groups):
    """Tell whether fused optimizers may have these parameters, and are faster.

    They go through memory as if it held a tensor's elements and no others. On GPUs no
    difference was measured, and they refuse gradients with strides of their own.
    """
    return all(
        p.device.type == "cpu"
        and p.is_floating_point()
        and (p.is_contiguous() or p.is_contiguous(memory_format=torch.channels_last))
        for group in groups
        for p in group["params"]
    )


def default_lr(optimizer):
    """Return what ``lr="auto"`` means: 1e-3, for sgd 1e-2.

    Parameters
    ----------
    optimizer : str or type
        As in `make_optimizer`; a class needs a number from the user.

    Returns
    -------
    float
        The learning rate of the head.
    """
    cls = _optimizer_class(optimizer)
    if not isinstance(optimizer, str):
        names = ", ".join(repr(name) for name in _LR)
        raise ValueError(
            f"Parameter lr: 'auto' is known for the optimizers {names} only. Pass a "
            f"number for {cls.__name__}."
        )
    return _LR[optimizer]


def default_weight_decay(optimizer):
    """Return what ``weight_decay="auto"`` means: adamw 1e-3, sgd 5e-4, others 0.

    Parameters
    ----------
    optimizer : str or type
        As in `make_optimizer`. A class gets 0, since what decay does is its own affair.

    Returns
    -------
    float
        The weight decay of the weights; norms and biases have none.
    """
    _optimizer_class(optimizer)
    return _WEIGHT_DECAY[optimizer] if isinstance(optimizer, str) else 0.0


def parameter_groups(parts, lr, weight_decay):
    """Sort trainable parameters into groups for an optimizer.

    Parameters
    ----------
    parts : list of (str, torch.nn.Module, float)
        Name, module, and factor of the learning rate of each part. A tensor that
        several parts share goes with the first.
    lr : float
        Learning rate of a part with the factor 1.
    weight_decay : float
        For weights; parameters of norms, biases, and vectors have none.

    Returns
    -------
    list of dict
        Groups with the keys params, lr, weight_decay and names, which are
        ``"<part>.decay"`` and ``"<part>.no_decay"``. What has the same rate and decay
        is one group: an optimizer takes the time of a step for each. Parameters that
        do not require a gradient are left out, and so are parts without others.
    """
    groups, seen = {}, set()
    for part, module, lr_factor in parts:
        for parameter, is_weight in trainable_parameters(module):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            setting = lr * lr_factor, weight_decay if is_weight else 0.0
            params, names = groups.setdefault(setting, ([], {}))
            params.append(parameter)
            names[f"{part}.{'decay' if is_weight else 'no_decay'}"] = None
    return [
        {"params": params, "lr": rate, "weight_decay": decay, "names": list(names)}
        for (rate, decay), (params, names) in groups.items()
    ]


def trainable_parameters(module):
    """Yield parameters that require a gradient, and whether each is a weight.

    Weights are what is shrunk: not what belongs to a norm, not a bias, and not a
    vector, whatever the number of its axes, such as a scale per channel or a token.
    """
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield parameter, _is_weight(owner, name, parameter)


def _is_weight(owner, name, parameter):
    if isinstance(owner, NORMS) or "bias" in name or parameter.ndim < 2:
        return False
    # The weight of a linear layer with one output is a matrix all the same.
    return name.endswith("weight") or sum(n > 1 for n in parameter.shape) > 1


def _optimizer_class(optimizer):
    if isinstance(optimizer, str) and optimizer in _OPTIMIZERS:
        return _OPTIMIZERS[optimizer]
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        return optimizer
    names = ", ".join(repr(name) for name in _OPTIMIZERS)
    raise ValueError(
        f"Parameter optimizer: found {optimizer!r}. Expected {names}, or a subclass of "
        "torch.optim.Optimizer (the class, not an instance)."
    )


def _argument_names(cls):
    """Arguments after the parameters, in order; with ``"**"`` if any name is taken."""
    _, _, *arguments = inspect.signature(cls.__init__).parameters.values()
    return ["**" if a.kind is a.VAR_KEYWORD else a.name for a in arguments]


def _check_params(cls, params, known):
    for name in _SET_ELSEWHERE:
        if name in params:
            raise ValueError(
                f"Parameter optimizer_params: found {name!r}. It has a parameter of "
                f"its own: pass {name}={params[name]!r}."
            )
    unknown = [name for name in params if name not in known]
    if unknown and "**" not in known:
        there_are = ", ".join(repr(k) for k in known if k not in _SET_ELSEWHERE)
        raise ValueError(
            f"Parameter optimizer_params: found {', '.join(map(repr, unknown))}. "
            f"{cls.__name__} has {there_are or 'none'}."
        )
