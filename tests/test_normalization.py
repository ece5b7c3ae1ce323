"""Pixels to a network's input, by the formula and in the layout it wants."""

import numpy as np
import pytest
import torch

from sktransfer._engine.normalization import empty_batch, normalized_batch
from sktransfer._images.preprocessing import Preprocessing

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(image_size=7)


def images(n=5):
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, size=(n, 7, 7, 3), dtype=np.uint8))


def by_hand(pixels):
    """The formula, on the whole batch at once."""
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(PREPROCESSING.mean).view(1, 3, 1, 1)
    std = torch.tensor(PREPROCESSING.std).view(1, 3, 1, 1)
    return (batch - mean) / std


def assert_formula(batch, pixels):
    torch.testing.assert_close(batch, by_hand(pixels), rtol=0, atol=1e-6)


def test_batch_is_the_formula_in_the_memory_given():
    pixels, memory = images(), empty_batch(9, 7)
    batch = normalized_batch(pixels, PREPROCESSING, CPU, memory)
    assert_formula(batch, pixels)
    assert batch.data_ptr() == memory.data_ptr()
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_batch_without_memory_is_new_each_time():
    pixels = images()
    first = normalized_batch(pixels, PREPROCESSING, CPU)
    normalized_batch(pixels[::-1], PREPROCESSING, CPU)
    assert torch.equal(
        first, normalized_batch(pixels, PREPROCESSING, CPU, empty_batch(5, 7))
    )
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_floats_are_not_divided_and_may_stand_beside_8_bit_images():
    pixels = images()
    mixed = [p if i % 2 else p.astype(np.float32) / 255 for i, p in enumerate(pixels)]
    batch = normalized_batch(mixed, PREPROCESSING, CPU)
    assert_formula(batch, pixels)
    assert torch.equal(batch[1], normalized_batch(pixels, PREPROCESSING, CPU)[1])


@pytest.mark.parametrize("size", [7, 104, 105, 160])
def test_serial_work_gives_the_same_bits(size):
    # From 105 pixels on, an image is more than torch leaves to one thread.
    preprocessing = Preprocessing(image_size=size)
    rng = np.random.default_rng(0)
    pixels = list(rng.random((3, size, size, 3), dtype=np.float32))
    pixels[0] = (pixels[0] * 255).astype(np.uint8)
    pixels[1].flags.writeable = False
    serial = normalized_batch(pixels, preprocessing, CPU, parallel=False)
    assert torch.equal(serial, normalized_batch(pixels, preprocessing, CPU))


@pytest.mark.filterwarnings("error")
def test_images_are_only_read():
    pixels = images()
    expected = normalized_batch(pixels, PREPROCESSING, CPU)
    for image in pixels:
        image.flags.writeable = False  # as those that Pillow gives
    assert torch.equal(normalized_batch(pixels, PREPROCESSING, CPU), expected)
    as_floats = [p.astype(np.float32) for p in pixels]
    before = np.stack(as_floats)
    normalized_batch(as_floats, PREPROCESSING, CPU)
    np.testing.assert_array_equal(np.stack(as_floats), before)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirrored_and_sliced_arrays_are_images(axis, parallel):
    pixels = [np.flip(p, axis) for p in images()]
    pixels += [np.repeat(p, 2, axis=1)[:, ::2] for p in images()]
    copies = [p.copy() for p in pixels]
    torch.testing.assert_close(
        normalized_batch(pixels, PREPROCESSING, CPU, parallel=parallel),
        normalized_batch(copies, PREPROCESSING, CPU),
        rtol=0,
        atol=0,
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batch_on_cuda_is_that_of_the_cpu():
    pixels = images()
    mixed = [p if i % 2 else p.astype(np.float32) / 255 for i, p in enumerate(pixels)]
    for some in (pixels, mixed):
        there = normalized_batch(some, PREPROCESSING, torch.device("cuda"))
        assert there.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(
            there.cpu(), normalized_batch(some, PREPROCESSING, CPU)
        )
