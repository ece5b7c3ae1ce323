"""FeatureCache, and what an estimator's parameter `cache` means."""

import os
import sqlite3
from numbers import Integral

from sktransfer._cache.database import database
from sktransfer._cache.file import DEFAULT_MAX_BYTES, FileStore
from sktransfer._cache.memory import SHARED

AUTO = "auto"


class FeatureCache:
    """What frozen networks say about images, in a file or in memory.

    For an estimator's parameter `cache`, which also takes the path alone. A file serves
    any number of estimators, workers and sessions at once: each image passes each
    network once. Copies and pickles of a FeatureCache are handles to the same file.

    Parameters
    ----------
    path : str or Path
        A file, which is made at first use; its folder must be there. ``"auto"`` stands
        for the memory that estimators with ``cache="auto"`` share.
    max_bytes : int or "auto", default="auto"
        What the entries of a file may take; ``"auto"`` is 10 GiB. When one fit needs
        more, its first images stay and the rest is computed anew; what earlier fits
        left makes room. Memory is bounded by 512 MiB.

    Attributes
    ----------
    path : str
        The absolute path, or ``"auto"``.

    Notes
    -----
    The file is an SQLite database. While it is in use, two files with endings of their
    own (``-wal``, ``-shm``) stand beside it. It should lie on a disk of the machine:
    few network drives can be relied on when several machines write.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FeatureCache, FeatureExtractorTransformer
    >>> X, _ = load_digits(return_X_y=True)
    >>> folder = tempfile.TemporaryDirectory()
    >>> with FeatureCache(f"{folder.name}/features.sqlite") as cache:
    ...     for _ in range(3):
    ...         features = FeatureExtractorTransformer(cache=cache).fit_transform(X[:9])
    ...     info = cache.info()
    >>> info.entries, info.misses, info.hits
    (9, 9, 18)
    >>> folder.cleanup()
    """

    def __init__(self, path, *, max_bytes="auto"):
        self.path = path if path == AUTO else os.path.abspath(os.fspath(path))
        self.max_bytes = max_bytes
        is_number = isinstance(max_bytes, Integral) and max_bytes > 0
        if self.path == AUTO and max_bytes != AUTO:
            raise ValueError(
                f"Parameter max_bytes: found {max_bytes!r} with path='auto'. Expected "
                "'auto' there, since all estimators share that memory. Pass the path "
                "of a file for a limit of your own."
            )
        if max_bytes != AUTO and not is_number:
            raise ValueError(
                f"Parameter max_bytes: found {max_bytes!r}. Expected 'auto' or a "
                "number of bytes, at least 1."
            )

    def info(self):
        """Count what is there, and what it was good for.

        Returns
        -------
        info : CacheInfo
            A named tuple: number of ``entries`` and the ``bytes`` they take, of at
            most ``max_bytes``; ``hits``, how many times a value was found, and
            ``misses``, how many times one had to be computed, since the cache was made
            or cleared, in all processes; ``kept_entries`` and ``kept_bytes``, what
            fits and predictions under way in this process have read or written so far,
            and keep until they are done.

        Raises
        ------
        FeatureCacheError
            If the file cannot be used.
        """
        return self._ask("info")

    def clear(self):
        """Forget all entries, and count anew.

        Raises
        ------
        FeatureCacheError
            If the file cannot be used.
        """
        self._ask("clear")

    def close(self):
        """Close the file in this process; further use opens it again."""
        if self.path != AUTO:
            database(self.path).close()

    def _ask(self, question):
        store = open_store(self)
        try:
            return getattr(store, question)()
        except sqlite3.Error as error:
            raise store.database.failure(error) from error

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        limit = "" if self.max_bytes == AUTO else f", max_bytes={self.max_bytes!r}"
        return f"FeatureCache({self.path!r}{limit})"

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


def open_store(cache):
    """Return the store that a parameter `cache` other than None means.

    Parameters
    ----------
    cache : "auto", str, Path or FeatureCache
        As the estimators document it.

    Returns
    -------
    MemoryStore or FileStore
        The store.
    """
    if not isinstance(cache, FeatureCache):
        cache = FeatureCache(cache)
    if cache.path == AUTO:
        return SHARED
    limit = DEFAULT_MAX_BYTES if cache.max_bytes == AUTO else int(cache.max_bytes)
    return FileStore(database(cache.path), limit)
