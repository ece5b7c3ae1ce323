"""scikit-learn's callbacks (1.9 and later): a fit is a task, a phase and an epoch too.

Older versions have none; then the mixin is empty and nobody is told.
"""

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:
        """Stand-in without `set_callbacks`."""

        def _init_callback_context(self, **kwargs):  # noqa: ARG002
            return None

    def with_callbacks(method):
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "FitTasks", "with_callbacks"]


class FitTasks:
    """Tells the callbacks of one fit how far it is.

    Parameters
    ----------
    estimator : estimator
        The estimator that is being fitted.
    phases : list of Phase
        All phases; those solved exactly are tasks without subtasks.
    data : dict
        What callbacks may look at: ``X``, ``y`` and ``metadata``.
    fitted_attributes : callable
        Attributes of an estimator as if the fit had stopped now; called when a callback
        asks for a fitted estimator.
    """

    def __init__(self, estimator, phases, data, fitted_attributes):
        self.estimator, self.data = estimator, data
        self.fitted_attributes = fitted_attributes
        self.root = estimator._init_callback_context(max_subtasks=len(phases))
        self.phase = self.epoch = None
        self._begin(self.root)

    def _begin(self, task):
        if task is not None:
            task.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def _end(self, task):
        if task is None:
            return False
        return task.call_on_fit_task_end(
            estimator=self.estimator,
            reconstruction_attributes=self.fitted_attributes,
            **self.data,
        )

    def begin_phase(self, phase):
        """Open the task of a phase."""
        if self.root is not None:
            self.phase = self.root.subcontext(phase.name, max_subtasks=phase.epochs)
            self._begin(self.phase)

    def begin_epoch(self):
        """Open the task of an epoch."""
        if self.phase is not None:
            self.epoch = self.phase.subcontext("epoch")
            self._begin(self.epoch)

    def end_epoch(self):
        """Close it; a true result asks for an end of the phase."""
        return self._end(self.epoch)

    def end_phase(self):
        """Close the task of a phase."""
        self._end(self.phase)

    def end(self):
        """Close the task of the fit."""
        self._end(self.root)
