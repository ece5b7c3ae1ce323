"""The store inside a process: locked, bounded, shared by all estimators.

When one pass over images needs more than fits, its first rows stay and the rest is
computed anew: under repeated scans plain least-recently-used eviction would have thrown
out every row just before it is asked for again. So a pass may push out what earlier
passes left, never what it has read or written itself.
"""

import os
from collections import OrderedDict
from itertools import count
from threading import Lock
from weakref import WeakValueDictionary

from sktransfer._cache.passes import CacheInfo, StorePass

DEFAULT_MAX_BYTES = 512 * 2**20
# Key, dict entry and array object, measured on CPython 3.11.
_ENTRY_OVERHEAD = 300


class MemoryStore:
    """A bounded mapping of keys to read-only arrays.

    Parameters
    ----------
    max_bytes : int, default=512 MiB
        Upper limit of what the entries take.
    """

    def __init__(self, max_bytes=DEFAULT_MAX_BYTES):
        self.max_bytes = max_bytes
        self._entries = OrderedDict()  # key -> (number of the last pass, value)
        self._claims = {}  # key -> number of the pass that computes it
        self._n_bytes = self._hits = self._misses = 0
        self._numbers = count()
        self._passes = WeakValueDictionary()  # number -> pass under way
        self._lock = Lock()

    def __len__(self):
        return len(self._entries)

    def __bool__(self):
        return True  # an empty store is one, too

    def new_pass(self):
        """Begin a pass over images."""
        with self._lock:
            begun = _MemoryPass(self, next(self._numbers))
            self._passes[begun.number] = begun
        return begun

    def info(self):
        """Count what is there; see `CacheInfo`."""
        with self._lock:
            numbers = set(self._passes.keys())
            kept = [v.nbytes for n, v in self._entries.values() if n in numbers]
            return CacheInfo(
                len(self._entries),
                self._n_bytes,
                self.max_bytes,
                self._hits,
                self._misses,
                len(kept),
                sum(kept) + _ENTRY_OVERHEAD * len(kept),
            )

    def clear(self):
        """Forget everything, and count anew."""
        with self._lock:
            self._entries.clear()
            self._n_bytes = self._hits = self._misses = 0

    def survive_forks(self):
        """Let forked processes find the store whole and unlocked, without claims."""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._begin_in_child,
            )

    def _begin_in_child(self):
        self._claims.clear()
        self._lock.release()

    def _claimed_by_other(self, key, number):
        holder = self._claims.get(key, number)
        return holder != number and holder in self._passes

    def _get(self, key, number):
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._hits += 1
        self._entries[key] = max(number, entry[0]), entry[1]
        self._entries.move_to_end(key)
        return entry[1]

    def _put(self, key, value, number):
        size = value.nbytes + _ENTRY_OVERHEAD
        if key in self._entries or size > self.max_bytes:
            return
        while self._n_bytes + size > self.max_bytes:
            if not self._evict_older_than(number):
                return
        self._entries[key] = number, value
        self._n_bytes += size

    def _evict_older_than(self, number):
        oldest = next(iter(self._entries.items()), None)
        if oldest is None or oldest[1][0] >= number:
            return False
        key, (_, value) = oldest
        del self._entries[key]
        self._n_bytes -= value.nbytes + _ENTRY_OVERHEAD
        return True


class _MemoryPass(StorePass):
    """One pass over images."""

    in_memory = True

    def __init__(self, store, number):
        self.store, self.number = store, number

    def get(self, keys):
        with self.store._lock:
            return [self.store._get(key, self.number) for key in keys]

    def claim(self, keys):
        with self.store._lock:
            values = [self.store._get(key, self.number) for key in keys]
            claimed = {
                key
                for key, value in zip(keys, values, strict=True)
                if value is None and not self.store._claimed_by_other(key, self.number)
            }
            self.store._claims.update(dict.fromkeys(claimed, self.number))
        return values, claimed

    def put(self, pairs):
        copies = [(key, value.copy()) for key, value in pairs]
        for _, value in copies:
            value.setflags(write=False)
        with self.store._lock:
            for key, value in copies:
                self.store._misses += 1
                self.store._put(key, value, self.number)
                self._give_up(key)

    def busy(self, keys):
        with self.store._lock:
            return any(self.store._claimed_by_other(k, self.number) for k in keys)

    def release(self):
        with self.store._lock:
            for key in [k for k, n in self.store._claims.items() if n == self.number]:
                self._give_up(key)

    def end(self):
        super().end()
        self.store._passes.pop(self.number, None)

    def _give_up(self, key):
        if self.store._claims.get(key) == self.number:
            del self.store._claims[key]


SHARED = MemoryStore()
SHARED.survive_forks()
