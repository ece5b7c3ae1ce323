"""What training sees of each image: batches, order, the store, and broken images."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sktransfer._cache.memory import _ENTRY_OVERHEAD, MemoryStore
from sktransfer._engine.activations import Activations
from sktransfer._engine.data import Rows, batches, epoch_order, split_batches
from sktransfer._engine.normalization import normalized_batch
from sktransfer._images.inputs import read_items, read_pixels
from sktransfer._images.preprocessing import Preprocessing
from sktransfer._randomness import seeded_globals
from sktransfer.exceptions import InvalidImageError

CPU = torch.device("cpu")
ROOM_OF_ONE = 16 * 3 * 3 * 4 + _ENTRY_OVERHEAD  # an activation of `network`
SIZE = 8
PREPROCESSING = Preprocessing(image_size=SIZE, resize_size=SIZE, resize="squash")


def pixels(n, size=SIZE):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(n, size, size, 3), dtype=np.uint8)


def network():
    with seeded_globals(0):
        made = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU())
    return made.eval().requires_grad_(False)


def source(images, net=None, store=None, **options):
    """Activations of images, and the sizes of the batches that pass the network."""
    if isinstance(images, np.ndarray):
        images = read_pixels(images, None)
    options = {"threads": 1, "min_rows": 16, "max_rows": 32, **options}
    if store is not None:
        options |= {"store": store.new_pass()}
        options |= {"key_of": lambda content, view: (content, view)}
    sizes = []
    if net is not None:
        net.register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    return Activations(images, net, PREPROCESSING, CPU, **options), sizes


def activations(data, rows, view=0):
    return data.finish(data.load(np.asarray(rows), view))


def expected_activations(X, net):
    return net(normalized_batch(list(X), PREPROCESSING, CPU))


def rows_of(data, rows=None, n_classes=3):
    """A dataset in which the target of row i is i modulo the number of classes."""
    n = len(data.images)
    targets = [torch.arange(n) % n_classes, torch.arange(n)]
    weights = torch.arange(2.0 * n).reshape(n, 2)
    return Rows(
        data, np.arange(n) if rows is None else np.array(rows), targets, weights
    )


# Batches and their order


@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (5, 4, [5]),
        (4, 4, [4]),
        (3, 4, [3]),
        (1, 4, [1]),
        (1, 1, [1]),
        (3, 1, [1, 2]),
        (7, 3, [3, 4]),
    ],
)
def test_last_batch_of_one_row_joins_the_one_before(n, size, lengths):
    rows = np.arange(100, 100 + n)[::-1]
    parts = split_batches(rows, size)
    assert [len(part) for part in parts] == lengths
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_order_of_an_epoch_is_a_permutation():
    order = epoch_order(50, 0, 1, 2)
    assert sorted(order) == list(range(50))
    assert not (order == np.arange(50)).all()


def test_order_depends_on_seed_phase_and_epoch_only():
    orders = [
        tuple(epoch_order(50, *where))
        for where in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
    ]
    assert len(set(orders)) == 5
    with seeded_globals(3):
        np.random.random(7)  # noqa: NPY002
        assert tuple(epoch_order(50, 0, 1, 0)) == orders[2]


def test_order_draws_from_no_global_generator():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    epoch_order(50, 0, 0, 0)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


# Activations


@pytest.mark.parametrize("with_store", [False, True])
def test_before_every_stage_training_sees_normalized_pixels(with_store):
    X = pixels(6)
    data, _ = source(X, store=MemoryStore() if with_store else None)
    for _ in range(2):
        found = activations(data, [4, 0, 5])
        expected = normalized_batch(list(X[[4, 0, 5]]), PREPROCESSING, CPU)
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("with_store", [False, True])
def test_behind_a_cut_training_sees_what_the_network_puts_out(with_store):
    X, net = pixels(20), network()
    expected = expected_activations(X, net)
    data, _ = source(X, net, MemoryStore() if with_store else None)
    for rows in (np.arange(20), np.array([3, 17, 3])):
        for _ in range(2):
            found = activations(data, rows)
            assert torch.equal(found, expected[torch.from_numpy(rows)])
            assert found.is_contiguous(memory_format=torch.channels_last)


def test_vectors_behind_the_last_stage_stay_vectors():
    net = nn.Sequential(network(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    data, _ = source(pixels(4), net, MemoryStore())
    first = activations(data, [0, 1, 2, 3])
    assert first.shape == (4, 16)
    assert torch.equal(activations(data, [0, 1, 2, 3]), first)


@pytest.mark.parametrize("with_store", [False, True])
def test_what_follows_a_frozen_network_can_learn(with_store):
    data, _ = source(pixels(4), network(), MemoryStore() if with_store else None)
    found = activations(data, [0, 1, 2, 3])
    assert not found.requires_grad
    assert not found.is_inference()
    with seeded_globals(0):
        layer = nn.Conv2d(16, 2, 1)
    layer(found).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_network_that_could_learn_gets_no_gradients_here():
    net = network().requires_grad_(True)
    data, _ = source(pixels(4), net)
    assert not activations(data, [0, 1]).requires_grad


def test_each_row_passes_the_network_once_where_there_is_a_store():
    X, net = pixels(40), network()
    expected = expected_activations(X, net)
    data, sizes = source(X, net, MemoryStore())
    for epoch in range(3):
        for rows in split_batches(epoch_order(40, 0, epoch), 20):
            found = activations(data, rows)
            assert torch.equal(found, expected[torch.from_numpy(rows)])
    assert sizes == [20, 20]


def test_only_the_new_rows_of_a_batch_pass_the_network():
    X, net = pixels(60), network()
    expected = expected_activations(X, net)
    data, sizes = source(X, net, MemoryStore())
    activations(data, np.arange(0, 40, 2))
    assert torch.equal(activations(data, np.arange(40)), expected[:40])
    assert sizes == [20, 20]
    activations(data, np.arange(38, 42))
    assert sizes == [20, 20, 16]  # two rows, filled up


def test_each_row_passes_the_network_each_time_where_there_is_no_store():
    data, sizes = source(pixels(20), network())
    for _ in range(3):
        activations(data, np.arange(20))
    assert sizes == [20] * 3


def test_rows_for_which_the_store_has_no_room_are_computed_anew():
    X, net = pixels(40), network()
    expected = expected_activations(X, net)
    data, sizes = source(X, net, MemoryStore(20 * ROOM_OF_ONE))
    for _ in range(3):
        assert torch.equal(activations(data, np.arange(40)), expected)
    # More than 32 rows are split; later only the 20 that are not kept.
    assert sizes == [32, 16, 20, 20]


def test_equal_images_share_a_place_in_the_store():
    X = pixels(1)[np.zeros(20, int)]
    store = MemoryStore()
    data, sizes = source(X, network(), store)
    activations(data, np.arange(10))
    activations(data, np.arange(10, 20))
    assert len(store) == 1
    assert sizes == [16]


def test_another_fit_finds_what_the_store_has():
    X, net, store = pixels(20), network(), MemoryStore()
    first = activations(source(X, net, store)[0], np.arange(20))
    data, sizes = source(X[::-1].copy(), net, store)
    assert torch.equal(activations(data, np.arange(20)), first.flip(0))
    assert sizes == []


def test_loading_claims_nothing_so_that_nobody_waits_for_a_batch_ahead():
    store = MemoryStore()
    data, _ = source(pixels(20), network(), store)
    loaded = data.load(np.arange(20), 0)
    keys = [row.key for row in loaded]
    assert store.new_pass().claim(keys)[1] == set(keys)


def test_rows_that_another_fit_computes_are_awaited_and_not_computed():
    X, net, store = pixels(20), network(), MemoryStore()
    expected = expected_activations(X, net)
    data, sizes = source(X, net, store)
    loaded = data.load(np.arange(20), 0)
    other, theirs = store.new_pass(), [row.key for row in loaded[15:]]
    other.claim(theirs)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(data.finish, loaded)
        while store.info().entries < 15:
            time.sleep(0.001)
        assert not found.done()
        other.put(list(zip(theirs, expected[15:].numpy(), strict=True)))
        assert torch.equal(found.result(60), expected)
    assert sizes == [16]


def test_claims_of_a_batch_on_which_the_network_fails_are_given_up():
    store = MemoryStore()
    data, _ = source(pixels(20), network(), store)
    loaded = data.load(np.arange(20), 0)

    def fail(*args):
        raise RuntimeError("broke down")

    data.network.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broke down"):
        data.finish(loaded)
    assert not store.new_pass().busy([row.key for row in loaded])


@pytest.mark.parametrize("n", [1, 2, 7, 15])
def test_short_batch_has_the_bits_of_a_full_one(n):
    X, net = pixels(32, 32), network()
    big = replace(PREPROCESSING, image_size=32, resize_size=32)
    data, sizes = source(X, net)
    data.preprocessing = big
    whole = activations(data, np.arange(32))
    assert torch.equal(activations(data, np.arange(n)), whole[:n])
    assert torch.equal(activations(data, np.arange(32 - n, 32)), whole[-n:])
    assert sizes == [32, 16, 16]


def test_rows_of_a_long_batch_pass_in_parts_and_keep_their_order():
    X, net = pixels(70), network()
    expected = expected_activations(X, net)
    data, sizes = source(X, net, min_rows=16, max_rows=32)
    assert torch.equal(activations(data, np.arange(70)), expected)
    assert sizes == [32, 32, 16]


@pytest.mark.parametrize("with_store", [False, True])
def test_threads_change_neither_values_nor_order(with_store):
    X, net = pixels(30), network()
    order = epoch_order(30, 0, 0)
    expected = activations(source(X, net)[0], order)
    for threads in (2, 5):
        store = MemoryStore() if with_store else None
        data, _ = source(X, net, store, threads=threads)
        for _ in range(2):
            assert torch.equal(activations(data, order), expected)


def test_8_bit_images_and_floats_may_share_a_batch():
    X = pixels(4)
    mixed = [x / 255 if i % 2 else x for i, x in enumerate(X)]
    data, _ = source(read_items(mixed, None), network())
    expected = activations(source(X, network())[0], np.arange(4))
    torch.testing.assert_close(activations(data, np.arange(4)), expected)


# Augmentation


def tinted(image, content, view):
    """Pixels that tell the image and the view apart."""
    return np.asarray(image.resize((SIZE, SIZE))) // 2 + np.uint8(view)


def test_augmentation_gets_the_image_its_content_and_the_view():
    X, seen = pixels(3), []

    def augment(image, content, view):
        seen.append((np.asarray(image), content, view))
        return tinted(image, content, view)

    data, _ = source(X, augment=augment)
    found = activations(data, [2, 0], view=5)
    expected = normalized_batch(list(X[[2, 0]] // 2 + 5), PREPROCESSING, CPU)
    assert torch.equal(found, expected)
    assert [view for _, _, view in seen] == [5, 5]
    for row, (image, content, _) in zip([2, 0], seen, strict=True):
        np.testing.assert_array_equal(image, X[row])
        assert content == read_pixels(X, None)[row].load()[1]


def test_views_are_kept_apart_in_the_store():
    X, net, store = pixels(20), network(), MemoryStore()
    data, sizes = source(X, net, store, augment=tinted)
    first = [activations(data, np.arange(20), view) for view in (0, 1)]
    assert not torch.equal(*first)
    again = [activations(data, np.arange(20), view) for view in (0, 1)]
    assert torch.equal(again[0], first[0])
    assert torch.equal(again[1], first[1])
    assert sizes == [20, 20]


@pytest.mark.parametrize(("factor", "side"), [(1.0, 16), (4.0, 64)])
def test_augmentation_gets_larger_images_to_cut_crops_from(tmp_path, factor, side):
    # JPEG files are decoded at a fraction of their size, down to twice what is needed.
    path, seen = tmp_path / "large.jpg", []
    Image.fromarray(pixels(1, 64)[0]).save(path)

    def augment(image, content, view):
        seen.append(image.size)
        return tinted(image, content, view)

    data, _ = source(read_items([path], None), augment=augment, decode_factor=factor)
    activations(data, [0])
    assert seen == [(side, side)]


# Broken images


@pytest.fixture
def some_broken(tmp_path):
    """30 images, of which the rows 3, 17 and 29 cannot be read."""
    X = list(pixels(30))
    X[3] = str(tmp_path / "absent.png")
    X[17] = None
    (tmp_path / "broken.png").write_bytes(b"no image")
    X[29] = str(tmp_path / "broken.png")
    return read_items(X, None)


REASONS = {3: "absent.png: No such file", 17: "missing", 29: "broken.png"}


def assert_names(caught, rows):
    assert [row for row, _ in caught.value.problems] == rows
    assert caught.value.n_rows == 30
    for row, what in caught.value.problems:
        assert REASONS[row] in what


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("with_network", [False, True])
def test_load_names_the_rows_of_its_batch_that_are_broken(
    some_broken, threads, with_network
):
    net = network() if with_network else None
    data, _ = source(some_broken, net, threads=threads)
    with pytest.raises(InvalidImageError) as caught:
        data.load(np.array([29, 4, 3, 5]), 0)
    assert_names(caught, [29, 3])
    assert len(data.load(np.array([4, 5]), 0)) == 2


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("with_network", [False, True])
def test_check_names_all_rows_that_are_broken(some_broken, threads, with_network):
    net, store = network() if with_network else None, MemoryStore()
    data, _ = source(some_broken, net, store, threads=threads)
    with pytest.raises(InvalidImageError) as caught:
        data.check(keep=True)
    assert_names(caught, [3, 17, 29])


def test_check_keeps_the_pixels_where_they_are_what_training_sees(tmp_path):
    X, paths = pixels(5), [str(tmp_path / f"{i}.png") for i in range(5)]
    for x, path in zip(X, paths, strict=True):
        Image.fromarray(x).save(path)
    store = MemoryStore()
    data, _ = source(read_items(paths, None), store=store)
    data.check(keep=True)
    assert len(store) == 5
    for path in paths:
        (tmp_path / path).unlink()
    expected = normalized_batch(list(X), PREPROCESSING, CPU)
    assert torch.equal(activations(data, np.arange(5)), expected)


def test_check_keeps_nothing_where_training_sees_what_a_network_puts_out():
    store = MemoryStore()
    data, sizes = source(pixels(5), network(), store)
    data.check(keep=True)
    assert len(store) == 0
    assert sizes == []
    assert activations(data, [0, 1]).shape[1] == 16


def test_check_keeps_no_pixels_that_nothing_will_look_at():
    store = MemoryStore()
    source(pixels(5), store=store)[0].check(keep=False)
    assert len(store) == 0


def test_check_may_be_called_without_a_store_and_twice():
    data, _ = source(pixels(5))
    data.check(keep=True)
    data.check(keep=True)
    assert activations(data, [4]).shape == (1, 3, SIZE, SIZE)


def test_training_raises_at_the_batch_of_the_broken_image(some_broken):
    dataset = rows_of(source(some_broken)[0])
    order = np.array([0, 1, 2, 4, 17, 5])
    served = []
    with pytest.raises(InvalidImageError) as caught:
        served.extend(batches(dataset, order, 2, 0))
    assert_names(caught, [17])
    assert len(served) == 2


# Datasets and iteration


def test_labels_belong_to_rows_of_all_images():
    dataset = rows_of(source(pixels(9))[0], rows=[8, 4, 1])
    targets, weights = dataset.labels(np.array([4, 8]))
    assert [t.tolist() for t in targets] == [[1, 2], [4, 8]]
    assert weights.tolist() == [[8, 9], [16, 17]]


def test_dataset_has_one_item_for_each_of_its_rows():
    X, net = pixels(9), network()
    expected = expected_activations(X, net)
    dataset = rows_of(source(X, net)[0], rows=[8, 4, 1])
    assert len(dataset) == 3
    activation, (targets, weights) = dataset[1]
    assert torch.equal(activation, expected[4])
    assert [t.tolist() for t in targets] == [[1], [4]]
    assert weights.tolist() == [[8, 9]]


@pytest.mark.parametrize("order", [[3, 0, 2, 1, 4], np.array([3, 0, 2, 1, 4])])
def test_batches_hold_the_rows_in_the_order_of_training(order):
    X = pixels(9)
    dataset = rows_of(source(X)[0], rows=[1, 3, 5, 7, 8])
    found = list(batches(dataset, order, 3, 0))
    rows = [[7, 1, 5], [3, 8]]
    assert [targets[1].tolist() for _, (targets, _) in found] == rows
    for (inputs, (targets, weights)), chunk in zip(found, rows, strict=True):
        expected = normalized_batch(list(X[chunk]), PREPROCESSING, CPU)
        assert torch.equal(inputs, expected)
        assert targets[0].tolist() == [row % 3 for row in chunk]
        assert weights[:, 0].tolist() == [2 * row for row in chunk]


def test_no_batch_has_one_row_but_an_only_one():
    dataset = rows_of(source(pixels(9))[0])
    sizes = [len(inputs) for inputs, _ in batches(dataset, np.arange(9), 4, 0)]
    assert sizes == [4, 5]
    assert [len(x) for x, _ in batches(dataset, np.arange(1), 4, 0)] == [1]


def test_batches_are_those_of_their_view():
    dataset = rows_of(source(pixels(4), augment=tinted)[0])
    views = [
        torch.cat([inputs for inputs, _ in batches(dataset, np.arange(4), 2, view)])
        for view in (0, 3)
    ]
    expected = normalized_batch(list(pixels(4) // 2 + 3), PREPROCESSING, CPU)
    assert torch.equal(views[1], expected)
    assert not torch.equal(*views)


def test_next_batch_is_loaded_while_one_is_used():
    loaded = [threading.Event() for _ in range(3)]
    X = pixels(6)
    numbers = {read_pixels(X, None)[i].load()[1]: i // 2 for i in range(6)}

    def augment(image, content, view):
        loaded[numbers[content]].set()
        return tinted(image, content, view)

    running = batches(rows_of(source(X, augment=augment)[0]), np.arange(6), 2, 0)
    next(running)
    assert loaded[1].wait(60)
    assert not loaded[2].is_set()
    assert len(list(running)) == 2


def test_iteration_that_is_given_up_leaves_no_thread():
    def ahead():
        return [t for t in threading.enumerate() if "ahead" in t.name]

    running = batches(rows_of(source(pixels(9))[0]), np.arange(9), 2, 0)
    next(running)
    assert len(ahead()) == 1
    running.close()
    assert ahead() == []
