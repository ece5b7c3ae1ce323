"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))  # for api_reference

project = "sktransfer"
author = "sktransfer developers"
copyright = author
release = version = installed_version("sktransfer")

extensions = ["numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
autosummary_generate = True
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
html_theme = "alabaster"


def write_api_pages(*_):
    """Write docs/api from the data in api_reference.py, where it has changed."""
    from api_reference import render

    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    for name, text in render():
        page = folder / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def setup(app):
    """Write the pages before Sphinx looks for them."""
    app.connect("config-inited", write_api_pages)
