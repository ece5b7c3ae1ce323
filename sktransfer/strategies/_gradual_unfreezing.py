"""Gradual unfreezing: one stage more learns in each phase."""

from numbers import Integral, Real

from sklearn.utils._param_validation import Interval, StrOptions

from sktransfer.strategies._base import Strategy
from sktransfer.strategies._fine_tuning import start_of_head
from sktransfer.strategies._phases import Phase
from sktransfer.strategies._unfreezing import (
    chosen_stages,
    counted_stages,
    stage_plans,
    topmost,
)


class GradualUnfreezing(Strategy):
    """Unfreeze the backbone from the top, stage by stage.

    The head starts from the linear probe; another than a linear one starts at random
    and trains alone for `epochs_per_stage` epochs. Then the topmost stages learn with
    it, then one more, and so on. The last phase gets the epochs that the others leave.

    Parameters
    ----------
    epochs_per_stage : int, default=1
        Epochs of each phase but the last.
    start : int or str, default=1
        What learns in the first phase: a number of topmost stages with parameters, or a
        stage's name (it and all above it).
    stop : int or str, default="all"
        What learns in the last phase, given in the same way; ``"all"`` is everything.
    lr_decay : float, default=1/2.6
        Each stage learns slower by this factor than the one above it.
    backbone_lr_ratio : float, default=0.1
        Learning rate of the topmost stage, as a multiple of the head's. 1 suits a
        network that has little to lose: a small one, or one that was never trained.
    batch_norm : {"affine", "frozen", "train"}, default="affine"
        In the stages that learn: train scale and shift of the batch norms and keep the
        statistics; keep both; or train and update everything.
    mixing : float in (0, 1], default=0.5
        Between the linear probe (0) and the trained weights (1), as in
        :class:`FineTuning`.

    See Also
    --------
    FineTuning : All stages at once.

    References
    ----------
    Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification"
    (ULMFiT), ACL 2018; Wortsman et al., "Robust fine-tuning of zero-shot models"
    (WiSE-FT), CVPR 2022.

    Examples
    --------
    >>> from sktransfer import GradualUnfreezing
    >>> plan = GradualUnfreezing(start="layer3", stop="layer2").plan("resnet18")
    >>> plan.query("trainable == 'all' and stage != 'head'")[["phase", "stage"]]
                     phase   stage
    10  unfreeze to layer3  layer3
    11  unfreeze to layer3  layer4
    16  unfreeze to layer2  layer2
    17  unfreeze to layer2  layer3
    18  unfreeze to layer2  layer4
    """

    _parameter_constraints: dict = {
        "epochs_per_stage": [Interval(Integral, 1, None, closed="left")],
        "start": [Interval(Integral, 1, None, closed="left"), str],
        "stop": [Interval(Integral, 1, None, closed="left"), str],
        "lr_decay": [Interval(Real, 0, None, closed="neither")],
        "backbone_lr_ratio": [Interval(Real, 0, None, closed="neither")],
        "batch_norm": [StrOptions({"affine", "frozen", "train"})],
        "mixing": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(
        self,
        epochs_per_stage=1,
        start=1,
        stop="all",
        lr_decay=1 / 2.6,
        backbone_lr_ratio=0.1,
        batch_norm="affine",
        mixing=0.5,
    ):
        self.epochs_per_stage = epochs_per_stage
        self.start = start
        self.stop = stop
        self.lr_decay = lr_decay
        self.backbone_lr_ratio = backbone_lr_ratio
        self.batch_norm = batch_norm
        self.mixing = mixing

    def _phases(self, stages, head, in_the_way):  # noqa: ARG002
        counted = counted_stages(stages)
        first, last = (
            len(self._checked(getattr(self, name), stages, name).intersection(counted))
            for name in ("start", "stop")
        )
        if first > last:
            raise ValueError(
                f"Parameter stop: found {self.stop!r}, above start={self.start!r}. "
                f"Expected a stage that is not above it; from the top they are "
                f"{counted[::-1]}."
            )
        ratio, decay = self.backbone_lr_ratio, self.lr_decay
        phases = start_of_head(stages, head, "linear_probe", self.epochs_per_stage)
        for n in range(first, last + 1):
            names = topmost(stages, n)
            phases.append(
                Phase(
                    f"unfreeze to {names[0]}",
                    stage_plans(stages, names, "all", ratio, decay),
                    epochs=self.epochs_per_stage if n < last else None,
                    batch_norm=self.batch_norm,
                )
            )
        return phases

    def _checked(self, value, stages, parameter):
        if value in ("norm", "bias"):
            raise ValueError(
                f"Parameter {parameter}: found {value!r}. Expected a stage's name, a "
                "number of stages or 'all'."
            )
        return chosen_stages(value, stages, parameter)[0]
