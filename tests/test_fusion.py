"""Tables with images in some columns, from DataFrame to prediction."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from _networks import SIZE, changed, classifier, images, three_convs
from PIL import Image
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback

from sktransfer import (
    FeatureExtraction,
    FeatureExtractorTransformer,
    FineTuning,
    GradualUnfreezing,
    MLPHead,
    ParameterSharing,
    TransferClassifier,
    TransferRegressor,
)
from sktransfer._engine.exact import mean_and_scale
from sktransfer._table_encoder import TableEncoder
from sktransfer.exceptions import InvalidImageError

TRAINED = [
    FineTuning(),
    GradualUnfreezing(),
    ParameterSharing("delta"),
    ParameterSharing("bss"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """72 rows: front and back photos as files, a number, a category; and classes.

    The front tells class 2 from the others, the number tells 1 from 0.
    """
    folder = tmp_path_factory.mktemp("photos")
    X, y = images(72)
    X[y < 2] = np.where(np.arange(72) % 2, 20, 0)[y < 2, None, None, None] + 40
    rng = np.random.default_rng(0)
    X = (X + rng.integers(0, 40, X.shape)).astype(np.uint8)
    paths = []
    for i, image in enumerate(X):
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    frame = pd.DataFrame(
        {
            "front": paths,
            "size": 4.0 * (y == 1) + rng.normal(size=72),
            "back": rng.permutation(paths),
            "kind": np.array(["flat", "house"])[rng.integers(0, 2, 72)],
        }
    )
    return frame, y


def logits(estimator, X):
    return estimator.decision_function(X)


def regressor(strategy="fine_tuning", **params):
    defaults = {"image_size": SIZE, "max_epochs": 2, "random_state": 0, "n_jobs": 1}
    return TransferRegressor(three_convs, strategy=strategy, **(defaults | params))


def with_gaps(frame, rows=(3, 10), column="front"):
    frame = frame.copy()
    frame.loc[list(rows), column] = None
    return frame


# Reading


def test_image_columns_are_found_and_the_rest_is_the_table(photos):
    X, y = photos
    fitted = classifier("feature_extraction").fit(X, y)
    assert fitted.image_columns_ == ["front", "back"]
    assert fitted.tabular_.feature_names_in_.tolist() == ["size", "kind"]
    assert fitted.n_features_in_ == 4
    assert fitted.feature_names_in_.tolist() == X.columns.tolist()
    # 16 features of each image, the number, and two kinds.
    assert fitted.head_.coef.shape == (3, 2 * 16 + 1 + 2)


@pytest.mark.parametrize(
    ("make", "strategy"),
    [
        (classifier, "feature_extraction"),
        (regressor, "feature_extraction"),
        (regressor, "fine_tuning"),
    ],
)
def test_images_and_table_are_learnt_from_together(make, strategy, photos):
    X, y = photos
    fewer = X[["front"]], X[["size", "back", "kind"]]
    both, *others = (make(strategy).fit(F, y).score(F, y) for F in (X, *fewer))
    assert both > max(others) + 0.05


def test_image_columns_that_are_given_leave_the_others_to_the_table(photos):
    X, y = photos
    estimator = classifier(
        "feature_extraction", image_columns="front", tabular=Lengths()
    )
    estimator.fit(X, y)
    assert estimator.image_columns_ == ["front"]
    assert estimator.tabular_.columns_ == ["size", "back", "kind"]


class Lengths(OneHotEncoder):
    """A transformer that notes which columns it sees, and turns cells into lengths."""

    def fit(self, X, y=None):
        self.columns_, self.y_ = list(X.columns), y
        return self

    def transform(self, X):
        return X.astype(str).map(len).to_numpy()

    def fit_transform(self, X, y=None):
        return self.fit(X, y).transform(X)


def test_a_transformer_is_cloned_and_fitted_with_y(photos):
    X, y = photos
    given = Lengths()
    estimator = classifier("feature_extraction", tabular=given).fit(X, y)
    assert not hasattr(given, "columns_")
    np.testing.assert_array_equal(estimator.tabular_.y_, y)


@pytest.mark.parametrize("strategy", ["feature_extraction", FineTuning(1)], ids=repr)
def test_dropping_the_table_leaves_what_images_alone_give(strategy, photos):
    X, y = photos
    dropped = classifier(
        strategy, tabular="drop", image_columns=["front"], max_epochs=1
    )
    dropped.fit(X, y)
    alone = classifier(strategy, max_epochs=1).fit(X["front"], y)
    np.testing.assert_array_equal(logits(dropped, X), logits(alone, X["front"]))
    # As after any column of images, a list will do.
    paths = X["front"].tolist()
    np.testing.assert_array_equal(logits(dropped, paths), logits(alone, paths))
    assert dropped.n_features_in_ == 4
    assert dropped.tabular_ is None


def test_columns_are_found_by_name_in_any_order_beside_new_ones(photos):
    X, y = photos
    fitted = classifier("feature_extraction").fit(X, y)
    other = X[X.columns[::-1]].assign(new=1)
    np.testing.assert_array_equal(logits(fitted, other), logits(fitted, X))


def test_frames_of_polars_give_what_frames_of_pandas_give(photos):
    X, y = with_gaps(photos[0]), photos[1]
    fitted = classifier("feature_extraction").fit(X, y)
    cells = {name: X[name].astype(object) for name in X}
    frame = pl.DataFrame({n: [None if c != c else c for c in cells[n]] for n in cells})
    other = classifier("feature_extraction").fit(frame, y)
    np.testing.assert_array_equal(logits(other, frame), logits(fitted, X))
    scores = cross_val_score(other, frame, y, cv=3, error_score="raise")
    assert scores.mean() > 0.5


def test_rows_do_not_depend_on_the_rows_beside_them(photos):
    X, y = with_gaps(photos[0]), photos[1]
    for head in ("linear", MLPHead((8,))):
        fitted = classifier(head=head).fit(X, y)
        whole = logits(fitted, X)
        for rows in ([3], [5, 3, 10], range(20, 31)):
            part = logits(fitted, X.iloc[rows])
            np.testing.assert_allclose(part, whole[rows], rtol=1e-9, atol=1e-9)


# Bad input


def bad(photos, **columns):
    return photos[0].assign(**columns), photos[1]


def test_a_column_that_is_missing_in_predict_is_named(photos):
    X, y = photos
    fitted = classifier("feature_extraction").fit(X, y)
    with pytest.raises(ValueError, match=r"the image column\(s\) 'back' that fit used"):
        fitted.predict(X.drop(columns="back"))
    with pytest.raises(ValueError, match=r"the column\(s\) 'size', 'kind' that fit"):
        fitted.predict(X[["front", "back"]])


def test_new_categories_in_predict_do_not_fail(photos):
    X, y = photos
    fitted = classifier("feature_extraction").fit(X, y)
    known = fitted.predict_proba(X)
    new = fitted.predict_proba(X.assign(kind="castle"))
    assert np.isfinite(new).all()
    assert (new != known).any()


def test_an_image_column_without_images_is_an_error_in_fit_and_all_missing_later(
    photos,
):
    X, y = photos
    empty = X.assign(front=None)
    named = classifier("feature_extraction", image_columns=["front", "back"])
    with pytest.raises(ValueError, match="Column 'front': found no image in fit"):
        named.fit(empty, y)
    with pytest.raises(NotFittedError):
        check_is_fitted(named)
    with pytest.warns(UserWarning, match="'front' .no value at all"):
        unnamed = classifier("feature_extraction").fit(empty, y)
    assert unnamed.image_columns_ == ["back"]
    fitted = named.fit(X, y)
    assert np.isfinite(fitted.predict_proba(empty)).all()


def test_a_cell_that_is_no_image_is_named_with_its_row(photos):
    X, y = photos
    mixed = X.astype({"back": object})
    mixed.iat[5, 2] = 3.5
    with pytest.raises(ValueError, match=r"Row 5 of column 'back': found float 3\.5"):
        classifier("feature_extraction").fit(mixed, y)
    named = classifier("feature_extraction", image_columns=["front", "back"])
    message = "Row 5 of column 'back' holds float '3.5', which is not an image"
    with pytest.raises(TypeError, match=message):
        named.fit(mixed, y)
    named.fit(X, y)
    with pytest.raises(TypeError, match=message):
        named.predict(mixed)


def test_tables_that_cannot_be_read_say_what_to_do(photos):
    X, y = photos
    with pytest.raises(ValueError, match="Name those that do with image_columns="):
        classifier("feature_extraction").fit(X[["size", "kind"]], y)
    with pytest.raises(ValueError, match="found 'front' with X of type list"):
        classifier(image_columns="front").fit(X["front"].tolist(), y)
    with pytest.raises(ValueError, match="X has no column 'photo'"):
        classifier(image_columns=["photo"]).fit(X, y)
    fitted = classifier("feature_extraction").fit(X, y)
    with pytest.raises(ValueError, match="found ndarray, while fit saw a table"):
        fitted.predict(X.to_numpy())
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        fitted.predict(X[:0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_columns", 1.5),
        ("tabular", "mean"),
        ("tabular", LogisticRegression()),
        ("modality_dropout", 1.0),
        ("on_invalid", "drop"),
    ],
)
def test_parameters_are_checked(name, value, photos):
    X, y = photos
    with pytest.raises(ValueError, match=f"The '{name}' parameter"):
        classifier(**{name: value}).fit(X, y)


# Missing images


def test_broken_and_absent_files_raise_all_at_once_with_row_and_column(
    photos, tmp_path
):
    X, y = photos
    (tmp_path / "broken.png").write_bytes(b"no image")
    wrong = with_gaps(X, rows=(1,))
    wrong.loc[7, "back"] = "absent.png"
    wrong.loc[4, "front"] = str(tmp_path / "broken.png")
    for strategy in ("feature_extraction", FineTuning(init="random")):
        with pytest.raises(InvalidImageError) as error:
            classifier(strategy).fit(wrong, y)
        assert [row for row, _ in error.value.problems] == [4, 7]
        text = str(error.value)
        assert text.startswith("2 of 72 rows")
        assert "Row 4: column 'front'" in text
        assert "Row 7: column 'back'" in text
        assert "on_invalid='nan'" in text
    fitted = classifier("feature_extraction").fit(X, y)
    with pytest.raises(InvalidImageError, match="Row 7: column 'back'"):
        fitted.predict(wrong)


@pytest.mark.parametrize("strategy", ["feature_extraction", FineTuning(init="random")])
def test_broken_files_count_as_missing_where_that_is_wanted(strategy, photos):
    X, y = photos
    wrong = X.copy()
    wrong.loc[7, "front"] = "absent.png"
    fitted = classifier(strategy, on_invalid="nan").fit(wrong, y)
    expected = classifier(strategy).fit(with_gaps(X, rows=(7,)), y)
    np.testing.assert_array_equal(
        logits(fitted, wrong),
        logits(expected, X.assign(front=X["front"].where(X.index != 7, None))),
    )


def test_without_a_table_a_row_needs_an_image(photos):
    X, y = photos
    for given in ({}, {"on_invalid": "nan"}):
        estimator = classifier("feature_extraction", **given)
        with pytest.raises(InvalidImageError, match="Row 3: the image is missing"):
            estimator.fit(with_gaps(X)[["front"]], y)
        two = with_gaps(X)[["front", "back"]]
        estimator.fit(two, y)
        assert np.isfinite(estimator.predict_proba(two)).all()
        two.loc[10, "back"] = None
        with pytest.raises(InvalidImageError, match="Row 10: no image in 'front' and"):
            estimator.predict(two)
        with pytest.raises(InvalidImageError, match="Row 10: no image in 'front' and"):
            estimator.fit(two, y)


def test_a_missing_image_says_no_more_than_the_mean_and_its_flag(photos):
    X, y = photos
    fitted = classifier("feature_extraction").fit(with_gaps(X, rows=range(20)), y)
    assert fitted.head_.coef.shape == (3, 2 * 16 + 1 + 3)
    missing = with_gaps(X, rows=range(72))
    features = fitted._features(fitted._read_images(missing, reset=False))
    assert (features[:, :16] == features[0, :16]).all()
    of_training = fitted._features(fitted._read_images(X[20:], reset=False))
    np.testing.assert_allclose(features[0, :16], of_training[:, :16].mean(0), atol=1e-6)
    np.testing.assert_array_equal(features[:, 32], 1)
    np.testing.assert_array_equal(of_training[:, 32], 0)


def test_the_flag_of_a_missing_image_is_learnt_from(photos):
    X, _ = photos
    target = np.arange(72) % 2
    gaps = with_gaps(X, rows=np.flatnonzero(target))
    for strategy in ("feature_extraction", FeatureExtraction("gradient")):
        fitted = classifier(strategy, max_epochs=15, lr=0.05).fit(gaps, target)
        assert fitted.score(gaps, target) > 0.95


# Training


@pytest.mark.parametrize("strategy", TRAINED, ids=repr)
def test_gradients_change_the_trunk_and_the_weights_of_the_table(strategy, photos):
    X, y = with_gaps(photos[0]), photos[1]
    probe = classifier("feature_extraction").fit(X, y)
    fitted = classifier(strategy, max_epochs=4).fit(X, y)
    assert changed(fitted)
    difference = np.abs(fitted.head_.coef - probe.head_.coef)
    assert (difference[:, -3:] > 0).all()
    output = fitted.net_.forward(batch_of(fitted, X))[0]
    np.testing.assert_allclose(output, logits(fitted, X), atol=1e-3)


def batch_of(fitted, X):
    """X as the skorch net wants it."""
    from sktransfer._engine.normalization import normalized_batch

    rows = fitted._read_images(X, reset=False)
    fitted._features(rows)
    pixels = torch.zeros(len(X), 2, 3, SIZE, SIZE)
    for c, column in enumerate(rows.images):
        for row in np.flatnonzero(rows.present[:, c]):
            item = column[row]
            image = item.decode(item.load()[0], SIZE)
            made = fitted.backbone_.preprocessing.pixels(image)
            pixels[row, c] = normalized_batch(
                [made], fitted.backbone_.preprocessing, torch.device("cpu")
            )
    return {
        "images": pixels,
        "present": torch.from_numpy(rows.present),
        "table": torch.from_numpy(rows.table.astype(np.float32)),
        "has_table": torch.from_numpy(rows.has_table.copy()),
    }


def test_a_head_that_trains_alone_sees_blocks_in_balance(photos):
    X, y = photos
    fitted = classifier(FeatureExtraction("gradient")).fit(X, y)
    features = fitted._features(fitted._read_images(X, reset=False))
    _, scale = fitted.head_.standardization
    balanced = mean_and_scale(features)[1] / fitted._joint.factors()
    np.testing.assert_allclose(scale, balanced, rtol=1e-5)


def test_columns_share_one_trunk(photos):
    X, y = photos
    same = X.assign(back=X["front"])
    fitted = classifier("feature_extraction").fit(same, y)
    features = fitted._features(fitted._read_images(same, reset=False))
    np.testing.assert_array_equal(features[:, :16], features[:, 16:32])


def test_a_head_of_ones_own_sees_images_and_table(photos):
    X, y = photos
    widths = []

    def head(n_features, n_outputs):
        widths.append(n_features)
        return MLPHead((4,))(n_features, n_outputs)

    fitted = classifier(FeatureExtraction(), head=head, lr=0.05, max_epochs=20).fit(
        X, y
    )
    assert set(widths) == {2 * 16 + 1 + 2}
    assert fitted.score(X, y) > 0.8


def test_one_layer_below_the_features_is_read_too(photos):
    X, y = photos
    strategy = FeatureExtraction(layer="middle", pooling="max")
    assert classifier(strategy).fit(X, y).head_.coef.shape == (3, 2 * 12 + 1 + 2)


def test_heads_are_solved_on_fixed_views_of_images_beside_the_table(photos):
    X, y = with_gaps(photos[0]), photos[1]
    params = {"augmentation": "standard", "augmentation_views": 3}
    fitted = classifier("feature_extraction", **params).fit(X, y)
    assert fitted.solver_ == "exact"
    assert fitted.score(X, y) > 0.8
    plain = classifier("feature_extraction").fit(X, y)
    assert np.abs(fitted.head_.coef - plain.head_.coef).max() > 1e-3
    again = classifier("feature_extraction", **(params | {"cache": None})).fit(X, y)
    np.testing.assert_array_equal(logits(again, X), logits(fitted, X))


def test_early_stopping_judges_without_dropout_and_encodes_on_the_training_part(photos):
    X, y = photos
    seen = {}

    class Looker(Callback):
        def on_train_begin(self, net, X=None, **kwargs):
            seen["train"] = X.rows

    estimator = classifier(
        early_stopping=True,
        validation_fraction=0.4,
        modality_dropout=0.5,
        callbacks=[Looker()],
    ).fit(X, y)
    scaler = StandardScaler().fit(X[["size"]].iloc[seen["train"]])
    known = estimator.tabular_._fitted[0][1][-1]
    np.testing.assert_allclose(known.mean_, scaler.mean_)
    assert hasattr(estimator, "gain_over_probe_")


def test_fit_is_reproducible_and_does_not_depend_on_the_cache(photos):
    X, y = with_gaps(photos[0]), photos[1]
    params = {"modality_dropout": 0.3, "augmentation": "light", "max_epochs": 1}
    expected = logits(classifier(**params).fit(X, y), X)
    for other in ({"n_jobs": 2}, {"cache": None}):
        found = logits(classifier(**(params | other)).fit(X, y), X)
        np.testing.assert_array_equal(found, expected)


def test_checkpoint_goes_on_and_tells_tables_apart(photos, tmp_path):
    X, y = photos

    class Interrupt(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 2:
                raise RuntimeError("stopped")

    params = {"max_epochs": 3, "modality_dropout": 0.3, "checkpoint": tmp_path}
    with pytest.raises(RuntimeError, match="stopped"):
        classifier(callbacks=[Interrupt()], **params).fit(X, y)
    for other in (X.assign(size=X["size"] + 1), X.assign(front=X["back"])):
        with pytest.raises(ValueError, match="belongs to a fit on other data"):
            classifier(**params).fit(other, y)
    resumed = classifier(**params).fit(X, y)
    whole = classifier(**(params | {"checkpoint": None})).fit(X, y)
    np.testing.assert_array_equal(logits(resumed, X), logits(whole, X))


def test_warm_start_and_partial_fit_keep_the_encoding(photos):
    X, y = photos
    fitted = classifier(warm_start=True).fit(X[:36], y[:36])
    encoder = fitted.tabular_
    before = logits(fitted, X)
    fitted.fit(X[36:], y[36:])
    assert fitted.tabular_ is encoder
    assert np.abs(logits(fitted, X) - before).max() > 0
    part = classifier().partial_fit(X[:36], y[:36], classes=[0, 1, 2])
    encoder = part.tabular_
    part.partial_fit(X[36:], y[36:])
    assert part.tabular_ is encoder
    assert part.n_iter_ == 2
    for name, value in {"tabular": "drop", "modality_dropout": 0.5}.items():
        before = fitted.get_params()[name]
        with pytest.raises(ValueError, match=f"Parameter {name}: found {value!r}"):
            fitted.set_params(**{name: value}).fit(X, y)
        fitted.set_params(**{name: before})


def test_refit_on_images_alone_forgets_the_table(photos):
    X, y = photos
    estimator = classifier(max_epochs=1).fit(X, y).fit(X["front"], y)
    assert not hasattr(estimator, "image_columns_")
    assert not hasattr(estimator, "tabular_")
    assert len(logits(estimator, X["front"])) == len(X)
    assert estimator.net_.module_.joint is None


# Modality dropout


@pytest.mark.parametrize(
    "strategy",
    [
        FeatureExtraction(C=10),
        FeatureExtraction("gradient"),
        FineTuning(init="random"),
    ],
    ids=repr,
)
def test_modality_dropout_helps_where_one_is_missing(strategy):
    """Both tell the classes alike: without dropout, weight is shared between them."""
    X, y = images(60, n_classes=2, noise=120)
    number = 2.0 * y + np.random.default_rng(0).normal(size=60)
    X = pd.DataFrame({"photo": [Image.fromarray(x) for x in X], "number": number})
    params = {"max_epochs": 8, "lr": 0.01}
    plain, dropped = (
        classifier(strategy, modality_dropout=p, **params).fit(X, y) for p in (0.0, 0.6)
    )
    losses = []
    for fitted in (plain, dropped):
        for name in ("photo", "number"):
            p = fitted.predict_proba(X.assign(**{name: None}))
            losses.append(-np.log(p[np.arange(60), y]).mean())
    assert losses[2] + losses[3] < losses[0] + losses[1]


def test_modality_dropout_without_a_table_changes_nothing(photos):
    y = photos[1]
    strategy = FeatureExtraction("gradient")
    for X in (photos[0][["front"]], photos[0][["front", "back"]]):
        one, two = (
            classifier(strategy, modality_dropout=p).fit(X, y) for p in (0, 0.5)
        )
        np.testing.assert_array_equal(logits(one, X), logits(two, X))


# scikit-learn's tools


def test_grids_run_over_what_becomes_of_the_table(photos):
    X, y = photos
    grid = {"tabular": ["auto", "drop"], "modality_dropout": [0.0, 0.3]}
    estimator = classifier(
        "feature_extraction",
        tabular=make_column_transformer((StandardScaler(), ["size"])),
    )
    search = GridSearchCV(estimator, grid, cv=2, error_score="raise")
    search.fit(X, y)
    assert search.best_params_["tabular"] == "auto"
    scores = cross_val_score(estimator, X, y, cv=3, error_score="raise")
    assert scores.mean() > 0.8


@pytest.mark.parametrize("make", [classifier, regressor])
def test_a_column_of_images_is_one_feature_to_permute(make, photos):
    X, y = photos
    fitted = make("feature_extraction").fit(X, y)
    found = permutation_importance(fitted, X, y, n_repeats=3, random_state=0)
    importance = dict(zip(X.columns, found["importances_mean"], strict=True))
    assert min(importance["front"], importance["size"]) > 0.1
    assert max(importance["back"], importance["kind"]) < 0.1


def test_what_a_fused_model_says_is_a_feature_for_the_next_one(photos):
    X, y = photos
    frozen = FrozenEstimator(classifier().fit(X, y))
    says = FeatureExtractorTransformer(strategy=frozen)
    np.testing.assert_allclose(
        says.fit_transform(X), logits(frozen.estimator, X), rtol=1e-6
    )
    says.set_params(output="embedding")
    with pytest.raises(ValueError, match="Parameter output: found 'embedding'"):
        says.fit(X)


def test_pickles_predict_the_same(photos):
    X, y = with_gaps(photos[0]), photos[1]
    for strategy in ("feature_extraction", "fine_tuning"):
        fitted = classifier(strategy, max_epochs=1).fit(X, y)
        again = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(logits(again, X), logits(fitted, X))
        assert again.net_.module_.joint is not None


def test_weights_of_rows_count_in_table_and_head(photos):
    X, y = photos
    weight = np.r_[np.ones(60), np.zeros(12)]
    spoilt = X.copy()
    spoilt.loc[60:, "size"] = 1e6
    for strategy in ("feature_extraction", "fine_tuning"):
        weighted = classifier(strategy, max_epochs=1)
        weighted.fit(spoilt, y, sample_weight=weight)
        fewer = classifier(strategy, max_epochs=1).fit(X[:60], y[:60])
        np.testing.assert_allclose(logits(weighted, X), logits(fewer, X), atol=1e-4)


def test_row_of_weight_two_is_that_row_twice(photos):
    X, y = photos
    X = with_gaps(X, rows=range(0, 72, 5))
    weight = np.arange(72) // 3 % 3
    rows = np.repeat(np.arange(72), weight)
    strategy = FeatureExtraction(C=0.1)
    weighted = classifier(strategy).fit(X, y, sample_weight=weight)
    repeated = classifier(strategy).fit(X.iloc[rows], y[rows])
    np.testing.assert_allclose(logits(weighted, X), logits(repeated, X), atol=1e-5)


def test_several_targets_share_rows_and_weigh_images_each_for_itself(photos):
    X, y = photos
    both = np.column_stack([y == 2, y == 1]).astype(int)
    fitted = classifier("feature_extraction").fit(X, both)
    assert fitted.score(X, both) > 0.75
    of_images = [np.abs(head.coef[0, :16]).sum() for head in fitted.head_]
    assert of_images[0] > of_images[1]
    numbers = regressor().fit(X, both.astype(float))
    assert numbers.predict(X).shape == (72, 2)


@pytest.mark.parametrize("make", [classifier, regressor])
def test_images_that_say_nothing_cost_little(make):
    rng = np.random.default_rng(0)
    n = 120
    table = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    y = table.sum(axis=1) + rng.normal(size=n)
    y = (y > 0).astype(int) if make is classifier else y
    noise = rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
    X = table.assign(photo=[Image.fromarray(image) for image in noise])
    score = cross_val_score(make("feature_extraction"), X, y, cv=5).mean()
    alone = LogisticRegression() if make is classifier else regressor_of_table()
    expected = cross_val_score(alone, table, y, cv=5).mean()
    assert score > expected - 0.05


def regressor_of_table():
    from sklearn.linear_model import Ridge

    return Ridge()


def test_flags_of_countries_cost_nothing_beside_their_table(shared_data):
    table = pd.read_csv(shared_data / "flags" / "flags.csv")
    table["image"] = [str(shared_data / "flags" / name) for name in table["image"]]
    left_out = ["split", "country", "region", "subregion", "first_language", "currency"]
    train = table["split"] == "train"
    X, y = table.drop(columns=left_out), table["region"]
    both = TransferClassifier().fit(X[train], y[train])
    alone = make_pipeline(TableEncoder(), LogisticRegression(max_iter=1000))
    alone.fit(X[train].drop(columns="image"), y[train])
    score = alone.score(X[~train].drop(columns="image"), y[~train])
    assert both.score(X[~train], y[~train]) > score - 0.02
