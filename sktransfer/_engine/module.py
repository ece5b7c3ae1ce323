"""What is trained: the stages behind the cut, and one head a target."""

import torch
from torch import nn

from sktransfer._engine.batch_norm import batch_norms


class TransferModule(nn.Module):
    """Stages of a backbone, in order, and heads on the features they end in.

    Parameters
    ----------
    segments : list of torch.nn.Module
        One for each stage, each with a `name` and the `kinds` of its parameters; the
        first ones may be left out of a forward pass, when their output is known.
    pool : torch.nn.Module
        Turns the last stage's output into features (b, d).
    heads : list of torch.nn.Module
        Map features to logits.
    joint : JointRows or None, default=None
        Puts the features of several images and a table together, for the heads.

    Attributes
    ----------
    learns : frozenset of str
        Names of the stages that learn in any phase.
    stage_outputs : list of torch.Tensor
        Where `keeps_outputs` is set, of the last forward pass: what came in, what each
        stage put out, and the features. Empty if there was no image.
    """

    def __init__(self, segments, pool, heads, joint=None):
        super().__init__()
        self.segments = nn.ModuleList(segments)
        self.pool = pool
        self.heads = nn.ModuleList(heads)
        self.joint = joint
        self.first = 0
        self.keeps_outputs = False
        self._mode = None
        self.stage_outputs = []
        self.learns = frozenset(segment.name for segment in segments)
        self._trainable, self._batch_norm = frozenset(), "affine"

    def set_heads(self, heads):
        """Put other heads on the features."""
        self.heads = nn.ModuleList(heads)

    def begin(self, phase):
        """Freeze and unfreeze as a phase says, and cut where it says.

        Parameters
        ----------
        phase : Phase
            Names stages that `segments` may leave out at the end, not at the start.
        """
        self.requires_grad_(False)
        self.heads.requires_grad_(True)
        plans = {plan.stage: plan for plan in phase.stages}
        names = [segment.name for segment in self.segments]
        self.first = names.index(phase.cut) + 1 if phase.cut in names else 0
        self._batch_norm = phase.batch_norm
        self._mode = None
        for segment in self.segments:
            _unfreeze(segment, plans[segment.name].trainable, phase.batch_norm)
        self._trainable = frozenset(
            segment.name
            for segment in self.segments
            if plans[segment.name].trainable != "none"
        )

    def train(self, mode=True):
        """Set training mode where something learns; the rest stays in eval mode."""
        if mode == self._mode:
            return self  # asked for at each step; walking a deep network takes long
        super().train(mode)
        self._mode = mode
        for segment in self.segments:
            segment.train(mode and segment.name in self._trainable)
        if self._batch_norm != "train":
            for layer in batch_norms(self.segments):
                layer.eval()
        return self

    def learning_batch_norms(self):
        """Return the batch norms whose statistics `train` lets follow the batches."""
        if self._batch_norm != "train":
            return []
        return [
            layer
            for segment in self.segments
            if segment.name in self._trainable
            for layer in batch_norms(segment)
            if layer.running_mean is not None
        ]

    def forward(self, images, **beside):
        """Compute the logits of each head.

        Parameters
        ----------
        images : torch.Tensor
            Output of the last stage before the cut, images where there is none: (b,
            ...), or (b, n_image_columns, ...) where there is a `joint`.
        **beside : torch.Tensor
            What a `joint` takes besides features: ``present``, ``table`` and
            ``has_table``.

        Returns
        -------
        list of torch.Tensor
            (b, n_outputs) each.
        """
        if beside:
            images = images[beside["present"]]
            if images.ndim == 4:
                images = images.contiguous(memory_format=torch.channels_last)
        return self.logits(self._features(images), **beside)

    def logits(self, features, **beside):
        """Compute the logits of each head from features, and what is beside them."""
        if self.joint is not None:
            features = self.joint(features, **beside)
        return [head(features) for head in self.heads]

    def _features(self, activations):
        """Features of images; None if there are none."""
        self.stage_outputs = []
        if len(activations) == 0:
            return None
        if len(activations) == 1 and self.joint is not None:
            # Batch norms cannot be trained on one row.
            return self._features(torch.cat([activations] * 2))[:1]
        outputs = [activations]
        for segment in self.segments[self.first :]:
            outputs.append(segment(outputs[-1]))
        outputs.append(self.pool(outputs[-1]))
        if self.keeps_outputs:
            self.stage_outputs = outputs
        return outputs[-1]

    def parts(self, phase):
        """Name, module and learning-rate factor of each part that a phase trains."""
        factors = {plan.stage: plan.lr_factor for plan in phase.stages}
        return [
            *((s.name, s, factors[s.name]) for s in self.segments[self.first :]),
            ("head", self.heads, 1.0),
        ]

    def snapshot(self):
        """Copy, on the CPU, of all tensors of heads and of stages that learn."""
        return {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in self.state_dict().items()
            if self._may_change(name)
        }

    def restore(self, state, share=1.0):
        """Put the tensors of a snapshot back, or go a share of the way to them."""
        known = self.state_dict()
        with torch.no_grad():
            for name, tensor in state.items():
                if share == 1.0:
                    known[name].copy_(tensor)
                elif tensor.is_floating_point() or tensor.is_complex():
                    known[name].lerp_(tensor.to(known[name].device), share)

    def _may_change(self, name):
        owner, number, *_ = name.split(".")
        if owner != "segments":
            return True
        return self.segments[int(number)].name in self.learns


def _unfreeze(segment, trainable, batch_norm):
    for name, parameter in segment.named_parameters():
        if name not in segment.kinds.fixed and _is_of_kind(name, segment, trainable):
            parameter.requires_grad_(True)
    if batch_norm == "frozen":
        for layer in batch_norms(segment):
            layer.requires_grad_(False)


def _is_of_kind(name, segment, trainable):
    if trainable == "norm":
        return name in segment.kinds.norms
    if trainable == "bias":
        # Attention calls its own `in_proj_bias`.
        return "bias" in name.rpartition(".")[2].split("_")
    return trainable == "all"


def segments_up_to(segments, layer):
    """Return the stages up to one, by its name.

    Parameters
    ----------
    segments : list of torch.nn.Module
        In order, each with a `name`.
    layer : str
        Name of the last one that is wanted.

    Returns
    -------
    list of torch.nn.Module
        The first ones.
    """
    names = [segment.name for segment in segments]
    return segments[: names.index(layer) + 1]
