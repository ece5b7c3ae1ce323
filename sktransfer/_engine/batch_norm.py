"""Statistics of batch norms that learn: which ones their network is used with.

While it trains, each layer sees the statistics of its batch, and running statistics
follow with the architecture's momentum. That of torchvision's MobileNetV3 is .01: after
190 steps from random weights its variances are up to 220 times those of a batch, and a
network that has learnt names one class for all images. Statistics that are measured in
one more pass over training rows ("precise": Wu and Johnson, "Rethinking 'Batch' in
BatchNorm", 2021) mend that. But where a few steps have moved a pretrained network
little, its running statistics, which are still near those of the pretraining, may be
better. So training rows judge which are kept.
"""

from contextlib import contextmanager
from math import isnan

import torch
from torch import nn

from sktransfer._randomness import derived_seed

_ORDER = 7
# Training rows, at most, that are measured, and that judge.
_ROWS = 512


def batch_norms(module):
    """Return all batch norms of a module."""
    kind = nn.modules.batchnorm._BatchNorm
    return [layer for layer in module.modules() if isinstance(layer, kind)]


def settle_statistics(net, rows):
    """Let batch norms that learn have the running or the measured statistics.

    Parameters
    ----------
    net : TransferNet
        The net that is trained.
    rows : callable
        Returns training rows that are the same in each pass; asked for only if there
        are such batch norms. Statistics are measured, and kept if the loss on these
        rows is lower by them.
    """
    layers = net.module_.learning_batch_norms()
    if not layers:
        return
    rows = rows().some(_ROWS, derived_seed(net.seed, _ORDER))
    running = [(bn.running_mean.clone(), bn.running_var.clone()) for bn in layers]
    loss, is_better = net.mean_loss(rows), False
    try:
        with torch.no_grad(), measured_statistics(layers):
            for inputs, _ in net.get_iterator(rows, training=False):
                net.infer(inputs)
        is_better = isnan(loss) or net.mean_loss(rows) < loss
    finally:
        if not is_better:
            for layer, (mean, variance) in zip(layers, running, strict=True):
                layer.running_mean.copy_(mean)
                layer.running_var.copy_(variance)


@contextmanager
def measured_statistics(layers):
    """Give batch norms the statistics of all that passes meanwhile.

    Parameters
    ----------
    layers : list of torch.nn.Module
        The batch norms, which are in eval mode before and after.
    """
    kept = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in layers]
    moments, hooks = [_Moments() for _ in layers], []
    try:
        for layer, seen in zip(layers, moments, strict=True):
            hook = layer.register_forward_pre_hook(seen.add, with_kwargs=True)
            hooks.append(hook)
            # By those of its batch, as in training: deeper ones are measured as well.
            layer.train()
            layer.momentum = 0.0
        yield
        for layer, seen in zip(layers, moments, strict=True):
            seen.write_to(layer)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, (momentum, n) in zip(layers, kept, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(n)
            layer.eval()


class _Moments:
    """Mean and variance, by channel, of all that a layer sees."""

    def __init__(self):
        self.n, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, layer, args, kwargs):  # noqa: ARG002 (torch's signature)
        batch = (*args, *kwargs.values())[0]
        others = [dim for dim in range(batch.ndim) if dim != 1]
        variance, mean = torch.var_mean(batch.float(), dim=others, correction=0)
        n = batch.numel() // batch.shape[1]
        before, self.n = self.n, self.n + n
        # Sums of squares would lose a variance that is small beside the mean.
        difference = mean - self.mean
        self.mean = self.mean + difference * (n / self.n)
        between = difference**2 * (before * n / self.n)
        self.squares = self.squares + variance * n + between

    def write_to(self, layer):
        if self.n > 1:  # or no image has passed
            layer.running_mean.copy_(self.mean)
            layer.running_var.copy_(self.squares / (self.n - 1))
