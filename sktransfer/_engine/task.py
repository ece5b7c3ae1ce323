"""What a fit learns, and how: what the estimators hand to the engine."""

from dataclasses import dataclass

import numpy as np
import torch

from sktransfer._engine.data import Rows


@dataclass
class Recipe:
    """How gradients are used; the estimators' parameters of the same names."""

    optimizer: object
    optimizer_params: dict | None
    lr: float
    weight_decay: float
    lr_schedule: object
    gradient_clip: float | None
    batch_size: int
    device: torch.device
    seed: int
    n_views: int | None = None
    modality_dropout: float = 0.0
    callbacks: list | None = None
    verbose: int = 0
    precision: str = "float32"


@dataclass
class Task:
    """What is learnt from which rows.

    Parameters
    ----------
    activations : callable
        ``activations(cut, training)`` is the source of the inputs behind a cut.
    targets : list of torch.Tensor
        One a head, for all rows.
    weights : torch.Tensor of shape (n, n_heads)
        Weights of the rows for each head.
    losses : list of callable
        One a head.
    task_weights : list of float
        Weights of the heads.
    train, valid : ndarray of int
        Rows to learn from; rows that only judge, possibly none.
    solve : callable
        ``solve(phase, cut)`` puts the exact solution into the heads; the next phase
        trains behind `cut`.
    """

    activations: object
    targets: list
    weights: torch.Tensor
    losses: list
    task_weights: list
    train: np.ndarray
    valid: np.ndarray
    solve: object

    def dataset(self, cut, training):
        """Return the rows of one part behind a cut."""
        rows = self.train if training else self.valid
        source = self.activations(cut, training)
        return Rows(source, rows, self.targets, self.weights)
