"""scikit-learn's callbacks: a fit is a task, a phase and an epoch too."""

import numpy as np
import pytest
from _networks import classifier, images, regressor, shades

from sktransfer import FeatureExtraction, FineTuning, GradualUnfreezing
from sktransfer._callbacks import FitTasks
from sktransfer.strategies._phases import Phase

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")


class Recorder:
    """A callback of scikit-learn that keeps what it is told; can ask for an end."""

    def __init__(self, stop_after=None):
        self.told, self.predictions, self.stop_after = [], [], stop_after

    def setup(self, estimator, context):
        self.told.append("setup")

    def teardown(self, estimator, context):
        self.told.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None):
        self.told.append(f"begin {context.task_name}")

    def on_fit_task_end(
        self,
        estimator,
        context,
        *,
        X=None,
        y=None,
        fitted_estimator=None,
        metadata=None,
    ):
        self.told.append(f"end {context.task_name}")
        self.predictions.append(fitted_estimator.decision_function(X))
        n_epochs = self.told.count("end epoch")
        return context.task_name == "epoch" and n_epochs == self.stop_after


def test_fit_phase_and_epoch_are_tasks():
    recorder = Recorder()
    estimator = classifier(GradualUnfreezing(stop=2), max_epochs=3).set_callbacks(
        recorder
    )
    estimator.fit(*images(24))
    epoch = ["begin epoch", "end epoch"]
    assert recorder.told == [
        *("setup", "begin fit"),
        *("begin probe", "end probe"),
        *("begin unfreeze to top", *epoch, "end unfreeze to top"),
        *("begin unfreeze to middle", *epoch, *epoch, "end unfreeze to middle"),
        *("end fit", "teardown"),
    ]


@pytest.mark.parametrize("strategy", [FineTuning(1), FeatureExtraction()])
def test_estimator_that_callbacks_get_is_fitted_as_far_as_training_is(strategy):
    X, y = images(24)
    recorder = Recorder()
    estimator = classifier(strategy, lr=0.05).set_callbacks(recorder).fit(X, y)
    last = recorder.predictions[-1]
    np.testing.assert_array_equal(last, estimator.decision_function(X))
    if estimator.solver_ == "gradient":
        probe = classifier("feature_extraction").fit(X, y)
        np.testing.assert_allclose(
            recorder.predictions[0], probe.decision_function(X), atol=1e-4
        )
        # After the last epoch, too, it ends between the probe and what was trained.
        np.testing.assert_array_equal(recorder.predictions[-3], last)
        first, second = recorder.predictions[1:3]
        assert np.abs(first - second).max() > 1e-3


def test_looking_at_estimators_does_not_change_the_fit():
    X, y = images(24)
    watched = classifier(GradualUnfreezing(), max_epochs=4).set_callbacks(Recorder())
    plain = classifier(GradualUnfreezing(), max_epochs=4).fit(X, y)
    np.testing.assert_array_equal(
        watched.fit(X, y).decision_function(X), plain.decision_function(X)
    )


def test_callback_that_asks_for_an_end_ends_its_phase():
    recorder = Recorder(stop_after=1)
    estimator = classifier(GradualUnfreezing(stop=2), max_epochs=9).set_callbacks(
        recorder
    )
    estimator.fit(*images(24))
    assert estimator.history_["phase"].tolist()[:2] == [
        "unfreeze to top",
        "unfreeze to middle",
    ]
    recorder = Recorder(stop_after=2)
    estimator = classifier(max_epochs=9).set_callbacks(recorder).fit(*images(24))
    assert estimator.n_iter_ == 2


def test_scoring_monitor_has_a_score_of_every_epoch():
    X, y = images(24)
    monitor = callback.ScoringMonitor(scoring="accuracy")
    estimator = classifier(max_epochs=3, lr=0.01).set_callbacks(monitor).fit(X, y)
    logs = monitor.get_logs().data_as_pandas
    epochs = logs[logs["task_name"] == "epoch"]
    assert len(epochs) == 3
    assert epochs["accuracy"].between(0, 1).all()
    assert epochs["accuracy"].iloc[-1] == estimator.score(X, y)


def test_scoring_monitor_scores_a_regressor():
    X, y = shades(24)
    monitor = callback.ScoringMonitor(scoring="r2")
    estimator = regressor(max_epochs=3, lr=0.01).set_callbacks(monitor).fit(X, y)
    logs = monitor.get_logs().data_as_pandas
    epochs = logs[logs["task_name"] == "epoch"]["r2"]
    assert len(epochs) == 3
    assert epochs.iloc[-1] == pytest.approx(estimator.score(X, y))


def test_scoring_monitor_passes_sample_weights_on():
    X, y = images(24)
    weight = np.arange(24.0)
    monitor = callback.ScoringMonitor(scoring="accuracy")
    estimator = classifier(max_epochs=1).set_callbacks(monitor)
    estimator.fit(X, y, sample_weight=weight)
    logs = monitor.get_logs().data_as_pandas
    fit = logs[logs["task_name"] == "fit"]["accuracy"].iloc[0]
    weighted = estimator.score(X, y, sample_weight=weight)
    assert fit in (pytest.approx(weighted), pytest.approx(estimator.score(X, y)))


def test_progress_bar_shows_and_does_not_disturb(capsys):
    pytest.importorskip("rich", reason="scikit-learn's ProgressBar needs rich")
    X, y = images(24)
    bar = callback.ProgressBar()
    estimator = classifier().set_callbacks(bar).fit(X, y)
    plain = classifier().fit(X, y)
    np.testing.assert_array_equal(
        estimator.decision_function(X), plain.decision_function(X)
    )
    assert "TransferClassifier" in capsys.readouterr().out


class WithoutCallbacks:
    """An estimator under scikit-learn before 1.9."""

    def _init_callback_context(self, **kwargs):
        return None


def test_without_scikit_learns_callbacks_nobody_is_told():
    tasks = FitTasks(WithoutCallbacks(), [Phase("all", (), 2)], {}, dict)
    tasks.begin_phase(Phase("all", (), 2))
    tasks.begin_epoch()
    assert not tasks.end_epoch()
    tasks.end_phase()
    tasks.end()
