"""Fine-tuning: the upper part of the backbone, or all of it, learns with the head."""

from numbers import Integral, Real

from sklearn.utils._param_validation import Interval, StrOptions

from sktransfer.strategies._base import Strategy
from sktransfer.strategies._phases import Phase, frozen
from sktransfer.strategies._unfreezing import chosen_stages, stage_plans


class FineTuning(Strategy):
    """Train the backbone, from a stage on, together with the head.

    By default this is LP-FT: the head starts from the linear probe, solved exactly on
    the frozen features, so that the first steps do not spoil the backbone for the sake
    of a random head. What lies before the lowest stage that learns stays as it is, byte
    for byte, and is computed once per image.

    Parameters
    ----------
    unfreeze : str, int or list of str, default="all"
        What learns. A stage's name: that stage and all above it; an int n: the n
        topmost stages with parameters (1 is ``"layer4"`` in a ResNet); a list of
        names: exactly these (surgical fine-tuning); ``"all"``; ``"norm"`` or
        ``"bias"``: the parameters of the norms, or the biases, of all stages.
    backbone_lr_ratio : float, default=0.1
        Learning rate of the topmost stage, as a multiple of the head's. 1 suits a
        network that has little to lose: a small one, or one that was never trained.
    lr_decay : float, default=1.0
        Each stage below learns slower by this factor than the one above it.
    init : {"linear_probe", "random"}, default="linear_probe"
        Where a linear head starts. Another head always starts at random.
    freeze_epochs : int, default=1
        For how many epochs a head that is not linear trains alone at first.
    batch_norm : {"affine", "frozen", "train"}, default="affine"
        In the stages that learn: train scale and shift of the batch norms and keep the
        statistics; keep both; or train and update everything. Statistics are then
        those that followed the batches or, where the loss on training images is lower
        by them, those measured anew at the end of `fit` ("precise" batch norm: Wu and
        Johnson, 2021).
    mixing : float in (0, 1], default=0.5
        Where a fit ends, on the straight line from the linear probe (0) to the trained
        weights (1): WiSE-FT's mixing coefficient. The trained weights stay where they
        score better on the validation part of early stopping or, without one, where the
        loss between is above that at both ends, with a warning. Without effect where no
        head is solved exactly at the start, and in training that goes on from a fit.

    See Also
    --------
    GradualUnfreezing : One stage more at a time.
    ParameterSharing : Fine-tuning that is held back to the base network.

    References
    ----------
    Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification",
    ACL 2018 (learning rates by layer); Kumar et al., "Fine-Tuning can Distort
    Pretrained Features and Underperform Out-of-Distribution", ICLR 2022 (LP-FT); Lee et
    al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", ICLR 2023;
    Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022.

    Examples
    --------
    >>> from sktransfer import FineTuning
    >>> FineTuning(unfreeze="layer4").plan("resnet18", max_epochs=5).tail(3)
              phase   stage trainable  n_parameters      lr  epochs
    11  fine_tuning  layer4       all       8393728  0.0001       5
    12  fine_tuning  pooled      none             0  0.0000       5
    13  fine_tuning    head       all          <NA>  0.0010       5
    """

    _parameter_constraints: dict = {
        "unfreeze": [str, Interval(Integral, 1, None, closed="left"), list, tuple],
        "backbone_lr_ratio": [Interval(Real, 0, None, closed="neither")],
        "lr_decay": [Interval(Real, 0, None, closed="neither")],
        "init": [StrOptions({"linear_probe", "random"})],
        "freeze_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_norm": [StrOptions({"affine", "frozen", "train"})],
        "mixing": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(
        self,
        unfreeze="all",
        backbone_lr_ratio=0.1,
        lr_decay=1.0,
        init="linear_probe",
        freeze_epochs=1,
        batch_norm="affine",
        mixing=0.5,
    ):
        self.unfreeze = unfreeze
        self.backbone_lr_ratio = backbone_lr_ratio
        self.lr_decay = lr_decay
        self.init = init
        self.freeze_epochs = freeze_epochs
        self.batch_norm = batch_norm
        self.mixing = mixing

    def _phases(self, stages, head, in_the_way):  # noqa: ARG002
        names, kind = chosen_stages(self.unfreeze, stages)
        ratio, decay = self.backbone_lr_ratio, self.lr_decay
        return [
            *start_of_head(stages, head, self.init, self.freeze_epochs),
            Phase(
                "fine_tuning",
                stage_plans(stages, names, kind, ratio, decay),
                batch_norm=self.batch_norm,
                **self._penalty(),
            ),
        ]

    def _penalty(self):
        return {}


def start_of_head(stages, head, init, freeze_epochs):
    """Phases that bring the head to where it may pull at the backbone."""
    if isinstance(head, str) and head == "linear":
        if init == "linear_probe":
            return [Phase("probe", frozen(stages), solver="exact")]
        return []
    if freeze_epochs == 0:
        return []
    return [Phase("head", frozen(stages), epochs=freeze_epochs)]
