"""The private base of strategies."""

from sklearn.base import BaseEstimator

from sktransfer.strategies._phases import POOLED, with_epochs


class Strategy(BaseEstimator):
    """A strategy holds parameters and learns nothing itself.

    Being a BaseEstimator gives it `get_params`, `clone`, a repr, and the parameter
    names ``strategy__...`` in a grid.
    """

    _parameter_constraints: dict = {}

    # What the head sees; only a frozen backbone can hand on anything else.
    layer = POOLED
    pooling = "avg"
    # How far the fitted weights are from the probe towards the trained ones.
    mixing = 1.0

    def validate(self):
        """Raise scikit-learn's error for a parameter out of its range."""
        self._validate_params()

    def phases(self, stages, *, head="linear", in_the_way=()):
        """Turn the strategy into phases.

        Parameters
        ----------
        stages : sequence of Stage
            The backbone's stages.
        head : object, default="linear"
            The estimator's head; only a linear one can be solved.
        in_the_way : sequence of str, default=()
            Descriptions of the estimator's parameters that forbid the exact solver.

        Returns
        -------
        list of Phase
            In the order in which they run.

        Raises
        ------
        ValueError
            If a parameter fits no stage, or the exact solver is asked for where it
            cannot be.
        """
        return self._phases(stages, head, in_the_way)

    def _phases(self, stages, head, in_the_way):
        raise NotImplementedError

    def plan(
        self,
        backbone="mini",
        *,
        lr=1e-3,
        max_epochs=20,
        head="linear",
        image_size=None,
    ):
        """Show what would learn, how fast and for how long, without loading weights.

        Parameters
        ----------
        backbone : str, callable or torch.nn.Module, default="mini"
            The backbone, as the estimators take it.
        lr : float, default=1e-3
            Learning rate of the head.
        max_epochs : int, default=20
            Epochs of all phases together.
        head : "linear", MLPHead or callable, default="linear"
            The head; one that is not linear is not solved, but trains alone at first.
        image_size : int, default=None
            Height and width of the images, in pixels, for networks that work at one
            size only; None is the size of the backbone's default weights.

        Returns
        -------
        pandas.DataFrame
            One row per phase and stage, the head last, with the columns ``phase``,
            ``stage``, ``trainable`` (``"all"``, ``"norm"``, ``"bias"`` or ``"none"``),
            ``n_parameters`` (missing for the head, whose size the targets decide),
            ``lr`` (0 where nothing learns; missing where the head is solved exactly)
            and ``epochs``.

        Raises
        ------
        ValueError
            If the strategy names stages that the backbone has not, or needs more
            epochs.
        BackboneNotFoundError
            If there is no backbone of that name.
        """
        import pandas as pd

        self.validate()
        stages, rows = self._stages_of(backbone, image_size), []
        for phase in with_epochs(self.phases(stages, head=head), max_epochs):
            exact = phase.solver == "exact"
            for plan in phase.stages:
                rates = plan.trainable, plan.n_parameters, lr * plan.lr_factor
                rows.append((phase.name, plan.stage, *rates, phase.epochs))
            head_lr = float("nan") if exact else lr
            rows.append((phase.name, "head", "all", None, head_lr, phase.epochs))
        names = ["phase", "stage", "trainable", "n_parameters", "lr", "epochs"]
        return pd.DataFrame(rows, columns=names).astype({"n_parameters": "Int64"})

    def _stages_of(self, backbone, image_size):
        from sktransfer.backbones._network import HIDDEN, resolve, stages_of

        spec, _ = resolve(backbone)
        last = HIDDEN if self.layer == HIDDEN else POOLED
        if image_size is None and last == POOLED:
            return spec.stages  # kept for named backbones
        return stages_of(spec, image_size, last)
