"""Images through a frozen network: batches, the store, failures, threads."""

import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from torch import nn

from sktransfer import FeatureExtractorTransformer
from sktransfer._cache.memory import SHARED
from sktransfer._engine.prefix import PrefixJob
from sktransfer._images.sequences import PixelSequence
from sktransfer.exceptions import InvalidImageError

FAMILIES = [
    ("alexnet", 64),
    ("convnext_tiny", 64),
    ("densenet121", 64),
    ("efficientnet_b0", 64),
    ("googlenet", 64),
    ("inception_v3", 128),
    ("mnasnet0_5", 64),
    ("mobilenet_v2", 64),
    ("mobilenet_v3_small", 64),
    ("regnet_y_400mf", 64),
    ("resnet18", 64),
    ("shufflenet_v2_x0_5", 64),
    ("squeezenet1_1", 64),
    ("vgg11", 64),
    ("mini", 96),
]


def noise(n, size=24):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_row_does_not_depend_on_its_batch(name, size):
    X = noise(20, size)
    SHARED.clear()
    transformer = FeatureExtractorTransformer(
        name, weights=None, image_size=size, batch_size=20, cache=None
    ).fit(X)
    whole = transformer.transform(X)
    assert len(np.unique(whole, axis=0)) == 20
    for row in (0, 19):
        np.testing.assert_array_equal(transformer.transform(X[[row]])[0], whole[row])
    for n_rows in (3, 7, 8):
        np.testing.assert_array_equal(transformer.transform(X[:n_rows]), whole[:n_rows])
    np.testing.assert_array_equal(transformer.transform(X[::-1]), whole[::-1])
    if not transformer.backbone_.needs_full_batches:
        small = clone(transformer).set_params(batch_size=7).fit(X)
        np.testing.assert_array_equal(small.transform(X[:14]), whole[:14])
    cached = clone(transformer).set_params(cache="auto").fit(X)
    np.testing.assert_array_equal(cached.transform(X[4:9]), whole[4:9])
    np.testing.assert_array_equal(cached.transform(X), whole)  # five rows are known
    np.testing.assert_array_equal(cached.transform(X[::-1]), whole[::-1])
    assert len(SHARED) == 20


def png(i):
    file = BytesIO()
    Image.new("RGB", (24, 24), (i % 256, i // 256, 9)).save(file, "PNG")
    return file.getvalue()


def convolution():
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU())


class Branching(nn.Sequential):
    """A network whose graph cannot be traced: what it does depends on values."""

    def forward(self, batch):
        return super().forward(batch if batch.sum() > 0 else -batch)


def fitted(backbone=convolution, **parameters):
    """Fit a transformer; return it with the sizes of the batches it runs from now."""
    options = {"image_size": 24, "batch_size": 16, "device": "cpu", **parameters}
    transformer = FeatureExtractorTransformer(backbone, **options)
    transformer.fit(noise(1))
    sizes = []
    network = transformer.backbone_.for_inference(torch.device("cpu"))
    network.register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    SHARED.clear()
    return transformer, sizes


def failing_at(batch, **parameters):
    """Fit a transformer whose network raises at that batch from now."""
    transformer, sizes = fitted(**parameters)
    network = transformer.backbone_.for_inference(torch.device("cpu"))

    def fail(_module, _args):
        if len(sizes) == batch - 1:
            raise RuntimeError("the network broke down")

    handle = network.register_forward_pre_hook(fail)
    return transformer, sizes, handle


def breaking_off(read, n):
    """Return a reader that fails at the n-th image."""
    done = []

    def reader(*args, **options):
        if len(done) == n:
            raise MemoryError("no memory for this image")
        done.append(None)
        return read(*args, **options)

    return reader


@pytest.fixture(params=["in turn", "beside"])
def order(request, monkeypatch):
    """Whether the next batch is gathered while the network has one, as on a GPU."""
    if request.param == "beside":
        monkeypatch.setattr(PrefixJob, "runs_beside", True)


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_failure_keeps_earlier_rows_and_says_how_many(n_jobs):
    X = noise(80)
    transformer, sizes, handle = failing_at(3, n_jobs=n_jobs)
    with pytest.raises(RuntimeError, match="broke down") as caught:
        transformer.transform(X)
    note = "Rows before 32 of 80 had been computed and kept in the cache."
    assert caught.value.__notes__ == [note]
    assert len(SHARED) == 32
    handle.remove()
    features = transformer.transform(X)
    assert sum(sizes) == 80  # no row was computed twice
    np.testing.assert_array_equal(
        features, clone(transformer).set_params(cache=None).fit_transform(X)
    )


def test_failure_without_a_cache_promises_none():
    transformer, _, _ = failing_at(2, cache=None)
    with pytest.raises(RuntimeError) as caught:
        transformer.transform(noise(40))
    assert caught.value.__notes__ == ["Rows before 16 of 40 had been computed."]


@pytest.mark.usefixtures("order")
def test_image_that_cannot_be_read_leaves_the_batch_that_the_network_has(monkeypatch):
    transformer, sizes = fitted(n_jobs=1)
    X = noise(80)
    expected = clone(transformer).set_params(cache=None).fit_transform(X)
    monkeypatch.setattr(PrefixJob, "_pixels_of", breaking_off(PrefixJob._pixels_of, 40))
    with pytest.raises(MemoryError) as caught:
        transformer.transform(X)
    assert caught.value.__notes__[0].startswith("Rows before 32 of 80")
    assert len(SHARED) == 32
    monkeypatch.undo()
    np.testing.assert_array_equal(transformer.transform(X), expected)
    assert sum(sizes) == 80


@pytest.mark.usefixtures("order")
def test_failure_of_the_last_short_batch_counts_the_full_ones():
    transformer, _, _ = failing_at(3)
    with pytest.raises(RuntimeError) as caught:
        transformer.transform(noise(35))
    assert caught.value.__notes__[0].startswith("Rows before 32 of 35")


def test_equal_images_are_computed_once():
    X = noise(3)[[0, 1, 0, 0, 2, 1, 1, 0, 2, 2, 1, 0]]
    transformer, sizes = fitted(batch_size=16)
    features = transformer.transform(X)
    assert sizes == [16]  # three images, filled up
    assert len(SHARED) == 3
    plain = clone(transformer).set_params(cache=None).fit_transform(X)
    np.testing.assert_array_equal(features, plain)


def test_equal_images_far_apart_are_computed_once():
    X = noise(40)
    transformer, sizes = fitted(batch_size=16, n_jobs=2)
    features = transformer.transform(np.concatenate([X, X[::-1]]))
    assert sizes == [16, 16, 16]
    np.testing.assert_array_equal(features[40:], features[:40][::-1])
    assert len(SHARED) == 40


def test_passes_do_not_wait_for_each_other_where_images_are_broken():
    X = [png(i) for i in range(200)]
    X = [b"broken", *X, b"broken, too"]
    transformer, _ = fitted(on_invalid="nan", n_jobs=2)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(transformer.transform, (X, X[::-1]), timeout=60))
    np.testing.assert_array_equal(found[0], found[1][::-1])
    assert np.flatnonzero(np.isnan(found[0]).any(axis=1)).tolist() == [0, 201]


def test_known_rows_leave_and_the_others_fill_whole_batches():
    X = noise(64)
    transformer, sizes = fitted()
    transformer.transform(X[::2])
    assert sizes == [16, 16]
    features = transformer.transform(X)
    assert sizes == [16] * 4
    transformer.transform(X)
    assert sizes == [16] * 4
    plain = clone(transformer).set_params(cache=None).fit_transform(X)
    np.testing.assert_array_equal(features, plain)


def test_rows_that_another_worker_computes_come_last_and_are_not_computed_again():
    X = noise(64)
    transformer, sizes = fitted(n_jobs=1)
    values = transformer.transform(X)
    entries = dict(SHARED._entries)
    SHARED.clear()
    sizes.clear()
    # Another worker has claimed every third row, and computes them slowly.
    keys = list(entries)
    theirs = keys[::3]
    other = SHARED.new_pass()
    assert other.claim(theirs)[1] == set(theirs)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(transformer.transform, X)
        ours = [key for key in keys if key not in theirs]
        while any(value is None for value in other.get(ours)):
            assert not found.done()
            time.sleep(0.001)
        other.put([(key, entries[key][1]) for key in theirs[:-2]])
        assert not found.done()
        other.release()  # it has failed: the last two are free
        np.testing.assert_array_equal(found.result(60), values)
    assert sizes == [16] * 4  # 42 rows and then two, filled up
    assert SHARED.info().entries == 64


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_failure_leaves_no_claim_behind(n_jobs):
    X = noise(80)
    transformer, _, handle = failing_at(2, n_jobs=n_jobs)
    with pytest.raises(RuntimeError, match="broke down"):
        transformer.transform(X)
    handle.remove()
    assert SHARED._claims == {}
    assert np.isfinite(transformer.transform(X)).all()


def test_next_batch_is_gathered_while_the_network_has_one(monkeypatch):
    transformer, _ = fitted(cache=None)
    X, ready, done = noise(64), [], []
    expected = transformer.transform(X)
    normalized, forward = PrefixJob.normalized, PrefixJob.forward

    def watched_normalized(job, pixels, turn):
        batch = normalized(job, pixels, turn)
        ready.append(turn)
        return batch

    def watched_forward(job, batch):
        # Of the four batches, all but the last wait for the one after them.
        deadline = time.monotonic() + 60
        while len(ready) < min(4, len(done) + 2):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        done.append(len(batch))
        return forward(job, batch)

    monkeypatch.setattr(PrefixJob, "runs_beside", True)
    monkeypatch.setattr(PrefixJob, "normalized", watched_normalized)
    monkeypatch.setattr(PrefixJob, "forward", watched_forward)
    np.testing.assert_array_equal(transformer.transform(X), expected)
    assert ready == [0, 1, 0, 1]
    assert done == [16] * 4


def test_short_batches_are_filled_up_to_sixteen_rows():
    transformer, sizes = fitted(batch_size=3, cache=None)
    assert transformer.transform(noise(7)).shape == (7, 6)
    assert sizes == [16, 16, 16]


def test_untraceable_network_gets_whole_batches_only():
    transformer, sizes = fitted(lambda: Branching(convolution()), batch_size=24)
    transformer.transform(noise(25))
    assert sizes == [24, 24]


def test_problems_of_all_rows_are_collected(colour_paths, tmp_path):
    paths, _ = colour_paths
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    X = [paths[0], str(broken), *paths[1:12], None, str(tmp_path / "absent.png")]
    transformer, _ = fitted()
    with pytest.raises(InvalidImageError) as caught:
        transformer.transform(X)
    assert [row for row, _ in caught.value.problems] == [1, 13, 14]
    assert "broken.png" in caught.value.problems[0][1]
    assert "missing" in caught.value.problems[1][1]
    assert "No such file" in caught.value.problems[2][1]
    assert len(SHARED) == 12  # the readable rows are kept for the second attempt


@pytest.mark.parametrize("cache", ["auto", None])
def test_threads_change_neither_values_nor_order(colour_paths, cache):
    paths, _ = colour_paths
    alone, _ = fitted(n_jobs=1, cache=None)
    expected = alone.transform(paths)
    assert len(np.unique(expected, axis=0)) == len(paths)
    for n_jobs in (2, 5, -1, None):
        threads, _ = fitted(n_jobs=n_jobs, cache=cache)
        np.testing.assert_array_equal(threads.transform(paths), expected)


class Counted(PixelSequence):
    """Images that know how many of them were opened."""

    opened = 0

    def __getitem__(self, row):
        self.opened += 1
        return super().__getitem__(row)


@pytest.mark.parametrize("threads", [1, 4])
def test_few_batches_are_in_flight_whatever_the_length(threads):
    images, ahead = Counted(noise(600), None), []
    transformer, sizes = fitted(batch_size=16)
    network = transformer.backbone_.for_inference(torch.device("cpu"))
    network.register_forward_hook(lambda *_: time.sleep(0.001))  # readers are faster
    network.register_forward_hook(
        lambda *_: ahead.append(images.opened - sum(sizes[:-1]))
    )
    job = PrefixJob(
        network,
        transformer.backbone_.preprocessing,
        (6,),
        torch.device("cpu"),
        16,
        threads,
        16,
    )
    assert job.run(images).shape == (600, 6)
    assert sum(sizes) >= 600
    assert 16 < max(ahead) <= 3 * 16


def test_floats_and_8_bit_images_may_share_a_batch():
    X = noise(6)
    as_floats = [x / 255.0 for x in X]
    mixed = [
        a if i % 2 else b for i, (a, b) in enumerate(zip(X, as_floats, strict=True))
    ]
    transformer, _ = fitted(cache=None)
    np.testing.assert_allclose(
        transformer.transform(mixed),
        transformer.transform(list(X)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_auto_finds_a_device():
    on_auto, on_cpu = (
        FeatureExtractorTransformer(
            convolution, image_size=24, device=device
        ).fit_transform(noise(9))
        for device in ("auto", "cpu")
    )
    np.testing.assert_allclose(on_auto, on_cpu, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_row_does_not_depend_on_its_batch_on_cuda(name):
    X = noise(20, 64)
    transformer = FeatureExtractorTransformer(
        name, weights=None, image_size=64, device="cuda", batch_size=20, cache=None
    ).fit(X)
    whole = transformer.transform(X)
    for n_rows in (1, 3, 8):
        np.testing.assert_array_equal(transformer.transform(X[:n_rows]), whole[:n_rows])
    np.testing.assert_array_equal(transformer.transform(X[::-1]), whole[::-1])
