"""One encoded image, PIL image or array -> RGB.

The result is a PIL image of mode RGB where eight bits hold all there is, otherwise a
float32 array of shape (H, W) or (H, W, 3), nominally in [0, 1].
"""

import io
import threading
from functools import cache

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

# Reading these formats starts another program (Ghostscript).
_REFUSED_FORMATS = {"EPS"}
_EPS_REFUSED = "EPS is refused: decoding it would run Ghostscript"
# Pillow knows how these begin and no more.
_NEVER_DECODED_FORMATS = {"BUFR", "GRIB", "HDF5", "MPEG"}
_REFUSED_EXTENSIONS = {".eps", ".ps"}
_SIXTEEN_BIT = 65535.0
_TIFF_BITS_PER_SAMPLE = 258
# Loading fills the image object itself; two rows may hold the same object.
_pil_lock = threading.Lock()


class DecodeError(Exception):
    """One image cannot be read; the message is the reason alone."""


def readable_formats():
    """Names of the formats that may be decoded; plugins may be added at any time."""
    Image.init()
    left_out = _REFUSED_FORMATS | _NEVER_DECODED_FORMATS
    return tuple(name for name in Image.ID if name not in left_out)


def readable_extensions():
    """Lower-case file name endings, with dot, of the formats that may be decoded."""
    # Asked for each file name: found anew only where a plugin has been added.
    return _extensions(len(Image.registered_extensions()), len(Image.ID))


@cache
def _extensions(n_registered, n_formats):  # noqa: ARG001 (what the cache goes by)
    formats, registered = readable_formats(), Image.registered_extensions().items()
    known = frozenset(e.lower() for e, name in registered if name in formats)
    return known - frozenset(_REFUSED_EXTENSIONS)


def decoding_settings():
    """Return the settings of Pillow that decide what counts as broken, if not usual."""
    return {"truncated": True} if ImageFile.LOAD_TRUNCATED_IMAGES else {}


def decode_bytes(data, size):
    """Decode an encoded image; JPEGs are read at a reduced scale where that is enough.

    Parameters
    ----------
    data : bytes
        The encoded image.
    size : int
        Shorter side, in pixels, that the image is going to be resized to. A JPEG is
        reduced while decoding to no less than twice that.

    Returns
    -------
    PIL.Image.Image or ndarray
        As the module says.
    """
    if not data:
        raise DecodeError("empty (0 bytes)")
    if data[:4] == b"%!PS" or data[:4] == b"\xc5\xd0\xd3\xc6":
        raise DecodeError(_EPS_REFUSED)
    try:
        with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
            if image.format in ("JPEG", "MPO"):
                image.draft(image.mode, (2 * size, 2 * size))
            image.load()
            return to_rgb(image)
    except Image.UnidentifiedImageError:
        start = data[:12]
        raise DecodeError(
            f"not an image in a format that Pillow reads ({len(data)} bytes that begin "
            f"with {start!r})"
        ) from None
    except DecodeError:
        raise
    except Exception as error:  # decoders raise whatever they like on broken bytes
        raise DecodeError(
            f"broken image ({type(error).__name__}: {error}; {len(data)} bytes)"
        ) from error


def shorter_side(file):
    """Return the shorter side of an encoded image in pixels, or None if it is broken.

    Parameters
    ----------
    file : str or file object
        Of which no more than the header is read.
    """
    try:
        with Image.open(file, formats=readable_formats()) as image:
            return min(image.size)
    except Exception:  # decoding says what is wrong with it, and with which row
        return None


def decode_pil(image):
    """Bring a PIL image of any mode, with its EXIF orientation applied, to RGB."""
    is_loaded = not getattr(image, "tile", None)
    if image.format in _REFUSED_FORMATS and not is_loaded:
        raise DecodeError(_EPS_REFUSED)
    if 0 in image.size:
        raise DecodeError(f"PIL image of size {image.size}, without a pixel")
    try:
        with _pil_lock:
            image.load()
            rgb = to_rgb(image)
            # The caller's own image, which an augmentation might draw on.
            return image.copy() if rgb is image else rgb
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"broken PIL image ({type(error).__name__}: {error})") from (
            error
        )


def to_rgb(image):
    """Bring a loaded PIL image of any mode to RGB, or to floats if it is deeper."""
    is_deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    white_levels = _white_levels(image) if is_deep else None
    image = _upright(image)
    if white_levels:
        values = np.asarray(image)
        scaled = _scale(values, white_levels)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            scaled[values == transparent] = 1.0  # white paper, as below
        return scaled
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that Pillow converts it to
    if image.has_transparency_data:
        # White, as on paper: what lies hidden under transparent pixels is arbitrary.
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image):
    try:
        # Pillow would copy an image that is upright, as most are.
        is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image if is_upright else ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data say nothing about the orientation
        return image


def _white_levels(image):
    """Values that may mean white in a 16-bit or 32-bit image, lowest first.

    Pillow reads some 16-bit files in its 32-bit mode "I"; those are known to be 16-bit.
    TIFFs of 12 bits come as mode "I;16", unscaled.
    Files of really 32 bits do not say what white is: the first usual level that holds
    all values is taken.
    """
    if image.mode == "F":
        return 1.0, 255.0, _SIXTEEN_BIT
    bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, (16,))[0]
    if bits == 32:
        return 255.0, _SIXTEEN_BIT, 2.0**31 - 1
    return (2.0**bits - 1 if 8 < bits < 16 else _SIXTEEN_BIT,)


def _scale(values, white_levels):
    if not np.isfinite(values).all():
        raise DecodeError("image with NaN or infinite values")
    low, high = values.min(initial=0), values.max(initial=0)
    white = next((level for level in white_levels if high <= level), None)
    if low < 0 or white is None:
        raise DecodeError(
            f"{values.dtype} image with values from {low:g} to {high:g}; expected "
            f"values from 0 to {white_levels[-1]:g}"
        )
    return (values / white).astype(np.float32)


def decode_array(array, value_range):
    """Bring an array of shape (H, W) or (H, W, 1 | 3 | 4) to RGB.

    Parameters
    ----------
    array : ndarray
        Pixels of one image.
    value_range : tuple of two floats or None
        The values that mean black and white; None decides by dtype: (0, 255) for uint8,
        (0, 65535) for uint16, (0, 1) for floats and booleans.

    Returns
    -------
    PIL.Image.Image or ndarray
        As the module says.
    """
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8 and value_range in (None, (0, 255)):
        image = Image.fromarray(array)
        return image if image.mode == "RGB" else to_rgb(image)
    if value_range is None:
        sixteen_bit = array.dtype.newbyteorder("=") == np.uint16
        value_range = (0, _SIXTEEN_BIT) if sixteen_bit else (0, 1)
    low, high = value_range
    span = high - low if high > low else 1.0
    scaled = ((array.astype(np.float64) - low) / span).astype(np.float32)
    if scaled.ndim == 3 and scaled.shape[-1] == 4:
        alpha = _alpha(array, scaled)
        scaled = scaled[..., :3] * alpha + (1 - alpha)
    return scaled


def _alpha(array, scaled):
    """Opacity, from 0 to 1; black and white have no part in what the dtype says."""
    alpha = scaled[..., 3:]
    if array.dtype.kind == "u":
        alpha = (array[..., 3:] / np.iinfo(array.dtype).max).astype(np.float32)
    return alpha.clip(0, 1)
