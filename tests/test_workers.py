"""Which worker this is, and whether it is one."""

import multiprocessing
import subprocess
import sys
import threading

import distributed
import pytest
from joblib import Parallel, delayed, parallel_config

from sktransfer._workers import has_all_cores, inside_worker, worker_number


def test_the_process_that_one_works_in_is_no_worker():
    assert not inside_worker()
    assert not has_all_cores()


def test_a_thread_of_ones_own_is_no_worker():
    found = []
    thread = threading.Thread(target=lambda: found.append(inside_worker()))
    thread.start()
    thread.join()
    assert found == [False]


def _probe():
    return inside_worker(), has_all_cores()


@pytest.mark.parametrize(
    ("backend", "unlimited"),
    [("loky", False), ("threading", True), ("sequential", None)],
)
def test_workers_of_joblib_are_known_and_who_has_limited_them(backend, unlimited):
    with parallel_config(backend, n_jobs=2):
        found = Parallel()(delayed(_probe)() for _ in range(2))
    expected = (False, False) if unlimited is None else (True, unlimited)
    assert found == [expected] * 2


def _probe_nested():
    return Parallel(n_jobs=2)(delayed(_probe)() for _ in range(2))


def test_threads_inside_a_joblib_process_are_workers_too():
    with parallel_config("loky", n_jobs=2):
        inner = Parallel()(delayed(_probe_nested)() for _ in range(2))
    assert inner == [[(True, True)] * 2] * 2


def test_tasks_of_dask_are_workers():
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with (
        distributed.LocalCluster(processes=False, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.submit(_probe, pure=False).result(timeout=30) == (True, True)
        assert not inside_worker()


def _hold_number(folder, taken, release):
    taken.put(worker_number(folder))
    release.wait(timeout=60)


def test_living_workers_have_different_numbers_and_the_lowest_is_taken_again(tmp_path):
    def start():
        taken, release = multiprocessing.SimpleQueue(), threading.Event()
        thread = threading.Thread(
            target=_hold_number, args=(tmp_path, taken, release), daemon=True
        )
        thread.start()
        return taken.get(), thread, release

    workers = [start() for _ in range(3)]
    assert [number for number, _, _ in workers] == [0, 1, 2]
    _, thread, release = workers[1]
    release.set()
    thread.join()
    number, thread, release = start()
    assert number == 1  # as another process sees it, too:
    code = (
        "from sktransfer._workers import worker_number as number; "
        f"print(number({str(tmp_path)!r}), number())"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert output.stdout.split() == ["3", "3"]  # once a worker has one, it keeps it
    for _, other, its_release in (*workers, (number, thread, release)):
        its_release.set()
        other.join()


def test_worker_has_a_number_even_where_no_file_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    taken = []
    thread = threading.Thread(
        target=lambda: taken.append(worker_number(tmp_path / "file" / "folder"))
    )
    thread.start()
    thread.join()
    assert taken[0] >= 0
