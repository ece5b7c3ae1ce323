"""The store in a file: bounded, shared, and never wrong, whatever happens to it."""

import json
import os
import sqlite3
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from _processes import output_of, start, succeeds_in_fork

from sktransfer._cache.database import Database, bytes_on_disk
from sktransfer._cache.file import CLAIM_SECONDS, FileStore
from sktransfer.exceptions import FeatureCacheError, FeatureCacheWarning

ROW = np.arange(100, dtype=np.float32)
ROOM_OF_ONE = bytes_on_disk(ROW.nbytes)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")


@pytest.fixture
def open_file(tmp_path):
    """Open stores in one file, each as another process would."""
    opened = []

    def open_(max_bytes=10**9):
        opened.append(FileStore(Database(str(tmp_path / "cache.sqlite")), max_bytes))
        return opened[-1]

    yield open_
    for store in opened:
        store.database.close()


def key(i):
    return f"key {i}".encode()


def keys(numbers):
    return [key(i) for i in numbers]


def fill(store, numbers):
    """Walk over rows as the prefix does; return the numbers that were found."""
    begun, found = store.new_pass(), []
    for i in numbers:
        if begun.get([key(i)])[0] is None:
            begun.put([(key(i), ROW + i)])
        else:
            found.append(i)
    begun.end()
    return found


def sql(store, statement, *values):
    with store.database.transaction() as connection:
        return connection.execute(statement, values).fetchall()


# Values


@pytest.mark.parametrize(
    "value",
    [
        ROW,
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.ones((3, 2, 2), np.float32).transpose(2, 0, 1),
        np.float32([np.nan, -0.0, np.inf]),
        np.zeros((0, 4), np.float32),
        np.array(3.5),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_another_process_gets_the_bits_that_were_put(open_file, value):
    open_file().new_pass().put([(b"a", value)])
    (found,) = open_file().new_pass().get([b"a"])
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    assert found.tobytes() == value.tobytes()
    assert not found.flags.writeable


def test_values_come_in_the_order_of_their_keys(open_file):
    open_file().new_pass().put([(key(i), ROW + i) for i in range(700)])
    order = np.random.default_rng(0).permutation(700)
    found = open_file().new_pass().get([b"absent", *keys(order), key(3)])
    assert found[0] is None
    assert [value[0] for value in found[1:]] == [*order, 3]


@pytest.mark.parametrize(
    "damage",
    [
        "value = substr(value, 1, 396)",
        "value = cast(x'01' || substr(value, 2) as blob)",
        "value = x''",
        "checksum = checksum + 1",
        "shape = '50'",
        "shape = 'x'",
        "dtype = 'nonsense'",
        "dtype = '<i4'",
        "dtype = '|O'",
        "key = cast('key 1' as blob)",
    ],
)
def test_damaged_row_is_a_miss_and_is_written_anew(open_file, damage):
    store = open_file()
    store.new_pass().put([(key(0), ROW + 0.5)])
    sql(store, f"update activations set {damage}")
    asked = key(1) if "key" in damage else key(0)
    begun = open_file().new_pass()
    assert begun.claim([asked]) == ([None], {asked})
    begun.put([(asked, ROW)])
    np.testing.assert_array_equal(store.new_pass().get([asked])[0], ROW)
    assert store.info().entries == 1


# Bounds


def test_first_rows_of_a_pass_stay_when_it_needs_more_than_fits(open_file):
    store = open_file(10 * ROOM_OF_ONE)
    assert fill(store, range(30)) == []
    assert store.info().entries == 10
    for _ in range(3):
        assert fill(open_file(10 * ROOM_OF_ONE), range(30)) == list(range(10))


def test_rows_of_an_earlier_pass_leave_before_those_of_this_one(open_file):
    store = open_file(10 * ROOM_OF_ONE)
    fill(store, range(10))
    begun = store.new_pass()
    assert begun.get([key(0)])[0] is not None  # read: it is of this pass now
    begun.put([(key(i), ROW) for i in range(100, 110)])
    known = [v is not None for v in begun.get(keys([*range(10), *range(100, 110)]))]
    # Nine older rows made room for nine new ones.
    assert known == [True, *[False] * 9, *[True] * 9, False]
    begun.put([(b"one too many", ROW)])
    assert begun.get([b"one too many"]) == [None]


def test_rows_that_were_read_last_leave_last(open_file):
    store = open_file(10 * ROOM_OF_ONE)
    for i in range(10):
        fill(store, [i])
    assert fill(store, [0, 3]) == [0, 3]
    fill(store, range(100, 106))
    known = store.new_pass().get(keys(range(10)))
    assert [i for i in range(10) if known[i] is not None] == [0, 3, 8, 9]


def test_value_larger_than_the_store_pushes_nothing_out(open_file):
    store = open_file(3 * ROOM_OF_ONE)
    fill(store, range(3))
    store.new_pass().put([(b"huge", np.zeros(10_000, np.float32))])
    assert fill(store, range(3)) == [0, 1, 2]


def test_totals_are_those_of_the_rows(open_file):
    store = open_file(20 * ROOM_OF_ONE)
    rng = np.random.default_rng(0)
    for n in (7, 30, 12):
        begun = store.new_pass()
        numbers = rng.integers(0, 40, n)
        begun.put([(key(i), ROW[: 10 + i]) for i in numbers])
    counted = sql(store, "select count(*), sum(size) from activations")
    assert counted == [store.info()[:2]]
    assert store.info().bytes <= 20 * ROOM_OF_ONE


def test_info_counts_for_all_processes_and_what_is_under_way_in_this_one(open_file):
    first = open_file()
    fill(first, [1, 2])
    begun = open_file(10**6).new_pass()
    begun.get(keys([2, 7]))
    begun.put([(key(3), ROW)])
    info = first.info()
    assert info[:5] == (3, 3 * ROOM_OF_ONE, 10**9, 1, 3)
    assert info[5:] == (2, 2 * ROOM_OF_ONE)
    begun.get(keys([1, 2]))
    begun.end()
    assert first.info()[3:] == (3, 3, 0, 0)


def test_clear_gives_the_space_on_the_disk_back(open_file, tmp_path):
    store = open_file()
    fill(store, range(1000))
    store.clear()
    assert store.info() == (0, 0, 10**9, 0, 0, 0, 0)
    store.database.close()
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 200_000
    assert fill(store, range(3)) == []


# Claims


def test_row_is_claimed_by_one_pass_until_it_is_put(open_file):
    one, other = open_file().new_pass(), open_file().new_pass()
    one.put([(b"known", ROW)])
    values, claimed = one.claim([b"known", b"a", b"b"])
    assert claimed == {b"a", b"b"}
    assert values[0] is not None
    assert other.claim([b"a", b"c"]) == ([None, None], {b"c"})
    assert one.claim([b"a"]) == ([None], {b"a"})  # one's own is not in the way
    assert other.busy([b"a"])
    assert not one.busy([b"a"])
    one.put([(b"a", ROW)])
    assert not other.busy([b"a"])
    assert other.claim([b"a"])[1] == set()


@pytest.mark.parametrize("how", ["release", "end", "is lost"])
def test_claim_that_is_given_up_is_free(open_file, how):
    one, other = open_file().new_pass(), open_file().new_pass()
    one.claim([b"a"])
    assert other.busy([b"a"])
    if how == "is lost":
        one = None
    else:
        getattr(one, how)()
    assert not other.busy([b"a"])
    assert other.claim([b"a"])[1] == {b"a"}


def test_claim_of_a_row_without_room_is_given_up_too(open_file):
    one, other = open_file(1).new_pass(), open_file(1).new_pass()
    one.claim([b"a"])
    one.put([(b"a", ROW)])
    assert other.claim([b"a"]) == ([None], {b"a"})


def dead_process():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@pytest.mark.parametrize(
    ("change", "is_void"),
    [
        ("expires = 1", True),
        pytest.param("pid = {dead}", True, marks=needs_fork),
        ("pid = 1", False),
        ("host = 'another machine', pid = {dead}", False),
        ("host = 'another machine', expires = 1", True),
    ],
)
def test_claim_is_void_when_it_has_expired_or_its_process_is_gone(
    open_file, change, is_void
):
    one, other = open_file().new_pass(), open_file().new_pass()
    one.claim([b"a"])
    dead = dead_process() if "{dead}" in change else None
    sql(one.store, "update claims set " + change.format(dead=dead))
    assert other.busy([b"a"]) != is_void
    assert (other.claim([b"a"])[1] == {b"a"}) == is_void


def test_claim_lasts_while_its_pass_goes_on_writing(open_file):
    one = open_file().new_pass()
    one.claim([b"a", b"b"])
    sql(one.store, "update claims set expires = ?", time.time() + 1)
    one.put([(b"a", ROW)])
    ((expires,),) = sql(one.store, "select expires from claims")
    assert expires > time.time() + CLAIM_SECONDS / 2


def test_who_lost_a_claim_does_not_end_that_of_another(open_file):
    one, other = open_file().new_pass(), open_file().new_pass()
    one.claim([b"a"])
    sql(one.store, "update claims set expires = 1")
    assert other.claim([b"a"])[1] == {b"a"}
    one.release()
    assert one.busy([b"a"])


def test_who_waits_goes_on_when_the_row_is_there(open_file):
    one, other = open_file().new_pass(), open_file().new_pass()
    one.claim([b"a"])

    def wait():
        other.wait([b"a", b"b"])
        return other.get([b"a"])[0]

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        time.sleep(0.05)
        assert not waiting.done()
        one.put([(b"a", ROW)])
        np.testing.assert_array_equal(waiting.result(60), ROW)


def test_many_threads_may_use_one_pass(open_file):
    begun = open_file().new_pass()

    def work(start):
        for i in range(start, start + 20):
            values, claimed = begun.claim(keys([i, i + 5]))
            begun.put([(k, ROW + int(k.split()[1])) for k in claimed])
            for n, value in zip((i, i + 5), values, strict=True):
                assert value is None or value[0] == n

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(0, 60, 10)))
    found = begun.get(keys(range(75)))
    assert [value[0] for value in found] == list(range(75))
    assert begun.store.info().entries == 75


# Failures in the middle


def limit_file(store, spare=0):
    """Let the file be full: SQLite itself then refuses as on a full disk."""
    with store.database.connection() as connection:
        (pages,) = connection.execute("pragma page_count").fetchone()
        connection.execute(f"pragma max_page_count = {pages + spare}")


def test_full_disk_is_a_warning_and_what_is_known_stays_known(open_file):
    store, other = open_file(), open_file().new_pass()
    fill(store, range(5))
    begun = store.new_pass()
    limit_file(store)
    rows = [(key(i), np.zeros(20_000, np.float32)) for i in range(100, 110)]
    begun.claim([k for k, _ in rows])
    with pytest.warns(FeatureCacheWarning, match="full.*not kept") as caught:
        begun.put(rows)
    begun.put(rows)
    assert len(caught) == 1
    assert begun.get(keys([3]))[0][0] == 3
    assert begun.claim([key(200)]) == ([None], {key(200)})
    begun.put([(key(200), ROW)])
    begun.end()
    assert other.claim(keys(range(100, 110)))[1] == set(keys(range(100, 110)))
    assert fill(open_file(), range(5)) == list(range(5))


def test_file_that_breaks_in_the_middle_is_a_warning_and_no_value_is_wrong(open_file):
    store = open_file()
    fill(store, range(200))
    store.database.close()
    begun = store.new_pass()
    assert begun.get([key(0)])[0] is not None
    size = os.path.getsize(store.database.path)
    with open(store.database.path, "r+b") as file:
        file.seek(16384)
        file.write(b"\xff" * (size - 16384))
    store.database.close()  # or SQLite would not look at the file again
    with pytest.warns(FeatureCacheWarning, match="fails"):
        found = begun.get(keys(range(200)))
    for i, value in enumerate(found):
        assert value is None or value[0] == i
    assert None in [v if v is None else 0 for v in found]
    assert begun.claim([key(999)]) == ([None], {key(999)})
    begun.put([(key(999), ROW)])
    assert not begun.busy([key(999)])
    begun.end()


@pytest.mark.parametrize("missing", [1, 100, 16384, 40_000, 0.3])
def test_truncated_file_is_refused_or_gives_right_values_only(open_file, missing):
    store = open_file()
    store.new_pass().put([(key(i), ROW + i) for i in range(200)])
    store.database.close()
    size = os.path.getsize(store.database.path)
    cut = size - missing if missing >= 1 else int(size * missing)
    os.truncate(store.database.path, cut)
    found = [None]
    with suppress(FeatureCacheError), warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatureCacheWarning)
        found = open_file().new_pass().get(keys(range(200)))
    assert all(v is None or v[0] == i for i, v in enumerate(found))
    assert missing < 200 or None in [v if v is None else 0 for v in found]


# Other processes


@needs_fork
def test_forked_process_opens_the_file_for_itself(open_file):
    store = open_file()
    fill(store, range(5))
    with store.database.connection() as in_use:
        in_use.execute("select 1")

        def work():
            return fill(store, range(3, 8)) == [3, 4] and store.info().entries == 8

        assert succeeds_in_fork(work)
    assert fill(store, range(10)) == list(range(8))
    assert sql(store, "pragma integrity_check") == [("ok",)]


# Imports no torch, so that it starts quickly.
WORKER = """
import json, sys, time
import numpy as np
from sktransfer._cache.database import Database
from sktransfer._cache.file import FileStore

begun = FileStore(Database(sys.argv[1]), 10**9).new_pass()
numbers = list(map(int, sys.argv[2:]))
print("ready", flush=True)
sys.stdin.readline()
computed, left = [], [f"key {i}".encode() for i in numbers]
while left:
    others = []
    for start in range(0, len(left), 8):
        some = left[start : start + 8]
        values, claimed = begun.claim(some)
        time.sleep(0.004 * len(claimed))
        mine = [key for key in some if key in claimed]
        rows = [np.full(50, int(key.split()[1]), np.float32) for key in mine]
        begun.put(list(zip(mine, rows)))
        computed += [key.decode() for key in mine]
        pairs = zip(some, values)
        others += [k for k, v in pairs if v is None and k not in claimed]
    begun.wait(others)
    left = others
begun.end()
print(json.dumps(computed))
"""


def test_two_processes_on_overlapping_rows_compute_none_twice(open_file):
    store = open_file()
    store.info()  # makes the file
    path = store.database.path
    workers = [
        start(WORKER, path, *range(0, 240)),
        start(WORKER, path, *range(80, 320)),
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    computed = [json.loads(output_of(worker)) for worker in workers]
    assert sorted(computed[0] + computed[1]) == sorted(f"key {i}" for i in range(320))
    assert min(map(len, computed)) > 80  # both had a share of what they have in common
    assert store.info()[:5:4] == (320, 320)


KILLER = """
import os, random, signal, sqlite3, sys, time
import numpy as np
from sktransfer._cache.database import Database
from sktransfer._cache.file import FileStore

path, n, rng = sys.argv[1], 600, random.Random(0)

def row(i):
    return np.random.default_rng(i).random(700, dtype=np.float32)

def work(seed):
    begun = FileStore(Database(path), 10**9).new_pass()
    left = list(range(n))
    random.Random(seed).shuffle(left)
    while left:
        others = []
        for start in range(0, len(left), 16):
            some = {f"{i}".encode(): i for i in left[start : start + 16]}
            values, claimed = begun.claim(list(some))
            for (key, i), value in zip(some.items(), values):
                if value is not None:
                    assert value.tobytes() == row(i).tobytes()
                elif key not in claimed:
                    others.append(i)
            time.sleep(0.003)
            begun.put([(key, row(some[key])) for key in some if key in claimed])
        begun.wait([f"{i}".encode() for i in others])
        left = others

def forked(seed):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work(seed)
            status = 0
        finally:
            os._exit(status)
    return child

workers, kills = [forked(1), forked(2)], 0
while len(workers) or kills < 20:
    victim = forked(10 + kills)
    time.sleep(rng.uniform(0, 0.06))
    os.kill(victim, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(victim, 0)[1])
    for worker in list(workers):
        if os.waitpid(worker, os.WNOHANG)[0]:
            workers.remove(worker)
    if kills > 5 and not workers:
        break
begun = FileStore(Database(path), 10**9).new_pass()
found = begun.get([f"{i}".encode() for i in range(n)])
assert all(v.tobytes() == row(i).tobytes() for i, v in enumerate(found))
connection = sqlite3.connect(path)
print(*connection.execute("pragma integrity_check").fetchone(), kills)
"""


@needs_fork
def test_processes_killed_while_writing_leave_the_file_whole(tmp_path):
    path = tmp_path / "cache.sqlite"
    verdict, kills = output_of(start(KILLER, path)).split()
    assert verdict == "ok"
    assert int(kills) > 5


def test_file_can_be_read_by_any_sqlite(open_file):
    store = open_file()
    fill(store, [1])
    plain = sqlite3.connect(store.database.path)
    assert plain.execute("select key from activations").fetchall() == [(key(1),)]
    plain.close()


@pytest.mark.parametrize("width", [10, 576, 1024, 2048, 4096, 8000, 9216, 50176])
def test_limit_is_that_of_the_file(tmp_path, width):
    path = tmp_path / "cache.sqlite"
    store = FileStore(Database(str(path)), 10**9)
    n = max(64, 3_000_000 // (4 * width))
    of_pass = store.new_pass()
    for first in range(0, n, 64):
        rows = range(first, min(first + 64, n))
        of_pass.put([(row.to_bytes(20), np.zeros(width, np.float32)) for row in rows])
    info = store.info()
    store.database.close()  # which takes over what is in the log
    assert info.entries == n
    assert info.bytes == n * bytes_on_disk(4 * width)
    assert 0.9 * info.bytes < path.stat().st_size < 1.1 * info.bytes
