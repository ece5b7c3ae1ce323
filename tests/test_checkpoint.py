"""The checkpoint of a fit: replaced whole, refused where it does not belong."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
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

checkpoint = CheckpointFile(sys.argv[1], "digest")
checkpoint.save(epoch=1)
os.fsync = lambda file: os._exit(9)
checkpoint.save(epoch=2)
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
    state = {"groups": [{"lr": 0.1, "clock": time.monotonic}]}
    with pytest.raises(TypeError, match=r"'optimizer', holds 'clock' \(builtin_fun"):
        checkpoint.save(epoch=2, optimizer=state)
    assert checkpoint.load()["epoch"] == 1
    assert files_in(checkpoint) == [checkpoint.path.name]


ARRAYS = {
    "confusion matrix": np.arange(9).reshape(3, 3).T,
    "halves": np.linspace(0, 1, 5, dtype=np.float16),
    "nothing": np.empty((0, 3), dtype=np.uint16),
    "names": np.array(["a", "long name"]),
    "dates": np.array(["2026-11-24", "NaT"], dtype="datetime64[D]"),
    "fields": np.array([(1, 0.5)], dtype=[("n", int), ("x", float)]),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_arrays_come_back_as_arrays(checkpoint, array):
    checkpoint.save(history=[{"batches": [{"of batch": (array, 1)}], "found": array}])
    (row,) = checkpoint.load()["history"]
    for found in (row["found"], row["batches"][0]["of batch"][0]):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_dates_and_wide_floats_of_numpy_come_back(checkpoint):
    row = {"when": np.datetime64("2026-11-24T12:00"), "wide": np.longdouble("1e-4000")}
    checkpoint.save(history=[row, {"big": {1 + 2j, 2**80}, "tensor": torch.eye(2)}])
    found, other = checkpoint.load()["history"]
    assert found == row
    assert other["big"] == {1 + 2j, 2**80}
    assert torch.equal(other["tensor"], torch.eye(2))


STRANGERS = {
    "Timestamp": pd.Timestamp("2026-11-24"),
    "function": files_in,
    "Series": pd.Series([1.0]),
    "ndarray": np.array([None, "a"]),
    "Path": Path("somewhere"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_cannot_be_loaded_is_left_out_of_the_history_with_a_warning(
    checkpoint, name
):
    kind = type(STRANGERS[name]).__name__
    row = {"when": STRANGERS[name], "loss": 0.5, "batches": [{"n": STRANGERS[name]}]}
    with pytest.warns(UserWarning, match=rf"callbacks record 'when' \({kind}\), 'n'"):
        checkpoint.save(history=[row])
    checkpoint.save(history=[row, row])  # and does not warn again
    left = {"loss": 0.5, "batches": [{}]}
    assert checkpoint.load()["history"] == [left, left]
    with pytest.warns(UserWarning, match="callbacks record 'also'"):
        checkpoint.save(history=[{"also": [1, STRANGERS[name]]}])
    assert checkpoint.load()["history"] == [{"also": [1, None]}]


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
    checkpoint.save(epoch=1)
    state = torch.load(checkpoint.path)
    torch.save({**state, "more": RunsCode(trace)}, checkpoint.path)
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


def test_fits_with_other_starts_have_files_of_their_own(checkpoint):
    folder = checkpoint.path.parent
    second = CheckpointFile(folder, "digest", start="0123456789abcdef" * 2)
    third = CheckpointFile(folder, "digest", start="f123456789abcdef" * 2)
    for epoch, one in enumerate([checkpoint, second, third]):
        one.save(epoch=epoch)
    names = [f"fit{after}.checkpoint" for after in ("-0123456789abcdef", "")]
    partials = [folder / f"{name}.123.partial" for name in names]
    for partial in partials:
        partial.write_bytes(b"half a file")
    third.remove()
    checkpoint.remove()
    assert files_in(second) == [names[0], partials[0].name]
    assert second.load()["epoch"] == 1
