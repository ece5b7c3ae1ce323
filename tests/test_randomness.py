"""Seeds, and draws from global generators that leave no trace."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from sktransfer._randomness import derived_seed, seed_of, seeded_globals

# The code under test is about the legacy global generator of numpy.
# ruff: noqa: NPY002


def states():
    """States of all global generators, comparable by ==."""
    kind, keys, *rest = np.random.get_state()
    return (
        random.getstate(),
        (kind, keys.tolist(), *rest),
        torch.get_rng_state().tolist(),
    )


def draws(n=3):
    """Numbers from each of the global generators, in turn."""
    return [
        value
        for _ in range(n)
        for value in (random.random(), np.random.random(), torch.rand(1).item())
    ]


def seeded_draws(seed, n=3):
    with seeded_globals(seed):
        return draws(n)


def test_int_is_its_own_seed():
    assert seed_of(7) == 7
    assert seed_of(np.int64(7)) == 7
    assert type(seed_of(np.int64(7))) is int


def test_none_draws_another_seed_each_time():
    seeds = {seed_of(None) for _ in range(20)}
    assert len(seeds) == 20
    assert all(type(seed) is int and seed >= 0 for seed in seeds)


def test_none_leaves_the_global_generators_alone():
    before = states()
    seed_of(None)
    assert states() == before


def test_random_state_instance_is_advanced_by_each_seed():
    generator = np.random.RandomState(0)
    first, second = seed_of(generator), seed_of(generator)
    assert first != second
    again = np.random.RandomState(0)
    assert [seed_of(again), seed_of(again)] == [first, second]


def test_derived_seed_is_a_function_of_seed_and_place():
    places = [(0, 1), (0, 2), (1, 1), (0, 1, 0), (1, 0), (0,), ()]
    seeds = [derived_seed(5, *place) for place in places]
    assert len(set(seeds)) == len(places)
    assert [derived_seed(5, *place) for place in places] == seeds
    assert derived_seed(6, 0, 1) not in seeds
    assert all(type(seed) is int and 0 <= seed < 2**64 for seed in seeds)


def test_derived_seed_can_be_derived_from():
    assert derived_seed(derived_seed(2**32 - 1, 3), 4) >= 0


def test_block_draws_by_its_seed_whatever_was_drawn_before():
    first = seeded_draws(3)
    draws()
    assert seeded_draws(3) == first
    assert not set(seeded_draws(4)) & set(first)


def test_generators_are_as_if_there_had_been_no_block():
    before = states()
    seeded_draws(0)
    assert states() == before


def draw_and_raise(error):
    with seeded_globals(0):
        draws()
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_generators_are_put_back_when_the_block_raises(error):
    before = states()
    with pytest.raises(error):
        draw_and_raise(error)
    assert states() == before


def test_block_that_raised_does_not_lock_other_threads_out():
    with pytest.raises(RuntimeError):
        draw_and_raise(RuntimeError)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(seeded_draws, 3).result(60) == seeded_draws(3)


@pytest.mark.parametrize("seed", [0, 2**32 + 1, 2**63, 2**64 - 1])
def test_seed_may_have_64_bits(seed):
    assert seeded_draws(seed) == seeded_draws(seed)


def test_blocks_may_be_nested():
    inner = seeded_draws(1)
    with seeded_globals(0):
        first = draws()
        assert seeded_draws(1) == inner
        second = draws()
    assert first + second == seeded_draws(0, n=6)


def test_torch_layers_get_the_same_weights():
    def weights():
        with seeded_globals(11):
            layer = torch.nn.Linear(4, 3)
            return torch.dropout(layer.weight, 0.5, True).tolist()

    assert weights() == weights()


@pytest.fixture
def restless():
    """Let threads take turns far more often than they do."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
def test_two_threads_draw_as_one_after_the_other():
    expected = {seed: seeded_draws(seed, n=300) for seed in range(8)}
    before = states()
    start = Barrier(2)

    def work(seeds):
        start.wait()
        return {seed: seeded_draws(seed, n=300) for seed in seeds}

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(work, range(i, 8, 2)) for i in range(2)]
        found = {k: v for future in futures for k, v in future.result().items()}
    assert found == expected
    assert states() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_generator_of_a_cuda_device_is_seeded_and_put_back():
    torch.rand(1, device="cuda")
    before = torch.cuda.get_rng_state().tolist()
    found = []
    for _ in range(2):
        with seeded_globals(5):
            found.append(torch.rand(3, device="cuda").tolist())
    assert found[0] == found[1]
    assert torch.cuda.get_rng_state().tolist() == before
