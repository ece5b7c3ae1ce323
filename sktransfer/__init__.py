"""Transfer learning with pretrained vision networks, in scikit-learn's terms.

Importing the package loads nothing but this table: a name's module, and with it torch,
is imported when the name is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sktransfer import backbones, datasets, exceptions, strategies
    from sktransfer._cache.feature_cache import FeatureCache
    from sktransfer._classifier import TransferClassifier
    from sktransfer._engine.heads import MLPHead
    from sktransfer._feature_extractor import FeatureExtractorTransformer
    from sktransfer._images.augmentation import Augmentation
    from sktransfer._regressor import TransferRegressor
    from sktransfer.strategies import (
        FeatureExtraction,
        FineTuning,
        GradualUnfreezing,
        ParameterSharing,
    )

_MODULE_OF = {
    "Augmentation": "sktransfer._images.augmentation",
    "FeatureCache": "sktransfer._cache.feature_cache",
    "FeatureExtraction": "sktransfer.strategies",
    "FeatureExtractorTransformer": "sktransfer._feature_extractor",
    "FineTuning": "sktransfer.strategies",
    "GradualUnfreezing": "sktransfer.strategies",
    "MLPHead": "sktransfer._engine.heads",
    "ParameterSharing": "sktransfer.strategies",
    "TransferClassifier": "sktransfer._classifier",
    "TransferRegressor": "sktransfer._regressor",
}
_SUBMODULES = ("backbones", "datasets", "exceptions", "strategies")

__all__ = [
    "Augmentation",
    "FeatureCache",
    "FeatureExtraction",
    "FeatureExtractorTransformer",
    "FineTuning",
    "GradualUnfreezing",
    "MLPHead",
    "ParameterSharing",
    "TransferClassifier",
    "TransferRegressor",
    "backbones",
    "datasets",
    "exceptions",
    "strategies",
]


def __getattr__(name):
    from importlib import import_module

    if name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name]), name)
    elif name in _SUBMODULES:
        value = import_module(f"sktransfer.{name}")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("sktransfer")
    else:
        raise AttributeError(f"module 'sktransfer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted([*__all__, "__version__"])
