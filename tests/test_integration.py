"""The estimators inside scikit-learn: searches, ensembles, tables, routing, workers."""

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import get_routing_for_object

from sktransfer import (
    FeatureExtraction,
    FeatureExtractorTransformer,
    TransferClassifier,
)
from sktransfer._cache.memory import SHARED
from sktransfer.backbones import _backbone


@pytest.fixture
def counted_rows():
    """Rows that pass `mini` from now on, whichever estimator sends them."""
    SHARED.clear()
    opened = _backbone.open_backbone("mini", "default", None, "auto", None)
    rows = []
    network = opened.for_inference(torch.device("cpu"))
    handle = network.register_forward_hook(
        lambda _module, args, _output: rows.append(len(args[0]))
    )
    yield rows
    handle.remove()


def test_five_folds_of_four_candidates_cost_one_pass(digits, counted_rows):
    X, y = digits
    pipe = make_pipeline(
        FeatureExtractorTransformer(), LogisticRegression(max_iter=5000)
    )
    search = GridSearchCV(pipe, {"logisticregression__C": [0.001, 0.01, 0.1, 1]}, cv=5)
    search.fit(X[:160], y[:160])
    assert sum(counted_rows) == 160
    grid = {"strategy__C": [0.001, 0.01, 0.1, 1]}
    GridSearchCV(TransferClassifier(), grid, cv=5).fit(X[:160], y[:160])
    assert sum(counted_rows) == 160


def test_without_cache_every_fold_costs_its_own_pass(digits, counted_rows):
    X, y = digits
    cross_val_score(TransferClassifier(cache=None), X[:160], y[:160], cv=5)
    assert sum(counted_rows) == 5 * 160


def test_grid_search_over_backbones_and_strategies(colour_images):
    X, y = colour_images
    grid = {
        "backbone": ["mini", "squeezenet1_1"],
        "strategy": [FeatureExtraction(C=1e-3), FeatureExtraction(C=1.0)],
    }
    model = TransferClassifier(weights=None, image_size=64)
    search = GridSearchCV(model, grid, cv=3).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.backbone_.name in grid["backbone"]


def test_two_workers_give_the_same_scores_as_one(colour_paths):
    paths, y = colour_paths
    X = pd.DataFrame({"photo": paths})
    alone, together = (
        cross_validate(TransferClassifier(), X, y, cv=3, n_jobs=n)["test_score"]
        for n in (1, 2)
    )
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize(
    "make",
    [
        lambda c: VotingClassifier([("a", c), ("b", c)], voting="soft"),
        lambda c: StackingClassifier([("a", c)], cv=3),
        lambda c: CalibratedClassifierCV(c, cv=3),
    ],
    ids=["voting", "stacking", "calibrated"],
)
def test_meta_estimators_take_images_of_four_dimensions(colour_images, make):
    X, y = colour_images
    assert make(TransferClassifier()).fit(X, y).score(X, y) > 0.9


def test_column_transformer_takes_an_image_column_beside_numbers(colour_paths):
    paths, y = colour_paths
    table = pd.DataFrame({"photo": paths, "age": np.arange(len(paths), dtype=float)})
    for columns in ("photo", ["photo"]):
        features = ColumnTransformer(
            [
                ("photo", FeatureExtractorTransformer(), columns),
                ("num", StandardScaler(), ["age"]),
            ]
        )
        pipe = make_pipeline(features, LogisticRegression(max_iter=1000)).fit(table, y)
        assert pipe.score(table, y) > 0.9
        names = features.fit(table).get_feature_names_out()
        assert names[0] == "photo__featureextractortransformer0"
        assert names[-1] == "num__age"
        assert len(names) == 577


@pytest.mark.parametrize(
    ("impute", "model"),
    [
        ([SimpleImputer(add_indicator=True)], LogisticRegression(max_iter=1000)),
        ([SimpleImputer()], RandomForestClassifier(random_state=0)),
        ([], HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=2)),
    ],
    ids=["logistic", "forest", "boosting"],
)
def test_missing_and_broken_images_of_a_table_are_imputed(colour_paths, impute, model):
    paths, y = colour_paths
    table = pd.DataFrame({"photo": paths, "age": np.arange(len(paths), dtype=float)})
    gaps = table.copy()
    gaps.loc[3, "photo"], gaps.loc[6, "photo"] = None, "nowhere.png"
    photo = make_pipeline(FeatureExtractorTransformer(on_invalid="nan"), *impute)
    features = ColumnTransformer(
        [("photo", photo, "photo"), ("n", "passthrough", ["age"])]
    )
    features.set_output(transform="pandas")
    pipe = make_pipeline(features, model).fit(gaps, y)
    assert pipe.score(table, y) > 0.9
    assert len(pipe.predict(gaps)) == len(y)
    found = pipe[0].transform(gaps)
    assert found.columns[0] == "photo__featureextractortransformer0"
    assert found.columns[-1] == "n__age"
    assert np.isnan(found.iloc[[3, 6], 0]).all() != bool(impute)


def test_sample_weight_is_routed_through_a_search(digits):
    X, y = digits
    weight = np.where(np.arange(len(y)) % 2, 1.0, 0.0)
    with sklearn.config_context(enable_metadata_routing=True):
        model = TransferClassifier().set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        requests = get_routing_for_object(model).fit.requests
        assert requests == {"groups": None, "sample_weight": True}
        search = GridSearchCV(model, {"strategy__C": [0.01]}, cv=3)
        search.fit(X, y, sample_weight=weight)
    weighted = TransferClassifier().fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(
        search.best_estimator_.decision_function(X), weighted.decision_function(X)
    )
