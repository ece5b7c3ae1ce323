"""Random numbers that are a function of a seed and of where they are used.

No global generator is touched. Where a library can draw only from one (torch's initial
weights and dropout, a user's transform), the draw runs alone in the process, seeded,
and the states are put back: two fits in two threads give the same bits as one after the
other.
"""

import random
from contextlib import contextmanager
from threading import RLock

import numpy as np
from sklearn.utils import check_random_state

_alone = RLock()


def seed_of(random_state):
    """Return the integer that an estimator's `random_state` stands for.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        None draws from the operating system, an instance is advanced by one draw.

    Returns
    -------
    int
        Not negative.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if hasattr(random_state, "__index__"):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def derived_seed(seed, *where):
    """Return a seed of 64 bits for one place: phase, epoch, step ..."""
    sequence = np.random.SeedSequence(seed, spawn_key=where)
    return int(sequence.generate_state(1, np.uint64)[0])


@contextmanager
def seeded_globals(seed):
    """Seed the generators of Python, numpy and torch for a block; restore them after.

    Parameters
    ----------
    seed : int
        Seed, of up to 64 bits.
    """
    import torch

    with _alone:
        devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
        states = random.getstate(), np.random.get_state()  # noqa: NPY002
        with torch.random.fork_rng(devices=list(devices)):
            try:
                random.seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002
                # torch.manual_seed would reseed accelerators that are not saved.
                torch.default_generator.manual_seed(seed % 2**63)
                for device in devices:
                    torch.cuda.default_generators[device].manual_seed(seed % 2**63)
                yield
            finally:
                random.setstate(states[0])
                np.random.set_state(states[1])  # noqa: NPY002
