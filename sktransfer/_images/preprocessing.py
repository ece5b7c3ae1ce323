"""How one image becomes the pixels that a network was trained on.

The numbers travel with the weights. Files and arrays take one road, torchvision's own
resizing on PIL images, so an image gives the same features whether it comes as a file
or as an array. 8-bit images stay 8-bit up to the network; others go through PIL's float
mode and are neither clipped nor rounded.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Longer by this factor than broad; enlarged they take some hundred megabytes.
_THIN = 256


def _plain(value):
    """Turn lists and arrays into tuples, and numpy's numbers into Python's."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Preprocessing:
    """What has to be done to an image before a network may see it.

    Parameters
    ----------
    image_size : int, default=224
        Height and width of the network's input, in pixels.
    resize_size : int, default=256
        With ``resize="crop"``, length in pixels of the shorter side before the centre
        crop.
    mean, std : tuple of 3 floats
        Channel statistics of the training images, for values in [0, 1].
    interpolation : str, default="bilinear"
        PIL's name of the resampling filter.
    resize : {"crop", "squash"}, default="crop"
        Shorter side to ``resize_size`` and centre crop, or straight to the square.
    larger_size : int or None, default=None
        A second `image_size` at which the weights serve, for images that are nearer to
        it themselves.
    """

    image_size: int = 224
    resize_size: int = 256
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    interpolation: str = "bilinear"
    resize: str = "crop"
    larger_size: int | None = None

    @classmethod
    def from_torchvision(cls, transforms):
        """Read the numbers of a torchvision ``ImageClassification`` preset."""
        return cls(
            image_size=transforms.crop_size[0],
            resize_size=transforms.resize_size[0],
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            interpolation=transforms.interpolation.value,
        )

    @classmethod
    def from_dict(cls, values):
        """Build from a dict, as stored beside weights; lists become tuples."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(
                f"Unknown preprocessing entries {unknown}; there are "
                f"{sorted(cls.__dataclass_fields__)}."
            )
        return cls(**{name: _plain(value) for name, value in values.items()})

    def to_dict(self):
        """Return the fields as a dict."""
        return asdict(self)

    def adapted(self, image_size=None, resize="auto"):
        """Return the same preprocessing at another size or with another resize."""
        changes = {}
        if image_size is not None:
            image_size = int(image_size)  # numpy's own are no JSON
            scale = image_size / self.image_size
            changes["resize_size"] = max(image_size, round(self.resize_size * scale))
            changes["image_size"], changes["larger_size"] = image_size, None
        if resize != "auto":
            changes["resize"] = resize
        return replace(self, **changes)

    def size_for(self, shorter_sides):
        """Return the size that is nearest to the images' own.

        Parameters
        ----------
        shorter_sides : callable
            Returns those of some images, in pixels, where two sizes make it worth
            looking; their median is what counts.

        Returns
        -------
        int
            `image_size` or `larger_size`.
        """
        sides = [] if self.larger_size is None else shorter_sides()
        if not sides:
            return self.image_size
        median = np.median(sides)
        sizes = self.larger_size, self.image_size  # the former if it is a tie
        return min(sizes, key=lambda size: abs(size - median))

    @property
    def decode_size(self):
        """Shorter side in pixels below which decoding must not shrink an image."""
        return self.image_size if self.resize == "squash" else self.resize_size

    def pixels(self, image):
        """Resize one image.

        Parameters
        ----------
        image : PIL.Image.Image of mode RGB, or ndarray of shape (H, W) or (H, W, 3)
            An array holds floats and is nominally in [0, 1].

        Returns
        -------
        ndarray of shape (image_size, image_size, 3)
            uint8 for a PIL image, float32 for an array.
        """
        if isinstance(image, np.ndarray):
            planes = image[..., np.newaxis] if image.ndim == 2 else image
            resized = [
                np.asarray(self._resized(Image.fromarray(planes[..., c])))
                for c in range(planes.shape[-1])
            ]
            return np.stack(resized * 3 if len(resized) == 1 else resized, axis=-1)
        return np.asarray(self._resized(image))

    def _resized(self, image):
        from torchvision.transforms import InterpolationMode, functional

        size = self.image_size
        if image.size == (size, size):
            return image
        mode = InterpolationMode(self.interpolation)
        if self.resize == "squash":
            return functional.resize(image, [size, size], mode)
        width, height = image.size
        if max(width, height) > _THIN * min(width, height):
            sides = (height, _THIN * width), (width, _THIN * height)
            # As even or odd as before, or the middle would move by half a pixel.
            part = [min(side, most + (side - most) % 2) for side, most in sides]
            image = functional.center_crop(image, part)
        image = functional.resize(image, [self.resize_size], mode)
        return functional.center_crop(image, [size, size])
