"""The store inside a process: locked, bounded, shared by all estimators.

When one pass over images needs more than fits, its first rows stay and the rest is
computed anew: under repeated scans plain least-recently-used eviction would have thrown
out every row just before it is asked for again. So a pass may push out what earlier
passes left, never what it has read or written itself.
"""

from collections import OrderedDict
from itertools import count
from threading import Lock

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
        self._n_bytes = 0
        self._numbers = count()
        self._lock = Lock()

    def __len__(self):
        return len(self._entries)

    def __bool__(self):
        return True  # an empty store is one, too

    def new_pass(self):
        """Return the number of a new pass over images."""
        return next(self._numbers)

    def get(self, key, number):
        """Return a value, or None; a value read in a pass stays through that pass."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries[key] = max(number, entry[0]), entry[1]
            self._entries.move_to_end(key)
            return entry[1]

    def put(self, key, value, number):
        """Keep a value if there is room, or room that an earlier pass left."""
        value = value.copy()
        value.setflags(write=False)
        size = value.nbytes + _ENTRY_OVERHEAD
        with self._lock:
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

    def clear(self):
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._n_bytes = 0


class StorePass:
    """A store as one pass over images sees it.

    Parameters
    ----------
    store : MemoryStore
        The store.
    """

    def __init__(self, store):
        self._store, self._number = store, store.new_pass()

    def get(self, key):
        """Return a value, or None; what is read stays through this pass."""
        return self._store.get(key, self._number)

    def put(self, key, value):
        """Keep a value if there is room, or room that an earlier pass left."""
        self._store.put(key, value, self._number)


SHARED = MemoryStore()
