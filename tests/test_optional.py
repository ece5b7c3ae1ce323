"""Packages that only some features need."""

import sys

import pytest

from sktransfer import FeatureExtractorTransformer
from sktransfer._optional import require
from sktransfer.exceptions import MissingDependencyError


def test_package_that_is_there_is_imported():
    assert require("json", extra="x", needed_by="y").loads("[1]") == [1]


def test_missing_package_names_what_needs_it_and_the_command_that_installs_it():
    with pytest.raises(MissingDependencyError) as caught:
        require("no_such_package", extra="onnx", needed_by="engine='onnxruntime'")
    assert str(caught.value) == (
        "engine='onnxruntime' needs the package no_such_package, which cannot be "
        "imported (No module named 'no_such_package'). Install it with: "
        "pip install 'sktransfer[onnx]'"
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_engine_without_a_package_is_an_error_never_another_engine(
    digits, monkeypatch, package
):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    transformer = FeatureExtractorTransformer(engine="onnxruntime")
    with pytest.raises(MissingDependencyError) as caught:
        transformer.fit_transform(digits[0][:2])
    assert str(caught.value).startswith(
        f"engine='onnxruntime' needs the package {package}"
    )


def test_default_engine_needs_no_extra(digits, monkeypatch):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    assert FeatureExtractorTransformer().fit_transform(digits[0][:2]).shape == (2, 576)
