"""The file behind a feature cache: its layout, and this process's connections to it.

The file is an SQLite database. Its header holds two numbers: `application_id` tells our
files from all others, `user_version` is the number of the layout. To change the layout:

1. change `_SCHEMA`, and raise `FORMAT` by one;
2. say in CHANGELOG.md that files of the older format are refused. There is no reader
   for them: nothing is in a file that cannot be computed again.

What changes values and not the layout raises `VALUES_VERSION` in `keys.py`: old values
are then never asked for again, and make room for new ones.

Connections wait in a pool, from which a thread takes one for each transaction. So no
two threads share one, threads that come and go need none of their own, and a process
that was forked off starts with an empty pool.
"""

import atexit
import os
import sqlite3
import time
import warnings
from contextlib import closing, contextmanager, suppress

from sktransfer.exceptions import FeatureCacheError, FeatureCacheWarning

FORMAT = 1
_APPLICATION_ID = 0x736B7466  # "sktf"
_BUSY_SECONDS = 60.0
# With larger pages than SQLite's 4 kB, values of 2 kB are written twice as fast; with
# these, three values of 8 kB share one, where smaller ones would hold a single value.
_PAGE_BYTES = 32768
# What a row takes in its page beside the value, and in the two indices.
_ROW_OVERHEAD, _INDEX_OVERHEAD = 50, 60
# `value` comes last: whoever reads the columns before it does not read its pages.
_SCHEMA = (
    """create table activations (
        id integer primary key,
        key blob unique not null,
        last_pass integer not null,
        size integer not null,
        checksum integer not null,
        dtype text not null,
        shape text not null,
        value blob not null
    )""",
    "create index by_last_pass on activations (last_pass)",
    """create table claims (
        key blob primary key,
        host text not null,
        pid integer not null,
        pass integer not null,
        expires real not null
    ) without rowid""",
    """create table totals (
        entries integer, bytes integer, hits integer, misses integer
    )""",
    "insert into totals values (0, 0, 0, 0)",
    f"pragma application_id = {_APPLICATION_ID}",
    f"pragma user_version = {FORMAT}",
)
_WITHOUT_CACHE = "Pass another path, or cache=None to do without."


class Database:
    """One file, and the connections that this process has to it.

    Parameters
    ----------
    path : str
        Absolute path of the file, which is made where there is none.
    """

    def __init__(self, path):
        self.path = path
        self._idle = {}  # process id -> [(connection, identity of its file)]
        self._has_warned = False

    @contextmanager
    def connection(self):
        """Lend a connection; one on which something failed is closed, not reused."""
        # Those of a parent process must be neither used nor closed: they stay in place.
        idle = self._idle.setdefault(os.getpid(), [])
        connection, identity = self._taken(idle)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        idle.append((connection, identity))

    @contextmanager
    def transaction(self):
        """Lend a connection that alone may write, until the block ends."""
        with self.connection() as connection:
            connection.execute("begin immediate")
            yield connection
            connection.execute("commit")

    def failure(self, error):
        """Return our own error for one of SQLite's."""
        return FeatureCacheError(self.path, *_explained(error))

    def close(self):
        """Close what is idle; the next transaction opens the file again."""
        idle = self._idle.get(os.getpid(), [])
        while idle:
            idle.pop()[0].close()

    def _taken(self, idle):
        identity = self._identity()
        while True:
            try:
                connection, opened = idle.pop()
            except IndexError:
                connection = self._open()
                return connection, self._identity()
            if opened == identity:
                return connection, identity
            connection.close()  # somebody deleted the file, or put another in its place

    def _identity(self):
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _open(self):
        self._check_place()
        deadline = time.monotonic() + _BUSY_SECONDS
        with_log = True
        while True:
            try:
                return self._connected(with_log)
            except sqlite3.Error as error:
                # Not all that waits for a lock goes through SQLite's own waiting.
                if _is_busy(error) and time.monotonic() < deadline:
                    time.sleep(0.02)
                elif with_log and self._leaves_log(error):
                    with_log = False
                else:
                    raise self.failure(error) from error

    def _leaves_log(self, error):
        """Turn to a rollback journal, where the log may be what fails."""
        if not isinstance(error, sqlite3.OperationalError):  # the content is at fault
            return False
        with suppress(sqlite3.Error), closing(self._bare_connection()) as connection:
            # Of a single process, the log needs no shared memory.
            connection.execute("pragma locking_mode = exclusive")
            (mode,) = connection.execute("pragma journal_mode = delete").fetchone()
            return mode == "delete"
        return False

    def _check_place(self):
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise FeatureCacheError(
                self.path,
                f"there is no folder {folder!r}",
                f"Make that folder. {_WITHOUT_CACHE}",
            )
        if os.path.isdir(self.path):
            raise FeatureCacheError(
                self.path, "it is a folder", "Pass the path of a file in it."
            )

    def _bare_connection(self):
        # The pool sees to it that only one thread at a time uses a connection.
        return sqlite3.connect(
            self.path, _BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )

    def _connected(self, with_log):
        connection = self._bare_connection()
        try:
            if _is_empty(connection):
                connection.execute(f"pragma page_size = {_PAGE_BYTES}")
                if with_log:
                    connection.execute("pragma journal_mode = wal")
            self._check_layout(connection)
            # What cannot be written fails now, not in the middle of a fit.
            connection.execute("begin immediate")
            connection.execute("rollback")
            self._choose_durability(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_layout(self, connection):
        if _is_empty(connection):
            connection.execute("begin immediate")
            if _is_empty(connection):  # nobody was faster
                for statement in _SCHEMA:
                    connection.execute(statement)
            connection.execute("commit")
        if _number(connection, "application_id") != _APPLICATION_ID:
            raise _foreign(self.path)
        found = _number(connection, "user_version")
        if found != FORMAT:
            raise FeatureCacheError(
                self.path,
                f"it has the format {found}, and this version of sktransfer reads and "
                f"writes the format {FORMAT}",
                "Delete it, or pass another path.",
            )

    def _choose_durability(self, connection):
        (mode,) = connection.execute("pragma journal_mode").fetchone()
        # A crash of the machine may cost WAL the last rows, never the file.
        level = "normal" if mode == "wal" else "full"
        connection.execute(f"pragma synchronous = {level}")
        if mode != "wal" and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"The folder of the feature cache {self.path!r} does not support "
                "SQLite's write-ahead log: a rollback journal is used, with which "
                "workers wait for each other more. A folder on a local disk would not "
                "need it.",
                FeatureCacheWarning,
                stacklevel=2,
            )


def _number(connection, pragma):
    return connection.execute(f"pragma {pragma}").fetchone()[0]


def _is_empty(connection):
    """Whether this is a new file; an empty one counts as new."""
    (tables,) = connection.execute("select count(*) from sqlite_master").fetchone()
    return tables == 0 and _number(connection, "application_id") == 0


def _is_busy(error):
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


def _foreign(path):
    return FeatureCacheError(
        path,
        "it is something else",
        "It was left as it is. Pass another path; a file is made where there is none.",
    )


def _explained(error):
    """Reason and advice for an error of SQLite."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        foreign = _foreign("")
        return foreign.reason, foreign.advice
    if code == sqlite3.SQLITE_CORRUPT:
        return f"it is damaged ({error})", "Delete it; it will be made anew."
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        advice = f"Check the permissions of file and folder. {_WITHOUT_CACHE}"
        return f"it cannot be written ({error})", advice
    return str(error), _WITHOUT_CACHE


def bytes_on_disk(n):
    """Room that a value of `n` bytes takes in the file, up to some percent.

    Parameters
    ----------
    n : int
        Bytes of the value.

    Returns
    -------
    int
        A share of a page, or whole pages and a rest in one that is shared.
    """
    row = n + _ROW_OVERHEAD
    # "Calculations" in SQLite's description of its file format: what a page holds of a
    # row, and how a longer one is spread.
    if row <= _PAGE_BYTES - 35:
        return _PAGE_BYTES // (_PAGE_BYTES // row) + _INDEX_OVERHEAD
    least = (_PAGE_BYTES - 12) * 32 // 255 - 23
    local = least + (row - least) % (_PAGE_BYTES - 4)
    local = local if local <= _PAGE_BYTES - 35 else least
    pages = -(-(row - local) // (_PAGE_BYTES - 4))
    return local + pages * _PAGE_BYTES + _INDEX_OVERHEAD


_databases = {}


def database(path):
    """Return this process's one `Database` of a file."""
    return _databases.setdefault(path, Database(path))


def close_all():
    """Close what is idle: SQLite's own state must not be inherited by a fork."""
    for known in list(_databases.values()):
        known.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=close_all)
atexit.register(close_all)
