"""What learns: strategies of transfer learning as parameter objects."""

from sktransfer.strategies._feature_extraction import FeatureExtraction

__all__ = ["FeatureExtraction"]
