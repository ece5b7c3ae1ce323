"""The skorch net that runs every phase of every strategy.

skorch brings the loop, the history and the callbacks; what it leaves to subclasses is
here: weighted losses of several heads, penalties, batches that come from the store of
activations, private random numbers, and mixed precision.
"""

import dis
import warnings
from contextlib import contextmanager

import torch
from skorch import NeuralNet
from skorch.callbacks import GradientNormClipping
from skorch.dataset import get_len, unpack_data
from skorch.history import History

from sktransfer._engine.batch_norm import settle_statistics
from sktransfer._engine.data import Rows, batches, epoch_order, part_of
from sktransfer._engine.engines import autocast
from sktransfer._engine.fusion import drop_modalities
from sktransfer._randomness import derived_seed, seeded_globals

_STEP = 2


class StopPhase(Exception):
    """No further epoch of this phase is of use."""


class TransferNet(NeuralNet):
    """A skorch net whose module is a TransferModule and whose data are `Rows`.

    The estimators build and drive it; everything that skorch documents about a fitted
    net (``history``, ``module_``, ``forward_iter``, callbacks) holds.

    Parameters
    ----------
    module : TransferModule
        The module, which is not copied.
    criterion : type
        A module class without parameters; the losses are in `losses`.
    losses : list of callable
        One a head: ``f(output, target)`` gives one value a row.
    task_weights : list of float
        Weights of the heads' losses.
    seed : int
        What everything random derives from.
    n_views : int or None, default=None
        Number of fixed views an image has; None is a new one each epoch.
    gradient_clip : float or None, default=None
        Largest norm of the gradient of a step; with a penalty, of the heads' and of
        the trunk's each.
    modality_dropout : float, default=0.0
        Probability that a row is seen without its images, or its table, in a step.
    precision : {"float32", "bfloat16"}, default="float32"
        What training computes with.
    **kwargs : dict
        skorch's own.

    Attributes
    ----------
    plain_rows_ : callable or None
        Returns the training rows without augmentation.
    setting : object or None
        What training was set up with; an equal setting can go on with this net.
    """

    plain_rows_ = None
    setting = None

    def __init__(
        self,
        module,
        criterion=torch.nn.Identity,
        *,
        losses,
        task_weights,
        seed,
        n_views=None,
        gradient_clip=None,
        modality_dropout=0.0,
        precision="float32",
        **kwargs,
    ):
        super().__init__(module, criterion, **kwargs)
        self.losses = losses
        self.task_weights = task_weights
        self.seed = seed
        self.n_views = n_views
        self.gradient_clip = gradient_clip
        self.modality_dropout = modality_dropout
        self.precision = precision

    @property
    def _default_callbacks(self):
        callbacks = super()._default_callbacks
        if self.gradient_clip is not None:
            clipping = _Clipping(self.gradient_clip)
            callbacks = [*callbacks, ("gradient_clipping", clipping)]
        if not self.verbose:
            callbacks = [pair for pair in callbacks if pair[0] != "print_log"]
        return callbacks

    def initialize_optimizer(self, *args, **kwargs):  # noqa: ARG002
        """Make the optimizer of the phase; there is none before the first one."""
        make = getattr(self, "_make_optimizer", None)
        if make is not None:
            parts = self.module_.parts(self.phase_)
            self.optimizer_, self.schedule_ = make(parts)
        return self

    def begin_phase(self, number, phase, make_optimizer, penalty=None):
        """Freeze, unfreeze, and make the optimizer that a phase needs.

        Parameters
        ----------
        number : int
            Number of the phase.
        phase : Phase
            The phase.
        make_optimizer : callable
            Maps the module's parts to (optimizer, schedule or None).
        penalty : Penalty or None, default=None
            Added to the loss of each training step.
        """
        self.module_.begin(phase)
        self._learnable = [
            pair for pair in self.module_.named_parameters() if pair[1].requires_grad
        ]
        self.module_.keeps_outputs = penalty is not None
        self.phase_, self.phase_number_, self.phase_epoch_ = phase, number, 0
        self.penalty_, self.step_ = penalty, 0
        self._make_optimizer = make_optimizer
        self._initialize_optimizer(reason=f"Phase {phase.name!r}")

    def get_all_learnable_params(self):
        """Yield names and parameters of what learns in this phase."""
        yield from self._learnable

    def forget_data(self):
        """Let go of the images of a fit, and of the last batch; keep the optimizer."""
        self.train_split = self._make_optimizer = self.plain_rows_ = None
        self.module_.keeps_outputs, self.module_.stage_outputs = False, []
        self.module_.zero_grad(set_to_none=True)

    def get_iterator(self, dataset, training=False):
        """Return an object that yields the batches of one epoch when iterated over."""
        if not isinstance(dataset, Rows):  # images, from a user of skorch's methods
            return super().get_iterator(dataset, training)
        return _Iterator(self, dataset, training)

    def infer(self, x, **fit_params):
        """Compute the logits of each head: a tuple, skorch's word for several."""
        return tuple(super().infer(x, **fit_params))

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        """Begin to count the steps of an epoch, and say whose it is."""
        super().on_epoch_begin(net, dataset_train, dataset_valid, **kwargs)
        self.history.record("phase", self.phase_.name)
        self.step_ = 0

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        """Record the learning rates."""
        super().on_epoch_end(net, dataset_train, dataset_valid, **kwargs)
        for group in self.optimizer_.param_groups:
            for name in group["names"]:
                self.history.record(f"lr_{name}", group["lr"])
        self.phase_epoch_ += 1

    def notify(self, method_name, **cb_kwargs):
        """Call the callbacks; skorch's stop training by raising KeyboardInterrupt."""
        try:
            super().notify(method_name, **cb_kwargs)
        except KeyboardInterrupt as interrupt:
            if _is_signal(interrupt):
                raise
            raise StopPhase from interrupt

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Run one epoch; one that judges sees the network as it will be used."""
        if iterator is not None and not training:
            self.settle_statistics()
        super().run_single_epoch(iterator, training, prefix, step_fn, **fit_params)

    def settle_statistics(self):
        """Make the statistics of batch norms that learn those that will be used."""
        if self.plain_rows_ is not None:
            settle_statistics(self, self.plain_rows_)

    def train_step(self, batch, **fit_params):
        """Take one optimizer step, and one of the schedule."""
        where = self.phase_number_, self.phase_epoch_, self.step_
        self._step_seed = derived_seed(self.seed, _STEP, *where)
        with _denormals_flushed():
            step = super().train_step(batch, **fit_params)
        if self.schedule_ is not None:
            self.schedule_.step()
        self.step_ += 1
        return step

    def train_step_single(self, batch, **fit_params):  # noqa: ARG002
        """Compute the gradient of one batch, in halves where memory is short."""
        self._set_training(True)
        inputs, (targets, weights) = unpack_data(batch)
        rows = get_len(inputs)
        if self.modality_dropout and isinstance(inputs, dict):
            inputs = drop_modalities(inputs, self.modality_dropout, self._step_seed)
        while True:
            most = min(rows, getattr(self, "_most_rows", rows))
            try:
                total = 0.0
                for start in range(0, rows, most):
                    part = slice(start, start + most)
                    labels = [t[part] for t in targets], weights[part]
                    piece = part_of(inputs, part), *labels
                    total = total + self._backward(piece, rows, start)
                return {"loss": total, "y_pred": None}
            except torch.OutOfMemoryError:
                if most < 2:
                    raise
                self._most_rows = (most + 1) // 2
                self._zero_grad_optimizer()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                warnings.warn(
                    f"Out of memory with {most} rows a forward pass: continuing with "
                    f"{self._most_rows}, gradients accumulated. Lower batch_size or "
                    "image_size to avoid the failed attempt.",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _backward(self, piece, rows, start):
        """Gradient of some rows of a batch; returns their share of its loss."""
        inputs, targets, weights = piece
        with seeded_globals((self._step_seed + start) % 2**64), self._autocast():
            outputs = self.infer(inputs)
        loss = self._loss(outputs, targets, weights)
        if self.module_.stage_outputs:
            images, *stages, features = self.module_.stage_outputs
            self.module_.stage_outputs = []
            with self._autocast():
                loss = loss + self.penalty_(images, stages, features)
        loss = loss * (len(weights) / rows)
        loss.backward()
        return loss.detach()

    def mean_loss(self, dataset, on_batch=None):
        """Pass a dataset through the module as it is, and return the mean loss.

        Parameters
        ----------
        dataset : Rows
            The rows.
        on_batch : callable, default=None
            ``on_batch(batch=..., y_pred=..., loss=...)`` is told of each batch.

        Returns
        -------
        float
            Without penalties.
        """
        total, n = 0.0, 0
        for batch in self.get_iterator(dataset, training=False):
            step = self.validation_step(batch)
            if on_batch is not None:
                on_batch(batch=batch, **step)
            _, weights = batch[1]
            total += float(step["loss"]) * len(weights)
            n += len(weights)
        return total / n

    def _autocast(self):
        return autocast(torch.device(self.device), self.precision)

    def _loss(self, outputs, targets, weights):
        """Mean over the rows of the heads' weighted losses, summed over the heads."""
        total = 0.0
        for i, (loss, factor) in enumerate(
            zip(self.losses, self.task_weights, strict=True)
        ):
            per_row = loss(outputs[i].float(), targets[i])
            total = total + factor * (weights[:, i] * per_row).mean()
        return total

    def get_loss(self, y_pred, y_true, X=None, training=False):  # noqa: ARG002
        """Loss of one batch without the penalty."""
        return self._loss(y_pred, *y_true)


class _Clipping(GradientNormClipping):
    """Clips the gradient of a step; with a penalty, that of the heads by itself.

    A penalty that holds the network can have hundreds of times the gradient of the
    loss. Scaled down together with it the heads would learn from the first batch alone.
    """

    def on_grad_computed(self, net, named_parameters, **kwargs):
        """Scale down what is too large."""
        parts = {}
        for name, parameter in named_parameters:
            part = net.penalty_ is None or name.startswith("heads.")
            parts.setdefault(part, []).append((name, parameter))
        for part in parts.values():
            super().on_grad_computed(net, part, **kwargs)


class _Iterator:
    """Batches of a dataset; each iteration is the epoch in which the net is."""

    def __init__(self, net, dataset, training):
        self.net, self.dataset, self.training = net, dataset, training

    def __iter__(self):
        net, dataset = self.net, self.dataset
        order, view = range(len(dataset)), 0
        size = net.batch_size
        if self.training:
            where = net.phase_number_, net.phase_epoch_
            order = epoch_order(len(dataset), net.seed, *where)
            view = len(net.history) - 1
            view = view if net.n_views is None else view % net.n_views
        return batches(dataset, list(order), size, view)


def _is_signal(interrupt):
    """Tell a key press from a callback's ``raise KeyboardInterrupt``.

    The last instruction is that of raising only if the program itself raised.
    """
    trace = interrupt.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code.co_code
    return code[trace.tb_lasti] != dis.opmap["RAISE_VARARGS"]


@contextmanager
def _denormals_flushed():
    """Numbers below 1e-38 slow Adam down several times on CPUs."""
    was_flushed = bool(torch.tensor(1e-40) * 1 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushed)


def untrained_net(module, losses, batch_size, history=None):
    """Wrap a fitted module into an initialized net.

    Parameters
    ----------
    module : TransferModule
        The module.
    losses : list of callable
        One a head.
    batch_size : int
        Rows a batch.
    history : list of dict, default=None
        Rows of an earlier history.

    Returns
    -------
    TransferNet
        The net.
    """
    net = TransferNet(
        module.eval().requires_grad_(False),
        losses=losses,
        task_weights=[1.0] * len(losses),
        seed=0,
        batch_size=batch_size,
        train_split=None,
        verbose=0,
    ).initialize()
    if history is not None:
        net.history_ = History(history)
    return net
