"""The public surface, as one data structure: module -> sections -> names.

The API pages are written from it (conf.py), and tests/test_public_api.py compares it
with what the package offers.
"""

_STRATEGIES = [
    "FeatureExtraction",
    "FineTuning",
    "GradualUnfreezing",
    "ParameterSharing",
]

API_REFERENCE = {
    "sktransfer": [
        {
            "title": "Estimators",
            "names": [
                "TransferClassifier",
                "TransferRegressor",
                "FeatureExtractorTransformer",
            ],
        },
        {"title": "Strategies", "names": _STRATEGIES},
        {"title": "Parts of a training", "names": ["Augmentation", "MLPHead"]},
        {"title": "What is computed once", "names": ["FeatureCache"]},
    ],
    "sktransfer.strategies": [
        {"title": "What learns", "names": _STRATEGIES},
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
                "EngineError",
                "FeatureCacheError",
                "ImageShapeError",
                "InvalidImageError",
                "MissingDependencyError",
                "WeightsDownloadError",
                "WeightsMismatchError",
            ],
        },
        {"title": "Warnings", "names": ["FeatureCacheWarning"]},
    ],
}


def render():
    """Yield (file name, text) of the page of each module, and of their index."""
    pages = [module.replace(".", "_") for module in API_REFERENCE]
    yield "index.rst", _page("API reference", ".. toctree::", "", *_indented(pages))
    described = set()  # a name of two modules gets one page of its own
    for page, (module, sections) in zip(pages, API_REFERENCE.items(), strict=True):
        lines = [f".. currentmodule:: {module}", ""]
        for section in sections:
            names = [name for name in section["names"] if name not in described]
            again = [name for name in section["names"] if name in described]
            lines += [section["title"], "-" * len(section["title"]), ""]
            lines += [f"- :obj:`sktransfer.{name}`" for name in again]
            if names:
                lines += [".. autosummary::", "   :toctree: generated", ""]
            lines += [*_indented(names), ""]
            described.update(names)
        yield f"{page}.rst", _page(module, *lines)


def _page(title, *lines):
    return "\n".join([title, "=" * len(title), "", *lines, ""])


def _indented(names):
    return [f"   {name}" for name in names]
