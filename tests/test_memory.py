"""The store inside a process: bounded, fair to a pass that needs too much, locked."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
from _processes import succeeds_in_fork

from sktransfer._cache.memory import _ENTRY_OVERHEAD, SHARED, MemoryStore

ROW = np.arange(100, dtype=np.float32)
ROOM_OF_ONE = ROW.nbytes + _ENTRY_OVERHEAD


def get(store, key):
    return store.new_pass().get([key])[0]


def fill(begun, keys):
    """Walk over rows as the prefix does; return the keys that were found."""
    found = []
    for key in keys:
        if begun.get([key])[0] is None:
            begun.put([(key, ROW)])
        else:
            found.append(key)
    return found


def test_what_is_put_is_got_as_a_read_only_copy():
    store, value = MemoryStore(), ROW.copy()
    store.new_pass().put([("a", value)])
    value[:] = -1
    kept = get(store, "a")
    np.testing.assert_array_equal(kept, ROW)
    assert get(store, "b") is None
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 5


def test_row_of_a_batch_does_not_keep_the_batch_alive():
    store = MemoryStore()
    store.new_pass().put([("a", np.zeros((50, 100), np.float32)[3])])
    assert get(store, "a").base is None


def test_values_come_in_the_order_of_their_keys():
    store = MemoryStore()
    store.new_pass().put([(i, ROW + i) for i in range(5)])
    found = store.new_pass().get([3, 9, 0, 3])
    assert [None if v is None else v[0] for v in found] == [3, None, 0, 3]


def test_first_rows_of_a_pass_stay_when_it_needs_more_than_fits():
    store = MemoryStore(max_bytes=10 * ROOM_OF_ONE)
    assert fill(store.new_pass(), range(30)) == []
    assert len(store) == 10
    for _ in range(3):
        assert fill(store.new_pass(), range(30)) == list(range(10))


def test_rows_of_an_earlier_pass_leave_before_those_of_this_one():
    store = MemoryStore(max_bytes=10 * ROOM_OF_ONE)
    fill(store.new_pass(), range(10))
    begun = store.new_pass()
    fill(begun, [8, 9])  # read: they are of this pass now
    fill(begun, range(100, 108))
    assert fill(begun, [8, 9, *range(100, 108)]) == [8, 9, *range(100, 108)]
    assert begun.get(list(range(8))) == [None] * 8
    begun.put([("one too many", ROW)])
    assert begun.get(["one too many"]) == [None]


def test_row_that_a_later_pass_wrote_stays_its_own_when_an_earlier_one_reads_it():
    store = MemoryStore(max_bytes=2 * ROOM_OF_ONE)
    early, late = store.new_pass(), store.new_pass()
    late.put([("a", ROW)])
    assert early.get(["a"])[0] is not None
    late.put([("b", ROW), ("c", ROW)])
    assert fill(late, ["a", "b"]) == ["a", "b"]


def test_value_larger_than_the_store_pushes_nothing_out():
    store = MemoryStore(max_bytes=3 * ROOM_OF_ONE)
    fill(store.new_pass(), range(3))
    store.new_pass().put([("huge", np.zeros(10_000, np.float32))])
    assert fill(store.new_pass(), range(3)) == [0, 1, 2]


def test_same_key_twice_takes_room_once():
    store = MemoryStore(max_bytes=2 * ROOM_OF_ONE)
    store.new_pass().put([(key, ROW) for key in ("a", "a", "a", "b")])
    assert len(store) == 2


def test_clear_makes_room_and_counts_anew():
    store = MemoryStore(max_bytes=4 * ROOM_OF_ONE)
    begun = store.new_pass()
    fill(begun, range(4))
    store.clear()
    assert len(store) == 0
    assert store.info()[:5] == (0, 0, 4 * ROOM_OF_ONE, 0, 0)
    assert fill(begun, range(10, 14)) == []
    assert len(store) == 4


def test_info_counts_entries_bytes_hits_misses_and_what_is_under_way():
    store = MemoryStore(max_bytes=3 * ROOM_OF_ONE)
    first = store.new_pass()
    fill(first, [1, 2])
    first.end()
    second = store.new_pass()
    fill(second, [2, 3, 4, 5])
    # 5 had no room: 3 and 4 are of this pass, and so is 2, which it read.
    room = 3 * ROOM_OF_ONE
    assert store.info() == (3, room, room, 1, 5, 3, room)
    second.end()
    assert store.info()[5:] == (0, 0)


def test_row_is_claimed_by_one_pass_until_it_is_put():
    store = MemoryStore()
    one, other = store.new_pass(), store.new_pass()
    one.put([("known", ROW)])
    values, claimed = one.claim(["known", "a", "b"])
    assert claimed == {"a", "b"}
    assert values[0] is not None
    assert other.claim(["a", "c"]) == ([None, None], {"c"})
    assert one.claim(["a"]) == ([None], {"a"})  # one's own is not in the way
    assert other.busy(["a"])
    assert not one.busy(["a"])
    one.put([("a", ROW)])
    assert not other.busy(["a"])
    assert other.claim(["a"])[1] == set()


@pytest.mark.parametrize("how", ["release", "end", "is lost"])
def test_claim_that_is_given_up_is_free(how):
    store = MemoryStore()
    one, other = store.new_pass(), store.new_pass()
    one.claim(["a"])
    assert other.busy(["a"])
    if how == "is lost":
        one = None
    else:
        getattr(one, how)()
    assert not other.busy(["a"])
    assert other.claim(["a"])[1] == {"a"}


def test_claim_of_a_row_without_room_is_given_up_too():
    store = MemoryStore(max_bytes=1)
    one, other = store.new_pass(), store.new_pass()
    one.claim(["a"])
    one.put([("a", ROW)])
    assert other.claim(["a"]) == ([None], {"a"})


def test_who_waits_goes_on_when_the_row_is_there():
    store = MemoryStore()
    one, other = store.new_pass(), store.new_pass()
    one.claim(["a"])
    started = Event()

    def wait():
        started.set()
        other.wait(["a", "b"])
        return other.get(["a"])[0]

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        assert started.wait(60)
        assert not waiting.done()
        one.put([("a", ROW)])
        np.testing.assert_array_equal(waiting.result(60), ROW)


def test_many_threads_leave_the_store_whole_and_bounded():
    store = MemoryStore(max_bytes=20 * ROOM_OF_ONE)

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            begun = store.new_pass()
            for key in rng.integers(0, 60, size=30).tolist():
                (value,) = begun.get([key])
                if value is None:
                    begun.put([(key, ROW + key)])
                else:
                    np.testing.assert_array_equal(value, ROW + key)
                assert len(store) <= 20

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(store) > 0
    # The count of bytes has not drifted: exactly twenty rows go in.
    fill(store.new_pass(), range(1000, 1040))
    assert len(store) == 20


def test_numbers_of_passes_grow_in_every_thread():
    store = MemoryStore()
    with ThreadPoolExecutor(8) as pool:
        passes = list(pool.map(lambda _: store.new_pass(), range(500)))
    assert len({begun.number for begun in passes}) == 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_forked_process_waits_for_nobody_that_did_not_come_along():
    SHARED.clear()
    begun = SHARED.new_pass()
    begun.claim([b"a"])
    assert succeeds_in_fork(lambda: SHARED.new_pass().claim([b"a"])[1] == {b"a"})
    assert SHARED.new_pass().busy([b"a"])
    begun.end()
