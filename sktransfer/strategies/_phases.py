"""What a strategy turns itself into: phases, plain data that the engine runs in order.

A phase says for each stage whether it learns and how fast. What lies before the lowest
stage that learns is the frozen prefix, whose output is computed once per image.
"""

from dataclasses import dataclass, replace

POOLED = "pooled"


@dataclass(frozen=True)
class StagePlan:
    """What happens to one stage in one phase.

    Parameters
    ----------
    stage : str
        Name of the stage.
    n_parameters : int
        How many parameters it has.
    trainable : {"all", "norm", "bias", "none"}
        Which of its parameters learn.
    lr_factor : float
        Its learning rate, as a multiple of the head's.
    """

    stage: str
    n_parameters: int
    trainable: str = "none"
    lr_factor: float = 0.0


@dataclass(frozen=True)
class Phase:
    """One cut, and what learns behind it for how long; the head always learns.

    Parameters
    ----------
    name : str
        What histories and messages call it.
    stages : tuple of StagePlan
        One for each stage of the backbone, in order.
    epochs : int or None, default=None
        Number of epochs; None is what the other phases leave.
    solver : {"gradient", "exact"}, default="gradient"
        ``"exact"`` solves the linear head and takes no epoch.
    C : float or "auto", default="auto"
        Inverse strength of the exact solver's penalty.
    batch_norm : {"affine", "frozen", "train"}, default="affine"
        What learns in the batch norms of trainable stages.
    penalty : str or None, default=None
        Name of the penalty toward the base network.
    strength : float or "auto", default="auto"
        Strength of that penalty.
    """

    name: str
    stages: tuple
    epochs: int | None = None
    solver: str = "gradient"
    C: float | str = "auto"
    batch_norm: str = "affine"
    penalty: str | None = None
    strength: float | str = "auto"

    @property
    def cut(self):
        """Name of the last stage before all that learn; None if there is none."""
        before = None
        for plan in self.stages:
            if plan.trainable != "none":
                return before
            before = plan.stage
        return before


def frozen(stages):
    """Plan in which no stage learns."""
    return tuple(StagePlan(stage.name, stage.n_parameters) for stage in stages)


def with_epochs(phases, max_epochs):
    """Share `max_epochs` out among phases.

    Parameters
    ----------
    phases : list of Phase
        At most one, the last, has no epochs of its own.
    max_epochs : int
        Epochs of all phases together.

    Returns
    -------
    list of Phase
        The same phases, each with its number of epochs.

    Raises
    ------
    ValueError
        If there are fewer epochs than the phases need.
    """
    trained = [phase for phase in phases if phase.solver != "exact"]
    fixed = sum(phase.epochs or 0 for phase in trained)
    needed = fixed + sum(phase.epochs is None for phase in trained)
    if max_epochs < needed:
        names = [phase.name for phase in trained]
        raise ValueError(
            f"Parameter max_epochs: found {max_epochs} for the phases {names}. "
            f"Expected at least {needed}: {fixed} for those of fixed length and one "
            "for the last. Raise max_epochs or choose fewer phases."
        )
    return [
        replace(phase, epochs=0)
        if phase.solver == "exact"
        else replace(
            phase, epochs=max_epochs - fixed if phase.epochs is None else phase.epochs
        )
        for phase in phases
    ]
