"""What is particular to classes: reading y, solving heads, and what a fit leaves."""

from copy import deepcopy

import numpy as np

from sktransfer._supervised import SupervisedEstimator
from sktransfer._targets import column_class_weights, encode_known, read_targets


class ClassEstimator(SupervisedEstimator):
    """Base of the estimators that predict classes."""

    def _read_targets(self, y, sample_weight, known, announced):
        if known is not None:
            return encode_known(y, known)
        return read_targets(y, sample_weight, announced)

    def _row_weights(self, targets, sample_weight):
        weights = column_class_weights(self.class_weight, targets.classes)
        return targets.row_weights(sample_weight, weights)

    def _solve(self, features, targets, c, rows, C, sample_weight):
        from sktransfer._engine.exact import fit_linear_head

        classes = targets.classes[c]
        head = fit_linear_head(
            features,
            classes[targets.codes[rows, c]],
            C,
            sample_weight,
            column_class_weights(self.class_weight, targets.classes)[c],
            self._joint,
        )
        return head.with_classes(classes)

    def _heads_of(self, layer, columns, targets):
        from sktransfer._engine.heads import ClassModuleHead, trained_linear_heads

        classes = [targets.classes[c] for c in columns]
        if isinstance(self.head, str):
            return trained_linear_heads(layer, classes)
        multilabel = targets.kind == "multilabel"
        names = np.arange(len(columns)) if multilabel else classes[0]
        n_features = self._n_features()
        return [
            ClassModuleHead(
                deepcopy(layer), names, multilabel, self.batch_size, n_features
            )
        ]

    def _head_attributes(self, heads, targets):
        classes = targets.classes[0] if targets.kind == "single" else targets.classes
        if targets.kind == "multilabel":
            classes = np.arange(len(targets.classes))
        several = targets.kind == "multioutput" or len(heads) > 1
        return {"head_": heads if several else heads[0], "classes_": classes}


def side_by_side(labels):
    """Stack the labels of several targets as columns; 0 does not become "0"."""
    if len({column.dtype.kind in "OUS" for column in labels}) > 1:
        labels = [column.astype(object) for column in labels]
    return np.column_stack(labels)
