"""What keeps the code readable: sizes, layout, and no fact in two places.

That imports only go downwards is checked by import-linter (`lint-imports`), whose one
contract is in pyproject.toml.
"""

import ast
import configparser
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sktransfer"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYTHON_FILES = [
    path
    for folder in ("sktransfer", "tests", "docs", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
MAX_FILE_LINES = 400
ESTIMATORS = {"_classifier.py", "_feature_extractor.py", "_regressor.py"}
MAX_BODY_LINES = 40
NAMES_WITHOUT_A_NOUN = {"utils", "helpers", "common", "misc"}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def body_lines(function):
    """Lines of a function without its signature and docstring."""
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_the_walk_finds_the_package():
    assert len(SOURCES) >= 25


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_file_is_too_long(path):
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_FILE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_function_body_is_longer_than_40_lines(path):
    functions = (
        node
        for node in ast.walk(parse(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    lengths = {function.name: body_lines(function) for function in functions}
    if path.name in ESTIMATORS:
        del lengths["__init__"]  # one line a parameter
    assert {n: k for n, k in lengths.items() if k > MAX_BODY_LINES} == {}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(parse(path))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_module_asserts_what_a_user_did(path):
    """Asserts vanish under -O and name nothing."""
    asserts = [n.lineno for n in ast.walk(parse(path)) if isinstance(n, ast.Assert)]
    assert asserts == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_inside_the_package_imports_through_its_root(path):
    through_root = [
        node.lineno
        for node in ast.walk(parse(path))
        if (isinstance(node, ast.ImportFrom) and node.module == "sktransfer")
        or (
            isinstance(node, ast.Import)
            and any(alias.name == "sktransfer" for alias in node.names)
        )
    ]
    if path == PACKAGE / "__init__.py":
        # For type checkers only: the submodules under their own names.
        assert len(through_root) == 1
    else:
        assert through_root == []


def test_every_file_is_named_after_a_noun_of_its_own():
    assert {path.stem for path in SOURCES} & NAMES_WITHOUT_A_NOUN == set()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_have_one_underscore_per_path(path):
    """A private package's modules carry none: the folder's is enough."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    private = [p for p in parts if p.startswith("_") and p != "__init__"]
    assert len(private) <= 1


def test_setup_cfg_only_lays_out_files(setup_cfg):
    assert set(setup_cfg.sections()) == {
        "options",
        "options.packages.find",
        "options.package_data",
        "sdist",
    }
    assert set(setup_cfg["options"]) == {"packages", "include_package_data"}


def test_pyproject_leaves_the_layout_to_setup_cfg(pyproject):
    assert "setuptools" not in pyproject["tool"]
    assert not (ROOT / "setup.py").exists()


def test_every_file_of_package_data_exists(setup_cfg):
    names = setup_cfg["options.package_data"]["sktransfer"].split()
    assert names
    assert [name for name in names if not (PACKAGE / name).is_file()] == []


def test_the_version_stands_in_pyproject_only(pyproject):
    version = re.compile(rf"""["']{re.escape(pyproject["project"]["version"])}["']""")
    assert [relative(p) for p in PYTHON_FILES if version.search(p.read_text())] == []


def test_linters_are_pinned_in_the_lint_extra_only(pyproject):
    pins = pyproject["project"]["optional-dependencies"]["lint"]
    assert all("==" in pin for pin in pins)
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [pin for pin in pins if pin.split("==")[1] in ci] == []


def test_no_requirement_stands_twice(pyproject):
    def names(requirements):
        return [re.match(r"[A-Za-z0-9-]+", r).group().lower() for r in requirements]

    project = pyproject["project"]
    needed = names(project["dependencies"])
    assert needed == sorted(set(needed))
    for extra, requirements in project["optional-dependencies"].items():
        wanted = names(requirements)
        assert len(wanted) == len(set(wanted)), extra
        assert set(wanted) & set(needed) == set(), extra


def test_tools_are_configured_in_pyproject_only():
    others = [
        "pytest.ini",
        "tox.ini",
        "ruff.toml",
        ".ruff.toml",
        ".importlinter",
        ".coveragerc",
        ".pre-commit-config.yaml",
    ]
    assert [name for name in others if (ROOT / name).exists()] == []
