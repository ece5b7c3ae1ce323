"""Whether this code runs in one of several parallel workers, and in which.

joblib limits the threads of the processes it starts, and dask those of its own, by the
environment. Threads of one process, and processes that were forked, have what the
process had: each would take all cores.
"""

import multiprocessing
import os
import sys
import tempfile
import threading
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout
from joblib.parallel import get_active_backend

_own = threading.local()


def inside_worker():
    """Tell whether this is a task of joblib or dask, beside which others may run."""
    nesting_level = getattr(get_active_backend()[0], "nesting_level", 0)
    return bool(nesting_level) or _inside_dask_task()


def has_all_cores():
    """Tell whether this is a worker whose number of threads nobody has limited."""
    if not inside_worker():
        return False
    in_main_process = multiprocessing.parent_process() is None
    if threading.current_thread() is threading.main_thread():
        is_loky = multiprocessing.current_process().name.startswith("Loky")
        return not in_main_process and not is_loky
    return in_main_process or not _inside_dask_task()


def _inside_dask_task():
    distributed = sys.modules.get("distributed")  # if not, there is no dask worker
    try:
        return distributed is not None and bool(distributed.get_worker())
    except ValueError:
        return False


def worker_number(folder=None):
    """Return the number of this worker: the lowest that no living one has.

    A number is a lock on a file, held as long as the worker lives, so numbers have no
    gaps for long, whoever started the workers.

    Parameters
    ----------
    folder : str, Path or None, default=None
        Where the files are; None is one of this user's for temporary files.

    Returns
    -------
    int
        From 0; the same in further calls.
    """
    if not hasattr(_own, "number"):
        if folder is None:
            user = os.getuid() if hasattr(os, "getuid") else ""
            folder = Path(tempfile.gettempdir(), f"sktransfer-workers-{user}")
        _own.number, _own.lock = _claim(Path(folder))
    return _own.number


def _claim(folder):
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for number in count():
            lock = FileLock(folder / f"{number}.lock")
            try:
                lock.acquire(timeout=0)
                return number, lock
            except Timeout:
                continue
    except OSError:
        return os.getpid(), None  # some number, where no file can be written
