"""torchvision's classification CNNs, through torchvision's own registry."""

from functools import partial

from sktransfer._images.preprocessing import Preprocessing
from sktransfer.backbones._registry import BackboneSpec, WeightsSource

# Transformers cut their images into tokens: they have no last feature map.
_NOT_CONVOLUTIONAL = ("maxvit", "swin", "vit")
# The two networks that bring their input from ImageNet's normalization to (-1, 1)
# themselves, and have training-only branches.
_INCEPTIONS = {"googlenet", "inception_v3"}


def specs():
    """Yield a spec for every classification CNN that torchvision knows."""
    from torchvision import models

    for name in models.list_models(module=models):
        if not name.startswith(_NOT_CONVOLUTIONAL):
            yield BackboneSpec(
                name,
                partial(build, name),
                weights_names=tuple(w.name for w in models.get_model_weights(name)),
                find_weights=partial(find_weights, name),
            )


def build(name):
    """Build the network of this name with random weights."""
    from torchvision import models

    options = {}
    if name in _INCEPTIONS:
        options = {"transform_input": True, "init_weights": True, "aux_logits": False}
    return models.get_model(name, weights=None, **options)


def find_weights(name, weights):
    """Describe torchvision's weights: the address, and their own preprocessing."""
    from torchvision import models

    enum = models.get_model_weights(name)
    member = enum.DEFAULT if weights == "default" else enum[weights]
    return WeightsSource(
        "url",
        member.url,
        f"{enum.__name__}.{member.name}",
        Preprocessing.from_torchvision(member.transforms()),
    )
