"""A tiny network, images that it can tell apart, and views of what a fit changed."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from sktransfer import TransferClassifier, TransferRegressor
from sktransfer.backbones._parameters import parameter_kinds

SIZE = 16
STAGES = ("low", "middle", "top", "pooled")


def _stage(n_in, n_out, stride):
    convolution = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU())


def three_convs():
    """Three convolutions with batch norms, one a stage."""
    stages = {"low": (3, 8, 2), "middle": (8, 12, 2), "top": (12, 16, 2)}
    made = OrderedDict((name, _stage(*sizes)) for name, sizes in stages.items())
    return nn.Sequential(made)


def images(n, n_classes=3, noise=160, seed=0):
    """Noisy images, brighter in one colour or all; and which, classes in turn."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.integers(0, noise, size=(n, SIZE, SIZE, 3), dtype=np.uint8)
    for c in range(min(n_classes, 3)):
        X[y == c, ..., c] += 60
    return X, y


def shades(n, noise=100, seed=0):
    """Noisy images, and how bright they are: about 1000, give or take 50."""
    rng = np.random.default_rng(seed)
    y = rng.uniform(-1, 1, size=n)
    X = rng.integers(0, noise, size=(n, SIZE, SIZE, 3), dtype=np.uint8)
    X += (40 * (y + 1)).astype(np.uint8)[:, None, None, None]
    return X, 1000 + 50 * y


def classifier(strategy="fine_tuning", **params):
    """A classifier on the tiny network, whose fits take a fraction of a second."""
    return _estimator(TransferClassifier, strategy, params)


def regressor(strategy="fine_tuning", **params):
    """A regressor on the tiny network."""
    return _estimator(TransferRegressor, strategy, params)


def _estimator(kind, strategy, params):
    defaults = {"image_size": SIZE, "max_epochs": 2, "random_state": 0, "n_jobs": 1}
    backbone = params.pop("backbone", three_convs)
    return kind(backbone, strategy=strategy, **(defaults | params))


def tensors_of(estimator):
    """Bytes of all parameters and buffers of an estimator's network, by name."""
    state = estimator.backbone_.trunk.state_dict()
    return {
        name: tensor.contiguous().numpy().tobytes() for name, tensor in state.items()
    }


def base_tensors_of(estimator):
    """The same of the network that the fit started from."""
    state = estimator.backbone_.base.trunk.state_dict()
    return {
        name: tensor.contiguous().numpy().tobytes() for name, tensor in state.items()
    }


def changed(estimator):
    """Names of the tensors that a fit changed."""
    before, after = base_tensors_of(estimator), tensors_of(estimator)
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


# For tests of the engine, which need no images.


class Stage(nn.Sequential):
    """A stage as the engine sees it: a module with a name and kinds of parameters."""

    def __init__(self, name, *layers):
        super().__init__(*layers)
        self.name = name
        self.kinds = parameter_kinds(self)


class Ready:
    """A source whose activations are there already; counts what is asked for."""

    device = torch.device("cpu")

    def __init__(self, activations):
        self.activations = activations
        self.views, self.batches = [], []

    def known(self, rows, view):
        return None

    def load(self, rows, view):
        self.views.append(view)
        self.batches.append(rows.tolist())
        return torch.from_numpy(rows)

    def finish(self, rows):
        return self.activations[rows]

    def release(self):
        pass


def interruptible_loss():
    """A loss that a key press interrupts in training, once something is in the list."""
    interrupt = []

    def loss(output, target):
        if interrupt and output.requires_grad:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(output, target, reduction="none")

    return loss, interrupt
