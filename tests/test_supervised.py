"""What holds for every kind of y: messages, and one pass over the features."""

import numpy as np
import pytest
from _networks import classifier, images, regressor, shades
from sklearn.exceptions import NotFittedError

from sktransfer import FeatureExtraction

KINDS = {"classifier": (classifier, images), "regressor": (regressor, shades)}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def test_messages_name_the_class_that_was_called(kind):
    make, data = kind
    name = type(make()).__name__
    with pytest.raises(ValueError, match=f"^{name} requires y to be passed"):
        make().fit(data(8)[0], None)
    with pytest.raises(NotFittedError, match=f"This {name} instance"):
        make().predict(data(8)[0])


def test_several_columns_cost_one_pass_over_the_features(kind, monkeypatch):
    make, data = kind
    X, y = data(24)
    estimator = make("feature_extraction")
    calls, features = [], type(estimator)._features

    def counted(self, images, *args):
        calls.append(len(images))
        return features(self, images, *args)

    monkeypatch.setattr(type(estimator), "_features", counted)
    estimator.fit(X, np.column_stack([y, y[::-1]])).predict(X[:5])
    assert calls == [24, 5]


def test_fit_that_fails_leaves_nothing_fitted(kind):
    make, data = kind
    X, y = data(12)
    estimator = make().fit(X, y)
    with pytest.raises(ValueError, match=r"\[12, 11\]"):
        estimator.fit(X, y[:11])
    estimator.fit(X, y)
    with pytest.raises(ValueError, match="nothing like that"):
        estimator.set_params(lr_schedule="nothing like that").fit(X, y)
    assert not hasattr(estimator, "head_")


NOTHING = {
    "values": (np.full((24, 2), np.nan), None, "y: found only missing values in 24"),
    "weights": (
        np.where(np.arange(24)[:, np.newaxis] < 12, [1, 2], np.nan),
        (np.arange(24) >= 12).astype(float),
        "sample_weight: found 0 in each of the 12",
    ),
}


def two_columns(data):
    X, y = data(24)
    return X, np.column_stack([y, np.roll(y, 1)])


@pytest.mark.parametrize("missing", NOTHING)
def test_partial_fit_goes_on_after_rows_that_teach_nothing_as_if_there_had_been_none(
    kind, missing
):
    make, data = kind
    X, Y = two_columns(data)
    estimator, undisturbed = (make().partial_fit(X, Y) for _ in range(2))
    optimizer = estimator.net_.optimizer_
    empty, weight, message = NOTHING[missing]
    with pytest.raises(ValueError, match=message):
        estimator.partial_fit(X, empty, sample_weight=weight)
    assert estimator.net_.optimizer_ is optimizer
    for same in (estimator, undisturbed):
        same.partial_fit(X, Y)
    assert estimator.n_iter_ == 2
    assert estimator.net_.optimizer_ is optimizer
    np.testing.assert_array_equal(estimator.predict(X), undisturbed.predict(X))
    for one, other in zip(estimator.head_, undisturbed.head_, strict=True):
        np.testing.assert_array_equal(one.coef, other.coef)


@pytest.mark.parametrize("missing", NOTHING)
@pytest.mark.parametrize(
    "strategy",
    ["feature_extraction", "fine_tuning", FeatureExtraction("gradient")],
    ids=str,
)
def test_warm_fit_refuses_rows_that_teach_nothing(kind, strategy, missing):
    make, data = kind
    X, Y = two_columns(data)
    estimator = make(strategy, warm_start=True, max_epochs=1).fit(X, Y)
    before = estimator.head_
    empty, weight, message = NOTHING[missing]
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, empty, sample_weight=weight)
    assert estimator.head_ is before
