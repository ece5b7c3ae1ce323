"""What stands for a strategy in a parameter: None, a name, or the object itself."""

from sktransfer.strategies._feature_extraction import FeatureExtraction
from sktransfer.strategies._fine_tuning import FineTuning
from sktransfer.strategies._gradual_unfreezing import GradualUnfreezing
from sktransfer.strategies._parameter_sharing import ParameterSharing

NAMES = {
    "feature_extraction": FeatureExtraction,
    "fine_tuning": FineTuning,
    "gradual_unfreezing": GradualUnfreezing,
    "parameter_sharing": ParameterSharing,
}


def resolve_strategy(strategy):
    """Return the strategy object that a `strategy` parameter means."""
    if strategy is None:
        return FeatureExtraction()
    return NAMES[strategy]() if isinstance(strategy, str) else strategy
