"""Random views of images, in a few tensor operations on the images' own device.

One `grid_sample` does crop, flip and resize at once. A view knows no size in pixels:
the teacher and the student see the same one, each at a size of its own.
"""

import math
from functools import cache

import torch
from torch.nn import functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Widths are at most 4/3 of heights, and the other way round.
LOG_RATIO = math.log(4 / 3)


class Views:
    """One view of each image: a crop with other colours, perhaps mixed with another.

    Mixing is that of mixup (Zhang et al. 2018), with the next image of the batch.

    Parameters
    ----------
    stacks : list of torch.Tensor of shape (n, s, s, 3), uint8
        The images; each stack has its own size.
    mixed, grey, negative : float
        Shares of the views that are mixed, without colour, or negatives.
    """

    def __init__(self, stacks, mixed=0.0, grey=0.0, negative=0.0):
        self.images = [to_float(stack) for stack in stacks]
        n, device = sum(map(len, stacks)), stacks[0].device
        self.crops = [draw_crops(len(stack), device) for stack in stacks]
        self.colours = torch.rand(3, n, device=device)
        is_grey, is_negative, is_mixed = torch.rand(3, n, device=device).unbind()
        self.grey, self.negative = is_grey < grey, is_negative < negative
        share = 0.5 + 0.5 * torch.rand(n, device=device)
        self.share = torch.where(is_mixed < mixed, share, torch.ones_like(share))

    def pixels(self, size):
        """The views at `size` px, normalized."""
        pairs = zip(self.images, self.crops, strict=True)
        batch = torch.cat([cut(images, crops, size) for images, crops in pairs])
        batch = change_colours(batch, self.colours, self.grey)
        batch = torch.where(self.negative.view(-1, 1, 1, 1), 1 - batch, batch)
        return normalize(self.mix(batch))

    def mix(self, values):
        """Mix rows of values as the pixels are mixed."""
        share = self.share.view(-1, *[1] * (values.ndim - 1))
        return share * values + (1 - share) * values.roll(1, 0)


def to_float(images):
    """Bring uint8 (n, h, w, 3) to float32 (n, 3, h, w) in [0, 1]."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def draw_crops(n, device, scale=(0.35, 1.2)):
    """Draw `n` rectangles, half of them mirrored, as affine maps (n, 2, 3).

    `scale` is the share of the image's area. Shares above one show the whole image
    smaller, with mirrored borders: the network then sees its images at (nearly) their
    own sharpness and not only enlarged, as users' large photographs look after they
    were made small.
    """

    def uniform(low, high):
        return low + (high - low) * torch.rand(n, device=device)

    side = uniform(*scale).sqrt()
    ratio = uniform(-LOG_RATIO, LOG_RATIO).mul(0.5).exp()
    width, height = side * ratio, side / ratio
    flip = (torch.rand(n, device=device) < 0.5).float() * 2 - 1
    crops = torch.zeros(n, 2, 3, device=device)
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


def change_colours(batch, draws, is_grey, strength=0.3):
    """Change brightness, contrast and saturation of each image a little, in place.

    `draws` are numbers in [0, 1), shape (3, n); `is_grey` images lose all colour.
    """
    factors = 1 + strength * (2 * draws - 1)
    factors[2].masked_fill_(is_grey, 0)
    brightness, contrast, saturation = factors.view(3, -1, 1, 1, 1)
    batch.mul_(brightness)
    mean = batch.mean((1, 2, 3), keepdim=True)
    batch.sub_(mean).mul_(contrast).add_(mean)
    grey = batch.mean(1, keepdim=True)
    batch.sub_(grey).mul_(saturation).add_(grey)
    return batch.clamp_(0, 1)


def normalize(batch):
    """Bring [0, 1] to ImageNet's statistics, in channels-last order."""
    mean, std = _statistics(batch.device)
    return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)


@cache
def _statistics(device):
    return [torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD)]
