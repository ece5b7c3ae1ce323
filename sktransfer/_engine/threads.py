"""How many threads torch computes with inside workers."""

from contextlib import contextmanager
from threading import Lock, local

import torch

from sktransfer._workers import has_all_cores

_lock = Lock()
_here = local()
_limited = []  # the process's number of threads, once for each worker inside


@contextmanager
def threads_of_worker():
    """Compute with one thread in a worker that nobody has limited.

    joblib does not tell a thread how many there are. One is never too many, and always
    the same number: with another one, training gives other bits.
    """
    if getattr(_here, "is_limited", False) or not has_all_cores():
        yield
        return
    with _lock:
        # A new thread takes the number that was set last, in whichever thread, when it
        # first asks for it: now, not after another worker has set it back.
        own = torch.get_num_threads()
        _limited.append(_limited[0] if _limited else own)
        torch.set_num_threads(1)
    _here.is_limited = True
    try:
        yield
    finally:
        _here.is_limited = False
        with _lock:
            torch.set_num_threads(_limited.pop())
