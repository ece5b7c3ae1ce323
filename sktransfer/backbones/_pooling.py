"""How an activation with height and width, or of tokens, becomes a vector."""

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Layout:
    """Which dimensions of one image's activation are height and width, or tokens.

    Images are square, so of three dimensions the two that are equal; (c, h, w) where
    that does not decide. Of two dimensions the first counts the tokens.
    """

    shape: tuple[int, ...]

    @property
    def spatial(self):
        """The dimensions, counted without the batch."""
        if len(self.shape) == 3:
            height, width, last = self.shape
            return (0, 1) if height == width != last else (1, 2)
        return (0,) if len(self.shape) == 2 else ()

    @property
    def positions(self):
        """Number of pixels or tokens."""
        return math.prod(self.shape[d] for d in self.spatial)

    @property
    def channels(self):
        """Number of values at each position."""
        return math.prod(self.shape) // max(1, self.positions)


class Pool(nn.Module):
    """Turn maps and tokens into one vector an image; vectors stay what they are.

    Parameters
    ----------
    pooling : {"avg", "max", "avgmax"}
        The mean over height and width or over tokens, the maximum, or both one after
        the other.
    spatial : tuple of int or None, default=None
        Which dimensions of one image's activation that is; None: those that `Layout`
        says.
    """

    def __init__(self, pooling, spatial=None):
        super().__init__()
        self.pooling, self.spatial = pooling, spatial

    def forward(self, activation):
        """Return the features (b, d) of a batch."""
        spatial = self.spatial
        if spatial is None:
            spatial = Layout(tuple(activation.shape[1:])).spatial
        if not spatial:
            return activation
        dims, parts = tuple(d + 1 for d in spatial), []
        if "avg" in self.pooling:
            parts.append(activation.mean(dims))
        if "max" in self.pooling:
            parts.append(activation.amax(dims))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
