"""What holds for every kind of y: messages, and one pass over the features."""

import numpy as np
import pytest
from _networks import classifier, images, regressor, shades
from sklearn.exceptions import NotFittedError

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
