"""Layers on top of the features: one linear layer, a small MLP, or the user's own."""

from numbers import Integral, Real

import numpy as np
import torch
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import nn

from sktransfer._engine.exact import LinearHead, RegressionHead
from sktransfer._engine.modes import own_modes
from sktransfer._engine.prefix import MIN_ROWS


class MLPHead(BaseEstimator):
    """A head of hidden layers with ReLU, each followed by dropout.

    Parameters
    ----------
    hidden : tuple of int, default=(64,)
        Widths of the hidden layers.
    dropout : float, default=0.2
        Share of the hidden units that is dropped in training.

    Examples
    --------
    >>> from sktransfer import MLPHead, TransferClassifier
    >>> TransferClassifier(head=MLPHead(hidden=(64,), dropout=0.0))
    TransferClassifier(head=MLPHead(dropout=0.0))
    """

    def __init__(self, hidden=(64,), dropout=0.2):
        self.hidden = hidden
        self.dropout = dropout

    _parameter_constraints: dict = {
        "hidden": [tuple, list],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __call__(self, n_features, n_outputs):
        """Build the layers.

        Parameters
        ----------
        n_features : int
            Width of the features.
        n_outputs : int
            Number of logits.

        Returns
        -------
        torch.nn.Module
            Maps features (b, n_features) to logits (b, n_outputs).
        """
        self._validate_params()
        for width in self.hidden:
            if not isinstance(width, Integral) or width < 1:
                raise ValueError(
                    f"Parameter hidden: found {self.hidden!r}. Expected a tuple of "
                    "positive whole numbers."
                )
        layers, width = [], n_features
        for n in self.hidden:
            layers += [nn.Linear(width, n), nn.ReLU(), nn.Dropout(self.dropout)]
            width = n
        return nn.Sequential(*layers, nn.Linear(width, n_outputs))


def build_head(head, n_features, n_outputs):
    """Build one head with random weights, under the caller's generator.

    Parameters
    ----------
    head : "linear" or callable
        A callable gets `n_features` and `n_outputs` and returns a module.
    n_features : int
        Width of the features.
    n_outputs : int
        Number of logits.

    Returns
    -------
    torch.nn.Module
        Maps features (b, n_features) to logits (b, n_outputs).
    """
    if isinstance(head, str):
        return nn.Linear(n_features, n_outputs, dtype=torch.float32)
    module = head(n_features, n_outputs)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"Parameter head: the callable returned {type(module).__name__}. Expected "
            "a torch.nn.Module that maps features to logits."
        )
    module.float().eval()
    with torch.no_grad():
        blank = torch.zeros(2, n_features, dtype=torch.float32)
        shape = tuple(module(blank).shape)
    if shape != (2, n_outputs):
        raise ValueError(
            f"Parameter head: for 2 rows of {n_features} features the module returned "
            f"shape {shape}. Expected {(2, n_outputs)}, one logit an output."
        )
    return module


class Standardized(nn.Module):
    """A head on standardized features, so that learning rates suit every backbone.

    Parameters
    ----------
    head : torch.nn.Module
        Maps features to logits.
    mean, scale : ndarray of shape (n_features,)
        Of the frozen features of the training rows; they stay as they are.
    """

    def __init__(self, head, mean, scale):
        super().__init__()
        self.head = head
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("scale", torch.from_numpy(scale).float())

    def forward(self, features):
        """Return the logits of a batch."""
        return self.head((features - self.mean) / self.scale)


def load_solution(linear, heads):
    """Copy solved heads into a linear layer.

    Parameters
    ----------
    linear : torch.nn.Linear or Standardized
        The layer: a row a class of the one head, or a row a head of several labels.
    heads : list of LinearHead or RegressionHead
        The solved head of one target, or those of all labels of a multilabel target.
    """
    weights, biases = zip(*(head.layer_rows() for head in heads), strict=True)
    coef, intercept = np.concatenate(weights), np.concatenate(biases)
    if isinstance(linear, Standardized):
        mean, scale = _float64(linear.mean), _float64(linear.scale)
        intercept, coef = intercept + coef @ mean, coef * scale
        linear = linear.head
    if len(heads) == 1 and linear.out_features == 2:
        # Both rows learn alike, and softmax of them is the sigmoid of their difference.
        coef = np.concatenate([-coef / 2, coef / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    if coef.shape != tuple(linear.weight.shape):
        raise ValueError(f"Cannot load {coef.shape} into {tuple(linear.weight.shape)}.")
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(coef))
        linear.bias.copy_(torch.from_numpy(intercept))


def trained_linear_heads(linear, classes_of):
    """Return a trained linear layer as the heads that `predict` uses.

    Parameters
    ----------
    linear : torch.nn.Linear or Standardized
        The layer.
    classes_of : list of ndarray
        Classes of the one target, or of each label of a multilabel target.

    Returns
    -------
    list of LinearHead
        As many as `classes_of`.
    """
    weight, bias, kept = _on_raw_features(linear)
    if len(classes_of) > 1:
        return [
            LinearHead(classes, weight[i : i + 1], bias[i : i + 1], kept)
            for i, classes in enumerate(classes_of)
        ]
    if len(bias) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    return [LinearHead(classes_of[0], weight, bias, kept)]


def trained_regression_head(linear, target_mean, target_scale):
    """Return a trained linear layer as the head that `predict` uses.

    Parameters
    ----------
    linear : torch.nn.Linear or Standardized
        The layer, with one output: the standardized target.
    target_mean, target_scale : float
        What standardized it.

    Returns
    -------
    RegressionHead
        In the target's own units.
    """
    weight, bias, kept = _on_raw_features(linear)
    coef, intercept = weight * target_scale, bias * target_scale + target_mean
    return RegressionHead(coef, intercept, target_mean, target_scale, kept)


def _on_raw_features(linear):
    """Weights and biases for raw features, and the standardization of a layer."""
    mean, scale, kept = 0.0, 1.0, None
    if isinstance(linear, Standardized):
        mean, scale = kept = _float64(linear.mean), _float64(linear.scale)
        linear = linear.head
    weight = _float64(linear.weight) / scale
    return weight, _float64(linear.bias) - (weight * mean).sum(axis=1), kept


def _widest_dtype(module, n_features):
    """Bring a head to float64, where rounding hides what depends on the batch."""
    try:
        module.double()(torch.zeros(2, n_features, dtype=torch.float64))
    except Exception:  # it makes float32 tensors of its own
        module.float()
        return torch.float32
    return torch.float64


def _float64(tensor):
    return tensor.detach().cpu().numpy().astype(np.float64)


class ModuleHead:
    """A head of any layers.

    Parameters
    ----------
    module : torch.nn.Module
        Maps features to outputs; in eval mode on the CPU.
    rows : int
        Rows of each forward pass, at least `MIN_ROWS`: a row's value must not depend on
        how many there are.
    n_features : int
        Width of the features.
    """

    def __init__(self, module, rows, n_features):
        self.module = module.eval().cpu().requires_grad_(False)
        self._dtype = _widest_dtype(self.module, n_features)
        self.rows = max(rows, MIN_ROWS)

    def _outputs(self, features):
        outputs = []
        with own_modes(), torch.inference_mode():
            for start in range(0, len(features), self.rows):
                batch = torch.from_numpy(features[start : start + self.rows])
                batch = batch.to(self._dtype)
                missing = self.rows - len(batch)
                filled = torch.cat([batch, batch[-1:].expand(missing, -1)])
                outputs.append(self.module(filled)[: len(batch)].double().numpy())
        return np.concatenate(outputs)


class ClassModuleHead(ModuleHead):
    """A head of any layers, for the classes of one target or for all labels of many.

    Parameters
    ----------
    module : torch.nn.Module
        Maps features to logits; in eval mode on the CPU.
    classes : ndarray of shape (n_classes,)
        Labels, sorted; the numbers of the columns for a multilabel target.
    multilabel : bool
        Whether each logit is a label of its own.
    rows, n_features : int
        As in ModuleHead.
    """

    def __init__(self, module, classes, multilabel, rows, n_features):
        super().__init__(module, rows, n_features)
        self.classes = classes
        self.multilabel = multilabel

    def decision_function(self, features):
        """Logits: (n,) for up to two classes, else one a class or label."""
        logits = self._outputs(features)
        if self.multilabel or len(self.classes) > 2:
            return logits
        return logits[:, -1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]

    def predict_proba(self, features):
        """Probabilities of the classes, or of each label, (n, n_classes)."""
        logits = self._outputs(features)
        if self.multilabel:
            return expit(logits)
        return softmax(logits, axis=1)

    def predict(self, features):
        """Labels, (n,), or a 0/1 matrix (n, n_labels)."""
        logits = self._outputs(features)
        if self.multilabel:
            return (logits > 0).astype(int)
        return self.classes[logits.argmax(axis=1)]


class RegressionModuleHead(ModuleHead):
    """A head of any layers, for a continuous target.

    Parameters
    ----------
    module : torch.nn.Module
        Maps features to the standardized target; in eval mode on the CPU.
    target_mean, target_scale : float
        What standardized it.
    rows, n_features : int
        As in ModuleHead.
    """

    def __init__(self, module, target_mean, target_scale, rows, n_features):
        super().__init__(module, rows, n_features)
        self.target_mean, self.target_scale = target_mean, target_scale

    def predict(self, features):
        """Values in the target's own units, (n,)."""
        return self._outputs(features)[:, 0] * self.target_scale + self.target_mean
