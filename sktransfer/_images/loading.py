"""Threads that read, decode and resize, a few rows ahead of the network, in row order.

Threads, not processes: Pillow releases the GIL, and threads also work inside joblib's
workers, where processes may not start processes.
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from sktransfer._workers import inside_worker

_MAX_DEFAULT_THREADS = 4


def n_threads(n_jobs):
    """Return how many threads `n_jobs` means; None is 1 inside a parallel worker.

    Parameters
    ----------
    n_jobs : int or None
        As scikit-learn's; -1 is one thread a core.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ValueError
        If `n_jobs` is 0.
    """
    if n_jobs == 0:
        raise ValueError(
            "Parameter n_jobs: found 0. Expected None, a number of threads, or -1 for "
            "one thread a core."
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = cores or os.cpu_count() or 1
    if n_jobs is None:
        return 1 if inside_worker() else min(_MAX_DEFAULT_THREADS, cores)
    if n_jobs < 0:
        return max(1, cores + 1 + n_jobs)
    return n_jobs


def map_ordered(function, n, threads, ahead):
    """Yield function(0), ..., function(n - 1) in order, computed in threads.

    A single thread, too, works ahead while the caller uses what it has got: reading
    then overlaps computing.

    Parameters
    ----------
    function : callable
        Called with a number; what it does should take longer than waking a thread.
    n : int
        How many there are.
    threads : int
        Number of threads.
    ahead : int
        How many results may wait: memory is bounded by this, not by n.

    Yields
    ------
    object
        The results in order.
    """
    if n == 1:  # nothing to overlap
        yield function(0)
        return
    waiting = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="sktransfer") as pool:
        try:
            for i in range(n):
                waiting.append(pool.submit(function, i))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
