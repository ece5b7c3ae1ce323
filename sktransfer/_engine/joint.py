"""A row of images and a table as one vector, and how its parts are regularized.

The vector holds the embedding of each image column, a flag for what may be missing, and
the encoded table. What is missing stands at its mean, so that it says nothing, and its
flag says that it is missing.

With one penalty for all columns, hundreds of image features drown a table of five. The
penalty is a prior: a standardized column that is multiplied by f contributes with
variance f^2 C, a block of d such columns with d f^2 C. So factors belong to blocks: all
images together have as much of it as one image alone would, and the table as much as
the images. That balance is wrong where the images say little (R2 of prices falls from
.36 to .00 beside photographs of other houses), so several ratios are compared by the
leave-one-out error of ridge regression, which has a closed form.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from sktransfer._engine.strength import sample_of

# Factors of images and table: neither may drown the other.
_RATIOS = [
    (1.0, 1.0),
    (1 / 2, 1.0),
    (1 / 4, 1.0),
    (1 / 8, 1.0),
    (1 / 16, 1.0),
    (1.0, 1 / 4),
    (1.0, 1 / 16),
]


@dataclass(frozen=True, eq=False)
class Joint:
    """The layout of a row: what stands where, and what stands for what is missing.

    Parameters
    ----------
    fill : ndarray of shape (n_image_columns, width), float32
        What stands for a missing image of each column: the mean of the others.
    image_flags : ndarray of bool, shape (n_image_columns,)
        Which columns have a flag.
    table_mean, table_scale : ndarray of shape (n_table,)
        What standardizes the encoded table; its mean stands for a missing one.
    table_flag : bool
        Whether the table has a flag.
    dropout : float, default=0.0
        Probability that a row of a fit is seen without its images, or its table.
    """

    fill: np.ndarray
    image_flags: np.ndarray
    table_mean: np.ndarray
    table_scale: np.ndarray
    table_flag: bool
    dropout: float = 0.0

    @property
    def n_table(self):
        """Columns of the encoded table."""
        return len(self.table_mean)

    @property
    def n_columns(self):
        """Width of a row."""
        flags = int(self.image_flags.sum()) + self.table_flag
        return self.fill.size + flags + self.n_table

    def standardized(self, encoded):
        """Standardize an encoded table."""
        return (encoded - self.table_mean) / self.table_scale

    def rows(self, embeddings, present, table, has_table):
        """Put rows together.

        Parameters
        ----------
        embeddings : ndarray of shape (n, n_image_columns, width)
            Anything where an image is missing.
        present : ndarray of bool, shape (n, n_image_columns)
            Where there is an image.
        table : ndarray of shape (n, n_table)
            The encoded table, standardized.
        has_table : ndarray of bool, shape (n,)
            Which rows have one.

        Returns
        -------
        ndarray of shape (n, n_columns), float64
            The rows.
        """
        images = np.where(present[:, :, np.newaxis], embeddings, self.fill)
        parts = [images.reshape(len(images), -1), ~present[:, self.image_flags]]
        parts.append(np.where(has_table[:, np.newaxis], table, 0.0))
        if self.table_flag:
            parts.append(~has_table[:, np.newaxis])
        return np.hstack([part.astype(np.float64) for part in parts])

    def factors(self, of_images=1.0, of_table=1.0):
        """Return what standardized columns are multiplied by.

        Parameters
        ----------
        of_images, of_table : float, default=1.0
            1 is the balance that the module's description names.

        Returns
        -------
        ndarray of shape (n_columns,)
            The factors.
        """
        n_images, width = self.fill.shape
        n_others = self.n_columns - self.fill.size
        images = np.full(self.fill.size, of_images / n_images**0.5)
        # Flags are few beside a table, and count as columns of it.
        n_table = self.n_table or n_others or 1
        others = of_table * (width / n_table) ** 0.5
        return np.concatenate([images, np.full(n_others, others)])

    def chosen_factors(self, standardized, targets, alpha, weight=None):
        """Return the factors with the least leave-one-out error.

        Parameters
        ----------
        standardized : ndarray of shape (n, n_columns)
            Rows.
        targets : ndarray of shape (n, n_targets)
            What ridge regression shall predict.
        alpha : float
            Its penalty.
        weight : ndarray of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        ndarray of shape (n_columns,)
            The factors.
        """
        if self.n_table == 0:
            return self.factors()
        weight = np.ones(len(standardized)) if weight is None else weight
        rows, targets, weight = _each_once(standardized, targets, weight)
        some = sample_of(np.arange(len(rows)))
        weight = weight[some]
        targets = targets[some] - np.average(targets[some], axis=0, weights=weight)
        scaled = rows[some] * self.factors()
        errors = self._errors(scaled, targets, alpha, weight)
        return self.factors(*_RATIOS[int(np.argmin(errors))])

    def _errors(self, scaled, targets, alpha, weight):
        images, others = np.split(scaled, [self.fill.size], axis=1)
        of_images, of_others = images @ images.T, others @ others.T
        errors = []
        for image, other in _RATIOS:
            kernel = image**2 * of_images + other**2 * of_others
            kernel[np.diag_indices_from(kernel)] += alpha / weight
            inverse = np.linalg.inv(kernel)
            residuals = (inverse @ targets) / np.diag(inverse)[:, np.newaxis]
            errors.append((weight @ residuals**2).sum())
        return errors

    def with_dropped(self, rows, y, weight):
        """Add copies of rows without images and without table, as `dropout` says.

        A row with both counts 1 - p, its copies p / 2 each: solving for that is solving
        for the mean over all that may be dropped.

        Parameters
        ----------
        rows : ndarray of shape (n, n_columns)
            From `rows`.
        y : ndarray of shape (n,)
            Targets.
        weight : ndarray of shape (n,) or None
            Weights of the rows.

        Returns
        -------
        rows, y, weight : tuple of ndarray
            With the copies.
        """
        if not self.dropout or self.n_table == 0:
            return rows, y, weight
        weight = np.ones(len(rows)) if weight is None else weight
        start, stop = self.fill.size, self.fill.size + len(self.image_flags)
        # With dropout, each image column and the table have a flag.
        has_table = rows[:, -1] == 0
        both = np.flatnonzero(has_table & (rows[:, start:stop] == 0).any(axis=1))
        no_images, no_table = rows[both], rows[both]
        no_images[:, :start], no_images[:, start:stop] = self.fill.reshape(-1), 1.0
        no_table[:, stop:], no_table[:, -1] = 0.0, 1.0
        kept = weight.astype(float)
        kept[both] *= 1 - self.dropout
        of_copies = weight[both] * self.dropout / 2
        return (
            np.concatenate([rows, no_images, no_table]),
            np.concatenate([y, y[both], y[both]]),
            np.concatenate([kept, of_copies, of_copies]),
        )


def _each_once(rows, targets, weight):
    """Put equal rows together, with the mean of their targets and all their weight.

    Ridge regression does not tell them apart, but one left out would be known from the
    other: what learns by heart would be best.
    """
    there = np.flatnonzero(weight > 0)
    # To compare digests takes a tenth of the time of comparing rows.
    digests = [blake2b(rows[i].tobytes(), digest_size=16).digest() for i in there]
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    rows, targets, weight = rows[there[first]], targets[there], weight[there]
    total = np.bincount(group, weight)
    sums = [np.bincount(group, weight * column) for column in targets.T]
    return rows, np.stack(sums, axis=1) / total[:, np.newaxis], total
