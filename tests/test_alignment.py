"""The map between embeddings of two networks."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from sktransfer._alignment import RigidMap


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_rotation_and_a_shift_are_recovered_from_many_rows(rng):
    features = rng.normal(size=(5000, 6)) * [3, 2, 2, 1, 1, 0.5] + 10
    rotation = ortho_group.rvs(6, random_state=1)
    onto = features @ rotation - 4
    new = rng.normal(size=(50, 6)) + 10
    turned = RigidMap.between(features, onto)(new)
    np.testing.assert_allclose(turned, new @ rotation - 4, atol=0.05)


def test_the_map_keeps_distances(rng):
    features, onto = rng.random((2, 20, 8))
    turned = RigidMap.between(features, onto)
    np.testing.assert_allclose(
        turned.rotation @ turned.rotation.T, np.eye(8), atol=1e-9
    )


def test_equal_embeddings_are_left_as_they_are(rng):
    features = rng.random((5, 12)).astype(np.float32)
    turned = RigidMap.between(features, features)(features)
    np.testing.assert_allclose(turned, features, atol=1e-6)


def test_directions_of_which_the_rows_say_nothing_are_left_as_they_are(rng):
    # Both networks vary along two of twelve channels, which one of them swaps.
    features = np.zeros((9, 12))
    features[:, :2] = rng.normal(size=(9, 2)) * 1000
    onto = features[:, [1, 0, *range(2, 12)]]
    new = np.eye(12)[5]
    turned = RigidMap.between(features, onto)
    np.testing.assert_allclose(
        turned(new + turned.mean) - turned.target_mean, new, atol=1e-9
    )


def test_a_few_rows_turn_small_differences_less_than_a_free_rotation_would(rng):
    # Two networks that differ by noise: what is no rotation must not look like one.
    new = rng.normal(size=(200, 60))
    features = rng.normal(size=(20, 60))
    onto = features + rng.normal(size=(20, 60)) * 0.1
    turned = RigidMap.between(features, onto)
    moved = turned(new) - new
    assert np.square(moved).mean() < 0.05


def test_embeddings_without_any_variance_are_shifted():
    turned = RigidMap.between(np.ones((4, 3)), np.full((4, 3), 5.0))
    np.testing.assert_allclose(turned(np.array([[1.0, 2.0, 3.0]])), [[5, 6, 7]])
