"""The private base of strategies."""

from sklearn.base import BaseEstimator


class Strategy(BaseEstimator):
    """A strategy holds parameters and learns nothing itself.

    Being a BaseEstimator gives it `get_params`, `clone`, a repr, and the parameter
    names ``strategy__...`` in a grid.
    """

    _parameter_constraints: dict = {}

    def validate(self):
        """Raise scikit-learn's error for a parameter out of its range."""
        self._validate_params()
