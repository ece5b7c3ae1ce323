"""The checkpoint of a fit: replaced whole, refused where it does not belong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sktransfer._engine.checkpoint import CheckpointFile


@pytest.fixture
def checkpoint(tmp_path):
    return CheckpointFile(tmp_path / "fits" / "first", "digest")


def files_in(checkpoint):
    return sorted(path.name for path in checkpoint.path.parent.iterdir())


def test_there_is_no_state_before_the_first_save(checkpoint):
    assert checkpoint.load() is None
    assert not checkpoint.path.parent.exists()  # looking makes no folder


def test_state_comes_back_as_it_was(checkpoint):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    history = [{"train_loss": 0.25, "batches": [{"train_loss": 1.0}], "phase": "head"}]
    checkpoint.save(
        seed=2**64 - 1,
        epoch=3,
        module=layer.state_dict(),
        optimizer=optimizer.state_dict(),
        history=history,
        best=None,
        range=(float("-inf"), True),
    )
    state = CheckpointFile(str(checkpoint.path.parent), "digest").load()
    assert (state["seed"], state["epoch"], state["best"]) == (2**64 - 1, 3, None)
    assert state["range"] == (float("-inf"), True)
    assert state["history"] == history
    for name, tensor in layer.state_dict().items():
        assert torch.equal(state["module"][name], tensor)
    again = torch.optim.AdamW(layer.parameters(), lr=0.5)
    again.load_state_dict(state["optimizer"])
    assert again.param_groups[0]["lr"] == 0.1
    moments = optimizer.state[layer.weight]["exp_avg"]
    assert torch.equal(again.state[layer.weight]["exp_avg"], moments)


def test_numbers_of_numpy_come_back_as_numbers(checkpoint):
    # skorch averages losses by numpy, and users' callbacks record what they like.
    losses = [{"train_loss": np.float64(0.25), "right": np.int64(3)}]
    checkpoint.save(history=losses, best=np.bool_(True), pair=(np.float32(0.5), 1))
    state = checkpoint.load()
    assert state["history"] == [{"train_loss": 0.25, "right": 3}]
    assert (state["best"], state["pair"]) == (True, (0.5, 1))


def test_save_replaces_the_state_and_leaves_one_file(checkpoint):
    for epoch in range(3):
        checkpoint.save(epoch=epoch)
        assert checkpoint.load()["epoch"] == epoch
        assert files_in(checkpoint) == [checkpoint.path.name]


def test_save_never_writes_into_the_file_there_is(checkpoint):
    checkpoint.save(epoch=1)
    with open(checkpoint.path, "rb") as opened:
        checkpoint.save(epoch=2)
        assert torch.load(opened)["epoch"] == 1
    assert checkpoint.load()["epoch"] == 2


_KILLED_WHILE_SAVING = """
import os, sys
from sktransfer._engine.checkpoint import CheckpointFile

class Kill:
    def __reduce__(self):
        os._exit(9)

checkpoint = CheckpointFile(sys.argv[1], "digest")
checkpoint.save(epoch=1)
checkpoint.save(epoch=2, more=[Kill()])
"""


def test_kill_while_saving_leaves_the_state_before(checkpoint):
    folder = checkpoint.path.parent
    command = [sys.executable, "-c", _KILLED_WHILE_SAVING, str(folder)]
    assert subprocess.run(command, check=False).returncode == 9
    assert len(files_in(checkpoint)) == 2  # the part that was written is still there
    assert checkpoint.load()["epoch"] == 1
    checkpoint.save(epoch=2)
    assert checkpoint.load()["epoch"] == 2


def test_state_that_cannot_be_saved_leaves_the_state_before(checkpoint):
    checkpoint.save(epoch=1)
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        checkpoint.save(epoch=2, function=lambda: None)
    assert checkpoint.load()["epoch"] == 1


def test_partial_file_alone_is_no_state(checkpoint):
    checkpoint.path.parent.mkdir(parents=True)
    partial = checkpoint.path.with_name(f"{checkpoint.path.name}.123.partial")
    partial.write_bytes(b"PK half a file")
    assert checkpoint.load() is None


def test_checkpoint_of_another_fit_is_refused_and_left_alone(checkpoint):
    checkpoint.save(epoch=1)
    other = CheckpointFile(checkpoint.path.parent, "other digest")
    with pytest.raises(ValueError, match="belongs to a fit on other data") as caught:
        other.load()
    assert str(checkpoint.path) in str(caught.value)
    assert checkpoint.load()["epoch"] == 1


def test_checkpoint_of_another_format_is_refused(checkpoint):
    checkpoint.save(epoch=1)
    state = torch.load(checkpoint.path)
    torch.save({**state, "format": state["format"] + 1}, checkpoint.path)
    with pytest.raises(ValueError, match="Remove the file"):
        checkpoint.load()


def write_garbage(path):
    path.write_bytes(b"no checkpoint at all")


def write_nothing(path):
    path.write_bytes(b"")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-200])


def write_a_list(path):
    torch.save([1, 2], path)


def write_other_weights(path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)


@pytest.mark.parametrize(
    "spoil",
    [write_garbage, write_nothing, cut_short, write_a_list, write_other_weights],
)
def test_what_is_no_checkpoint_is_refused_with_its_path(checkpoint, spoil):
    checkpoint.save(epoch=1, module={"weight": torch.ones(100)})
    spoil(checkpoint.path)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint") as caught:
        checkpoint.load()
    assert str(checkpoint.path) in str(caught.value)
    assert "Remove the file to start anew." in str(caught.value)
    checkpoint.remove()
    assert checkpoint.load() is None


class RunsCode:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_loading_runs_no_code(checkpoint, tmp_path):
    trace = tmp_path / "trace"
    checkpoint.save(epoch=1, more=RunsCode(trace))
    torch.load(checkpoint.path, weights_only=False)
    assert trace.exists()
    trace.unlink()
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        checkpoint.load()
    assert not trace.exists()


def test_remove_takes_the_file_away_and_may_be_called_twice(checkpoint):
    checkpoint.save(epoch=1)
    checkpoint.remove()
    assert checkpoint.load() is None
    assert files_in(checkpoint) == []
    checkpoint.remove()
