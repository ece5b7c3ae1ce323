"""The public names: one list, told the same way everywhere, and loaded when used."""

import ast
import json
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sktransfer

ROOT = Path(__file__).parents[1]
SUBMODULES = {"backbones", "datasets", "exceptions", "strategies"}
HEAVY = ["matplotlib", "pandas", "sklearn", "skorch", "torch", "torchvision"]
MAX_IMPORT_SECONDS = 0.1


@pytest.fixture(scope="module")
def documented():
    """Documented names by module."""
    reference = runpy.run_path(str(ROOT / "docs" / "api_reference.py"))["API_REFERENCE"]
    return {
        module: [name for section in sections for name in section["names"]]
        for module, sections in reference.items()
    }


def names_for_type_checkers():
    """Names imported under `if TYPE_CHECKING:` in the package's __init__."""
    source = Path(sktransfer.__file__).read_text(encoding="utf-8")
    (block,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return [alias.name for statement in block.body for alias in statement.names]


def run_python(code):
    """Run code in a fresh interpreter; return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def loaded_after(statement):
    """Which heavy packages a statement loads in a fresh interpreter."""
    return run_python(
        f"import json, sys\n{statement}\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )


def test_all_lists_what_type_checkers_see():
    assert sorted(sktransfer.__all__) == sorted(names_for_type_checkers())


def test_all_has_no_name_twice():
    assert len(set(sktransfer.__all__)) == len(sktransfer.__all__)


def test_all_lists_what_the_reference_documents(documented):
    assert set(sktransfer.__all__) - SUBMODULES == set(documented["sktransfer"])
    assert set(sktransfer.__all__) >= SUBMODULES


def test_the_reference_documents_every_public_submodule(documented):
    assert set(documented) == {"sktransfer"} | {f"sktransfer.{m}" for m in SUBMODULES}


@pytest.mark.parametrize("name", sorted(SUBMODULES))
def test_the_reference_documents_every_name_of_a_submodule(name, documented):
    public = import_module(f"sktransfer.{name}").__all__
    assert sorted(documented[f"sktransfer.{name}"]) == sorted(public)


@pytest.mark.parametrize("name", sktransfer.__all__)
def test_every_listed_name_can_be_used(name):
    assert getattr(sktransfer, name).__name__.split(".")[-1] == name


def test_dir_lists_the_public_names_and_the_version():
    assert set(dir(sktransfer)) == {*sktransfer.__all__, "__version__"}


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert sktransfer.__version__ == version("sktransfer")


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="'sktransfer' has no attribute 'resnet'"):
        sktransfer.resnet  # noqa: B018 (the access is what raises)


def test_importing_the_package_loads_no_other():
    assert loaded_after("import sktransfer; dir(sktransfer)") == []


def test_errors_can_be_imported_without_any_other_package():
    assert loaded_after("from sktransfer.exceptions import InvalidImageError") == []


def test_strategies_are_plain_data_that_load_no_torch():
    loaded = loaded_after(
        "from sktransfer import FeatureExtraction; FeatureExtraction(C=1.0)"
    )
    assert {"torch", "torchvision"} & set(loaded) == set()


def test_finding_images_loads_no_torch():
    loaded = loaded_after("from sktransfer.datasets import load_image_folder")
    assert {"torch", "torchvision"} & set(loaded) == set()


def test_importing_the_package_takes_less_than_a_tenth_of_a_second():
    code = (
        "import json, time\nstart = time.perf_counter()\nimport sktransfer\n"
        "print(json.dumps(time.perf_counter() - start))"
    )
    # The fastest of five: other processes may hold the machine up, never speed it up.
    assert min(run_python(code) for _ in range(5)) < MAX_IMPORT_SECONDS


def test_the_package_is_marked_as_typed():
    assert Path(sktransfer.__file__).with_name("py.typed").is_file()
