"""Batches of several images and a table: what drops out, and what learns from them."""

import numpy as np
import pytest
import torch
from _networks import Ready, Stage
from torch import nn

from sktransfer._engine.data import Rows, batches
from sktransfer._engine.fusion import FusedActivations, JointRows, drop_modalities
from sktransfer._engine.joint import Joint
from sktransfer._engine.module import TransferModule
from sktransfer.backbones._pooling import Pool
from sktransfer.strategies._phases import Phase, StagePlan


def inputs(n, n_images=2):
    return {
        "images": torch.zeros(n, n_images, 3),
        "present": torch.ones(n, n_images, dtype=torch.bool),
        "table": torch.ones(n, 2),
        "has_table": torch.ones(n, dtype=torch.bool),
    }


def test_a_row_loses_its_images_or_its_table_never_both():
    batch = inputs(4000)
    left = drop_modalities(batch, 0.3, seed=1)
    no_images = ~left["present"].any(dim=1)
    assert torch.equal(no_images, ~left["present"].all(dim=1))
    no_table = ~left["has_table"]
    assert not (no_images & no_table).any()
    for lost in (no_images, no_table):
        assert lost.float().mean() == pytest.approx(0.15, abs=0.02)
    assert batch["present"].all()
    assert batch["has_table"].all()


def test_what_is_lost_follows_from_the_seed():
    one, same, other = (drop_modalities(inputs(50), 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(one["present"], same["present"])
    assert not torch.equal(one["present"], other["present"])


def test_rows_that_have_one_thing_only_keep_it():
    batch = inputs(100)
    batch["present"][:50] = False
    batch["has_table"][50:] = False
    left = drop_modalities(batch, 0.99, seed=0)
    assert left["has_table"][:50].all()
    assert left["present"][50:].all()


def source(present, has_table=None):
    """Two columns of 5 rows whose activations are 1 and 10 times the row's number."""
    numbers = torch.arange(5.0)[:, None].repeat(1, 3)
    has_table = np.ones(5, bool) if has_table is None else has_table
    return FusedActivations(
        [Ready(numbers), Ready(10 * numbers)],
        np.array(present, bool),
        torch.arange(5.0)[:, None],
        torch.from_numpy(has_table),
    )


PRESENT = [[1, 1], [0, 1], [1, 0], [0, 0], [1, 1]]


def test_batches_hold_the_images_that_there_are():
    made = source(PRESENT)
    batch = made.finish(made.load(np.array([4, 3, 1]), view=2))
    assert batch["images"][:, :, 0].tolist() == [[4, 40], [0, 0], [0, 10]]
    assert batch["present"].tolist() == [[1, 1], [0, 0], [0, 1]]
    assert batch["table"].tolist() == [[4], [3], [1]]
    assert [column.batches for column in made.columns] == [[[4]], [[4, 1]]]
    assert [column.views for column in made.columns] == [[2], [2]]


def test_a_batch_without_any_image_is_a_batch_too():
    made = source(np.zeros((5, 2)))
    batch = made.finish(made.load(np.arange(3), view=0))
    assert not batch["present"].any()
    assert len(batch["images"]) == 3


def test_what_is_known_needs_no_reading():
    made = source(PRESENT)
    assert made.known(np.arange(5), 0) is None
    for column in made.columns:
        column.known = lambda rows, view: torch.from_numpy(rows)
    batch = made.finish(made.known(np.array([0, 1]), 0))
    assert batch["images"][:, :, 0].tolist() == [[0, 0], [0, 10]]


def test_an_epoch_runs_over_rows_of_such_a_source():
    made = source(PRESENT)
    rows = Rows(made, np.arange(5), [torch.arange(5)], torch.ones(5, 1))
    seen = list(batches(rows, [4, 3, 2, 1, 0], 2, view=0))
    assert [batch["table"][:, 0].tolist() for batch, _ in seen] == [[4, 3], [2, 1, 0]]
    first, _ = rows[1]
    assert first["images"][:, 0].tolist() == [0, 10]


# What learns


def module(n_images=2, batch_norm="train"):
    joint = Joint(
        np.zeros((n_images, 4), np.float32),
        np.ones(n_images, bool),
        np.zeros(2),
        np.ones(2),
        True,
    )
    torch.manual_seed(0)
    stage = Stage("stage", nn.Linear(3, 4), nn.BatchNorm1d(4))
    heads = [nn.Linear(joint.n_columns, 2)]
    made = TransferModule([stage], Pool("avg", ()), heads, JointRows(joint))
    plan = StagePlan("stage", 1, "all", 1.0)
    made.begin(Phase("all", (plan,), batch_norm=batch_norm))
    return made.train()


def batch_of(n, present):
    batch = inputs(n)
    batch["images"] = torch.randn(n, 2, 3)
    batch["present"] = torch.tensor(present, dtype=torch.bool)
    return batch


def test_gradients_reach_the_trunk_from_images_and_the_head_from_all_parts():
    made = module()
    (logits,) = made(**batch_of(3, [[1, 1], [1, 0], [0, 0]]))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0])).backward()
    (stage,) = made.segments
    assert stage[0].weight.grad.abs().sum() > 0
    gradient = made.heads[0].weight.grad.abs().sum(dim=0)
    assert (gradient[:10] > 0).all()  # features and their flags
    assert (gradient[10:12] > 0).all()  # the table


def test_missing_images_do_not_pass_the_trunk():
    made, seen = module().eval(), []
    made.segments[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = batch_of(3, [[1, 0], [0, 0], [1, 1]])
    with torch.no_grad():
        (logits,) = made(**batch)
        assert len(seen[0]) == 3
        batch["images"][~batch["present"]] = 1e6
        assert torch.equal(made(**batch)[0], logits)


def test_batch_norms_learn_from_a_batch_with_one_image_or_none():
    for present in ([[0, 1], [0, 0]], [[0, 0], [0, 0]]):
        made = module()
        (logits,) = made(**batch_of(2, present))
        logits.sum().backward()
        assert torch.isfinite(logits).all()
        assert made.heads[0].weight.grad.abs().sum() > 0
