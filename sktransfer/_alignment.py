"""Procrustes: how embeddings of two networks that started as the same one are joined.

Tuned apart, networks share no coordinates: channel 17 means something else in each.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import orthogonal_procrustes
from threadpoolctl import threadpool_limits


@dataclass(frozen=True)
class RigidMap:
    """Turns embeddings of one network onto those of another: shift, rotation, shift.

    Parameters
    ----------
    mean : ndarray of shape (d,)
        Of the embeddings to be turned.
    rotation : ndarray of shape (d, d)
        Orthogonal.
    target_mean : ndarray of shape (d,)
        Of the embeddings they are turned onto.
    """

    mean: np.ndarray
    rotation: np.ndarray
    target_mean: np.ndarray

    @classmethod
    def between(cls, features, onto):
        """Find the map that brings some rows closest to others (Procrustes).

        Both are centred first: otherwise the common mean, by far the longest direction
        of embeddings that are not negative, would decide much of the rotation. Rows
        that are fewer than the channels, or not many more, say little about most
        directions, and a rotation fitted to them alone is worse on new images than
        none. But both networks started as the same one: each channel counts as one
        more row, of typical length, that both embed alike.

        Parameters
        ----------
        features, onto : ndarray of shape (n, d)
            Embeddings of the same images by two networks.

        Returns
        -------
        RigidMap
            The map of `features` onto `onto`.
        """
        features, onto = features.astype(np.float64), onto.astype(np.float64)
        mean, target_mean = features.mean(axis=0), onto.mean(axis=0)
        features, onto = features - mean, onto - target_mean
        length = np.sqrt(np.linalg.norm(features) * np.linalg.norm(onto) / len(onto))
        channels = np.eye(len(mean)) * (length or 1.0)
        with threadpool_limits(1, user_api="blas"):
            rotation, _ = orthogonal_procrustes(
                np.vstack([features, channels]), np.vstack([onto, channels])
            )
        return cls(mean, rotation, target_mean)

    def __call__(self, features):
        """Turn embeddings, (n, d)."""
        with threadpool_limits(1, user_api="blas"):
            return (features - self.mean) @ self.rotation + self.target_mean
