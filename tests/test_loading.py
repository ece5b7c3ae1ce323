"""Loading: row order, bounded memory, errors and how many threads."""

import os
import threading
import time

import pytest
from joblib import Parallel, delayed, parallel_config

from sktransfer._images.loading import map_ordered, n_threads

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def sleepy(row):
    """The earlier rows take longest."""
    time.sleep(max(0, 8 - row) * 0.002)
    return row


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("ahead", [0, 1, 7, 100])
def test_results_come_in_row_order_whichever_is_done_first(threads, ahead):
    assert list(map_ordered(sleepy, 20, threads, ahead)) == list(range(20))


@pytest.mark.parametrize("threads", [1, 3])
def test_no_rows_give_no_results(threads):
    assert list(map_ordered(sleepy, 0, threads, 4)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_rows_are_in_flight_than_allowed(threads):
    started = []
    results = map_ordered(started.append, 100, threads, 5)
    for taken in range(1, 60):
        next(results)
        time.sleep(0.002)
        assert len(started) <= taken + 5
    results.close()


def test_one_thread_reads_ahead_of_the_caller():
    read = threading.Event()

    def note(row):
        if row == 3:
            read.set()
        return threading.current_thread().name

    results = map_ordered(note, 8, 1, 6)
    assert next(results) != threading.current_thread().name
    assert read.wait(timeout=20)  # while the caller has not asked for the next row
    results.close()


def test_a_single_row_needs_no_thread():
    caller = threading.current_thread()
    assert list(map_ordered(lambda _: threading.current_thread(), 1, 2, 4)) == [caller]


def test_rows_are_read_in_several_threads_at_once():
    together = threading.Barrier(3, timeout=20)
    assert len(list(map_ordered(lambda _: together.wait(), 3, 3, 3))) == 3


@pytest.mark.parametrize("threads", [1, 3])
def test_error_comes_after_the_rows_before_it_and_ends_the_reading(threads):
    started = []

    def fails_at_four(row):
        started.append(row)
        if row == 4:
            raise OSError("row 4")
        return row

    results = map_ordered(fails_at_four, 1000, threads, 6)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="row 4"):
        next(results)
    assert len(started) <= 4 + 6 + 1


@pytest.mark.parametrize("finished", [False, True])
def test_no_thread_is_left_behind(finished):
    before = threading.active_count()
    results = map_ordered(sleepy, 30, 3, 3)
    next(results)
    assert threading.active_count() > before
    if finished:
        list(results)
    else:
        results.close()
    assert threading.active_count() == before


def test_number_of_threads_follows_scikit_learns_convention():
    assert n_threads(None) == min(4, CORES)
    assert n_threads(3) == 3
    assert n_threads(-1) == CORES
    assert n_threads(-1000) == 1


def test_zero_threads_are_an_error_that_says_what_is_possible():
    with pytest.raises(ValueError, match=r"Parameter n_jobs: found 0\. Expected None"):
        n_threads(0)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_inside_a_joblib_worker_one_thread_reads_unless_told(backend):
    with parallel_config(backend):
        numbers = Parallel(n_jobs=2)(delayed(n_threads)(n) for n in (None, None, 3))
    assert numbers == [1, 1, 3]
