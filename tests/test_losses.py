"""Losses: values computed by hand, one a row, and what is refused."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer._engine.losses import resolve_loss

# Softmax of these: (1/4, 3/4) and (1/2, 1/2).
LOGITS = torch.tensor([[0.0, math.log(3)], [2.0, 2.0]])
CLASSES = torch.tensor([0, 1])
# Sigmoid of these: (3/4, 1/2) and (1/4, 1/2).
LABEL_LOGITS = torch.tensor([[math.log(3), 0.0], [-math.log(3), 0.0]])
LABELS = torch.tensor([[1.0, 0.0], [1.0, 1.0]])


def values(loss, kind, output, target, **options):
    return resolve_loss(loss, kind, **options)(output, target).tolist()


@pytest.mark.parametrize("name", ["auto", "cross_entropy"])
def test_cross_entropy_is_minus_the_log_of_the_probability(name):
    expected = [math.log(4), math.log(2)]
    assert values(name, "multiclass", LOGITS, CLASSES) == pytest.approx(expected)


def test_smoothed_cross_entropy_spreads_the_target_over_all_classes():
    found = values("auto", "multiclass", LOGITS, CLASSES, label_smoothing=0.2)
    first = 0.9 * math.log(4) + 0.1 * math.log(4 / 3)
    assert found == pytest.approx([first, math.log(2)])


def test_bce_of_classes_is_one_against_the_rest():
    output = torch.tensor([[math.log(3), 0.0, -math.log(3)]])  # 3/4, 1/2, 1/4
    found = values("bce", "multiclass", output, torch.tensor([0]))
    expected = (math.log(4 / 3) + math.log(2) + math.log(4 / 3)) / 3
    assert found == pytest.approx([expected])


def test_focal_of_classes_weighs_by_the_squared_miss():
    found = values("focal", "multiclass", LOGITS, CLASSES)
    expected = [(3 / 4) ** 2 * math.log(4), (1 / 2) ** 2 * math.log(2)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("name", ["auto", "bce"])
def test_bce_of_labels_is_the_mean_over_labels(name):
    expected = [(math.log(4 / 3) + math.log(2)) / 2, (math.log(4) + math.log(2)) / 2]
    assert values(name, "multilabel", LABEL_LOGITS, LABELS) == pytest.approx(expected)


def test_focal_of_labels_weighs_each_by_its_squared_miss():
    found = values("focal", "multilabel", LABEL_LOGITS, LABELS)
    first = (1 / 16 * math.log(4 / 3) + 1 / 4 * math.log(2)) / 2
    second = (9 / 16 * math.log(4) + 1 / 4 * math.log(2)) / 2
    assert found == pytest.approx([first, second])


@pytest.mark.parametrize("name", ["bce", "focal"])
def test_unknown_labels_have_no_part_in_the_mean(name):
    unknown = torch.tensor([[1.0, math.nan], [math.nan, math.nan]])
    output = LABEL_LOGITS.clone().requires_grad_()
    found = resolve_loss(name, "multilabel")(output, unknown)
    alone = values(name, "multilabel", LABEL_LOGITS[:1, :1], LABELS[:1, :1])
    assert found.tolist() == pytest.approx([*alone, 0.0])
    found.sum().backward()
    assert torch.isfinite(output.grad).all()
    assert output.grad[0, 0] != 0
    assert output.grad.count_nonzero() == 1


@pytest.mark.parametrize("name", ["cross_entropy", "bce", "focal"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sure_outputs_have_finite_losses_and_gradients(name, dtype):
    output = torch.tensor([[300.0, -300.0]] * 2, dtype=dtype, requires_grad=True)
    loss = resolve_loss(name, "multiclass")(output, CLASSES)
    assert loss.dtype == torch.float32
    assert loss[0] == 0
    assert loss[1] > 100
    loss.sum().backward()
    assert torch.isfinite(output.grad).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cross_entropy", "multiclass"),
        ("bce", "multiclass"),
        ("focal", "multiclass"),
        ("bce", "multilabel"),
        ("focal", "multilabel"),
    ],
)
def test_gradients_are_those_of_the_values(name, kind):
    torch_random = torch.Generator().manual_seed(0)
    output = torch.randn(4, 3, generator=torch_random, dtype=torch.float64)
    target = (
        torch.tensor([0, 2, 1, 1])
        if kind == "multiclass"
        else torch.tensor([[1, 0, math.nan]] * 4, dtype=torch.float64)
    )
    loss = resolve_loss(name, kind)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, target), output.clone().requires_grad_()
    )


def test_loss_of_one_class_is_zero():
    assert values("auto", "multiclass", torch.ones(2, 1), torch.zeros(2).long()) == [
        0,
        0,
    ]


ERRORS = torch.tensor([[0.5], [-3.0], [0.0]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auto", [0.25, 9, 0]),
        ("mse", [0.25, 9, 0]),
        ("l1", [0.5, 3, 0]),
        ("huber", [0.125, 2.5, 0]),
        (nn.SmoothL1Loss(reduction="none", beta=6.0), [0.25 / 12, 9 / 12, 0]),
    ],
)
def test_losses_of_continuous_targets_are_those_of_the_errors(name, expected):
    target = torch.tensor([7.0, 7, 7])
    loss = pickle.loads(pickle.dumps(resolve_loss(name, "continuous")))
    assert loss(ERRORS + 7, target).tolist() == pytest.approx(expected)
    half = loss((ERRORS + 7).half(), target)
    assert name not in ("auto", "mse", "l1", "huber") or half.dtype == torch.float32


def test_callable_that_takes_a_mean_over_values_is_refused():
    with pytest.raises(ValueError, match=r"shape \(\).*one value a row"):
        resolve_loss(nn.MSELoss(), "continuous")(ERRORS, torch.zeros(3))


def test_callable_gives_one_value_a_row():
    loss = resolve_loss(nn.CrossEntropyLoss(reduction="none"), "multiclass")
    expected = [math.log(4), math.log(2)]
    assert loss(LOGITS, CLASSES).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (nn.CrossEntropyLoss(), r"a tensor of shape \(\)"),
        (lambda output, _: output, r"a tensor of shape \(2, 2\)"),
        (lambda output, _: output[:1, 0], r"a tensor of shape \(1,\)"),
        (lambda *_: 0.5, "float"),
        (lambda *_: np.zeros(2), "ndarray"),
    ],
)
def test_callable_that_returns_anything_else_is_refused(loss, found):
    resolved = resolve_loss(loss, "multiclass")
    message = f"Parameter loss: the callable returned {found}. Expected "
    with pytest.raises(ValueError, match=message + r"\(2,\), one value a row"):
        resolved(LOGITS, CLASSES)


@pytest.mark.parametrize(
    ("loss", "kind", "message"),
    [
        ("hinge", "multiclass", "'auto', 'cross_entropy', 'bce', 'focal'"),
        ("hinge", "multilabel", "'auto', 'bce', 'focal'"),
        ("cross_entropy", "multilabel", "'cross_entropy' for several labels a row"),
        ("mse", "multiclass", "'mse' for classes"),
        ("focal", "continuous", "'focal' for a continuous target.*'l1', 'huber'"),
        (nn.CrossEntropyLoss, "multiclass", "the class CrossEntropyLoss"),
        (3, "multiclass", "found 3"),
        (None, "multiclass", "found None"),
    ],
)
def test_unknown_loss_is_refused_with_the_names_there_are(loss, kind, message):
    with pytest.raises(ValueError, match=message) as caught:
        resolve_loss(loss, kind)
    assert str(caught.value).startswith("Parameter loss: found ")


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("bce", "multiclass"),
        ("focal", "multiclass"),
        ("auto", "multilabel"),
        ("bce", "multilabel"),
        (nn.CrossEntropyLoss(reduction="none"), "multiclass"),
    ],
)
def test_label_smoothing_is_refused_where_it_would_do_nothing(loss, kind):
    with pytest.raises(ValueError, match=r"Parameter label_smoothing: found 0\.1"):
        resolve_loss(loss, kind, label_smoothing=0.1)


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, math.nan])
def test_label_smoothing_is_a_share(label_smoothing):
    with pytest.raises(ValueError, match="Parameter label_smoothing"):
        resolve_loss("auto", "multiclass", label_smoothing)


@pytest.mark.parametrize(
    "loss", ["auto", "focal", nn.CrossEntropyLoss(reduction="none")]
)
def test_resolved_loss_can_be_pickled(loss):
    resolved = resolve_loss(loss, "multiclass")
    again = pickle.loads(pickle.dumps(resolved))
    assert torch.equal(again(LOGITS, CLASSES), resolved(LOGITS, CLASSES))
