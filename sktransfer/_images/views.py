"""Random views of training images: new ones in every epoch, or some that are fixed.

Fixed views are like images: what a frozen network says about them can be kept. Whether
another fit may use it depends on whether a view can be told apart by plain data, which
a user's callable, and a seed that is drawn anew for each fit, cannot.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from sktransfer._images.augmentation import (
    Augmentation,
    augmented_pixels,
    resolve_augmentation,
)


@dataclass(frozen=True)
class Views:
    """How views of training images are made.

    Parameters
    ----------
    augmentation : Augmentation or callable
        As `resolve_augmentation` returns it.
    seed : int
        With the image and the number of the view it determines a view.
    n : int or None, default=None
        Number of fixed views an image has; None is a new one in each epoch.
    are_lasting : bool, default=False
        Whether another fit means the same by the same `determinants`.
    """

    augmentation: object
    seed: int
    n: int | None = None
    are_lasting: bool = False

    @property
    def decode_factor(self):
        """How much larger than usual images must be decoded."""
        return getattr(self.augmentation, "decode_factor", 1.0)

    def pixels_of(self, preprocessing):
        """Return ``f(image, content, view)``, which gives the pixels of a view."""
        return partial(augmented_pixels, self.augmentation, preprocessing, self.seed)

    def determinants(self):
        """Return JSON values that determine a view, but for image and number."""
        if not self.are_lasting:
            return {"seed": self.seed}
        # Generators promise their numbers for one version of numpy only.
        parameters = repr(sorted(self.augmentation.get_params().items()))
        return {"seed": self.seed, "how": parameters, "numpy": np.__version__}


def view_content(content, view):
    """Content key of one view of an image."""
    return content + int(view).to_bytes(4, "big")


def training_views(augmentation, n_views, random_state, seed):
    """Return the views that an estimator's parameters mean, or None.

    Parameters
    ----------
    augmentation : str, Augmentation, callable or None
        The estimator's.
    n_views : int or None
        Its `augmentation_views`.
    random_state : int, RandomState instance or None
        Its `random_state`; an int means the same views in every fit.
    seed : int
        Seed of this fit.

    Returns
    -------
    Views or None
        None without augmentation.
    """
    augmentation = resolve_augmentation(augmentation)
    if augmentation is None:
        return None
    if n_views is None:
        return Views(augmentation, seed)
    has_seed = hasattr(random_state, "__index__")
    seed = int(random_state) if has_seed else seed
    lasting = has_seed and type(augmentation) is Augmentation
    return Views(augmentation, seed, int(n_views), lasting)
