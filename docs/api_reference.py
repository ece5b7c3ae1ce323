"""The public surface, as one data structure: module -> sections -> names.

The API pages are written from it (conf.py), and tests/test_public_api.py compares it with
what the package offers.
"""

API_REFERENCE = {
    "sktransfer": [
        {
            "title": "Estimators",
            "names": ["TransferClassifier", "FeatureExtractorTransformer"],
        },
        {"title": "Strategies", "names": ["FeatureExtraction"]},
    ],
    "sktransfer.strategies": [
        {"title": "What learns", "names": ["FeatureExtraction"]},
    ],
    "sktransfer.backbones": [
        {
            "title": "Pretrained networks by name",
            "names": ["list_backbones", "get_backbone", "register_backbone"],
        },
    ],
    "sktransfer.datasets": [
        {
            "title": "From files to X and y",
            "names": ["load_image_folder", "load_image_table"],
        },
    ],
    "sktransfer.exceptions": [
        {
            "title": "Errors",
            "names": [
                "SktransferError",
                "BackboneNotFoundError",
                "ImageShapeError",
                "InvalidImageError",
                "WeightsDownloadError",
                "WeightsMismatchError",
            ],
        },
    ],
}


def render():
    """Yield (file name, reStructuredText) of the page of each module and their index."""
    pages = [module.replace(".", "_") for module in API_REFERENCE]
    yield "index.rst", _page("API reference", ".. toctree::", "", *_indented(pages))
    for page, (module, sections) in zip(pages, API_REFERENCE.items(), strict=True):
        lines = [f".. currentmodule:: {module}", ""]
        for section in sections:
            lines += [section["title"], "-" * len(section["title"]), ""]
            lines += [".. autosummary::", "   :toctree: generated", ""]
            lines += [*_indented(section["names"]), ""]
        yield f"{page}.rst", _page(module, *lines)


def _page(title, *lines):
    return "\n".join([title, "=" * len(title), "", *lines, ""])


def _indented(names):
    return [f"   {name}" for name in names]
