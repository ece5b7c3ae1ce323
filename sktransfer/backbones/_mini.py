"""`mini`, the backbone that is shipped inside the package.

The trunk of torchvision's mobilenet_v3_small, trained at 80 to 128 px; recipe in
benchmarks/pretraining, card in mini.json. Small images are best at 96 px, larger ones
at 160 px, by the table of sizes in benchmarks/results.
"""

from functools import partial
from pathlib import Path

from sktransfer._images.preprocessing import Preprocessing
from sktransfer.backbones._registry import BackboneSpec, WeightsSource
from sktransfer.backbones._torchvision import build

PATH = Path(__file__).with_name("mini.safetensors")
PREPROCESSING = Preprocessing(
    image_size=96, resize_size=96, resize="squash", larger_size=160
)


def specs():
    """Yield the one spec of this module."""
    yield BackboneSpec(
        "mini",
        partial(build, "mobilenet_v3_small"),
        PREPROCESSING,
        find_weights=find_weights,
    )


def find_weights(weights):  # noqa: ARG001 (there is only "default")
    """Describe the shipped file."""
    return WeightsSource("shipped", PATH.name, "of mini, shipped", PREPROCESSING)
