"""Random crops, flips and colours for one batch, in a few tensor operations.

One `grid_sample` a batch does crop, flip and resize at once: 64 images cost about
10 ms, so that the network stays the slow part even on one core.
"""

import math

import torch
from torch.nn import functional

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
# Widths are at most 4/3 of heights, and the other way round.
LOG_RATIO = math.log(4 / 3)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def to_float(images):
    """Bring uint8 (n, h, w, 3) to float32 (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)


def draw_crops(n, generator, scale=(0.35, 1.2)):
    """Draw `n` rectangles, half of them mirrored, as affine maps (n, 2, 3).

    `scale` is the share of the image's area. Shares above one show the whole image
    smaller, with mirrored borders: the network then sees its images at (nearly) their
    own sharpness and not only enlarged, as users' large photographs look after they
    were made small.
    """

    def uniform(low, high):
        return low + (high - low) * torch.rand(n, generator=generator)

    side = uniform(*scale).sqrt()
    ratio = uniform(-LOG_RATIO, LOG_RATIO).mul(0.5).exp()
    width, height = side * ratio, side / ratio
    flip = (torch.rand(n, generator=generator) < 0.5).float() * 2 - 1
    crops = torch.zeros(n, 2, 3)
    crops[:, 0, 0] = width * flip
    crops[:, 1, 1] = height
    crops[:, 0, 2] = uniform(-1, 1) * (1 - width).abs()
    crops[:, 1, 2] = uniform(-1, 1) * (1 - height).abs()
    return crops


def cut(images, crops, size):
    """Cut a rectangle from each image and resize it to `size` px."""
    shape = (len(images), 3, size, size)
    grid = functional.affine_grid(crops, shape, align_corners=False)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def jitter_colours(batch, draws, strength=0.3):
    """Change brightness, contrast and saturation of each image a little, in place.

    `draws` are numbers in [0, 1), shape (3, n).
    """
    factors = 1 + strength * (2 * draws - 1)
    brightness, contrast, saturation = factors.view(3, -1, 1, 1, 1)
    batch.mul_(brightness)
    mean = batch.mean((1, 2, 3), keepdim=True)
    batch.sub_(mean).mul_(contrast).add_(mean)
    grey = batch.mean(1, keepdim=True)
    batch.sub_(grey).mul_(saturation).add_(grey)
    return batch.clamp_(0, 1)


def normalize(batch):
    batch = batch.sub_(MEAN).div_(STD)
    return batch.contiguous(memory_format=torch.channels_last)
