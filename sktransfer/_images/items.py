"""The kinds of image a single row may hold, one small class each.

An item knows where its image comes from and opens it only when asked: `load` returns
the image's source (encoded bytes, PIL image or array) with the bytes that identify its
content, `decode` turns that source into RGB. Files are read once, for both. Where
nobody asks for the content (``keyed=False``) it is None: hashing may take longer than
resizing. `shorter_side` reads no more than a header, and is None without an image.
"""

import io
import os
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from PIL import Image

from sktransfer._images.decode import (
    DecodeError,
    decode_array,
    decode_bytes,
    decode_pil,
    shorter_side,
)

DIGEST_SIZE = 20


def _digest(kind, *parts):
    hasher = blake2b(digest_size=DIGEST_SIZE, person=kind)
    for part in parts:
        hasher.update(part)
    return hasher.digest()


@dataclass(frozen=True)
class MissingItem:
    """None or NaN where an image should be."""

    found: object

    def load(self, keyed=True):  # noqa: ARG002 (one signature for all items)
        """Raise: there is nothing to load."""
        raise DecodeError(f"the image is missing ({self.found!r})")

    def shorter_side(self):
        """Return None: there is no image."""
        return


@dataclass(frozen=True)
class EncodedItem:
    """Encoded bytes of an image file."""

    data: bytes

    def load(self, keyed=True):
        """Return the source and its content key."""
        return self.data, _digest(b"encoded", self.data) if keyed else None

    def decode(self, source, size):
        """Decode the source for a target of `size` pixels."""
        return decode_bytes(source, size)

    def shorter_side(self):
        """Return the shorter side in pixels."""
        return shorter_side(io.BytesIO(self.data))


@dataclass(frozen=True)
class PathItem:
    """A path; the same image has the same key under every path."""

    path: str

    def load(self, keyed=True):
        """Read the file; return its bytes and content key."""
        absolute = os.path.abspath(self.path)
        try:
            with open(absolute, "rb") as file:
                return EncodedItem(file.read()).load(keyed)
        except (OSError, ValueError) as error:
            if "://" in self.path:
                raise DecodeError(
                    f"{self.path}: a URL, and images are not downloaded; save it and "
                    "pass the file's path or its bytes"
                ) from error
            reason = getattr(error, "strerror", None) or str(error)
            where = "" if absolute == self.path else f" (given as {self.path!r})"
            raise DecodeError(f"{absolute}{where}: {reason}") from error

    def decode(self, source, size):
        """Decode the file's bytes; the reason of a failure names the file."""
        try:
            return decode_bytes(source, size)
        except DecodeError as error:
            raise DecodeError(f"{os.path.abspath(self.path)}: {error}") from error

    def shorter_side(self):
        """Return the shorter side in pixels."""
        return shorter_side(self.path)


@dataclass(frozen=True)
class PilItem:
    """A PIL image."""

    image: Image.Image

    def load(self, keyed=True):
        """Bring the image to RGB right away: its pixels are its identity."""
        rgb = decode_pil(self.image)
        if not keyed:
            return rgb, None
        pixels = np.asarray(rgb)
        header = f"{pixels.dtype.str}{pixels.shape}".encode()
        return rgb, _digest(b"pil", header, pixels.tobytes())

    def decode(self, source, size):  # noqa: ARG002 (one signature for all items)
        """Return the source, which is RGB already."""
        return source

    def shorter_side(self):
        """Return the shorter side in pixels."""
        return min(self.image.size)


@dataclass(frozen=True)
class ArrayItem:
    """Pixels of one image, channels last."""

    array: np.ndarray
    value_range: tuple | None = None

    def load(self, keyed=True):
        """Return the pixels and their content key."""
        array = self.array
        if not keyed:
            return array, None
        same = array.dtype == np.uint8 and self.value_range == (0, 255)
        value_range = None if same else self.value_range
        header = f"{array.dtype.str}{array.shape}{value_range}".encode()
        return array, _digest(b"array", header, array.tobytes())

    def decode(self, source, size):  # noqa: ARG002 (one signature for all items)
        """Bring the pixels to RGB."""
        return decode_array(source, self.value_range)

    def shorter_side(self):
        """Return the shorter side in pixels."""
        return min(self.array.shape[:2])


def ready_pixels(item, size):
    """Return the pixels of an item if they are what the network sees, else None.

    Parameters
    ----------
    item : item
        Of any kind.
    size : int
        Height and width, in pixels, that the network sees.

    Returns
    -------
    ndarray of shape (size, size, 3), uint8, or None
        None where the image has to be decoded or resized.
    """
    if not isinstance(item, ArrayItem) or item.value_range not in (None, (0, 255)):
        return None
    is_ready = item.array.dtype == np.uint8 and item.array.shape == (size, size, 3)
    return item.array if is_ready else None
