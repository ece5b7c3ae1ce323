"""The frozen backbone: only the head is fitted."""

from numbers import Real

from sklearn.utils._param_validation import Interval, StrOptions

from sktransfer.strategies._base import Strategy
from sktransfer.strategies._phases import Phase, frozen
from sktransfer.strategies._unfreezing import stages_up_to


class FeatureExtraction(Strategy):
    """Keep the whole backbone frozen and fit the head on its features.

    With a linear head the problem is convex, so it is solved instead of trained: the
    features are standardized and a logistic regression, for continuous targets a ridge
    regression, is fitted to its optimum, all in float64.

    Parameters
    ----------
    solver : {"auto", "exact", "gradient"}, default="auto"
        How the head is fitted. ``"exact"`` is scikit-learn's LogisticRegression with
        the solver lbfgs, or Ridge, on standardized features; it wants
        ``head="linear"``, ``loss="auto"``, no label smoothing, and no augmentation but
        by fixed views (``augmentation_views``). ``"gradient"`` trains the head with the
        estimator's optimizer. ``"auto"`` is exact where it can be; the estimator's
        ``solver_`` says which it was.
    C : float or "auto", default="auto"
        Inverse strength of the L2 penalty on the coefficients of the standardized
        features, as in LogisticRegression; Ridge's ``alpha`` is ``1 / (2 * C)``.
        Several hundred features and few labels want a small value, and so do targets
        that images say little about. ``"auto"`` is 0.01 for classes; for continuous
        targets it is the value, of 41 from 1e-5 to 1, under which they are most
        likely (empirical Bayes), where weights count as repeated rows. Beside a table
        it is that of all images together, and the table's is chosen to match. Without
        effect on ``"gradient"``, which has ``weight_decay``.
    layer : str, default="pooled"
        Stage whose output the head sees, see ``get_backbone(name).stages``.
    pooling : {"avg", "max", "avgmax"}, default="avg"
        How a stage with height and width becomes a vector: the mean over its pixels,
        the maximum, or both beside each other. ``"pooled"`` is a vector already.

    References
    ----------
    Kornblith, Shlens and Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019.

    MacKay, "Bayesian Interpolation", Neural Computation 1992.

    Examples
    --------
    >>> from sktransfer import FeatureExtraction, TransferClassifier
    >>> TransferClassifier(strategy=FeatureExtraction(C=0.1))
    TransferClassifier(strategy=FeatureExtraction(C=0.1))
    """

    _parameter_constraints: dict = {
        "solver": [StrOptions({"auto", "exact", "gradient"})],
        "C": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "layer": [str],
        "pooling": [StrOptions({"avg", "max", "avgmax"})],
    }

    def __init__(self, solver="auto", C="auto", layer="pooled", pooling="avg"):
        self.solver = solver
        self.C = C
        self.layer = layer
        self.pooling = pooling

    def _phases(self, stages, head, in_the_way):  # noqa: ARG002
        if self.solver == "exact" and in_the_way:
            raise ValueError(
                f"Parameter strategy: solver='exact' cannot be used with "
                f"{', '.join(in_the_way)}. Leave that at its default, or pass "
                "solver='auto' or 'gradient'."
            )
        exact = self.solver != "gradient" and not in_the_way
        solver = "exact" if exact else "gradient"
        used = stages_up_to(self.layer, stages)
        return [Phase("head", frozen(used), solver=solver, C=self.C)]
