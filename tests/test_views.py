"""Views of training images: new ones, fixed ones, and what may be kept of them."""

import numpy as np
import pytest
from _networks import classifier, images, three_convs
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from sktransfer import (
    Augmentation,
    FeatureCache,
    FeatureExtraction,
    FeatureExtractorTransformer,
    FineTuning,
    TransferRegressor,
)
from sktransfer._cache.memory import SHARED
from sktransfer._images.views import training_views, view_content

X, Y = images(24)
VIEWED = {"augmentation": "standard", "augmentation_views": 2}


@pytest.fixture
def cache(tmp_path):
    with FeatureCache(tmp_path / "features.sqlite") as opened:
        yield opened


def mirrored(image):
    return image.transpose(0)  # PIL's FLIP_LEFT_RIGHT


class Own(Augmentation):
    """A subclass may do anything."""


def fit(strategy="feature_extraction", **params):
    return classifier(strategy, **{**VIEWED, **params}).fit(X, Y)


def bits(estimator):
    return estimator.decision_function(images(20, seed=1)[0]).tobytes()


# What parameters mean


def test_without_augmentation_there_are_no_views():
    assert training_views(None, 3, 0, 0) is None


def test_new_views_follow_the_seed_of_the_fit_and_do_not_last():
    views = training_views("light", None, 5, seed=7)
    assert (views.n, views.seed, views.are_lasting) == (None, 7, False)


@pytest.mark.parametrize(
    ("augmentation", "random_state", "seed", "lasts"),
    [
        ("light", 5, 5, True),
        (Augmentation(rotation=3), np.int64(5), 5, True),
        ("light", None, 7, False),
        ("light", np.random.RandomState(0), 7, False),
        (mirrored, 5, 5, False),
        (Own(), 5, 5, False),
    ],
)
def test_fixed_views_last_where_data_alone_tell_them_apart(
    augmentation, random_state, seed, lasts
):
    views = training_views(augmentation, 4, random_state, seed=7)
    assert (views.n, views.seed, views.are_lasting) == (4, seed, lasts)


def test_lasting_views_are_told_apart_by_seed_and_parameters():
    found = [
        training_views(augmentation, 4, seed, 0).determinants()
        for augmentation in ("light", "standard", Augmentation(rotation=3))
        for seed in (0, 1)
    ]
    assert len({repr(determinants) for determinants in found}) == 6
    # The number of views is not among them: the first ones are the same.
    assert training_views("light", 9, 0, 3).determinants() == found[0]


def test_views_of_an_image_have_contents_of_their_own():
    contents = {view_content(b"cat", view) for view in (0, 1, 256)}
    assert len({b"cat", *contents}) == 4


# Training


def test_epochs_see_the_views_in_turn_and_each_passes_the_network_once(cache):
    strategy = FineTuning("top")
    fitted = fit(strategy, cache=cache, max_epochs=5)
    # The probe sees the images as they are; two of five epochs see new views. In the
    # end the first of them judges two kinds of weights.
    assert cache.info()[3:5] == ((3 + 2) * 24, 24 + 2 * 24)
    again = fit(strategy, cache=cache, max_epochs=5)
    assert cache.info().misses == 3 * 24
    assert bits(fitted) == bits(again) == bits(fit(strategy, cache=None, max_epochs=5))


def test_fixed_views_are_other_images_than_none_and_than_new_ones():
    params = {"strategy": FineTuning("top"), "max_epochs": 4, "cache": None}
    results = {
        bits(fit(**params, augmentation=augmentation, augmentation_views=n))
        for augmentation, n in [(None, None), ("standard", None), ("standard", 2)]
    }
    assert len(results) == 3


def test_one_epoch_of_as_many_views_is_one_of_new_ones():
    params = {"strategy": FineTuning("top"), "max_epochs": 2}
    new, fixed = (fit(**params, augmentation_views=n) for n in (None, 2))
    assert bits(new) == bits(fixed)


def test_number_of_views_without_augmentation_has_no_effect():
    plain = fit(FineTuning("top"), augmentation=None, augmentation_views=None)
    assert bits(plain) == bits(fit(FineTuning("top"), augmentation=None))


@pytest.mark.parametrize("params", [{"augmentation": mirrored}, {"random_state": None}])
def test_views_that_do_not_last_are_kept_for_one_fit_only(cache, params):
    for n in (1, 2):
        fitted = fit(FineTuning("top"), cache=cache, max_epochs=6, **params)
        assert cache.info()[3:5] == ((n - 1) * 24, 24)  # the probe's features
    assert fitted.n_iter_ == 6
    fit("feature_extraction", cache=cache, **params)
    assert cache.info().misses == 24


def test_partial_fit_goes_through_the_same_views(cache):
    estimator = classifier(FineTuning("top"), cache=cache, **VIEWED)
    for n_calls in range(1, 5):
        estimator.partial_fit(X, Y)
        assert cache.info().misses == 24 + min(n_calls, 2) * 24


# The exact solution


def features_of_views(n, augmentation="standard", seed=0):
    """Features of views that were made beforehand, as images of their own."""
    views = training_views(augmentation, n, seed, seed)
    plain = FeatureExtractorTransformer(three_convs, image_size=16, cache=None).fit(X)
    images_ = plain._read_images(X, reset=False)
    make = views.pixels_of(plain.backbone_.preprocessing)
    size = round(plain.backbone_.preprocessing.decode_size * views.decode_factor)

    def pixels(row, view):
        source, content = images_[row].load()
        return make(images_[row].decode(source, size), content, view)

    return [
        plain.transform(np.stack([pixels(row, view) for row in range(len(X))]))
        for view in range(n)
    ]


def standardized(features, weight):
    return StandardScaler().fit(features, sample_weight=weight).transform(features)


@pytest.mark.parametrize("sample_weight", [None, np.linspace(0.2, 2, 24)])
def test_exact_head_sees_all_views_each_with_its_share_of_the_weight(sample_weight):
    fitted = classifier(FeatureExtraction(C=0.5), **VIEWED)
    fitted.fit(X, Y, sample_weight=sample_weight)
    assert fitted.solver_ == "exact"
    features = np.concatenate(features_of_views(2)).astype(float)
    weight = np.ones(24) if sample_weight is None else sample_weight
    weight = np.tile(weight / 2, 2)
    expected = LogisticRegression(C=0.5, tol=1e-6, max_iter=10_000)
    seen = standardized(features, weight)
    expected.fit(seen, np.tile(Y, 2), sample_weight=weight)
    found = fitted.head_.decision_function(features)
    np.testing.assert_allclose(found, expected.decision_function(seen), atol=1e-3)


def test_exact_regression_sees_all_views_too():
    y = np.linspace(0, 1, 24)
    options = {"image_size": 16, "random_state": 0, "n_jobs": 1, **VIEWED}
    strategy = FeatureExtraction(C=0.01)
    fitted = TransferRegressor(three_convs, strategy=strategy, **options).fit(X, y)
    assert fitted.solver_ == "exact"
    features = np.concatenate(features_of_views(2)).astype(float)
    weight = np.full(48, 0.5)
    seen = standardized(features, weight)
    expected = Ridge(alpha=50).fit(seen, np.tile(y, 2), sample_weight=weight)
    found = fitted.head_.predict(features)
    np.testing.assert_allclose(found, expected.predict(seen), atol=1e-6)


def test_images_that_are_predicted_are_seen_as_they_are():
    fitted = fit()
    plain = FeatureExtractorTransformer(three_convs, image_size=16).fit_transform(X)
    expected = fitted.head_.decision_function(plain)
    np.testing.assert_array_equal(fitted.decision_function(X), expected)


def test_search_over_heads_passes_each_view_once(cache):
    for C in (0.1, 1.0):
        fit(FeatureExtraction(C=C), cache=cache)
    assert cache.info()[3:5] == (48, 48)
    fit(cache=cache, augmentation_views=3)
    assert cache.info().misses == 72  # the first two are the same
    fit(cache=cache, random_state=1)
    assert cache.info().misses == 72 + 48
    assert bits(fit(cache=cache)) == bits(fit(cache=None))


def test_exact_solver_may_be_asked_for_with_fixed_views_only():
    strategy = FeatureExtraction("exact")
    assert fit(strategy).solver_ == "exact"
    with pytest.raises(ValueError, match=r"'exact' cannot be used with augmentation"):
        fit(strategy, augmentation_views=None)


def test_number_of_views_is_at_least_one():
    with pytest.raises(ValueError, match="The 'augmentation_views' parameter"):
        fit(augmentation_views=0)


def test_clone_and_shared_memory_have_the_bits_of_the_first_fit():
    SHARED.clear()
    first = fit()
    assert len(SHARED) == 48
    again = clone(first).fit(X, Y)
    assert len(SHARED) == 48
    assert bits(first) == bits(again)
