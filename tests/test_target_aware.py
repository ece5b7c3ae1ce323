"""The transformer that learns from y: no leak, outputs, parameters, errors."""

import pickle

import numpy as np
import pandas as pd
import pytest
from _networks import SIZE, classifier, images, three_convs
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sktransfer import (
    FeatureExtraction,
    FeatureExtractorTransformer,
    FineTuning,
    TransferClassifier,
    TransferRegressor,
)
from sktransfer._cache.memory import SHARED
from sktransfer.exceptions import InvalidImageError

NAMES = np.array(["ant", "bee", "cat", "dog"])


def transformer(strategy="feature_extraction", **params):
    """A transformer on the tiny network."""
    defaults = {"image_size": SIZE, "random_state": 0, "n_jobs": 1, "cv": 2}
    return FeatureExtractorTransformer(
        params.pop("backbone", three_convs), strategy=strategy, **(defaults | params)
    )


def with_estimator(estimator, **params):
    """A transformer around an estimator, which has the network."""
    return FeatureExtractorTransformer(
        strategy=estimator, **({"random_state": 0, "cv": 2} | params)
    )


def memorizing(**params):
    """An estimator that learns whatever labels it gets by heart."""
    return classifier(
        FineTuning(backbone_lr_ratio=1.0), lr=0.01, max_epochs=10, **params
    )


# What cross-fitting is for.


def auc_of_the_next_model(features, y):
    """AUC of a classifier on its own training rows."""
    scores = LogisticRegression().fit(features, y).decision_function(features)
    return roc_auc_score(y, scores)


def test_noise_as_labels_leaks_into_naive_features_but_not_into_cross_fitted_ones():
    X, _ = images(90)
    y = np.random.default_rng(2).permutation(np.arange(90) % 2)
    tuned = with_estimator(memorizing(), cv=3)
    cross_fitted = tuned.fit_transform(X, y)
    naive = tuned.transform(X)
    assert auc_of_the_next_model(naive, y) > 0.95
    assert auc_of_the_next_model(cross_fitted, y) < 0.6


def test_a_pipeline_scores_on_new_rows_as_in_cross_validation():
    X, y = images(90, n_classes=2, noise=215)
    X_new, y_new = images(300, n_classes=2, noise=215, seed=1)
    pipe = make_pipeline(
        with_estimator(classifier(), cv=3), StandardScaler(), LogisticRegression()
    )
    expected = cross_val_score(pipe, X, y, cv=3).mean()
    found = pipe.fit(X, y).score(X_new, y_new)
    assert 0.8 < expected < 0.99
    assert abs(found - expected) < 0.1


def test_each_row_gets_the_output_of_the_network_that_has_not_seen_its_fold():
    X, y = images(30)
    estimator, cv = classifier(), KFold(2, shuffle=True, random_state=1)
    features = with_estimator(estimator, cv=cv).fit_transform(X, y)
    for train, test in cv.split(X):
        fold = clone(estimator).fit(X[train], y[train])
        expected = fold.decision_function(X[test])
        np.testing.assert_array_equal(features[test], expected.astype(np.float32))


def test_transform_uses_the_network_that_was_tuned_on_all_rows():
    X, y = images(30)
    tuned = with_estimator(classifier())
    tuned.fit_transform(X, y)
    expected = classifier().fit(X, y).decision_function(X)
    np.testing.assert_array_equal(tuned.transform(X), expected.astype(np.float32))
    np.testing.assert_array_equal(tuned.fit(X, y).transform(X), tuned.transform(X))


def test_embeddings_of_the_folds_are_turned_onto_those_of_the_whole():
    X, y = images(120)
    estimator, cv = classifier(lr=0.01, max_epochs=4), KFold(3)
    tuned = with_estimator(estimator, cv=cv, output="embedding")
    features = tuned.fit_transform(X, y)
    apart = np.empty_like(features)
    for train, test in cv.split(X):
        fold = clone(estimator).fit(X[train], y[train])
        apart[test] = with_estimator(FrozenEstimator(fold)).fit_transform(X[test])
    onto = tuned.transform(X)
    assert features.shape == (120, 16)
    assert np.square(features - onto).mean() < 0.7 * np.square(apart - onto).mean()


def test_folds_see_images_at_the_size_of_the_whole():
    rng = np.random.default_rng(0)
    sides = [100] * 8 + [156] * 8
    X = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in sides]
    y, site = np.arange(16) % 2, np.arange(16) // 8
    tuned = FeatureExtractorTransformer(
        strategy="feature_extraction", output="embedding", cv=GroupKFold(2)
    )
    found = tuned.fit_transform(X, y, groups=site)
    np.testing.assert_allclose(found, tuned.transform(X), atol=1e-5)


def test_embeddings_below_what_learns_are_those_of_the_frozen_network():
    X, y = images(30)
    tuned = transformer(FineTuning("top"), output="embedding", layer="middle")
    plain = transformer(None, layer="middle").fit_transform(X)
    np.testing.assert_array_equal(tuned.fit_transform(X, y), plain)
    np.testing.assert_array_equal(tuned.transform(X), plain)


def test_copies_of_an_image_leak_unless_they_are_a_group():
    X, _ = images(30)
    groups = np.repeat(np.arange(30), 3)
    y = np.random.default_rng(1).permutation(np.arange(30) % 2)
    X, y = X[groups], y[groups]
    tuned = with_estimator(memorizing(), cv=3)
    assert auc_of_the_next_model(tuned.fit_transform(X, y), y) > 0.9
    assert auc_of_the_next_model(tuned.fit_transform(X, y, groups=groups), y) < 0.75


def test_groups_and_weights_come_through_a_pipeline_by_metadata_routing():
    X, y = images(30)
    groups, weight = np.arange(30) // 3, np.arange(30) % 4
    tuned = transformer()
    expected = tuned.fit_transform(X, y, sample_weight=weight, groups=groups)
    assert not np.allclose(expected, tuned.fit_transform(X, y, groups=groups))
    assert not np.allclose(expected, tuned.fit_transform(X, y, sample_weight=weight))
    with config_context(enable_metadata_routing=True):
        asking = transformer().set_fit_request(groups=True, sample_weight=True)
        pipe = make_pipeline(asking, "passthrough")
        found = pipe.fit_transform(X, y, groups=groups, sample_weight=weight)
    np.testing.assert_array_equal(found, expected)


def test_rows_of_weight_zero_are_as_if_they_were_not_there():
    X, y = images(30)
    weight = np.repeat([1.0, 0.0], [24, 6])
    weighted = transformer().fit(X, y, sample_weight=weight).transform(X)
    without = transformer().fit(X[:24], y[:24]).transform(X)
    np.testing.assert_allclose(weighted, without, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strategy", [None, "feature_extraction"])
def test_rows_of_weight_zero_do_not_say_what_is_black_and_white(digits, strategy):
    X, y = digits[0][:40].copy(), digits[1][:40] % 2
    X[-1] = 1000
    weight = [1] * 39 + [0]
    tuned = transformer(strategy)
    tuned.fit_transform(X, y, sample_weight=weight)
    assert tuned.value_range_ == (0, 16)
    with pytest.raises(ValueError, match="Negative values in data"):
        tuned.fit(X, y, sample_weight=[-1] * 40)


def test_a_class_that_a_fold_does_not_show_has_scores_like_those_of_other_folds():
    X, y = images(31)
    y[-1] = 3
    with pytest.warns(UserWarning, match="least populated class"):
        features = transformer().fit_transform(X, NAMES[y])
    assert features.shape == (31, 4)
    assert features[:, 3].min() > -20  # alone, the fold would say -37


# Outputs.


TARGETS = {
    "two classes": (lambda y: NAMES[y % 2], 1, "binary"),
    "three classes": (lambda y: NAMES[y], 3, "multiclass"),
    "labels": (lambda y: np.c_[y == 0, y == 1].astype(int), 2, "multilabel-indicator"),
    "two targets": (
        lambda y: pd.DataFrame({"a": NAMES[y], "b": y % 2}),
        4,
        "multiclass-multioutput",
    ),
    "numbers": (lambda y: y + 0.5, 1, "continuous"),
    "two numbers": (lambda y: np.c_[y + 0.5, -y], 2, "continuous-multioutput"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_outputs_have_one_column_a_score_or_number(name):
    X, y = images(30)
    make, width, target_type = TARGETS[name]
    y = make(y)
    tuned = transformer().set_output(transform="pandas")
    features = tuned.fit_transform(X, y)
    assert tuned.target_type_ == target_type
    is_number = target_type.startswith("continuous")
    assert tuned.output_ == ("predict" if is_number else "decision_function")
    expected = [f"featureextractortransformer{i}" for i in range(width)]
    assert features.columns.tolist() == expected
    assert tuned.get_feature_names_out().tolist() == expected
    assert set(features.dtypes) == {np.dtype("float32")}
    says = getattr(tuned.estimator_, tuned.output_)(X)
    says = says if isinstance(says, list) else [says]
    says = np.hstack([part.reshape(len(X), -1) for part in says])
    np.testing.assert_array_equal(tuned.transform(X), says.astype(np.float32))


def test_an_estimator_says_what_y_is():
    X, y = images(30)
    params = {"backbone": three_convs, "image_size": SIZE, "n_jobs": 1}
    regressor = with_estimator(TransferRegressor(**params))
    assert regressor.fit_transform(X, y).shape == (30, 1)
    assert regressor.target_type_ == "continuous"
    declared = transformer(target_type="continuous").fit(X, y)
    assert isinstance(declared.estimator_, TransferRegressor)
    assert declared.target_type_ == "continuous"


def test_a_bare_strategy_tunes_this_network_with_the_defaults_of_the_estimator():
    X, y = images(30)
    tuned = transformer(FineTuning("top"), value_range=(0, 200), verbose=1)
    tuner = tuned.fit(X, y).estimator_
    own = {"backbone", "image_size", "value_range", "random_state", "n_jobs", "verbose"}
    for name, value in TransferClassifier().get_params(deep=False).items():
        if name == "strategy":
            assert repr(tuner.strategy) == repr(FineTuning("top"))
        else:
            expected = getattr(tuned, name) if name in own else value
            assert getattr(tuner, name) == expected, name
    assert tuner.strategy is not tuned.strategy
    assert tuned.backbone_ is tuner.backbone_


def test_flattened_images_keep_their_range_in_every_fold(digits):
    X, y = digits[0][:60], digits[1][:60] % 2
    tuned = transformer()
    tuned.fit_transform(X, y)
    assert tuned.value_range_ == (0, 16)
    assert tuned.image_shape_ == (8, 8)
    assert tuned.n_features_in_ == 64
    with pytest.raises(ValueError, match="63 features, but"):
        tuned.transform(X[:, 1:])


def test_what_folds_say_is_not_kept_in_the_cache():
    X, y = images(30)
    SHARED.clear()
    tuned = with_estimator(classifier(FineTuning("top")), output="embedding")
    tuned.fit_transform(X, y)
    # Per image: behind the cut, for the probe, and the embedding of the whole.
    assert len(SHARED) == 3 * len(X)


def test_each_fold_is_told(capsys):
    X, y = images(30)
    transformer(verbose=1).fit_transform(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"Fold {k} of 2: 15 rows to learn from, 15 to compute." for k in (1, 2)
    ]
    transformer().fit_transform(X, y)
    assert capsys.readouterr().out == ""


def test_the_same_seed_gives_the_same_bits():
    X, y = images(30)
    tuned = transformer(FineTuning("top"))
    features = tuned.fit_transform(X, y)
    np.testing.assert_array_equal(clone(tuned).fit_transform(X, y), features)
    other = clone(tuned).set_params(random_state=1).fit_transform(X, y)
    assert not np.allclose(other, features)


@pytest.mark.parametrize("holds_weights", [False, True])
def test_pickles_give_the_same_features(digits, holds_weights):
    X, y = digits[0][:40], digits[1][:40] % 2
    estimator = classifier("fine_tuning", backbone="mini", image_size=32, max_epochs=1)
    estimator.set_params(strategy__unfreeze="features.12")
    tuned = with_estimator(estimator, store_weights_in_pickle=holds_weights).fit(X, y)
    stored = pickle.dumps(tuned)
    restored = pickle.loads(stored)
    np.testing.assert_array_equal(restored.transform(X), tuned.transform(X))
    changes = sum(v.nbytes for v in tuned.backbone_._changes.values())
    weights = sum(p.numel() * 4 for p in tuned.backbone_.trunk.parameters())
    held = changes + (weights if holds_weights else 0)
    assert held < len(stored) < 1.3 * held


# Images that cannot be read.


@pytest.fixture
def gappy(tmp_path):
    """Paths of 20 images of two classes, two of which are missing or broken."""
    X, y = images(20, n_classes=2)
    paths = np.empty(20, dtype=object)
    for i, image in enumerate(X):
        paths[i] = str(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[i])
    (tmp_path / "4.png").write_bytes(b"no image")
    paths[11] = None
    return pd.Series(paths, name="photo"), NAMES[y], np.isin(np.arange(20), (4, 11))


@pytest.mark.parametrize("output", ["decision_function", "embedding"])
@pytest.mark.parametrize("strategy", ["feature_extraction", "fine_tuning"])
def test_rows_without_an_image_are_nan_and_are_not_learnt_from(gappy, strategy, output):
    paths, y, invalid = gappy
    tuned = with_estimator(classifier(strategy), output=output, on_invalid="nan")
    features = tuned.fit_transform(paths, y, groups=np.arange(20) // 2)
    np.testing.assert_array_equal(np.isnan(features).all(axis=1), invalid)
    np.testing.assert_array_equal(np.isnan(features).any(axis=1), invalid)
    without = clone(tuned).fit(paths[~invalid], y[~invalid])
    transformed = tuned.transform(paths)
    np.testing.assert_array_equal(np.isnan(transformed).all(axis=1), invalid)
    np.testing.assert_array_equal(
        transformed[~invalid], without.transform(paths[~invalid])
    )
    assert np.isnan(tuned.transform([None, None])).all()


def test_rows_without_an_image_are_an_error_that_says_what_to_do(gappy):
    paths, y, invalid = gappy
    tuned = transformer()
    with pytest.raises(InvalidImageError, match=r"2 of 20 rows.*\n.*Row 4.*\n.*Row 11"):
        tuned.fit(paths, y)
    tuned.fit(paths[~invalid], y[~invalid])
    with pytest.raises(InvalidImageError, match="Or pass on_invalid='nan'"):
        tuned.transform(paths)
    with pytest.raises(InvalidImageError, match="2 of 2 rows"):
        transformer(on_invalid="nan").fit([None, None], [0, 1])


# Among scikit-learn's own.


def test_a_column_in_a_table_is_searched_over(gappy):
    paths, y, invalid = gappy
    table = pd.DataFrame({"photo": paths, "size": np.arange(20.0)})[~invalid]
    columns = ColumnTransformer(
        [("photo", transformer(), "photo")], remainder="passthrough"
    )
    pipe = make_pipeline(columns, StandardScaler(), LogisticRegression())
    names = "columntransformer__photo__strategy", "logisticregression__C"
    grid = [{f"{names[0]}__C": [0.01]}, {names[0]: [None], names[1]: [0.1]}]
    search = GridSearchCV(pipe, grid, cv=2).fit(table, y[~invalid])
    assert set(search.predict(table)) <= set(NAMES[:2])
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()
    out = pipe.fit(table, y[~invalid])[0].get_feature_names_out()
    expected = ["photo__featureextractortransformer0", "remainder__size"]
    assert out.tolist() == expected


def test_parameters_of_the_estimator_are_searched_over():
    X, y = images(30)
    pipe = make_pipeline(with_estimator(classifier()), LogisticRegression())
    name = "featureextractortransformer__strategy"
    grid = {f"{name}__max_epochs": [1, 2], f"{name}__strategy__unfreeze": ["top"]}
    search = GridSearchCV(pipe, grid, cv=2, refit=False).fit(X, y)
    assert len(search.cv_results_["params"]) == 2
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()
    pipe.set_params(**{f"{name}__max_epochs": 1}).fit(X, y)
    assert pipe[0].estimator_.n_iter_ == 1


def test_a_name_becomes_its_strategy_when_a_parameter_of_it_is_set():
    tuned = transformer("fine_tuning").set_params(strategy__unfreeze=1)
    assert repr(tuned.strategy) == repr(FineTuning(1))
    tuned.set_params(strategy="feature_extraction", strategy__C=1.0)
    assert repr(tuned.strategy) == repr(FeatureExtraction(C=1.0))


# Estimators that are fitted already.


def test_a_frozen_estimator_is_used_as_it_is_without_y():
    X, y = images(30)
    fitted = classifier().fit(X, y)
    frozen = with_estimator(FrozenEstimator(fitted))
    features = frozen.fit_transform(X)
    assert frozen.output_ == "embedding"
    assert frozen.estimator_ is fitted
    assert not hasattr(frozen, "target_type_")
    np.testing.assert_array_equal(features, frozen.transform(X))
    # A head on these features says what the estimator says.
    expected = fitted.head_.decision_function(features)
    np.testing.assert_array_equal(expected, fitted.decision_function(X))
    scores = clone(frozen).set_params(output="decision_function").fit_transform(X)
    np.testing.assert_array_equal(scores, expected.astype(np.float32))


def test_a_frozen_estimator_reads_images_as_it_learnt_to(digits):
    X, y = digits[0][:40], digits[1][:40] % 2
    fitted = TransferClassifier(three_convs, image_size=SIZE).fit(X, y)
    frozen = with_estimator(FrozenEstimator(fitted))
    # Other values than those of `fit` do not change what is black and white.
    half = frozen.fit(X[:5] / 2).transform(X[:5] / 2)
    np.testing.assert_array_equal(half, frozen.transform(X / 2)[:5])
    assert frozen.value_range_ == (0, 16)
    with pytest.raises(ValueError, match="63 features, but"):
        clone(frozen).fit(X[:, 1:])


# Errors, all of them before anything is tuned.


def fitted_network():
    return FrozenEstimator(classifier("feature_extraction").fit(*images(12)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: with_estimator(
                classifier(), weights=None, value_range=(0, 255), target_type="binary"
            ),
            r"beside weights=None, value_range=\(0, 255\), target_type='binary'\.",
        ),
        (
            lambda: with_estimator(fitted_network(), backbone=three_convs),
            "beside backbone=<function",
        ),
        (
            lambda: transformer(output="predict"),
            "output: found 'predict' with Transfer",
        ),
        (
            lambda: transformer(target_type="continuous", output="decision_function"),
            "Expected 'auto' or 'predict' or 'embedding'",
        ),
        (
            lambda: transformer(None, output="decision_function"),
            "output: found 'decision_function' with strategy=None",
        ),
        (lambda: transformer(layer="low"), "layer: found 'low' with output='decision"),
        (lambda: transformer(pooling="max"), "pooling: found 'max' with output="),
        (
            lambda: transformer(output="embedding", layer="lowest"),
            "has no stage 'lowest'",
        ),
        (
            lambda: with_estimator(fitted_network(), layer="lowest"),
            "has no stage 'lowest'. Its stages are",
        ),
        (lambda: transformer(cv=[(range(6), range(6, 12))]), "in no test part"),
        (lambda: transformer(cv=13), "n_splits=13 greater than the number"),
        (lambda: transformer(cv="five"), "The 'cv' parameter"),
        (lambda: transformer("tuning"), "The 'strategy' parameter"),
        (lambda: transformer(output="proba"), "The 'output' parameter"),
        (lambda: transformer(target_type="number"), "The 'target_type' parameter"),
    ],
)
def test_parameters_that_do_not_fit_are_an_error(make, message):
    X, y = images(12)
    tuned = make()
    with pytest.raises(ValueError, match=message):
        tuned.fit_transform(X, y % 2)
    assert not hasattr(tuned, "backbone_")


def test_a_strategy_needs_y():
    X, y = images(12)
    with pytest.raises(ValueError, match="requires y to be passed, but the target y"):
        transformer().fit(X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        transformer().fit(X, y[:-1])
    transformer(None).fit(X)


def test_a_fold_that_shows_a_single_class_is_an_error_that_names_it():
    X, _ = images(12)
    y = np.arange(12) // 6
    with pytest.raises(ValueError, match="single class in the training part") as error:
        transformer(cv=KFold(2)).fit_transform(X, y)
    assert error.value.__notes__ == ["This was fold 1 of 2 (parameter cv)."]


def test_only_fitted_image_estimators_can_be_frozen():
    X, y = images(12)
    with pytest.raises(NotFittedError):
        with_estimator(FrozenEstimator(classifier())).fit(X, y)
    other = FrozenEstimator(LogisticRegression())
    with pytest.raises(TypeError, match="found LogisticRegression in a FrozenEst"):
        with_estimator(other).fit(X, y)


def test_parameters_of_a_strategy_that_is_not_there_are_an_error():
    with pytest.raises(ValueError, match="strategy__C: found strategy=None"):
        transformer(None).set_params(strategy__C=1.0)
    with pytest.raises(ValueError, match="Invalid parameter 'max_epochs' for"):
        transformer("fine_tuning").set_params(strategy__max_epochs=1)


def test_a_fit_without_a_strategy_forgets_an_earlier_one_with_it():
    X, y = images(12)
    tuned = transformer().fit(X, y)
    tuned.set_params(strategy=None).fit(X)
    assert not hasattr(tuned, "estimator_")
    assert not hasattr(tuned, "target_type_")
    assert tuned.transform(X).shape == (12, 16)


def test_a_stopped_fold_goes_on_where_its_own_checkpoint_is(tmp_path):
    X, y = images(30)
    expected = with_estimator(classifier()).fit_transform(X, y)
    stopping = with_estimator(
        classifier(checkpoint=tmp_path, callbacks=[("stop", StopsInEpoch(4))])
    )
    with pytest.raises(RuntimeError, match="stopped"):
        stopping.fit_transform(X, y)
    assert [path.name for path in tmp_path.iterdir()] == ["fold1"]
    resumed = with_estimator(classifier(checkpoint=tmp_path)).fit_transform(X, y)
    np.testing.assert_array_equal(resumed, expected)


class StopsInEpoch(Callback):
    """Fails at the beginning of the n-th epoch of all fits together."""

    begun = 0

    def __init__(self, n):
        self.n = n

    def on_epoch_begin(self, net, **kwargs):
        StopsInEpoch.begun += 1
        if StopsInEpoch.begun == self.n:
            raise RuntimeError("stopped")
