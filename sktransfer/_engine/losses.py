"""Losses: outputs and targets of a batch -> one value a row.

Rows keep values of their own, because `sample_weight` and `class_weight` weigh them
after this. Losses on logits, never on probabilities; half precision is widened first.
"""

import torch
from torch.nn import functional as F

_FOCUS = 2
"""Gamma of the focal loss, as in the paper."""


def resolve_loss(loss, target_kind, label_smoothing=0.0):
    """Return the function that a `loss` parameter means.

    Parameters
    ----------
    loss : str or callable
        ``"auto"`` is cross entropy for one class a row, binary cross entropy for
        several labels a row, and squared error for a continuous target. ``"bce"`` of
        one class a row is one against the rest, the mean over classes. ``"focal"`` [1]_
        has gamma 2 and no class weights of its own; it is on the softmax for one class
        a row, on the sigmoid for several labels.
        Continuous targets have ``"mse"``, ``"l1"`` and ``"huber"``, which is squared up
        to an error of 1 and linear from there on. A callable maps output and target to
        a tensor of shape (b,); of a torch loss, pass an instance with
        ``reduction="none"``.
    target_kind : {"multiclass", "multilabel", "continuous"}
        ``"multiclass"``: logits (b, k) and classes (b,) of dtype long.
        ``"multilabel"``: logits (b, k) and labels (b, k) between 0 and 1, where NaN is
        a label that is not known: it has no part in the row's mean, and a row without
        any label counts 0. (A callable gets the NaN as they are.)
        ``"continuous"``: outputs (b, 1) and values (b,); a loss gets both as (b,).
    label_smoothing : float, default=0.0
        Share of the target that cross entropy spreads evenly over all classes.

    Returns
    -------
    callable
        ``f(output, target)`` -> tensor of shape (b,). It can be pickled if `loss` can.

    References
    ----------
    .. [1] Lin, Goyal, Girshick, He and Dollar, "Focal Loss for Dense Object Detection",
       ICCV 2017.
    """
    losses = _LOSSES[target_kind]
    name = _AUTO[target_kind] if isinstance(loss, str) and loss == "auto" else loss
    _check_label_smoothing(label_smoothing, name, target_kind)
    if isinstance(name, str):
        if name not in losses:
            raise ValueError(_unknown_loss(name, target_kind))
        named = _NamedLoss(losses[name], label_smoothing)
        return _OfOneOutput(named) if target_kind == "continuous" else named
    if isinstance(name, type) or not callable(name):
        found = f"the class {name.__name__}" if isinstance(name, type) else repr(name)
        raise ValueError(
            f"Parameter loss: found {found}. Expected {_names(target_kind)}, or a "
            f"callable f(output, target) such as {_EXAMPLES[target_kind]}"
            "(reduction='none')."
        )
    called = _CallableLoss(name)
    return _OfOneOutput(called) if target_kind == "continuous" else called


class _OfOneOutput:
    """A loss of values, of which a head gives one a row."""

    def __init__(self, loss):
        self.loss = loss

    def __call__(self, output, target):
        return self.loss(output[:, 0], target)


class _NamedLoss:
    """A loss of ours; on float32 at least."""

    def __init__(self, function, label_smoothing):
        self.function, self.label_smoothing = function, label_smoothing

    def __call__(self, output, target):
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        if self.label_smoothing:
            return self.function(output, target, self.label_smoothing)
        return self.function(output, target)


class _CallableLoss:
    """A user's loss; what it returns is checked at each batch."""

    def __init__(self, function):
        self.function = function

    def __call__(self, output, target):
        values = self.function(output, target)
        expected = (len(output),)
        if isinstance(values, torch.Tensor) and values.shape == expected:
            return values
        found = (
            f"a tensor of shape {tuple(values.shape)}"
            if isinstance(values, torch.Tensor)
            else type(values).__name__
        )
        raise ValueError(
            f"Parameter loss: the callable returned {found}. Expected {expected}, one "
            "value a row, since rows can have weights: pass reduction='none' to a loss "
            "of torch, and take the mean over the labels of a row."
        )


def _cross_entropy(output, target, label_smoothing=0.0):
    return F.cross_entropy(
        output, target, reduction="none", label_smoothing=label_smoothing
    )


def _focal_of_classes(output, target):
    log_p = F.log_softmax(output, dim=1).gather(1, target[:, None])[:, 0]
    # 1 - p by expm1 keeps its digits where p is near 1.
    return -((-torch.expm1(log_p)) ** _FOCUS) * log_p


def _bce_of_classes(output, target):
    return _bce_of_labels(output, F.one_hot(target, output.shape[1]))


def _bce_of_labels(output, target):
    target, known = _fill_unknown(output, target)
    values = F.binary_cross_entropy_with_logits(output, target, reduction="none")
    return _mean_over_known(values, known)


def _focal_of_labels(output, target):
    target, known = _fill_unknown(output, target)
    if_present = torch.sigmoid(-output) ** _FOCUS * F.softplus(-output)
    if_absent = torch.sigmoid(output) ** _FOCUS * F.softplus(output)
    values = target * if_present + (1 - target) * if_absent
    return _mean_over_known(values, known)


def _fill_unknown(output, target):
    """Targets with 0 for NaN, and which are known: NaN would go into gradients."""
    known = ~torch.isnan(target)
    return torch.where(known, target, 0).to(output.dtype), known


def _mean_over_known(values, known):
    return torch.where(known, values, 0).sum(1) / known.sum(1).clamp(min=1)


def _squared(output, target):
    return F.mse_loss(output, target, reduction="none")


def _absolute(output, target):
    return F.l1_loss(output, target, reduction="none")


def _huber(output, target):
    return F.huber_loss(output, target, reduction="none")


_LOSSES = {
    "multiclass": {
        "cross_entropy": _cross_entropy,
        "bce": _bce_of_classes,
        "focal": _focal_of_classes,
    },
    "multilabel": {"bce": _bce_of_labels, "focal": _focal_of_labels},
    "continuous": {"mse": _squared, "l1": _absolute, "huber": _huber},
}
_AUTO = {"multiclass": "cross_entropy", "multilabel": "bce", "continuous": "mse"}
_OF_KIND = {
    "multiclass": " for classes",
    "multilabel": " for several labels a row",
    "continuous": " for a continuous target",
}
_EXAMPLES = {
    "multiclass": "torch.nn.CrossEntropyLoss",
    "multilabel": "torch.nn.MultiLabelSoftMarginLoss",
    "continuous": "torch.nn.SmoothL1Loss",
}


def _names(target_kind):
    return ", ".join(repr(name) for name in ["auto", *_LOSSES[target_kind]])


def _unknown_loss(name, target_kind):
    elsewhere = any(name in losses for losses in _LOSSES.values())
    why = _OF_KIND[target_kind] if elsewhere else ""
    return (
        f"Parameter loss: found {name!r}{why}. Expected {_names(target_kind)}, or a "
        "callable f(output, target) that returns one value a row."
    )


def _check_label_smoothing(label_smoothing, name, target_kind):
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"Parameter label_smoothing: found {label_smoothing!r}. Expected a number "
            "from 0 up to, but not including, 1."
        )
    if label_smoothing and name != "cross_entropy":
        used = repr(name) if isinstance(name, str) else "a callable"
        advice = (
            "Pass loss='cross_entropy', or label_smoothing=0."
            if target_kind == "multiclass"
            else "Pass label_smoothing=0."
        )
        raise ValueError(
            f"Parameter label_smoothing: found {label_smoothing!r} with {used} as "
            f"loss. Only cross entropy smooths labels. {advice}"
        )
