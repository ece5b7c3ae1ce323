"""Rows of several images and a table: read, encoded, and put together as features."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from sktransfer._base import ImageEstimator
from sktransfer._images.inputs import is_frame, read_items
from sktransfer._images.items import MissingItem
from sktransfer._sources import Sources
from sktransfer._table_encoder import encode_rows, encode_training_rows
from sktransfer._tabular import (
    as_pandas,
    check_image_columns,
    check_some_images,
    find_image_columns,
    select_columns,
)
from sktransfer.exceptions import InvalidImageError


@dataclass
class FusedRows:
    """Rows of X that hold images in several columns, or a table beside them.

    Parameters
    ----------
    names : list
        Names of the image columns.
    images : list of ImageSequence
        The images of each.
    frame : pandas.DataFrame
        The other columns that are used, possibly none.
    embeddings : ndarray of shape (n, n_image_columns, width) or None
        What the frozen network says, once it was asked.
    present : ndarray of bool, shape (n, n_image_columns) or None
        Where there is an image.
    table : ndarray of shape (n, n_features) or None
        The encoded table.
    """

    names: list
    images: list
    frame: pd.DataFrame
    embeddings: np.ndarray | None = None
    present: np.ndarray | None = None
    table: np.ndarray | None = None

    def __len__(self):
        return len(self.frame)

    @property
    def has_table(self):
        """Which rows have a value in any column of the table."""
        return self.frame.notna().to_numpy().any(axis=1)

    def contents(self):
        """Yield bytes that other rows do not have."""
        for name in self.frame.columns:
            column = self.frame[name]
            yield f"{name!r} {column.dtype} {column.tolist()!r};".encode()
        for images in self.images:
            yield from images.contents()

    def shorter_sides(self, sample_weight=None):
        """Return the shorter sides of some images of each column, in pixels."""
        columns = [images.shorter_sides(sample_weight) for images in self.images]
        return [side for column in columns for side in column]


class FusedSources:
    """The sources of what the trainable part sees of rows, as `Sources` of images.

    Parameters
    ----------
    estimator : FusedEstimator
        Whose parameters hold.
    rows : FusedRows
        Encoded.
    device : torch.device
        Where training happens.
    views : Views or None
        How training sees images; None is as they are.
    """

    def __init__(self, estimator, rows, device, views):
        self.rows = rows
        self.columns = [
            Sources(estimator, images, device, views) for images in rows.images
        ]

    def __call__(self, cut, training):
        """Return the source of inputs behind a cut; None cuts before everything."""
        import torch

        from sktransfer._engine.fusion import FusedActivations

        return FusedActivations(
            [column(cut, training) for column in self.columns],
            self.rows.present,
            torch.from_numpy(self.rows.table.astype(np.float32)),
            torch.from_numpy(self.rows.has_table),
        )

    def close(self):
        """Say that the fit is over."""
        for column in self.columns:
            column.close()


class FusedEstimator(ImageEstimator):
    """Base of the estimators that read tables with images in some columns."""

    _parameter_constraints: dict = {
        **ImageEstimator._parameter_constraints,
        "image_columns": [str, Integral, "array-like", None],
        "tabular": [
            StrOptions({"auto", "drop"}),
            HasMethods(["fit_transform", "transform"]),
        ],
        "modality_dropout": [Interval(Real, 0, 1, closed="left")],
        "on_invalid": [StrOptions({"raise", "nan"})],
    }

    _joint = None  # the layout of a row of features; None where it is of one image

    def _read_images(self, X, *, reset, sample_weight=None):
        """Turn any X into an ImageSequence, or into FusedRows."""
        if reset:
            self._joint = None
            self.__dict__.pop("image_columns_", None)
            names = self._image_columns_of(X)
        else:
            names = self.__dict__.get("image_columns_")
            if names is not None and not is_frame(X):
                if not self._is_of_one_image():
                    raise ValueError(
                        f"X: found {type(X).__name__}, while fit saw a table with the "
                        f"image column(s) {names}. Expected a DataFrame with its "
                        "columns."
                    )
                names = None
        if names is None:
            return super()._read_images(X, reset=reset, sample_weight=sample_weight)
        return self._read_table(X, names, reset)

    def _image_columns_of(self, X):
        """Names of the image columns of a fit; None where X is no table."""
        if self.image_columns is not None:
            if not is_frame(X):
                raise ValueError(
                    f"Parameter image_columns: found {self.image_columns!r} with X of "
                    f"type {type(X).__name__}. Expected a DataFrame with these columns."
                )
            return check_image_columns(self.image_columns, as_pandas(X))
        if not is_frame(X) or X.shape[1] < 2:
            return None
        return find_image_columns(as_pandas(X)) or None

    def _is_of_one_image(self):
        return len(self.image_columns_) == 1 and not self._table_columns

    def _table_advice(self, columns):
        return (
            f"No column holds images and nothing else. Name those that do with "
            f"image_columns={columns[:1]}, in fit and before it."
        )

    def _read_table(self, X, names, reset):
        frame = as_pandas(X)
        if len(frame) == 0:
            raise ValueError(
                "X: found 0 rows (0 sample(s)) while a minimum of 1 is required."
            )
        if reset:
            self._start_table(frame, names)
        value_range = self.value_range_
        of_images = select_columns(frame, self.image_columns_, "image column(s)")
        images = [read_items(of_images[n], value_range, n) for n in self.image_columns_]
        if self._is_of_one_image():
            return images[0]
        table = select_columns(frame, self._table_columns, "column(s)")
        return FusedRows(self.image_columns_, images, table)

    def _start_table(self, frame, names):
        check_some_images(frame, names)
        self._forget_columns()
        self.n_features_in_ = frame.shape[1]
        if all(isinstance(name, str) for name in frame.columns):
            self.feature_names_in_ = np.array(frame.columns, dtype=object)
        self.image_columns_, self.tabular_ = list(names), None
        others = [name for name in frame.columns if name not in names]
        drop = isinstance(self.tabular, str) and self.tabular == "drop"
        self._table_columns = [] if drop else others
        self.value_range_ = self._given_value_range()
        self.image_shape_ = None

    def _join(self, fit):
        """Find the layout of the rows of a fit, unless it goes on; encode them."""
        rows = fit.images
        if not isinstance(rows, FusedRows):
            return
        self._embed(rows)
        if self._joint is None:
            encoded = self._fit_table(rows, fit)
            self._joint = self._layout(rows, encoded, fit)
        else:
            encoded = self._encoded(rows)
        self._finish(rows, encoded)

    def _fit_table(self, rows, fit):
        if not self._table_columns:
            return np.empty((len(rows), 0))
        self.tabular_, encoded = encode_training_rows(
            self.tabular, rows.frame, fit.y, fit.train
        )
        return encoded

    def _layout(self, rows, encoded, fit):
        from sktransfer._engine.exact import mean_and_scale
        from sktransfer._engine.joint import Joint

        train, has_table = fit.train, rows.has_table
        known = train[has_table[train]]
        present, n_table = rows.present[train], encoded.shape[1]
        fill = _mean_where(present, rows.embeddings[train], _of(fit, train))
        units = np.zeros(n_table), np.ones(n_table)
        if n_table and len(known):
            units = mean_and_scale(encoded[known], _of(fit, known))
        dropout = float(self.modality_dropout) if n_table else 0.0
        return Joint(
            fill.astype(np.float32),
            ~present.all(axis=0) | (dropout > 0),
            *units,
            bool(n_table) and (len(known) < len(train) or dropout > 0),
            dropout,
        )

    def _features(self, images, view=None, **beside):
        """Compute what heads see of images or rows, or of a view, (n, n_features)."""
        if not isinstance(images, FusedRows):
            return self._compute_features(
                images, layer=self._layer, view=view, **beside
            )
        rows = images
        if rows.table is None:
            self._embed(rows)
            self._finish(rows, self._encoded(rows))
        embeddings = rows.embeddings
        if view is not None:
            embeddings, _ = self._embeddings(rows, view)
        return self._joint.rows(embeddings, rows.present, rows.table, rows.has_table)

    def _encoded(self, rows):
        if self.tabular_ is None:
            return np.empty((len(rows), 0))
        return encode_rows(self.tabular_, rows.frame)

    def _finish(self, rows, encoded):
        rows.table = self._joint.standardized(encoded)
        if self._joint.n_table == 0:
            empty = np.flatnonzero(~rows.present.any(axis=1))
            which = " and ".join(map(repr, rows.names))
            self._raise_invalid([(row, f"no image in {which}") for row in empty], rows)

    def _embed(self, rows):
        """Ask the network about all images; which there are, follows from that."""
        rows.embeddings, wrong = self._embeddings(rows)
        rows.present = ~np.isnan(rows.embeddings).all(axis=2)
        if self.on_invalid == "raise":
            hint = "Or pass on_invalid='nan' to treat them as missing."
            self._raise_invalid(wrong, rows, hint)

    def _embeddings(self, rows, view=None):
        """Embeddings (n, n_image_columns, width), and what is wrong in which row."""
        found, wrong = [], []
        for name, images in zip(rows.names, rows.images, strict=True):
            problems = []
            found.append(
                self._compute_features(
                    images, layer=self._layer, view=view, problems=problems
                )
            )
            wrong += [
                (row, f"column {name!r}: {what}")
                for row, what in problems
                if not isinstance(images[row], MissingItem)
            ]
        return np.stack(found, axis=1), sorted(wrong)

    def _raise_invalid(self, problems, rows, hint=""):
        if problems:
            raise InvalidImageError(problems, len(rows), hint)

    def _n_features(self):
        """Width of what heads see."""
        if self._joint is not None:
            return self._joint.n_columns
        return self.backbone_.n_features_of(*self._layer)


def _of(fit, rows):
    """Return the weights that the user gave some rows, or None."""
    return None if fit.sample_weight is None else fit.sample_weight[rows]


def _mean_where(present, embeddings, weight):
    """Mean embedding of each image column; zeros in a column without images."""
    weight = present * (1.0 if weight is None else weight[:, np.newaxis])
    known = np.where(present[:, :, np.newaxis], embeddings, 0.0)
    total = weight.sum(axis=0)
    sums = np.einsum("nc,ncw->cw", weight, known)
    return sums / np.where(total > 0, total, 1.0)[:, np.newaxis]
