"""The teacher: a real ImageNet network, asked about every view that the student sees.

It is the exact MobileNetV2 of `mobilenet_v2-imagenet-tflite-rowsflipped`: its kernels
are turned by 180 degrees, so it wants its images upside down.
"""

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torch.fx.experimental.optimization import fuse


class Teacher(nn.Module):
    """Maps normalized images to its 1,000 logits and its 1,280 pooled features.

    Parameters
    ----------
    weights : pathlib.Path
        Its .safetensors file.
    device : torch.device
        Where it computes; on CUDA with bfloat16.
    """

    def __init__(self, weights, device):
        super().__init__()
        network = torchvision.models.mobilenet_v2(weights=None)
        state = load_file(weights)
        network.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.features = fuse(network.eval().features)
        self.classifier = network.classifier[1]
        self.requires_grad_(False)
        self.to(device, self.dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, batch):
        """Return logits (n, 1000) and features (n, 1280), float32."""
        batch = batch.flip(-2).contiguous(memory_format=torch.channels_last)
        pooled = self.features(batch.to(self.dtype)).mean((2, 3))
        return self.classifier(pooled).float(), pooled.float()
