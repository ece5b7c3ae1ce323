"""What learns: strategies of transfer learning as parameter objects."""

from sktransfer.strategies._feature_extraction import FeatureExtraction
from sktransfer.strategies._fine_tuning import FineTuning
from sktransfer.strategies._gradual_unfreezing import GradualUnfreezing
from sktransfer.strategies._parameter_sharing import ParameterSharing

__all__ = ["FeatureExtraction", "FineTuning", "GradualUnfreezing", "ParameterSharing"]
