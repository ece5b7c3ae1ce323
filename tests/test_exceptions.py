"""Errors: also built-in ones, whole after a pickle, with a message of one shape."""

import inspect
import pickle

import pytest

from sktransfer import exceptions
from sktransfer.exceptions import (
    BackboneNotFoundError,
    EngineError,
    FeatureCacheError,
    ImageShapeError,
    InvalidImageError,
    MissingDependencyError,
    SktransferError,
    WeightsDownloadError,
    WeightsMismatchError,
)

EXAMPLES = [
    (SktransferError("something"), Exception),
    (InvalidImageError([(3, "/a.jpg: empty (0 bytes)")], 9, "A hint."), ValueError),
    (ImageShapeError("X", "one image", "Expected several."), ValueError),
    (BackboneNotFoundError("resnet8", ["resnet18", "resnet34"]), ValueError),
    (WeightsMismatchError("w.pth", "resnet18", "no 'fc'", "Do this."), ValueError),
    (WeightsDownloadError("https://x/w.pth", "/w.pth", "timed out"), ConnectionError),
    (FeatureCacheError("/a.jpg", "it is something else", "Pass another."), OSError),
    (EngineError("compile", "no compiler", "Install one."), RuntimeError),
    (MissingDependencyError("onnx", "onnx", "x=1", "No module"), ImportError),
]
each_error = pytest.mark.parametrize(
    ("error", "builtin"),
    EXAMPLES,
    ids=lambda v: getattr(v, "__name__", type(v).__name__),
)


def test_every_public_error_has_an_example():
    errors = {name for name in exceptions.__all__ if not name.endswith("Warning")}
    assert {type(error).__name__ for error, _ in EXAMPLES} == errors


def test_every_public_warning_can_be_filtered_as_a_users():
    others = [getattr(exceptions, n) for n in exceptions.__all__ if "Error" not in n]
    assert len(others) == 1
    assert all(issubclass(warning, UserWarning) for warning in others)


def test_every_class_of_the_module_is_public():
    classes = dict(inspect.getmembers(exceptions, inspect.isclass))
    assert set(classes) == set(exceptions.__all__)


@each_error
def test_error_is_ours_and_a_built_in_one(error, builtin):
    assert isinstance(error, SktransferError)
    assert isinstance(error, builtin)


@each_error
def test_error_survives_a_pickle_as_between_workers(error, builtin):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error) != ""
    assert vars(copy) == vars(error)


def test_invalid_images_are_counted_listed_and_followed_by_advice():
    error = InvalidImageError([(3, "/a.jpg: empty"), (5, "missing")], 9, "A hint.")
    assert str(error).splitlines() == [
        "2 of 9 rows hold no readable image.",
        "  Row 3: /a.jpg: empty",
        "  Row 5: missing",
        "Replace or drop these rows. A hint.",
    ]


@pytest.mark.parametrize(("n", "lines"), [(1, 3), (10, 12), (11, 13), (5000, 13)])
def test_ten_invalid_images_are_listed_and_the_others_counted(n, lines):
    error = InvalidImageError([(row, "missing") for row in range(n)], n)
    listed = str(error).splitlines()
    assert len(listed) == lines
    assert f"{n} of {n} rows" in listed[0]
    assert (f"and {n - 10} more" in str(error)) == (n > 10)
    assert listed[-1] == "Replace or drop these rows."
    assert len(error.problems) == n


def test_shape_error_says_where_found_expected():
    error = ImageShapeError("Row 3 of X", "NaN", "Expected finite numbers.")
    assert str(error) == "Row 3 of X: found NaN. Expected finite numbers."


def test_unknown_backbone_suggests_the_nearest_if_there_are_any():
    assert "Did you mean 'resnet18' or 'resnet34'?" in str(EXAMPLES[3][0])
    assert "mean" not in str(BackboneNotFoundError("zzz", []))
    assert "list_backbones()" in str(BackboneNotFoundError("zzz", []))


def test_weights_errors_name_file_backbone_and_way_out():
    mismatch = "The weights w.pth do not fit the backbone 'resnet18': no 'fc'. Do this."
    assert str(EXAMPLES[4][0]) == mismatch
    download = str(EXAMPLES[5][0])
    for part in ("https://x/w.pth", "timed out", "put that file at /w.pth", "'mini'"):
        assert part in download
