"""One call of `fit`: what it works on, and the record it leaves."""

from dataclasses import dataclass

import numpy as np

from sktransfer.strategies._base import Strategy


@dataclass
class Fit:
    """All that one call of `fit` works on.

    Parameters
    ----------
    X, y : object
        As the user gave them.
    images : ImageSequence
        The images of X.
    targets : Targets or ContinuousTargets
        What y means.
    sample_weight : ndarray of shape (n,) or None
        Weights of the rows, as the user gave them.
    weights : ndarray of shape (n, n_heads)
        Weights of the rows for gradients; 0 where there is nothing to learn.
    groups : array-like or None
        Which rows belong together.
    strategy : Strategy
        What learns.
    seed : int
        What everything random derives from.
    """

    X: object
    y: object
    images: object
    targets: object
    sample_weight: np.ndarray | None
    weights: np.ndarray
    groups: object
    strategy: Strategy
    seed: int

    def __post_init__(self):
        self.train = np.flatnonzero(self.weights.any(axis=1))
        self.valid = self.train[:0]

    @property
    def data(self):
        """What scikit-learn's callbacks may look at."""
        metadata = {}
        if self.sample_weight is not None:
            metadata["sample_weight"] = self.sample_weight
        return {"X": self.X, "y": self.y, "metadata": metadata}


def check_rows(targets, sample_weight, weights):
    """Raise if there is no row to learn from.

    Parameters
    ----------
    targets : Targets or ContinuousTargets
        What y means.
    sample_weight : ndarray of shape (n,) or None
        Weights of the rows, as the user gave them.
    weights : ndarray of shape (n, n_heads)
        Weights of the rows for gradients.

    Raises
    ------
    ValueError
        If in all rows y is missing, or what is known of it weighs nothing.
    """
    if weights.any():
        return
    known = targets.known.any(axis=1)
    if not known.any():
        raise ValueError(
            f"y: found only missing values in {len(known)} row(s). Expected at least "
            "one to learn from: leave this call out, or pass rows of which one is "
            "known."
        )
    weighted = known if sample_weight is None else known & (sample_weight > 0)
    if not weighted.any():
        raise ValueError(
            f"sample_weight: found 0 in each of the {known.sum()} row(s), of "
            f"{len(known)}, in which y is not missing. Expected a positive weight in "
            "at least one: leave this call out, or pass other weights."
        )
    raise ValueError(
        "Parameter class_weight: found weight 0 for the classes of all "
        f"{weighted.sum()} row(s) that have a label and a weight. Expected a class of "
        "positive weight in at least one: change class_weight, or leave this call out."
    )


def rows_of(history):
    """Rows of skorch's history without those of single batches."""
    return [
        {name: value for name, value in row.items() if name != "batches"}
        for row in history
    ]


def history_frame(rows):
    """One row an epoch: phase, epoch, losses, scores, learning rates, seconds.

    Parameters
    ----------
    rows : list of dict
        From `rows_of`.

    Returns
    -------
    pandas.DataFrame
        NaN where an epoch had no such thing.
    """
    import pandas as pd

    rows = [{"phase": row["phase"], **row} for row in rows]
    frame = pd.DataFrame(rows).rename(columns={"dur": "seconds"})
    left_out = [name for name in frame if name.endswith(("_best", "_batch_count"))]
    return frame.drop(columns=left_out)
