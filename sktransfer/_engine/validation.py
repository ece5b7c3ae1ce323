"""Early stopping: the best weights on the validation part, the probe's among them."""

from functools import partial

import numpy as np
import torch
from skorch.callbacks import Callback

_KEPT = (
    "best_score",
    "best_loss",
    "best_state",
    "probe_score",
    "gained_score",
    "n_without_gain",
)


class BestWeights(Callback):
    """Score the validation part after each epoch; keep the best weights in memory.

    The weights with the highest score are kept, among equal ones those with the lower
    loss. When training stops is another question: when no score was higher than the
    last one that counted by more than `tol`.

    Parameters
    ----------
    score : callable
        Maps (outputs, targets, weights), lists with one entry a head, to a number.
    n_iter_no_change : int
        A phase ends when so many epochs brought no better score.
    tol : float
        Difference of scores that does not count as a gain.
    """

    def __init__(self, score, n_iter_no_change, tol):
        self.score = score
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.best_score = -np.inf
        self.best_loss = np.inf
        self.best_state = None
        self.probe_score = None
        self.gained_score = -np.inf
        self.n_without_gain = 0
        self._seen = []

    def begin_phase(self):
        """Give a new phase its own patience."""
        self.n_without_gain = 0

    def try_start(self, net, dataset, is_probe):
        """Make the state before the first step a candidate."""
        self.gained_score = self.try_weights(net, dataset)
        if is_probe:
            self.probe_score = self.gained_score

    def try_weights(self, net, dataset):
        """Make what the net's weights are now a candidate; return their score."""
        keep = partial(self.on_batch_end, net, training=False)
        return self._take(net, net.mean_loss(dataset, keep))

    def on_epoch_begin(self, net, **kwargs):  # noqa: ARG002
        """Forget outputs of an epoch that was cut short."""
        self._seen = []

    def on_batch_end(self, net, batch=None, training=None, y_pred=None, **kwargs):  # noqa: ARG002
        """Keep the outputs of validation batches until the end of the epoch."""
        if not training:
            targets, weights = batch[1]
            outputs = [output.detach().float().cpu() for output in y_pred]
            self._seen.append((outputs, [t.cpu() for t in targets], weights.cpu()))

    def on_epoch_end(self, net, **kwargs):  # noqa: ARG002
        """Score the epoch and keep its weights if they are the best so far."""
        score = self._take(net, net.history[-1, "valid_loss"])
        net.history.record("valid_score", score)
        self.n_without_gain += 1
        if score > self.gained_score + self.tol:
            self.gained_score, self.n_without_gain = score, 0

    @property
    def exhausted(self):
        """Whether nothing has improved for as long as was allowed."""
        return self.n_without_gain >= self.n_iter_no_change

    def _take(self, net, loss):
        outputs, targets, weights = zip(*self._seen, strict=True)
        self._seen = []
        score = self.score(
            [torch.cat(parts).numpy() for parts in zip(*outputs, strict=True)],
            [torch.cat(parts).numpy() for parts in zip(*targets, strict=True)],
            torch.cat(weights).numpy(),
        )
        if (score, -loss) > (self.best_score, -self.best_loss):
            self.best_state = net.module_.snapshot()
            self.best_score, self.best_loss = score, loss
        return score

    def restore(self, net):
        """Put the best weights back into the net."""
        if self.best_state is not None:  # a callback may stop before the first score
            net.module_.restore(self.best_state)

    def state_dict(self):
        """Return what a checkpoint must hold."""
        return {name: getattr(self, name) for name in _KEPT}

    def load_state_dict(self, state):
        """Take over what a checkpoint held."""
        vars(self).update(state)
