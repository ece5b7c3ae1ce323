"""Which activation belongs to which image under which network.

The key of a row is the digest of its image's content and of everything that determines
the value. It does not matter how scikit-learn slices, clones or pickles.
"""

import json
from functools import cache
from hashlib import blake2b
from importlib.metadata import version

# Raised whenever a change of the code changes values.
VALUES_VERSION = 4


@cache
def _versions():
    names = ("torch", "torchvision", "pillow")
    return {name: version(name) for name in names}


def fingerprint(**determinants):
    """Digest of everything but the image that determines an activation.

    Parameters
    ----------
    **determinants : JSON values
        Weights and structure of the network, preprocessing, device type, padding ...

    Returns
    -------
    bytes
        The digest; versions of the libraries that compute are part of it.
    """
    values = {"values": VALUES_VERSION, **_versions(), **determinants}
    # Parameters may be numpy's numbers: those of a search over an array are.
    text = json.dumps(values, sort_keys=True, default=lambda number: number.tolist())
    return blake2b(text.encode(), digest_size=20).digest()


def activation_key(content, fingerprint):
    """Key of one image's activation, 20 bytes."""
    return blake2b(content, digest_size=20, key=fingerprint).digest()
