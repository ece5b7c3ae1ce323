"""What the engine sees of a store: one pass over images, and what is said about it.

A row is claimed before it is computed, so that of several workers only one computes it:
the others take rows that nobody has claimed, and wait for the rest at the end. Whoever
waits holds no claim, so nobody waits for ever.
"""

import time
from abc import ABC, abstractmethod
from typing import NamedTuple

_SHORTEST_WAIT, _LONGEST_WAIT = 0.002, 0.1


class StorePass(ABC):
    """One pass over images; several threads may use it."""

    # Whether looking a row up takes less than waking another thread.
    in_memory = False

    @abstractmethod
    def get(self, keys):
        """Look values up.

        Parameters
        ----------
        keys : list of bytes
            Keys.

        Returns
        -------
        list of ndarray or None
            One for each key; what is found stays in the store through this pass.
        """

    @abstractmethod
    def claim(self, keys):
        """Look values up, and claim those that nobody has and nobody computes.

        Parameters
        ----------
        keys : list of bytes
            Keys.

        Returns
        -------
        values : list of ndarray or None
            As `get` returns it.
        claimed : set of bytes
            Keys that are to be computed and `put`; what is in neither, others compute.
        """

    @abstractmethod
    def put(self, pairs):
        """Keep what was computed, where there is room, and give up its claims.

        Parameters
        ----------
        pairs : list of (bytes, ndarray)
            Keys and values.
        """

    @abstractmethod
    def busy(self, keys):
        """Whether another pass computes one of these.

        Parameters
        ----------
        keys : list of bytes
            Keys.

        Returns
        -------
        bool
            False where all claims were fulfilled, given up, or have expired.
        """

    @abstractmethod
    def release(self):
        """Give up the claims of this pass that were not fulfilled."""

    def end(self):
        """Say that the pass is over: later ones may push out what it kept."""
        self.release()

    def wait(self, keys):
        """Return when nobody else computes any of these.

        Parameters
        ----------
        keys : list of bytes
            Keys that others had claimed.
        """
        seconds = _SHORTEST_WAIT
        while self.busy(keys):
            time.sleep(seconds)
            seconds = min(2 * seconds, _LONGEST_WAIT)


class CacheInfo(NamedTuple):
    """What a store holds, and what it was good for.

    Parameters
    ----------
    entries : int
        Number of values.
    bytes : int
        What they take.
    max_bytes : int
        What they may take.
    hits : int
        How many times a value was found.
    misses : int
        How many times one had to be computed.
    kept_entries, kept_bytes : int
        What passes under way in this process have read or written so far: it stays
        until they are done.
    """

    entries: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int
    kept_entries: int
    kept_bytes: int
