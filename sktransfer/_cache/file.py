"""The store in a file, shared by processes and sessions.

What is written as a batch finishes stays, whatever happens to the process. A value is
read only if its checksum fits. Where the file fails in the middle of a pass, a warning
says so and the pass goes on without it: no fit is lost, and no value is ever wrong.

A claim is a row with the name of its pass and a time at which it expires. It is void
after that time, or when its pass or process is gone. The worst that can come of a claim
that seems void is that two compute the same row.
"""

import os
import socket
import sqlite3
import time
import warnings
import zlib
from contextlib import contextmanager, suppress
from itertools import count
from threading import Lock
from weakref import WeakSet

import numpy as np

from sktransfer._cache.database import bytes_on_disk
from sktransfer._cache.passes import CacheInfo, StorePass
from sktransfer.exceptions import FeatureCacheError, FeatureCacheWarning

DEFAULT_MAX_BYTES = 10 * 2**30
CLAIM_SECONDS = 300.0
_MAX_VARIABLES = 500

_numbers = count()
_passes = WeakSet()  # all that are under way in this process


class FileStore:
    """A bounded mapping of keys to arrays in a file.

    Parameters
    ----------
    database : Database
        The file.
    max_bytes : int
        Upper limit of what the entries take.
    """

    def __init__(self, database, max_bytes):
        self.database, self.max_bytes = database, max_bytes

    def new_pass(self):
        """Begin a pass over images, or raise if the file cannot be used."""
        with self.database.connection():
            begun = _FilePass(self)
        _passes.add(begun)
        return begun

    def info(self):
        """Count what is there; see `CacheInfo`."""
        path = self.database.path
        kept = [p.kept() for p in list(_passes) if p.store.database.path == path]
        kept = {key: size for of_pass in kept for key, size in of_pass.items()}
        with self.database.connection() as connection:
            row = connection.execute("select entries, bytes, hits, misses from totals")
            entries, n_bytes, hits, misses = row.fetchone()
        sizes = len(kept), sum(kept.values())
        return CacheInfo(entries, n_bytes, self.max_bytes, hits, misses, *sizes)

    def clear(self):
        """Forget everything, count anew, and give the space on the disk back."""
        with self.database.transaction() as connection:
            connection.execute("delete from activations")
            connection.execute("delete from claims")
            connection.execute("update totals set entries=0, bytes=0, hits=0, misses=0")
        # Others may be using the file; then its space serves for new entries.
        with suppress(sqlite3.OperationalError), self.database.connection() as free:
            free.execute("vacuum")
            free.execute("pragma wal_checkpoint(truncate)")


class _FilePass(StorePass):
    """One pass over images."""

    def __init__(self, store):
        self.store = store
        # Of all processes, later passes have higher numbers; no two have the same.
        self.number = time.time_ns() // 1000 * 1000 + next(_numbers) % 1000
        self._lock = Lock()
        self._kept = {}  # key -> size, of what this pass has read or written
        self._unmarked = []  # keys that were read and are not of this pass yet
        self._claimed = set()
        self._hits = 0
        self._reads = self._writes = True

    def kept(self):
        """Sizes of what this pass has read or written, by key."""
        with self._lock:
            return dict(self._kept)

    def get(self, keys):
        found = {}
        if self._reads:
            with self._failing_softly(reading=True), self._connection() as connection:
                found = self._select(connection, keys)
        return [found.get(key) for key in keys]

    def claim(self, keys):
        values = self.get(keys)
        wanted = {k for k, v in zip(keys, values, strict=True) if v is None}
        if not wanted or not self._writes:
            return values, wanted
        with self._failing_softly(), self.store.database.transaction() as connection:
            # Others may have been faster since the look above.
            found = self._select(connection, list(wanted))
            claimed = wanted.difference(found, self._others_of(connection, wanted))
            self._insert_claims(connection, claimed)
            values = [found.get(k, v) for k, v in zip(keys, values, strict=True)]
            return values, claimed
        return values, wanted

    def put(self, pairs):
        if not self._writes:
            return
        n_computed, pairs = len(pairs), dict(pairs)
        keys = list(pairs)
        with self._lock:
            hits, self._hits = self._hits, 0
        kept = {}
        with self._failing_softly(), self.store.database.transaction() as connection:
            # Damaged rows, and rows that were computed in spite of a claim.
            self._delete(connection, "key", keys)
            room = self.store.max_bytes - _total_bytes(connection)
            for key, value in pairs.items():
                size = bytes_on_disk(value.nbytes)
                if room < size <= self.store.max_bytes:
                    room += self._evict(connection, size - room)
                if size <= room:
                    _insert(connection, key, value, size, self.number)
                    kept[key], room = size, room - size
            _count(connection, len(kept), sum(kept.values()), hits, n_computed)
            self._end_claims(connection, keys)
        if self._writes:  # otherwise the claims are left to `release`
            with self._lock:
                self._kept.update(kept)
                self._claimed.difference_update(keys)

    def busy(self, keys):
        if not self._reads:
            return False
        with self._failing_softly(reading=True), self._connection() as connection:
            return bool(self._others_of(connection, keys))
        return False

    def release(self):
        with self._lock:
            claimed, self._claimed = self._claimed, set()
            hits, self._hits = self._hits, 0
        if not claimed and not hits:
            return
        with self._failing_softly(), self.store.database.transaction() as connection:
            if _total_bytes(connection) > self.store.max_bytes / 2:
                self._mark(connection)  # somebody may be pushed out soon
            _count(connection, 0, 0, hits, 0)
            self._end_claims(connection, claimed)

    def end(self):
        super().end()
        _passes.discard(self)

    def _connection(self):
        return self.store.database.connection()

    @contextmanager
    def _failing_softly(self, *, reading=False):
        """Do without the file from the first failure on."""
        try:
            yield
        except (sqlite3.Error, FeatureCacheError) as error:
            with self._lock:
                has_warned = not self._writes
                self._writes, self._reads = False, self._reads and not reading
            if not has_warned or reading:
                warnings.warn(
                    f"The feature cache {self.store.database.path!r} fails ({error}). "
                    "Results are the same, but what is computed from here on is not "
                    "kept.",
                    FeatureCacheWarning,
                    stacklevel=2,
                )

    def _select(self, connection, keys):
        """Values by key, as far as they are there and whole."""
        found, kept = {}, {}
        columns = "key, size, checksum, dtype, shape, value"
        for some, places in _portions(keys):
            rows = connection.execute(
                f"select {columns} from activations where key in ({places})", some
            )
            for key, size, *stored in rows.fetchall():
                value = _restored(key, *stored)
                if value is not None:
                    found[key], kept[key] = value, size
        with self._lock:
            self._hits += sum(key in found for key in keys)
            self._unmarked += kept.keys() - self._kept.keys()
            self._kept.update(kept)
        return found

    def _mark(self, connection):
        """Make rows that earlier passes wrote, and this one read, rows of this one."""
        with self._lock:
            keys, self._unmarked = self._unmarked, []
        connection.executemany(
            "update activations set last_pass = ? where key = ? and last_pass < ?",
            [(self.number, key, self.number) for key in keys],
        )

    def _evict(self, connection, n_bytes):
        """Push out the oldest rows of earlier passes; return how much they took."""
        self._mark(connection)
        rows = connection.execute(
            "select id, size from activations where last_pass < ? "
            "order by last_pass, id",
            (self.number,),
        )
        victims, freed = [], 0
        while freed < n_bytes and (row := rows.fetchone()):
            victims.append(row[0])
            freed += row[1]
        rows.close()
        if freed >= n_bytes:
            self._delete(connection, "id", victims)
            return freed
        return 0

    def _delete(self, connection, column, values):
        for some, places in _portions(values):
            where = f"where {column} in ({places})"
            found = connection.execute(
                f"select count(*), coalesce(sum(size), 0) from activations {where}",
                some,
            ).fetchone()
            if found[0]:
                connection.execute(f"delete from activations {where}", some)
                _count(connection, -found[0], -found[1], 0, 0)

    def _others_of(self, connection, keys):
        """Keys that somebody else is computing now."""
        others = set()
        for some, places in _portions(keys):
            rows = connection.execute(
                "select key, host, pid, pass, expires from claims "
                f"where key in ({places})",
                some,
            )
            others.update(key for key, *claim in rows if self._holds(*claim))
        return others

    def _holds(self, host, pid, number, expires):
        """Whether somebody else's claim is still good."""
        if expires <= time.time():
            return False
        if host != socket.gethostname():
            return True
        if pid == os.getpid():
            under_way = any(begun.number == number for begun in list(_passes))
            return under_way and number != self.number
        return _is_alive(pid)

    def _insert_claims(self, connection, keys):
        now = time.time()
        expires = now + CLAIM_SECONDS
        owner = socket.gethostname(), os.getpid(), self.number, expires
        connection.execute("delete from claims where expires < ?", (now,))
        connection.executemany(
            "insert or replace into claims values (?, ?, ?, ?, ?)",
            [(key, *owner) for key in keys],
        )
        with self._lock:
            self._claimed.update(keys)

    def _end_claims(self, connection, keys):
        """Give claims up; those that this pass still has are as good as new."""
        owner = socket.gethostname(), os.getpid(), self.number
        mine = "host = ? and pid = ? and pass = ?"
        connection.executemany(
            f"delete from claims where key = ? and {mine}",
            [(key, *owner) for key in keys],
        )
        connection.execute(
            f"update claims set expires = ? where {mine}",
            (time.time() + CLAIM_SECONDS, *owner),
        )


def _total_bytes(connection):
    return connection.execute("select bytes from totals").fetchone()[0]


def _count(connection, entries, n_bytes, hits, misses):
    connection.execute(
        "update totals set entries = entries + ?, bytes = bytes + ?, "
        "hits = hits + ?, misses = misses + ?",
        (entries, n_bytes, hits, misses),
    )


def _insert(connection, key, value, size, number):
    value = np.asarray(value, order="C")
    dtype, shape = value.dtype.str, ",".join(map(str, value.shape))
    row = key, number, size, _checksum(key, dtype, shape, value), dtype, shape, value
    connection.execute(
        "insert into activations "
        "(key, last_pass, size, checksum, dtype, shape, value) "
        "values (?, ?, ?, ?, ?, ?, ?)",
        row,
    )


def _portions(keys):
    """Keys in portions that fit into one statement, with as many question marks."""
    keys = list(keys)
    for start in range(0, len(keys), _MAX_VARIABLES):
        some = keys[start : start + _MAX_VARIABLES]
        yield some, ",".join("?" * len(some))


def _checksum(key, dtype, shape, value):
    # Of all that makes the array, and of the key under which it stands.
    return zlib.crc32(value, zlib.crc32(key + f"{dtype}{shape}".encode()))


def _restored(key, checksum, dtype, shape, value):
    """Array of a row; None if the row is not what was written."""
    if _checksum(key, dtype, shape, value) != checksum:
        return None
    sides = [int(side) for side in shape.split(",") if side]
    return np.frombuffer(value, dtype).reshape(sides)


def _is_alive(pid):
    if os.name != "posix":  # elsewhere signal 0 is not harmless
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
