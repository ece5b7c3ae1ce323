"""The store inside a process: bounded, fair to a pass that needs too much, locked."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sktransfer._cache.memory import _ENTRY_OVERHEAD, MemoryStore

ROW = np.arange(100, dtype=np.float32)
ROOM_OF_ONE = ROW.nbytes + _ENTRY_OVERHEAD


def fill(store, keys, number):
    """Walk over rows as the prefix does; return the keys that were found."""
    found = []
    for key in keys:
        if store.get(key, number) is None:
            store.put(key, ROW, number)
        else:
            found.append(key)
    return found


def test_what_is_put_is_got_as_a_read_only_copy():
    store, value = MemoryStore(), ROW.copy()
    store.put("a", value, store.new_pass())
    value[:] = -1
    kept = store.get("a", store.new_pass())
    np.testing.assert_array_equal(kept, ROW)
    assert store.get("b", store.new_pass()) is None
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 5


def test_row_of_a_batch_does_not_keep_the_batch_alive():
    store = MemoryStore()
    store.put("a", np.zeros((50, 100), np.float32)[3], 0)
    assert store.get("a", 0).base is None


def test_first_rows_of_a_pass_stay_when_it_needs_more_than_fits():
    store = MemoryStore(max_bytes=10 * ROOM_OF_ONE)
    assert fill(store, range(30), store.new_pass()) == []
    assert len(store) == 10
    for _ in range(3):
        assert fill(store, range(30), store.new_pass()) == list(range(10))


def test_rows_of_an_earlier_pass_leave_before_those_of_this_one():
    store = MemoryStore(max_bytes=10 * ROOM_OF_ONE)
    fill(store, range(10), store.new_pass())
    number = store.new_pass()
    fill(store, [8, 9], number)  # read: they are of this pass now
    fill(store, range(100, 108), number)
    assert fill(store, [8, 9, *range(100, 108)], number) == [8, 9, *range(100, 108)]
    assert all(store.get(key, number) is None for key in range(8))
    store.put("one too many", ROW, number)
    assert store.get("one too many", number) is None


def test_row_that_a_later_pass_wrote_stays_its_own_when_an_earlier_one_reads_it():
    store = MemoryStore(max_bytes=2 * ROOM_OF_ONE)
    early, late = store.new_pass(), store.new_pass()
    store.put("a", ROW, late)
    assert store.get("a", early) is not None
    store.put("b", ROW, late)
    store.put("c", ROW, late)
    assert fill(store, ["a", "b"], late) == ["a", "b"]


def test_value_larger_than_the_store_pushes_nothing_out():
    store = MemoryStore(max_bytes=3 * ROOM_OF_ONE)
    fill(store, range(3), store.new_pass())
    store.put("huge", np.zeros(10_000, np.float32), store.new_pass())
    assert fill(store, range(3), store.new_pass()) == [0, 1, 2]


def test_same_key_twice_takes_room_once():
    store = MemoryStore(max_bytes=2 * ROOM_OF_ONE)
    for key in ("a", "a", "a", "b"):
        store.put(key, ROW, 0)
    assert len(store) == 2


def test_clear_makes_room():
    store = MemoryStore(max_bytes=4 * ROOM_OF_ONE)
    number = store.new_pass()
    fill(store, range(4), number)
    store.clear()
    assert len(store) == 0
    assert fill(store, range(10, 14), number) == []
    assert len(store) == 4


def test_many_threads_leave_the_store_whole_and_bounded():
    store = MemoryStore(max_bytes=20 * ROOM_OF_ONE)

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            number = store.new_pass()
            for key in rng.integers(0, 60, size=30).tolist():
                value = store.get(key, number)
                if value is None:
                    store.put(key, ROW + key, number)
                else:
                    np.testing.assert_array_equal(value, ROW + key)
                assert len(store) <= 20

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(store) > 0
    # The count of bytes has not drifted: exactly twenty rows go in.
    fill(store, range(1000, 1040), store.new_pass())
    assert len(store) == 20


def test_numbers_of_passes_grow_in_every_thread():
    store = MemoryStore()
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: store.new_pass(), range(500)))
    assert len(set(numbers)) == 500
