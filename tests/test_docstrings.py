"""numpydoc's rules for every public object, found by walking `__all__`.

Which rules count is said in pyproject.toml, [tool.numpydoc_validation].
"""

import inspect
import tomllib
from pathlib import Path

import pytest
from numpydoc.docscrape import FunctionDoc
from numpydoc.validate import ERROR_MSGS, validate

import sktransfer

ROOT = Path(__file__).parents[1]


def public_modules():
    """The package and its public submodules."""
    yield sktransfer
    for name in sktransfer.__all__:
        value = getattr(sktransfer, name)
        if inspect.ismodule(value):
            yield value


def own_members(owner):
    """Names of the public methods and properties written here, not inherited."""
    for name in dir(owner):
        value = inspect.getattr_static(owner, name)
        function = getattr(value, "__func__", getattr(value, "fget", value))
        home = getattr(function, "__module__", None) or ""
        if not name.startswith("_") and home.startswith("sktransfer"):
            yield name


def public_objects():
    """Dotted names of every public function, class, method and property.

    The value tells whether an example is due: methods are shown by the example of their
    class, and errors are raised, not used.
    """
    found = {}
    for module in public_modules():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value):
                continue
            full_name = f"{module.__name__}.{name}"
            is_error = inspect.isclass(value) and issubclass(value, Exception)
            found[full_name] = not is_error
            if inspect.isclass(value):
                found |= {
                    f"{full_name}.{member}": False for member in own_members(value)
                }
    return found


def skipped_codes():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    first, *codes = pyproject["tool"]["numpydoc_validation"]["checks"]
    assert first == "all"
    assert set(codes) <= set(ERROR_MSGS)
    return set(codes)


OBJECTS = public_objects()


def test_the_walk_finds_functions_classes_and_methods():
    assert {
        "sktransfer.TransferClassifier",
        "sktransfer.TransferClassifier.fit",
        "sktransfer.TransferClassifier.predict_proba",
        "sktransfer.FeatureExtractorTransformer.transform",
        "sktransfer.backbones.register_backbone",
        "sktransfer.datasets.load_image_folder",
        "sktransfer.exceptions.InvalidImageError",
        "sktransfer.strategies.FeatureExtraction",
    } <= set(OBJECTS)
    assert len(OBJECTS) >= 25


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_follows_numpydoc(name):
    skipped = skipped_codes() | (set() if OBJECTS[name] else {"EX01"})
    errors = validate(name)["errors"]
    kept = [f"{code}: {text}" for code, text in errors if code not in skipped]
    assert kept == []


@pytest.mark.parametrize("name", [name for name in OBJECTS if OBJECTS[name]])
def test_docstring_tells_the_defaults_of_the_signature(name):
    value = sktransfer
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    types = {p.name: p.type for p in FunctionDoc(value)["Parameters"]}
    wrong = {}
    for parameter in inspect.signature(value).parameters.values():
        default = parameter.default
        if default is parameter.empty:
            continue
        said = types[parameter.name].partition("default=")[2]
        if "/" in said and isinstance(default, float):
            dividend, divisor = said.split("/")
            said = repr(float(dividend) / float(divisor))
        if said not in (repr(default), f'"{default}"'):
            wrong[parameter.name] = said
    assert wrong == {}
