"""Classes: several targets, missing labels, going on with partial_fit, warm_start."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from _networks import changed, classifier, images, interruptible_loss, tensors_of
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold, cross_val_score
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sktransfer import (
    FeatureExtraction,
    FineTuning,
    GradualUnfreezing,
    MLPHead,
    ParameterSharing,
)
from sktransfer._engine.normalization import normalized_batch

STRATEGIES = ["feature_extraction", "fine_tuning", FeatureExtraction("gradient")]


def heads_of(estimator):
    heads = estimator.head_ if isinstance(estimator.head_, list) else [estimator.head_]
    return [(head.coef, head.intercept) for head in heads]


def state_of(estimator):
    heads = [(c.tobytes(), i.tobytes()) for c, i in heads_of(estimator)]
    return tensors_of(estimator), heads


@pytest.fixture(scope="module")
def three_targets():
    """30 images with a colour of three, a parity of two, and a number of five."""
    X, colour = images(30)
    n = np.arange(30)
    names = np.array(["blue", "green", "red"])[colour]
    columns = {"colour": names, "parity": n // 3 % 2, "number": n % 5 * 10}
    return X, pd.DataFrame(columns)


# Several targets


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("as_array", [False, True])
def test_targets_of_any_cardinality_share_one_network(
    strategy, as_array, three_targets
):
    X, Y = three_targets
    Y = Y.to_numpy(dtype=object) if as_array else Y
    estimator = classifier(strategy, max_epochs=12, lr=0.03).fit(X, Y)
    assert [c.tolist() for c in estimator.classes_] == [
        ["blue", "green", "red"],
        [0, 1],
        [0, 10, 20, 30, 40],
    ]
    predicted = estimator.predict(X)
    assert predicted.shape == (30, 3)
    shapes = [p.shape for p in estimator.predict_proba(X)]
    assert shapes == [(30, 3), (30, 2), (30, 5)]
    shapes = [d.shape for d in estimator.decision_function(X)]
    assert shapes == [(30, 3), (30,), (30, 5)]
    for c, probabilities in enumerate(estimator.predict_proba(X)):
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        best = estimator.classes_[c][probabilities.argmax(axis=1)]
        assert best.tolist() == predicted[:, c].tolist()
    right = predicted == np.asarray(Y, dtype=object)
    assert estimator.score(X, Y) == right.all(axis=1).mean()
    assert right[:, 0].mean() > 0.8
    assert len(estimator.net_.module_.heads) == len(estimator.head_) == 3


def test_exact_heads_of_several_targets_are_those_of_each_alone(three_targets):
    X, Y = three_targets
    together = classifier("feature_extraction").fit(X, Y)
    for c, name in enumerate(Y):
        alone = classifier("feature_extraction").fit(X, Y[name])
        np.testing.assert_allclose(together.head_[c].coef, alone.head_.coef, atol=1e-8)


def test_target_without_weight_leaves_no_trace(three_targets):
    X, Y = three_targets
    params = {"max_epochs": 3, "weight_decay": 0.0, "gradient_clip": None}
    weighted = classifier(task_weights=[1, 0, 0], **params).fit(X, Y)
    probe = classifier("feature_extraction").fit(X, Y)
    for head in (1, 2):
        start, end = heads_of(probe)[head], heads_of(weighted)[head]
        np.testing.assert_allclose(end[0], start[0], atol=1e-6)
        np.testing.assert_allclose(end[1], start[1], atol=1e-6)
    assert np.abs(heads_of(weighted)[0][0] - heads_of(probe)[0][0]).max() > 1e-3
    alone = classifier(**params).fit(X, Y["colour"])
    np.testing.assert_allclose(
        weighted.predict_proba(X)[0], alone.predict_proba(X), atol=1e-5
    )


def test_other_task_weights_train_another_network(three_targets):
    X, Y = three_targets
    equal, unequal = (
        classifier(task_weights=weights).fit(X, Y) for weights in ([1, 1, 1], [1, 9, 1])
    )
    assert state_of(classifier().fit(X, Y)) == state_of(equal)
    assert state_of(equal)[0] != state_of(unequal)[0]


@pytest.mark.parametrize("weights", [[1, 1], [1, -1, 1], [0, 0, 0]])
def test_task_weights_that_fit_no_targets_are_refused(weights, three_targets):
    estimator = classifier(task_weights=weights)
    with pytest.raises(ValueError, match=r"task_weights.*3 target\(s\)"):
        estimator.fit(*three_targets)


def with_gaps(Y):
    Y = Y.astype(object)
    Y.iloc[::4, 0] = None
    Y.iloc[1::4, 2] = float("nan")
    Y.iloc[7] = None
    return Y


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_missing_labels_have_no_part_in_the_fit(strategy, three_targets):
    X, Y = three_targets
    gaps = with_gaps(Y)
    estimator = classifier(strategy, max_epochs=3).fit(X, gaps)
    assert [len(c) for c in estimator.classes_] == [3, 2, 5]
    assert np.isfinite(estimator.predict_proba(X)[0]).all()
    without = np.delete(np.arange(30), 7)
    again = classifier(strategy, max_epochs=3).fit(X[without], gaps.iloc[without])
    np.testing.assert_allclose(
        estimator.decision_function(X)[0], again.decision_function(X)[0], atol=1e-4
    )


@pytest.mark.parametrize("strategy", ["feature_extraction", "fine_tuning"])
def test_column_with_gaps_is_learnt_from_its_labels_only(strategy):
    X, y = images(60, 2)
    Y = pd.DataFrame({"true": y, "rare": y.astype(object)})
    Y.iloc[20:, 1] = None
    lies = Y.copy()
    lies.iloc[20:, 1] = 1 - y[20:]
    honest, misled = (classifier(strategy, max_epochs=6).fit(X, y) for y in (Y, lies))
    right = [(e.predict(X)[:, 1] == y).mean() for e in (honest, misled)]
    assert right[0] > 0.9 > right[1]


def test_missing_labels_count_as_right_in_score(three_targets):
    X, Y = three_targets
    estimator = classifier("feature_extraction").fit(X, Y)
    truth = with_gaps(Y)
    right = (estimator.predict(X) == truth.to_numpy()) | truth.isna().to_numpy()
    assert 0 < right.all(axis=1).mean() < 1
    assert estimator.score(X, truth) == right.all(axis=1).mean()
    empty = truth.where(truth.isna(), None)
    assert estimator.score(X, empty) == 1.0
    weight = np.arange(30)
    expected = np.average(right.all(axis=1), weights=weight)
    assert estimator.score(X, truth, sample_weight=weight) == pytest.approx(expected)


@pytest.mark.parametrize("as_objects", [False, True])
def test_score_takes_every_missing_label_that_fit_takes(three_targets, as_objects):
    X, Y = three_targets
    nullable = with_gaps(Y).convert_dtypes()
    assert nullable.isna().any(axis=None)
    truth = nullable.astype(object) if as_objects else nullable
    estimator = classifier("feature_extraction").fit(X, truth)
    expected = estimator.score(X, with_gaps(Y).to_numpy(dtype=object))
    assert 0 < expected < 1
    assert estimator.score(X, truth) == expected
    assert estimator.score(X, truth.to_numpy(dtype=object)) == expected


def test_score_leaves_y_as_it_is():
    X, y = images(24)
    Y = np.array([[str(label), int(label)] for label in y], dtype=object)
    estimator = classifier().fit(X, Y.astype(str))
    kept = Y.copy()
    kept.setflags(write=False)
    assert estimator.score(X, kept) == estimator.score(X, Y)
    assert [type(cell) for cell in Y[0]] == [str, int]


def test_score_reads_names_beside_numbers_as_fit_does():
    X, y = images(24)
    Y = [[f"class {label}", int(label)] for label in y]
    estimator = classifier().fit(X, Y)
    names = [row[0] for row in estimator.predict(X)]
    right = np.mean([name == row[0] for name, row in zip(names, Y, strict=True)])
    assert estimator.score(X, Y) == right > 0.8
    assert estimator.score(X, [[name, -1] for name, _ in Y]) == 0


@pytest.mark.parametrize("kind", ["multioutput", "multilabel"])
def test_score_wants_the_columns_and_rows_of_its_images(kind):
    X, y = images(30)
    Y = np.column_stack([y, y + 1] if kind == "multioutput" else [y == 0, y == 1])
    estimator = classifier("feature_extraction").fit(X, Y)
    assert estimator._targets.kind == kind
    for wrong in (Y[:, 0], Y[:, :1], Y[:, [0, 1, 1]]):
        with pytest.raises(ValueError, match=r"y: found [13] column\(s\)\. Expected 2"):
            estimator.score(X, wrong)
    for rows in (Y[:1], Y[:29]):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            estimator.score(X, rows)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator.score(X, Y, sample_weight=np.ones(29))


def test_missing_labels_pass_cross_validation_with_a_splitter(three_targets):
    X, Y = three_targets
    scores = cross_val_score(
        classifier(max_epochs=1), X, with_gaps(Y), cv=KFold(2), error_score="raise"
    )
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_multilabel_has_one_head_and_arrays(strategy):
    X, y = images(30)
    Y = np.column_stack([y == 0, y == 1, np.ones(30)]).astype(int)
    estimator = classifier(strategy, max_epochs=12, lr=0.02).fit(X, Y)
    assert estimator.classes_.tolist() == [0, 1, 2]
    probabilities = estimator.predict_proba(X)
    assert probabilities.shape == estimator.decision_function(X).shape == (30, 3)
    np.testing.assert_array_equal(estimator.predict(X), probabilities > 0.5)
    assert (estimator.predict(X) == Y).mean() > 0.7
    exact_match = (estimator.predict(X) == Y).all(axis=1).mean()
    assert estimator.score(X, Y) == exact_match
    assert len(estimator.net_.module_.heads) == 1


def test_multilabel_with_another_head_and_missing_labels():
    X, y = images(30)
    Y = np.column_stack([y == 0, y == 1]).astype(float)
    Y[::4, 0] = np.nan
    estimator = classifier(head=MLPHead((8,)), max_epochs=8, lr=0.02).fit(X, Y)
    assert estimator.predict_proba(X).shape == (30, 2)
    assert np.isfinite(estimator.history_["train_loss"]).all()
    predicted = estimator.predict(X)
    right = ((predicted == Y) | np.isnan(Y)).all(axis=1).mean()
    assert estimator.score(X, Y) == right


def test_several_targets_have_other_heads_too(three_targets):
    X, Y = three_targets
    estimator = classifier(head=MLPHead((8,)), max_epochs=2).fit(X, Y)
    shapes = [p.shape for p in estimator.predict_proba(X)]
    assert shapes == [(30, 3), (30, 2), (30, 5)]
    again = pickle.loads(pickle.dumps(estimator))
    for one, other in zip(
        again.predict_proba(X), estimator.predict_proba(X), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_rows_of_weight_zero_are_not_trained_on():
    X, y = images(40)
    weight = (np.arange(40) % 4 > 0).astype(float)
    weighted = classifier().fit(X, y, sample_weight=weight)
    dropped = classifier().fit(X[weight > 0], y[weight > 0])
    np.testing.assert_allclose(
        weighted.decision_function(X), dropped.decision_function(X), atol=1e-5
    )


def test_class_weight_draws_predictions_to_its_class():
    X, y = images(60, 2, noise=250)
    shares = [
        classifier(class_weight=weight, max_epochs=4).fit(X, y).predict(X).mean()
        for weight in ({0: 20, 1: 1}, {0: 1, 1: 20})
    ]
    assert shares[0] < 0.3 < 0.7 < shares[1]


@pytest.mark.parametrize("strategy", ["feature_extraction", "fine_tuning"])
def test_class_weights_need_not_name_classes_where_another_one_drops_out(strategy):
    X, y = images(60)
    some, all_ = {0: 0, 1: 2}, {0: 0, 1: 2, 2: 1}
    shown = (y > 0).astype(float)
    for of_some, of_all, weight in [
        (some, all_, None),
        ({0: 3, 1: 2}, {0: 3, 1: 2, 2: 1}, shown),
    ]:
        one, other = (
            classifier(strategy, class_weight=w).fit(X, y, sample_weight=weight)
            for w in (of_some, of_all)
        )
        assert state_of(one) == state_of(other)
        assert one.classes_.tolist() == [0, 1, 2]
        assert set(one.predict(X)) == {1, 2}


def test_class_weights_stay_those_of_the_first_fit_where_a_later_one_shows_less():
    X, y = images(60)
    rows = y > 0
    params = {"class_weight": {0: 3, 1: 20}, "warm_start": True}
    estimator = classifier("feature_extraction", **params).fit(X, y)
    anew = classifier("feature_extraction", class_weight={1: 20}).fit(X[rows], y[rows])
    np.testing.assert_allclose(
        estimator.fit(X[rows], y[rows]).predict_proba(X)[:, 1:],
        anew.predict_proba(X),
        atol=1e-6,
    )


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_class_weights_that_are_all_zero_are_refused(strategy):
    X, y = images(24)
    estimator = classifier(strategy, class_weight={0: 0, 1: 0, 2: 0})
    with pytest.raises(ValueError, match=r"class_weight: found weight 0 .* 24 row"):
        estimator.fit(X, y)
    with pytest.raises(NotFittedError):
        estimator.predict(X)


@pytest.mark.parametrize("strategy", ["feature_extraction", "fine_tuning"])
def test_label_that_is_the_same_in_every_row_may_have_a_weight_of_the_other_value(
    strategy,
):
    X, y = images(30)
    Y = np.column_stack([y == 0, np.zeros(30)]).astype(int)
    estimator = classifier(strategy, class_weight=[{1: 5}, {1: 5}]).fit(X, Y)
    assert not estimator.predict(X)[:, 1].any()


def test_class_whose_rows_all_judge_keeps_its_place():
    X, y = images(100, 2)
    y[:30] = 2
    groups = np.where(np.arange(100) < 30, 0, np.arange(100))
    params = {"early_stopping": True, "validation_fraction": 0.3}
    params["class_weight"] = {0: 2, 2: 3}  # the probe may see no row of class 2
    shapes = set()
    for seed in range(8):
        estimator = classifier(random_state=seed, max_epochs=1, **params)
        estimator.fit(X, y, groups=groups)
        shapes.add(estimator.predict_proba(X).shape)
        assert estimator.classes_.tolist() == [0, 1, 2]
    assert shapes == {(100, 3)}


# partial_fit


def test_partial_fit_is_there_for_strategies_that_train():
    for strategy in (None, "feature_extraction", FeatureExtraction("exact")):
        assert not hasattr(classifier(strategy), "partial_fit")
    trained = [FeatureExtraction("gradient"), "fine_tuning", GradualUnfreezing()]
    for strategy in trained:
        assert hasattr(classifier(strategy), "partial_fit")
    assert hasattr(classifier("feature_extraction", loss="focal"), "partial_fit")
    assert hasattr(classifier(None, augmentation="light"), "partial_fit")


def test_partial_fit_learns_epoch_by_epoch():
    X, y = images(60)
    strategy = FineTuning(backbone_lr_ratio=1.0, init="random")
    estimator = classifier(strategy, lr=0.01)
    for _ in range(12):
        assert estimator.partial_fit(X, y) is estimator
    assert estimator.score(X, y) > 0.8
    assert estimator.n_iter_ == 12
    assert estimator.history_["epoch"].tolist() == list(range(1, 13))
    losses = estimator.history_["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert estimator.solver_ == "gradient"


def test_partial_fit_has_constant_rates_and_keeps_the_optimizer():
    X, y = images(24)
    estimator = classifier(FineTuning(backbone_lr_ratio=0.1), lr=0.01, batch_size=12)
    estimator.partial_fit(X, y)
    optimizer = estimator.net_.optimizer_
    estimator.partial_fit(X, y).partial_fit(X, y)
    assert estimator.net_.optimizer_ is optimizer
    assert {int(s["step"]) for s in optimizer.state.values()} == {6}
    rates = estimator.history_.filter(like="lr_")
    assert (rates.filter(like="head") == 0.01).all(axis=None)
    assert np.allclose(rates.drop(columns=list(rates.filter(like="head"))), 0.001)


def test_partial_fit_trains_the_last_phase_only():
    X, y = images(24)
    estimator = classifier(GradualUnfreezing(stop=2), max_epochs=5).partial_fit(X, y)
    assert estimator.history_["phase"].tolist() == ["unfreeze to middle"]
    assert {name.split(".")[0] for name in changed(estimator)} == {"middle", "top"}


def test_classes_come_with_the_first_call():
    X, y = images(30)
    estimator = classifier(FineTuning(backbone_lr_ratio=1.0), lr=0.01)
    estimator.partial_fit(X[y < 2], y[y < 2], classes=[2, 0, 1])
    assert estimator.classes_.tolist() == [0, 1, 2]
    assert estimator.predict_proba(X).shape == (30, 3)
    for _ in range(12):
        estimator.partial_fit(X, y)
    assert (estimator.predict(X) == y).mean() > 0.8


def test_later_call_may_name_the_same_classes_and_no_others():
    X, y = images(30)
    estimator = classifier().partial_fit(X, y, classes=[0, 1, 2, 3])
    estimator.partial_fit(X, y, classes=[3, 2, 1, 0])
    before = state_of(estimator)
    message = r"classes: found \[0, 1, 2, 7\]\. Expected \[0, 1, 2, 3\]"
    with pytest.raises(ValueError, match=message):
        estimator.partial_fit(X, y, classes=[0, 1, 2, 7])
    assert state_of(estimator) == before
    two = np.stack([y, y + 5], axis=1)
    estimator = (
        classifier().fit(X, two).partial_fit(X, two, classes=[[0, 1, 2], [5, 6, 7]])
    )
    with pytest.raises(ValueError, match=r"Expected \[\[0, 1, 2\], \[5, 6, 7\]\]"):
        estimator.partial_fit(X, two, classes=[[0, 1, 2], [5, 6, 8]])


def test_class_that_was_not_announced_is_refused_and_changes_nothing():
    X, y = images(30)
    estimator = classifier().partial_fit(X[y < 2], y[y < 2])
    before = state_of(estimator)
    with pytest.raises(ValueError, match=r"\[2\].*Expected some of \[0, 1\]"):
        estimator.partial_fit(X, y)
    assert state_of(estimator) == before
    assert estimator.n_iter_ == 1
    estimator.partial_fit(X[y < 2], y[y < 2])
    assert estimator.n_iter_ == 2


def test_batch_of_a_class_that_weighs_nothing_is_refused_and_changes_nothing():
    X, y = images(30)
    estimator = classifier(class_weight={0: 0}).partial_fit(X, y)
    before, optimizer = state_of(estimator), estimator.net_.optimizer_
    with pytest.raises(ValueError, match=r"class_weight: found weight 0 .* 10 row"):
        estimator.partial_fit(X[y == 0], y[y == 0])
    assert state_of(estimator) == before
    assert estimator.net_.optimizer_ is optimizer
    unlabelled = np.full((30, 2), np.nan)
    with pytest.raises(ValueError, match="y: found only missing values in 30"):
        classifier().partial_fit(X, unlabelled, classes=[[0, 1, 2], [5, 7]])


def test_first_call_that_fails_leaves_nothing_fitted():
    X, y = images(30)
    estimator = classifier()
    with pytest.raises(ValueError, match="which the first call did not"):
        estimator.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(NotFittedError):
        estimator.predict(X)
    assert estimator.partial_fit(X, y).classes_.tolist() == [0, 1, 2]


def test_call_that_is_interrupted_leaves_what_the_one_before_had_learnt():
    X, y = images(24)
    loss, interrupt = interruptible_loss()
    estimator = classifier(FineTuning(1), loss=loss).partial_fit(X, y)
    before = estimator.decision_function(X)
    interrupt.append(True)
    with pytest.raises(KeyboardInterrupt):
        estimator.partial_fit(X, y)
    np.testing.assert_array_equal(estimator.decision_function(X), before)
    preprocessing = estimator.backbone_.preprocessing
    batch = normalized_batch(list(X), preprocessing, torch.device("cpu"))
    (output,) = estimator.net_.forward(batch)
    np.testing.assert_allclose(output.numpy(), before, atol=1e-4)
    interrupt.clear()
    assert estimator.partial_fit(X, y).n_iter_ == 2


def test_several_targets_announce_their_classes(three_targets):
    X, Y = three_targets
    classes = [["blue", "green", "red"], [0, 1], [0, 10, 20, 30, 40]]
    estimator = classifier()
    estimator.partial_fit(X[:8], Y[:8], classes=classes).partial_fit(X[8:], Y[8:])
    assert [len(c) for c in estimator.classes_] == [3, 2, 5]
    assert [p.shape[1] for p in estimator.predict_proba(X)] == [3, 2, 5]


@pytest.mark.parametrize("look", [False, True])
def test_partial_fit_goes_on_after_fit_and_after_a_pickle(look):
    X, y = images(60)
    stopping = {"early_stopping": True, "validation_fraction": 0.4}
    estimator = classifier(max_epochs=3, **stopping).fit(X, y)
    n = estimator.n_iter_
    loaded = pickle.loads(pickle.dumps(estimator))
    if look:
        assert loaded.net_.module_ is not None
    before = tensors_of(loaded)
    loaded.partial_fit(X, y)
    estimator.partial_fit(X, y)
    assert loaded.n_iter_ == estimator.n_iter_ == n + 1
    assert tensors_of(loaded) != before
    np.testing.assert_allclose(
        loaded.decision_function(X), estimator.decision_function(X), atol=1e-4
    )
    assert "gain_over_probe_" not in vars(estimator)


def test_partial_fit_obeys_settings_even_where_somebody_looked_at_the_net():
    X, y = images(24)
    Y = np.column_stack([y, y % 2 * 5])
    params = {"task_weights": [1, 7], "gradient_clip": 0.01, "optimizer": "sgd"}
    estimator = classifier(**params).fit(X, Y)
    data = pickle.dumps(estimator)
    plain, looked_at = pickle.loads(data), pickle.loads(data)
    assert looked_at.net_.history
    plain.partial_fit(X, Y)
    looked_at.partial_fit(X, Y)
    assert state_of(plain) == state_of(looked_at)


@pytest.mark.parametrize(
    "params",
    [
        {"lr": 0.1, "strategy__unfreeze": "all"},
        {"strategy": ParameterSharing(unfreeze="all", strength=100.0)},
        {"optimizer": "sgd", "optimizer_params": {"momentum": 0.5}},
        {"weight_decay": 0.5},
        {"batch_size": 5, "gradient_clip": 0.01},
        {"label_smoothing": 0.3},
    ],
    ids=lambda params: ", ".join(params),
)
def test_partial_fit_obeys_settings_that_changed_since_the_last_call(params):
    X, y = images(24)
    estimator = classifier(FineTuning(1), lr=0.01, batch_size=12).partial_fit(X, y)
    loaded, same = (pickle.loads(pickle.dumps(estimator)) for _ in range(2))
    optimizer = estimator.net_.optimizer_
    for changing in (estimator, loaded):
        changing.set_params(**params).partial_fit(X, y)
    same.partial_fit(X, y)
    assert estimator.net_.optimizer_ is not optimizer
    outputs = [e.decision_function(X) for e in (estimator, loaded, same)]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
    assert abs(outputs[0] - outputs[2]).max() > 1e-4
    assert set(changed(estimator)) == set(changed(loaded))
    assert estimator.history_.iloc[-1]["lr_head.decay"] == estimator.lr_
    assert len(estimator.history_) == 2


def test_partial_fit_keeps_the_optimizer_where_the_parameters_mean_the_same():
    X, y = images(24)
    estimator = classifier(FineTuning(1)).partial_fit(X, y)
    optimizer = estimator.net_.optimizer_
    estimator.set_params(strategy=FineTuning(1), n_jobs=1).partial_fit(X, y)
    assert estimator.net_.optimizer_ is optimizer


def test_partial_fit_after_an_exact_fit_with_another_strategy():
    X, y = images(24)
    estimator = classifier("feature_extraction").fit(X, y)
    estimator.set_params(strategy=FineTuning(1)).partial_fit(X, y)
    assert estimator.n_iter_ == 1
    assert {name.split(".")[0] for name in changed(estimator)} == {"top"}


def test_callbacks_work_in_partial_fit():
    X, y = images(24)
    told = []

    class Teller(Callback):
        def on_train_begin(self, net, **kwargs):
            told.append("begin")

        def on_epoch_end(self, net, **kwargs):
            told.append("epoch")

    stop = EarlyStopping("train_loss", patience=1, threshold=1e9, threshold_mode="abs")
    estimator = classifier(callbacks=[Teller(), stop])
    for _ in range(3):
        estimator.partial_fit(X, y)
    assert estimator.n_iter_ == 3
    assert told == ["begin", "epoch"] * 3


def test_fit_after_partial_fit_starts_anew():
    X, y = images(24)
    fresh = classifier().fit(X, y)
    estimator = classifier().partial_fit(X, y).fit(X, y)
    assert state_of(estimator) == state_of(fresh)
    assert estimator.n_iter_ == 2


def test_partial_fit_with_random_numbers_repeats_itself():
    X, y = images(24)

    def dropping(n_features, n_outputs):
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(n_features, n_outputs))

    results = []
    for disturbance in (0, 1):
        torch.manual_seed(disturbance)
        estimator = classifier(head=dropping, augmentation="standard")
        for _ in range(3):
            estimator.partial_fit(X, y)
        results.append(estimator.decision_function(X))
    np.testing.assert_array_equal(*results)


# warm_start


def test_warm_start_goes_on_from_where_the_last_fit_ended():
    X, y = images(60, noise=250)
    estimator = classifier(warm_start=True, lr=1e-12, lr_schedule="constant")
    first = estimator.set_params(lr=0.01).fit(X, y).decision_function(X)
    assert estimator.history_["epoch"].tolist() == [1, 2]
    second = estimator.set_params(lr=1e-12).fit(X, y).decision_function(X)
    np.testing.assert_allclose(second, first, atol=1e-4)
    anew = classifier(lr=1e-12, lr_schedule="constant").fit(X, y).decision_function(X)
    assert np.abs(anew - first).max() > 0.05


def test_warm_start_lowers_the_loss_further():
    X, y = images(60, noise=220)
    estimator = classifier(warm_start=True, max_epochs=3).fit(X, y)
    first = estimator.history_["train_loss"].iloc[-1]
    estimator.fit(X, y)
    assert estimator.history_["train_loss"].iloc[-1] < first
    loaded = pickle.loads(pickle.dumps(estimator))
    again = loaded.fit(X, y).decision_function(X)
    np.testing.assert_allclose(
        again, estimator.fit(X, y).decision_function(X), atol=1e-3
    )


def test_warm_start_keeps_the_classes():
    X, y = images(30)
    estimator = classifier(warm_start=True).fit(X, y)
    estimator.fit(X[y < 2], y[y < 2])
    assert estimator.classes_.tolist() == [0, 1, 2]


def test_warm_start_with_a_new_class_says_what_to_do():
    X, y = images(30)
    estimator = classifier(warm_start=True).fit(X[y < 2], y[y < 2])
    with pytest.raises(ValueError, match=r"classes \[2\].*or set warm_start=False"):
        estimator.fit(X, y)


def test_warm_start_without_an_earlier_fit_is_a_fit():
    X, y = images(24)
    warm, cold = (classifier(warm_start=w).fit(X, y) for w in (True, False))
    assert state_of(warm) == state_of(cold)


def test_warm_start_of_an_exact_solution_solves_again():
    X, y = images(60)
    estimator = classifier("feature_extraction", warm_start=True).fit(X[:30], y[:30])
    estimator.fit(X, y)
    anew = classifier("feature_extraction").fit(X, y)
    np.testing.assert_array_equal(
        estimator.decision_function(X), anew.decision_function(X)
    )


def test_warm_start_goes_on_with_heads_of_any_layers():
    X, y = images(24)
    estimator = classifier(head=MLPHead((8,)), warm_start=True, lr=1e-12)
    first = estimator.set_params(lr=0.01).fit(X, y).decision_function(X)
    second = estimator.set_params(lr=1e-12).fit(X, y).decision_function(X)
    np.testing.assert_allclose(second, first, atol=1e-4)
