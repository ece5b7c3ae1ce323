"""Pixels of images -> the batch of numbers that a network sees.

On a CPU each image is converted and normalized while it is in the processor's cache,
straight to its place in the batch: operations on whole batches take longer than small
networks themselves. To other devices 8-bit pixels travel as 8 bits.
"""

from functools import cache

import numpy as np
import torch

# Torch shares work on more elements than this among its threads.
_GRAIN = 32_768


def empty_batch(n, size):
    """Return memory for a batch on the CPU.

    Parameters
    ----------
    n : int
        Number of images.
    size : int
        Height and width of the images, in pixels.

    Returns
    -------
    torch.Tensor of shape (n, 3, size, size), float32
        Not initialized; in channels-last order.
    """
    shape = n, 3, size, size
    like = {"dtype": torch.float32, "memory_format": torch.channels_last}
    return torch.empty(shape, **like)


def normalized_batch(pixels, preprocessing, device, out=None, parallel=True):
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
    parallel : bool, default=True
        On a CPU, whether torch's threads share the work. After it they wait busily for
        more, and take the cores from an engine that has threads of its own. (Threads
        of Python share it no faster than one does it alone.)

    Returns
    -------
    torch.Tensor of shape (b, 3, s, s), float32
        In channels-last order.
    """
    if device.type != "cpu":
        return _normalized_there(pixels, preprocessing, device)
    size = len(pixels[0])
    batch = empty_batch(len(pixels), size) if out is None else out[: len(pixels)]
    # A line of pixels at a time: one pixel has too few values for a vector unit.
    lines = batch.permute(0, 2, 3, 1).view(len(pixels), size, size * 3)
    affine = _affine(preprocessing, size)
    _fill(lines, pixels, affine, size if parallel else max(1, _GRAIN // (3 * size)))
    return batch


def _fill(lines, pixels, affine, n_lines):
    """Normalize images into their places, `n_lines` lines at a time."""
    factors, shift = affine
    for image, place in zip(pixels, lines, strict=True):
        factor = factors[image.dtype == np.uint8]
        for start in range(0, len(image), n_lines):
            part = place[start : start + n_lines]
            some = image[start : start + n_lines].reshape(part.shape)
            if some.flags.writeable and min(some.strides) >= 0:
                part.copy_(torch.from_numpy(some))
            else:  # torch would warn of what nobody does, and knows no mirrored arrays
                part.numpy()[...] = some
            torch.addcmul(shift, part, factor, out=part)


def _affine(preprocessing, size):
    """Return the factors of a line of floats and of uint8, and what is added then."""
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64).repeat(size)
    std = torch.tensor(preprocessing.std, dtype=torch.float64).repeat(size)
    factors = [(1 / std).float(), (1 / (255 * std)).float()]
    return factors, (-mean / std).float()


def _normalized_there(pixels, preprocessing, device):
    if any(p.dtype != np.uint8 for p in pixels):
        pixels = [
            p.astype(np.float32) / np.float32(255) if p.dtype == np.uint8 else p
            for p in pixels
        ]
    batch = stacked(pixels, device).permute(0, 3, 1, 2)
    if batch.dtype == torch.uint8:
        batch = batch.float().div_(255)
    numbers = tuple(preprocessing.mean), tuple(preprocessing.std)
    mean, std = _statistics(*numbers, device)
    return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)


@cache
def _statistics(mean, std, device):
    """Mean and standard deviation on a device, sent there once."""
    with torch.inference_mode(False):  # what trains may use them, too
        both = torch.tensor([mean, std], dtype=torch.float32, device=device)
        return list(both.view(2, 1, 3, 1, 1))


def stacked(arrays, device):
    """Stack arrays of one shape into a tensor on a device.

    Parameters
    ----------
    arrays : list of ndarray
        What to stack.
    device : torch.device
        Where the tensor goes.

    Returns
    -------
    torch.Tensor of shape (len(arrays), ...)
        The arrays, of their common dtype.
    """
    if device.type != "cuda":
        return torch.from_numpy(np.stack(arrays)).to(device)
    # A GPU fetches from locked memory by itself. Torch keeps that memory and gives it
    # out again when it has been read.
    dtype = torch.from_numpy(np.empty(0, np.result_type(*arrays))).dtype
    shape = len(arrays), *arrays[0].shape
    with torch.cuda.device(device):  # else the first GPU is woken, too
        host = torch.empty(shape, dtype=dtype, pin_memory=True)
    np.stack(arrays, out=host.numpy())
    return host.to(device, non_blocking=True)
