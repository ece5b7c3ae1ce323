"""Phases: where the cut is, and how epochs are shared out."""

from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest

from sktransfer.strategies._phases import Phase, StagePlan, frozen, with_epochs

NAMES = ("stem", "layer1", "layer2", "pooled")


def phase(*learning, **more):
    """A phase of four stages, of which some learn."""
    plans = [StagePlan(n, 9, "all" if n in learning else "none", 1.0) for n in NAMES]
    return Phase(more.pop("name", "some"), tuple(plans), **more)


def head_of(epochs, name="head"):
    return phase(name=name, epochs=epochs)


@pytest.mark.parametrize(
    ("learning", "cut"),
    [
        ((), "pooled"),
        (("layer2",), "layer1"),
        (("layer1", "layer2"), "stem"),
        (("layer1",), "stem"),
        (("pooled",), "layer2"),
        (("stem",), None),
        (("stem", "layer2"), None),
        (NAMES, None),
    ],
)
def test_cut_is_before_the_lowest_stage_that_learns(learning, cut):
    assert phase(*learning).cut == cut


@pytest.mark.parametrize("kind", ["norm", "bias"])
def test_stage_of_which_a_part_learns_is_behind_the_cut(kind):
    plans = StagePlan("stem", 9), StagePlan("layer1", 9, kind, 1.0)
    assert Phase("some", plans).cut == "stem"


def test_phase_without_stages_has_no_cut():
    assert Phase("head", ()).cut is None


def test_frozen_keeps_order_and_sizes_and_lets_nothing_learn():
    stages = [
        SimpleNamespace(name="stem", n_parameters=3),
        SimpleNamespace(name="pooled", n_parameters=0),
    ]
    assert frozen(stages) == (
        StagePlan("stem", 3, "none", 0.0),
        StagePlan("pooled", 0, "none", 0.0),
    )


def test_phases_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        phase().epochs = 3
    with pytest.raises(FrozenInstanceError):
        phase().stages[0].lr_factor = 3


@pytest.mark.parametrize(
    ("epochs", "max_epochs", "expected"),
    [
        ([None], 1, [1]),
        ([None], 20, [20]),
        ([2, None], 20, [2, 18]),
        ([2, None], 3, [2, 1]),
        ([1, 1, 1, None], 5, [1, 1, 1, 2]),
        ([3, 4], 7, [3, 4]),
    ],
)
def test_last_phase_gets_the_epochs_that_the_others_leave(epochs, max_epochs, expected):
    shared = with_epochs([head_of(n) for n in epochs], max_epochs)
    assert [p.epochs for p in shared] == expected


def test_exact_phase_takes_no_epoch():
    probe = phase(name="probe", solver="exact")
    shared = with_epochs([probe, head_of(2), head_of(None)], 5)
    assert [p.epochs for p in shared] == [0, 2, 3]
    assert with_epochs([probe], 1) == [phase(name="probe", solver="exact", epochs=0)]


def test_sharing_changes_nothing_but_epochs_and_leaves_the_phases_as_they_were():
    given = [
        phase("layer2", name="tuning", batch_norm="frozen", penalty="bss", strength=2.0)
    ]
    (shared,) = with_epochs(given, 7)
    assert shared == phase(
        "layer2",
        name="tuning",
        batch_norm="frozen",
        penalty="bss",
        strength=2.0,
        epochs=7,
    )
    assert given[0].epochs is None


@pytest.mark.parametrize(
    ("epochs", "max_epochs", "message"),
    [
        (
            [2, None],
            2,
            r"Parameter max_epochs: found 2 for the phases \['a', 'b'\]\. "
            r"Expected at least 3: 2 for those of fixed length and one for the last",
        ),
        ([1, 1, 1, None], 3, r"found 3 .*\['a', 'b', 'c', 'd'\].* at least 4: 3 for"),
        ([5, None], 1, r"found 1 .* at least 6: 5 for"),
    ],
)
def test_too_few_epochs_raise_with_the_numbers(epochs, max_epochs, message):
    phases = [head_of(n, name) for n, name in zip(epochs, "abcd", strict=False)]
    with pytest.raises(ValueError, match=message):
        with_epochs(phases, max_epochs)


def test_exact_phase_is_not_among_those_that_need_epochs():
    probe = phase(name="probe", solver="exact")
    with pytest.raises(ValueError, match=r"for the phases \['a', 'b'\]\. .*least 2"):
        with_epochs([probe, head_of(1, "a"), head_of(None, "b")], 1)
