"""Penalties that hold a network near the one it started from.

Each is a number added to the mean loss of a batch. The strengths of the papers hold for
mean losses, and `strength="auto"` is the paper's.
"""

import torch

from sktransfer._engine.optimizers import trainable_parameters

_HEAD_STRENGTH = 0.01
"""Beta of L2-SP and DELTA, which pull the new layers towards 0."""
_ATTENTION_TEMPERATURE = 5.0


class Penalty:
    """What a penalty answers to; the base of all of them.

    The order of calls in a phase: `start`, then `prepare` where `needs_batches`, or
    `load_state_dict` where an interrupted phase goes on, then a call at each step.

    Parameters
    ----------
    strength : float
        What the penalty is multiplied by.
    """

    needs_base = False
    """Whether `start` must be given the base network."""
    needs_batches = False
    """Whether `prepare` must be called."""
    replaces_weight_decay = False
    """Whether it takes the place of the optimizer's weight decay."""

    def __init__(self, strength):
        self.strength = strength

    def start(self, segments, base_segments, heads):
        """Get to know the networks of a phase.

        Parameters
        ----------
        segments : list of torch.nn.Module
            Their composition maps the activation at the cut to features; what is
            trained requires a gradient by now.
        base_segments : list of torch.nn.Module or None
            Frozen copies of the base network in eval mode, on the same device, tensors
            under the same names.
        heads : list of torch.nn.Module
            One for each target.
        """
        if self.needs_base and base_segments is None:
            raise ValueError(f"{type(self).__name__} needs the base network.")
        self.segments, self.base_segments = segments, base_segments
        self.heads = list(heads)

    def prepare(self, batches, loss, head=None):
        """Compute once what needs data.

        Parameters
        ----------
        batches : iterable of (Tensor, object)
            Activations at the cut and targets of some training rows.
        loss : callable
            ``loss(output, target)``, a value a row or a mean; with several heads,
            output is the list of theirs.
        head : callable, default=None
            Maps features to what `loss` gets; None is the heads themselves.
        """

    def __call__(self, inputs, stage_outputs, features):
        """Return the penalty of a step.

        Parameters
        ----------
        inputs : Tensor
            The batch of activations at the cut.
        stage_outputs : list of Tensor
            What each segment put out for it.
        features : Tensor of shape (b, d)
            The last of them.

        Returns
        -------
        Tensor
            A scalar with gradients.
        """
        raise NotImplementedError

    def state_dict(self):
        """Return what `prepare` computed, as plain data."""
        return {}

    def load_state_dict(self, state):
        """Take what `prepare` computed before."""


class L2SP(Penalty):
    """Squared distance of the parameters from where they started.

    strength/2 ||w - w0||^2 over all trained parameters of the backbone, plus 0.01/2
    ||head||^2 over the head's weights; not over its biases and norms, as in the
    authors' code. It takes the place of weight decay.

    References
    ----------
    Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with
    Convolutional Networks", ICML 2018.
    """

    needs_base = True
    replaces_weight_decay = True

    def start(self, segments, base_segments, heads):
        """Pair each trained parameter with its origin."""
        super().start(segments, base_segments, heads)
        self._pairs = []
        for segment, base in zip(segments, base_segments, strict=True):
            origin = dict(base.named_parameters())
            self._pairs += [
                (parameter, origin[name].detach())
                for name, parameter in segment.named_parameters()
                if parameter.requires_grad
            ]

    def __call__(self, inputs, stage_outputs, features):  # noqa: ARG002
        """Return the penalty; it does not depend on the batch."""
        total = features.new_zeros((), dtype=torch.float32)
        for parameter, origin in self._pairs:
            total = total + (parameter - origin).square().sum()
        return self.strength / 2 * total + _head_penalty(self.heads)


class Delta(Penalty):
    """Squared distance of the feature maps from those of the base network.

    For each stage with feature maps, strength/2 times the sum over channels of
    attention * n_channels * ||map - base map||^2 / n_pixels, plus 0.01/2 ||head||^2
    over the head's weights. The attention is `channel_attention` on the base network
    with the head as it is when `prepare` is called. It takes the place of weight decay.

    The authors sum over the rows of a batch of 64; here it is 64 times the mean over
    rows, so that a strength means the same at every batch size, and what it means in
    their code. Vectors have a part only where no stage puts out maps.

    References
    ----------
    Li, Xiong, Wang, Rao, Liu, Chen and Huan, "DELTA: Deep Learning Transfer using
    Feature Map with Attention for Convolutional Networks", ICLR 2019.
    """

    needs_base = True
    needs_batches = True
    replaces_weight_decay = True
    _BATCH_SIZE = 64

    def start(self, segments, base_segments, heads):
        """Forget the attention of a phase before."""
        super().start(segments, base_segments, heads)
        self.attention = None

    def prepare(self, batches, loss, head=None):
        """Compute the attention of the channels."""
        modes = [module.training for module in self.heads]
        for module in self.heads:
            module.eval()
        self.attention = channel_attention(
            self.base_segments, head or self._output, batches, loss
        )
        for module, mode in zip(self.heads, modes, strict=True):
            module.train(mode)

    def __call__(self, inputs, stage_outputs, features):
        """Return the penalty; the base network sees the same batch."""
        with torch.no_grad():
            base_outputs = _outputs(self.base_segments, inputs)
        total = features.new_zeros((), dtype=torch.float32)
        for output, base, attention in zip(
            stage_outputs, base_outputs, self.attention, strict=True
        ):
            if attention is not None:
                difference = _widened(_as_maps(output)) - _widened(_as_maps(base))
                distances = difference.square().mean(2)  # over pixels
                weights = len(attention) * attention.to(distances.device)
                # Not a matrix product, which autocast would round to half precision.
                total = total + (distances * weights).sum(1).mean()
        total = self._BATCH_SIZE * total
        return self.strength / 2 * total + _head_penalty(self.heads)

    def _output(self, features):
        outputs = [head(features) for head in self.heads]
        return outputs[0] if len(outputs) == 1 else outputs

    def state_dict(self):
        """Return the attention, a tensor or None a stage."""
        return {"attention": self.attention}

    def load_state_dict(self, state):
        """Take the attention from before."""
        self.attention = state["attention"]


class BSS(Penalty):
    """Squared smallest singular values of the batch's feature matrix.

    strength times the sum of the k = 1 smallest ones squared: directions of features
    that hardly vary are those which do harm in a transfer. A batch of n rows has at
    most n singular values, that of one row only its norm.

    References
    ----------
    Chen, Wang, Fu, Long and Wang, "Catastrophic Forgetting Meets Negative Transfer:
    Batch Spectral Shrinkage for Safe Transfer Learning", NeurIPS 2019.
    """

    _N_SMALLEST = 1

    def __call__(self, inputs, stage_outputs, features):  # noqa: ARG002
        """Return the penalty."""
        features = _widened(features)  # there is no decomposition in half precision
        if not torch.isfinite(features).all():
            return features.sum()  # nor of NaN: the loss is past help, let it show
        # Gradients of singular values alone need no differences between them, so equal
        # ones and zeros do no harm.
        singular_values = torch.linalg.svdvals(features)
        return self.strength * singular_values[-self._N_SMALLEST :].square().sum()


_PENALTIES = {"l2_sp": (L2SP, 0.01), "delta": (Delta, 0.01), "bss": (BSS, 0.001)}
"""Class and the paper's strength."""


def make_penalty(name, strength="auto"):
    """Build a penalty.

    Parameters
    ----------
    name : {"l2_sp", "delta", "bss"}
        Which one.
    strength : float or "auto", default="auto"
        ``"auto"`` is the value of the papers' code: 0.01 for ``"l2_sp"`` and
        ``"delta"``, 0.001 for ``"bss"``.

    Returns
    -------
    Penalty
        To be started in each phase.
    """
    if name not in _PENALTIES:
        names = ", ".join(repr(known) for known in _PENALTIES)
        raise ValueError(f"Parameter penalty: found {name!r}. Expected {names}.")
    cls, default = _PENALTIES[name]
    if isinstance(strength, str) and strength == "auto":
        return cls(default)
    if isinstance(strength, str) or not strength >= 0:
        raise ValueError(
            f"Parameter strength: found {strength!r}. Expected 'auto' or a number of "
            "at least 0."
        )
    return cls(strength)


def channel_attention(base_segments, head, batches, loss):
    """Weigh the channels of each stage by what the base network loses without them.

    A channel's score is the increase of the loss when its map is set to zero, the mean
    over rows. The weights are the softmax of the standardized scores divided by 5, as
    in the authors' code, and not, as in the paper, of the scores themselves: those are
    so small that all weights were within 3 % of their mean where it was tried (`mini`
    on objects10 and ants_bees), which is no attention; standardized, 0.65 to 3.4 times.

    The network above a stage runs once for each channel and batch, a thousand times
    for a ResNet-18. The authors take 4 batches of 64 rows.

    Parameters
    ----------
    base_segments : list of torch.nn.Module
        The frozen network, in eval mode.
    head : callable
        Maps features to outputs; fitted to the frozen network.
    batches : iterable of (Tensor, object)
        Inputs of the first segment and targets.
    loss : callable
        ``loss(output, target)``, a value a row or a mean.

    Returns
    -------
    list of (Tensor of shape (n_channels,) or None)
        A vector that sums to 1 for each stage; None for a stage of vectors where there
        are stages of maps.
    """
    totals, n_rows = [], 0
    with torch.no_grad():
        for inputs, target in batches:
            increases = _loss_increases(base_segments, head, inputs, target, loss)
            totals = totals or [0.0] * len(increases)
            totals = [
                None if increase is None else total + len(inputs) * increase
                for total, increase in zip(totals, increases, strict=True)
            ]
            n_rows += len(inputs)
    return [None if total is None else _softened(total / n_rows) for total in totals]


def _loss_increases(segments, head, inputs, target, loss):
    """Return by how much the loss of a batch grows without each channel."""

    def loss_from(stage, output):
        for segment in segments[stage:]:
            output = segment(output)
        return loss(head(output), target).mean()

    outputs = []
    for segment in segments:
        # A copy, since an activation at the start of a segment may work in place.
        outputs.append(segment((outputs[-1] if outputs else inputs).clone()))
    whole = loss_from(len(segments), outputs[-1])
    has_maps = any(output.ndim > 2 for output in outputs)
    increases = []
    for stage, output in enumerate(outputs, start=1):
        if has_maps and output.ndim == 2:
            increases.append(None)
            continue
        axis = _channel_axis(output)
        channels = torch.arange(output.shape[axis], device=output.device)
        without = [
            loss_from(stage, output.index_fill(axis, channel, 0))
            for channel in channels
        ]
        increases.append(torch.stack(without) - whole)
    return increases


def _softened(scores):
    scores = scores - scores.mean()
    deviation = scores.std(correction=0)
    if deviation > 0:
        scores = scores / deviation
    return torch.softmax(scores / _ATTENTION_TEMPERATURE, dim=0)


def _outputs(segments, inputs):
    outputs = []
    for segment in segments:
        inputs = segment(inputs)
        outputs.append(inputs)
    return outputs


def _channel_axis(output):
    """Where the channels are: last in tokens and in maps as Swin makes them.

    Images are square, so two equal axes in the middle are height and width.
    """
    height, width = output.shape[1:3] if output.ndim == 4 else (0, 0)
    if output.ndim == 3 or (height == width > 0 and output.shape[3] != width):
        return output.ndim - 1
    return 1


def _as_maps(output):
    """Return outputs of a stage as (b, n_channels, n_pixels)."""
    if output.ndim == 2:
        return output[:, :, None]
    return output.movedim(_channel_axis(output), 1).flatten(2)


def _widened(tensor):
    """Float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _head_penalty(heads):
    squares = [
        parameter.square().sum()
        for head in heads
        for parameter, is_weight in trainable_parameters(head)
        if is_weight
    ]
    return _HEAD_STRENGTH / 2 * sum(squares)
