"""What stands for a strategy in a parameter: None, a name, or the object itself."""

from sktransfer.strategies._feature_extraction import FeatureExtraction

NAMES = {"feature_extraction": FeatureExtraction}


def resolve_strategy(strategy):
    """Return the strategy object that a `strategy` parameter means."""
    if strategy is None:
        return FeatureExtraction()
    return NAMES[strategy]() if isinstance(strategy, str) else strategy
