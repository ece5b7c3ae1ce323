"""Random changes of training images: which are drawn, and how they are made.

What happens to an image in a view is a function of (seed, content key of the image,
number of the view) alone, so order, threads, workers and cache do not matter. The
numbers come from a generator made for that view, never from torchvision's random
transforms: these draw from torch's global generator, which would have to be locked and
put back for every image. Users' callables may do so, and therefore run alone.

The crop is cut from the image as it was decoded. Everything else happens at the
network's size, as in the recipes the numbers come from (a shift by 32 pixels is nothing
on a photograph). 8-bit images go through torchvision's operations on PIL images; float
images are changed as floats.
"""

import math
from dataclasses import replace
from hashlib import blake2b
from numbers import Real

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import Interval, StrOptions

from sktransfer._images.decode import DecodeError, decode_pil
from sktransfer._randomness import seeded_globals

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # PIL's, ITU-R 601-2
_JITTERED = ("adjust_brightness", "adjust_contrast", "adjust_saturation")

# TrivialAugment's "wide" space: magnitudes from the first number to the second one in
# 31 steps, with a random sign where the third says so. The names are torchvision's.
_N_BINS = 31
_TRIVIAL = {
    "identity": None,
    "shear_x": (0.0, 0.99, True),
    "shear_y": (0.0, 0.99, True),
    "translate_x": (0.0, 32.0, True),
    "translate_y": (0.0, 32.0, True),
    "rotate": (0.0, 135.0, True),
    "adjust_brightness": (0.0, 0.99, True),
    "adjust_saturation": (0.0, 0.99, True),
    "adjust_contrast": (0.0, 0.99, True),
    "adjust_sharpness": (0.0, 0.99, True),
    "posterize": (8.0, 2.0, False),
    "solarize": (255.0, 0.0, False),
    "autocontrast": None,
    "equalize": None,
}


class Augmentation(BaseEstimator):
    """Random changes of training images, made anew in every epoch.

    They are a function of the estimator's `random_state`, the image and the epoch, not
    of the order of the rows or of the number of workers. Images that are predicted or
    validated on are never changed. Operations come in the order of the parameters.

    Parameters
    ----------
    crop_scale : tuple of two floats or None, default=(0.6, 1.0)
        Smallest and largest share of the image's area that a random crop keeps. The
        crop is resized to the network's input and takes the place of the usual resize
        and centre crop. None does not crop.
    crop_ratio : tuple of two floats, default=(0.75, 1.3333333333333333)
        Smallest and largest ratio of a crop's width to its height. Where images are
        squashed to a square (``resize="squash"``), it is counted after that.
    flip : bool, default=True
        Whether half of the views are mirrored left to right. Pass False where left and
        right mean something: digits, text, one of two hands.
    vertical_flip : bool, default=False
        Whether half of the views are turned upside down, for images without an up.
    rotation : float, default=0.0
        Largest angle, in degrees, of a rotation to either side. Corners that become
        empty are black.
    color_jitter : float, default=0.0
        Largest change, as a share, of brightness, contrast and saturation, which are
        multiplied in random order by numbers from ``1 - color_jitter`` to
        ``1 + color_jitter``.
    policy : {"trivial"} or None, default=None
        ``"trivial"`` is TrivialAugment (wide): one operation out of fourteen, drawn
        anew for every view, at a random strength.

    Notes
    -----
    Images of more than eight bits are not rounded on the way. Operations on colours
    clip them as they clip 8-bit images, at black and white, or at the image's own
    lowest and highest values where these lie beyond.

    References
    ----------
    Szegedy et al., "Going Deeper with Convolutions", CVPR 2015 (the crops); Mueller and
    Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
    ICCV 2021.

    Examples
    --------
    >>> from sktransfer import Augmentation
    >>> Augmentation(flip=False, rotation=10)
    Augmentation(flip=False, rotation=10)
    """

    _parameter_constraints: dict = {
        "crop_scale": ["array-like", None],
        "crop_ratio": ["array-like"],
        "flip": ["boolean"],
        "vertical_flip": ["boolean"],
        "rotation": [Interval(Real, 0, 180, closed="both")],
        "color_jitter": [Interval(Real, 0, 1, closed="both")],
        "policy": [StrOptions({"trivial"}), None],
    }

    def __init__(
        self,
        crop_scale=(0.6, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        flip=True,
        vertical_flip=False,
        rotation=0.0,
        color_jitter=0.0,
        policy=None,
    ):
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.rotation = rotation
        self.color_jitter = color_jitter
        self.policy = policy

    def validate(self):
        """Raise for a parameter out of its range."""
        self._validate_params()
        if self.crop_scale is not None and not _is_range(self.crop_scale, 1):
            raise ValueError(
                f"Parameter crop_scale: found {self.crop_scale!r}. Expected None or "
                "two shares (low, high) of the image's area with 0 < low <= high <= 1."
            )
        if not _is_range(self.crop_ratio, math.inf):
            raise ValueError(
                f"Parameter crop_ratio: found {self.crop_ratio!r}. Expected two ratios "
                "of width to height (low, high) with 0 < low <= high."
            )

    @property
    def decode_factor(self):
        """How many times as many pixels a side needs for the smallest crop."""
        return 1.0 if self.crop_scale is None else 1 / math.sqrt(self.crop_scale[0])


def _is_range(pair, highest):
    if len(pair) != 2 or not all(isinstance(v, Real) for v in pair):
        return False
    return 0 < pair[0] <= pair[1] <= highest and pair[1] != math.inf


NAMES = {
    "light": Augmentation(crop_scale=(0.8, 1.0)),
    "standard": Augmentation(),
    "trivial": Augmentation(policy="trivial"),
}


def resolve_augmentation(augmentation):
    """Return the None, Augmentation or callable that the parameter means, checked."""
    if isinstance(augmentation, str) and augmentation in NAMES:
        return clone(NAMES[augmentation])
    if isinstance(augmentation, Augmentation):
        augmentation.validate()
        return augmentation
    is_object = not isinstance(augmentation, type)
    if augmentation is None or (callable(augmentation) and is_object):
        return augmentation
    error = ValueError if isinstance(augmentation, str) else TypeError
    raise error(
        f"Parameter augmentation: found {augmentation!r}. Expected None, one of "
        f"{', '.join(map(repr, NAMES))}, an Augmentation object, or a callable that "
        "takes an RGB PIL image and returns a PIL image."
    )


def augmented_pixels(augmentation, preprocessing, seed, image, content, view):
    """Change one image at random and resize it; stands for ``preprocessing.pixels``.

    Parameters
    ----------
    augmentation : Augmentation or callable
        As `resolve_augmentation` returns it.
    preprocessing : Preprocessing
        Of the network.
    seed : int
        The estimator's seed.
    image : PIL.Image.Image of mode RGB, or ndarray of shape (H, W) or (H, W, 3)
        As `decode` returns it; it is left as it is.
    content : bytes
        Content key of the image.
    view : int
        Number of the epoch or view.

    Returns
    -------
    ndarray of shape (image_size, image_size, 3)
        uint8 for a PIL image, float32 for an array. A callable gets arrays clipped and
        rounded to eight bits.
    """
    key = f"{int(seed)},{int(view)},".encode() + content
    digest = blake2b(key, digest_size=16, person=b"augmentation").digest()
    number = int.from_bytes(digest, "little")
    if not isinstance(augmentation, Augmentation):
        image = _transformed(augmentation, image, number % 2**64)
        return preprocessing.pixels(image)
    rng = np.random.default_rng(number)
    if augmentation.crop_scale is not None:
        image = _random_crop(augmentation, preprocessing, image, rng)
        preprocessing = replace(preprocessing, resize="squash")
    pixels = preprocessing.pixels(image)
    if augmentation.flip and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if augmentation.vertical_flip and rng.random() < 0.5:
        pixels = pixels[::-1]
    pixels = np.ascontiguousarray(pixels)
    operations = list(_drawn_operations(augmentation, rng))
    if not operations:
        return pixels
    canvas = Image.fromarray(pixels) if pixels.dtype == np.uint8 else pixels
    for operation in operations:
        canvas = _operated(canvas, *operation)
    return np.asarray(canvas)


def _transformed(transform, image, seed):
    """Let a user's callable change an image of its own, alone in the process."""
    if isinstance(image, np.ndarray):
        eight_bits = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        image = Image.fromarray(eight_bits).convert("RGB")
    else:
        image = image.copy()
    with seeded_globals(seed):
        result = transform(image)
    if not isinstance(result, Image.Image):
        shape = f" of shape {tuple(result.shape)}" if hasattr(result, "shape") else ""
        raise TypeError(
            "Parameter augmentation: found a callable that returned "
            f"{type(result).__name__}{shape}. Expected a PIL image: scaling to numbers "
            "and normalizing come later."
        )
    try:
        if 0 in result.size:
            raise DecodeError(f"no pixels, size {result.size}")
        return decode_pil(result)
    except DecodeError as error:
        raise ValueError(
            "Parameter augmentation: found a callable that returned an image that "
            f"cannot be read ({error}). Expected a PIL image, best of mode RGB."
        ) from error


def _random_crop(augmentation, preprocessing, image, rng):
    is_array = isinstance(image, np.ndarray)
    height, width = image.shape[:2] if is_array else image.size[::-1]
    # Where prediction squashes whole images, crops are squashed as much on average.
    shape = width / height if preprocessing.resize == "squash" else 1.0
    ratio = [shape * r for r in augmentation.crop_ratio]
    left, top, w, h = _crop_box(width, height, augmentation.crop_scale, ratio, rng)
    if is_array:
        return image[top : top + h, left : left + w]
    return image.crop((left, top, left + w, top + h))


def _crop_box(width, height, scale, ratio, rng):
    """Draw left, top, width and height of a crop as RandomResizedCrop does."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        stretch = math.exp(rng.uniform(*np.log(ratio)))
        w = round(math.sqrt(area * stretch))
        h = round(math.sqrt(area / stretch))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return int(left), int(top), w, h
    # The image is long or narrow: as much of its middle as the ratio permits.
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    return (width - w) // 2, (height - h) // 2, w, h


def _drawn_operations(augmentation, rng):
    """Yield name, magnitude and interpolation of what is done to one view."""
    if augmentation.rotation:
        angle = rng.uniform(-augmentation.rotation, augmentation.rotation)
        yield "rotate", angle, "bilinear"
    if augmentation.color_jitter:
        strength = augmentation.color_jitter
        for i in rng.permutation(len(_JITTERED)):
            yield _JITTERED[i], rng.uniform(1 - strength, 1 + strength), "nearest"
    if augmentation.policy == "trivial":
        name = list(_TRIVIAL)[rng.integers(len(_TRIVIAL))]
        step, sign = rng.integers(_N_BINS), rng.choice([-1, 1])
        yield name, _trivial_magnitude(name, step, sign), "nearest"


def _trivial_magnitude(name, step, sign):
    """Return what torchvision's function `name` takes at one step of its range."""
    if _TRIVIAL[name] is None:
        return None
    low, high, has_sign = _TRIVIAL[name]
    magnitude = low + (high - low) * int(step) / (_N_BINS - 1)
    magnitude *= int(sign) if has_sign else 1
    if name == "posterize":
        return round(magnitude)
    return 1 + magnitude if name.startswith("adjust") else magnitude


def _operated(image, name, magnitude, interpolation):
    """Do one operation to a PIL image or to an array of floats."""
    from torchvision.transforms import functional

    if name == "identity":
        return image
    if name == "rotate" or name.startswith(("shear", "translate")):
        return _moved(image, name, magnitude, interpolation)
    if isinstance(image, Image.Image):
        arguments = () if magnitude is None else (magnitude,)
        return getattr(functional, name)(image, *arguments)
    low, high = min(0, image.min()), max(1, image.max())
    return np.clip(_recoloured(image, name, magnitude), low, high, dtype=np.float32)


def _moved(image, name, magnitude, interpolation):
    """Rotate, shear or shift; what comes in from outside is black."""
    from torchvision.transforms import InterpolationMode, functional

    if isinstance(image, np.ndarray):
        planes = [Image.fromarray(image[..., c]) for c in range(3)]
        moved = [_moved(plane, name, magnitude, interpolation) for plane in planes]
        return np.stack(moved, axis=-1)
    mode = InterpolationMode(interpolation)
    if name == "rotate":
        return functional.rotate(image, magnitude, mode)
    shift, shear, center = [0, 0], [0.0, 0.0], None
    axis = int(name.endswith("y"))
    if name.startswith("translate"):
        shift[axis] = int(magnitude)
    else:
        shear[axis], center = math.degrees(math.atan(magnitude)), [0, 0]
    return functional.affine(image, 0.0, shift, 1.0, shear, mode, center=center)


def _recoloured(image, name, magnitude):
    """Do to an array of floats what torchvision's `name` does to a PIL image."""
    if name.startswith("adjust"):
        without = _WITHOUT[name](image)
        return without + np.float32(magnitude) * (image - without)
    if name == "posterize":
        # Keeping all 8 bits changes nothing, nor what floats have beyond them.
        step = 2 ** (8 - magnitude) / 255
        return image if magnitude == 8 else np.floor(image / step + 1e-4) * step
    if name == "solarize":
        return np.where(image < magnitude / 255, image, 1 - image)
    if name == "autocontrast":
        low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
        span = np.where(high > low, high - low, 1)
        return np.where(high > low, (image - low) / span, image)
    return np.stack([_equalized(image[..., c]) for c in range(3)], axis=-1)


def _grey(image):
    return (image @ _LUMA)[..., np.newaxis]


def _smooth(image):
    """PIL's filter SMOOTH, which leaves the border as it is."""
    from scipy.ndimage import uniform_filter

    result = image.copy()
    inner = (9 * uniform_filter(image, (3, 3, 1)) + 4 * image) / 13
    result[1:-1, 1:-1] = inner[1:-1, 1:-1]
    return result


# The image without contrast etc.: changes lead towards it or away from it.
_WITHOUT = {
    "adjust_brightness": np.zeros_like,
    "adjust_saturation": _grey,
    "adjust_contrast": lambda image: _grey(image).mean(),
    "adjust_sharpness": _smooth,
}


def _equalized(plane):
    """Replace each value by the share of pixels below it; the highest becomes 1."""
    _, where, counts = np.unique(plane, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        return plane
    below = np.cumsum(counts) - counts
    return (below / below[-1])[where].reshape(plane.shape)
