"""Pixels of images -> the batch of numbers that a network sees.

On a CPU each image is converted and normalized while it is in the processor's cache,
straight to its place in the batch: operations on whole batches take longer than small
networks themselves. To other devices 8-bit pixels travel as 8 bits.
"""

import numpy as np
import torch


def empty_batch(n, size, channels_last=True):
    """Return memory for a batch on the CPU.

    Parameters
    ----------
    n : int
        Number of images.
    size : int
        Height and width of the images, in pixels.
    channels_last : bool, default=True
        Whether the values of one pixel stand side by side, else planes do.

    Returns
    -------
    torch.Tensor of shape (n, 3, size, size), float32
        Not initialized.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(n, 3, size, size, memory_format=layout)


def normalized_batch(pixels, preprocessing, device, out=None):
    """Normalize images into one batch.

    Parameters
    ----------
    pixels : list of ndarray of shape (s, s, 3)
        uint8, or floats nominally in [0, 1].
    preprocessing : Preprocessing
        Whose mean and std are used.
    device : torch.device
        Where the batch goes.
    out : torch.Tensor or None, default=None
        On a CPU, an `empty_batch` of at least as many images to write into; None makes
        a new one.

    Returns
    -------
    torch.Tensor of shape (b, 3, s, s), float32
        In channels-last order, or in that of `out`.
    """
    if device.type != "cpu":
        return _normalized_there(pixels, preprocessing, device)
    size = len(pixels[0])
    batch = empty_batch(len(pixels), size) if out is None else out[: len(pixels)]
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    images = batch.permute(0, 2, 3, 1)
    if images.is_contiguous():
        # A line of pixels at a time: one pixel has too few values for a vector unit.
        parts = images.view(len(pixels), size, size * 3)
        mean, std = mean.repeat(size), std.repeat(size)
    else:
        parts, mean, std = batch, mean.view(3, 1, 1), std.view(3, 1, 1)
    for image, place, part in zip(pixels, images, parts, strict=True):
        place.numpy()[...] = image
        if image.dtype == np.uint8:
            part.div_(255)
        part.sub_(mean).div_(std)
    return batch


def _normalized_there(pixels, preprocessing, device):
    if any(p.dtype != np.uint8 for p in pixels):
        pixels = [
            p.astype(np.float32) / np.float32(255) if p.dtype == np.uint8 else p
            for p in pixels
        ]
    batch = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2)
    if batch.dtype == torch.uint8:
        batch = batch.float().div_(255)
    shape = (1, 3, 1, 1)
    mean = torch.tensor(preprocessing.mean, device=device).view(shape)
    std = torch.tensor(preprocessing.std, device=device).view(shape)
    return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)
