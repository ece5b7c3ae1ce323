"""Soft parameter sharing: fine-tuning that is held back to the base network."""

from numbers import Real

from sklearn.utils._param_validation import Interval, StrOptions

from sktransfer.strategies._fine_tuning import FineTuning


class ParameterSharing(FineTuning):
    """Fine-tune with a penalty that keeps the network near the one it started from.

    A tool for few labels. The parameters of the tuned and of the base network are
    shared softly; several columns in ``y`` share one trunk in any strategy.

    Parameters
    ----------
    penalty : {"l2_sp", "delta", "bss"}, default="l2_sp"
        ``"l2_sp"``: squared distance of the parameters from the base network's;
        ``"delta"``: squared distance of its feature maps, weighed by how much each
        channel matters to the task; ``"bss"``: the smallest singular values of a
        batch's features, which carry what does not transfer.
    strength : float or "auto", default="auto"
        Factor of the penalty; ``"auto"`` is 0.01 for ``"l2_sp"`` and ``"delta"`` and
        0.001 for ``"bss"``. The first two take the place of the estimator's
        `weight_decay`, and draw the head's weights toward 0 with a factor of 0.01.
    unfreeze : str, int or list of str, default="all"
        What learns, as in :class:`FineTuning`.
    backbone_lr_ratio : float, default=0.1
        Learning rate of the topmost stage, as a multiple of the head's. 1 suits a
        network that has little to lose: a small one, or one that was never trained.
    lr_decay : float, default=1.0
        Each stage below learns slower by this factor than the one above it.
    init : {"linear_probe", "random"}, default="linear_probe"
        Where a linear head starts.
    freeze_epochs : int, default=1
        For how many epochs a head that is not linear trains alone at first.
    batch_norm : {"affine", "frozen", "train"}, default="affine"
        What learns in batch norms, as in :class:`FineTuning`.
    mixing : float in (0, 1], default=0.5
        Between the linear probe (0) and the trained weights (1), as in
        :class:`FineTuning`.

    See Also
    --------
    FineTuning : Without the penalty.

    References
    ----------
    Caruana, "Multitask Learning", Machine Learning 1997; Li, Grandvalet and Davoine,
    "Explicit Inductive Bias for Transfer Learning with Convolutional Networks" (L2-SP),
    ICML 2018; Li et al., "DELTA: Deep Learning Transfer using Feature Map with
    Attention for Convolutional Networks", ICLR 2019; Chen et al., "Catastrophic
    Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer
    Learning" (BSS), NeurIPS 2019.

    Examples
    --------
    >>> from sktransfer import ParameterSharing, TransferClassifier
    >>> TransferClassifier(strategy=ParameterSharing("delta", unfreeze=2))
    TransferClassifier(strategy=ParameterSharing(penalty='delta', unfreeze=2))
    """

    _parameter_constraints: dict = {
        **FineTuning._parameter_constraints,
        "penalty": [StrOptions({"l2_sp", "delta", "bss"})],
        "strength": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        penalty="l2_sp",
        strength="auto",
        unfreeze="all",
        backbone_lr_ratio=0.1,
        lr_decay=1.0,
        init="linear_probe",
        freeze_epochs=1,
        batch_norm="affine",
        mixing=0.5,
    ):
        super().__init__(
            unfreeze=unfreeze,
            backbone_lr_ratio=backbone_lr_ratio,
            lr_decay=lr_decay,
            init=init,
            freeze_epochs=freeze_epochs,
            batch_norm=batch_norm,
            mixing=mixing,
        )
        self.penalty = penalty
        self.strength = strength

    def _penalty(self):
        return {"penalty": self.penalty, "strength": self.strength}
