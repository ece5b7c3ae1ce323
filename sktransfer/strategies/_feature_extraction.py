"""The frozen backbone: only the head is fitted."""

from numbers import Real

from sklearn.utils._param_validation import Interval, StrOptions

from sktransfer.strategies._base import Strategy


class FeatureExtraction(Strategy):
    """Keep the whole backbone frozen and fit the head on its features.

    With a linear head the problem is convex, so it is solved instead of trained: the
    features are standardized and a logistic regression is fitted to its optimum, all in
    float64.

    Parameters
    ----------
    solver : {"exact"}, default="exact"
        How the head is fitted. ``"exact"`` is scikit-learn's LogisticRegression with
        the solver lbfgs on standardized features.
    C : float, default=0.01
        Inverse strength of the L2 penalty on the coefficients of the standardized
        features, as in LogisticRegression. Several hundred features and few labels want
        a small value.

    References
    ----------
    Kornblith, Shlens and Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019.

    Examples
    --------
    >>> from sktransfer import FeatureExtraction, TransferClassifier
    >>> TransferClassifier(strategy=FeatureExtraction(C=0.1))
    TransferClassifier(strategy=FeatureExtraction(C=0.1))
    """

    _parameter_constraints: dict = {
        "solver": [StrOptions({"exact"})],
        "C": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, solver="exact", C=0.01):
        self.solver = solver
        self.C = C
