"""TransferClassifier beyond check_estimator: targets, weights, parameters, pickles."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_sample_weight

from sktransfer import FeatureExtraction, TransferClassifier
from sktransfer.exceptions import BackboneNotFoundError


def tensors_of(classifier):
    trunk = classifier.backbone_.trunk
    return {name: t.numpy().copy() for name, t in trunk.state_dict().items()}


def test_photos_from_paths_arrays_and_frames_are_predicted_alike(
    colour_images, colour_paths
):
    X, y = colour_images
    paths, _ = colour_paths
    classifier = TransferClassifier().fit(X, y)
    assert classifier.score(X, y) == 1.0
    expected = classifier.decision_function(X)
    for same in (paths, pd.DataFrame({"photo": paths}), pd.Series(paths)):
        np.testing.assert_array_equal(classifier.decision_function(same), expected)


def test_string_labels_come_back_sorted(colour_images):
    X, y = colour_images
    classifier = TransferClassifier().fit(X, y)
    assert classifier.classes_.tolist() == ["blue", "red"]
    assert set(classifier.predict(X)) == {"blue", "red"}
    positive = classifier.decision_function(X) > 0
    np.testing.assert_array_equal(classifier.predict(X) == "red", positive)


def test_one_column_name_does_not_matter_after_fit(colour_paths):
    paths, y = colour_paths
    classifier = TransferClassifier().fit(pd.DataFrame({"photo": paths}), y)
    assert classifier.feature_names_in_.tolist() == ["photo"]
    expected = classifier.predict(paths)
    other = pd.DataFrame({"image": paths})
    np.testing.assert_array_equal(classifier.predict(other), expected)


def test_fitting_changes_no_byte_of_the_network(digits):
    X, y = digits
    classifier = TransferClassifier().fit(X[:20], y[:20])
    before = tensors_of(classifier)
    classifier.fit(X, y).predict(X)
    after = tensors_of(classifier)
    for name, tensor in before.items():
        assert tensor.tobytes() == after[name].tobytes(), name


def test_multilabel_probabilities_are_one_array(digits):
    X, y = digits
    Y = np.column_stack([y % 2, y > 4, np.zeros_like(y), np.ones_like(y)]).astype(int)
    classifier = TransferClassifier().fit(X, Y)
    probabilities = classifier.predict_proba(X)
    assert probabilities.shape == classifier.decision_function(X).shape == Y.shape
    np.testing.assert_array_equal(classifier.predict(X), (probabilities > 0.5))
    np.testing.assert_allclose(probabilities[:, 2], 0, atol=1e-12)
    np.testing.assert_allclose(probabilities[:, 3], 1, atol=1e-12)
    alone = TransferClassifier().fit(X, Y[:, 0])
    np.testing.assert_allclose(
        probabilities[:, 0], alone.predict_proba(X)[:, 1], atol=1e-12
    )


def test_several_targets_come_as_lists(digits):
    X, y = digits
    Y = np.column_stack([y.astype(str), np.where(y % 2, "odd", "even")])
    classifier = TransferClassifier().fit(X, Y)
    probabilities = classifier.predict_proba(X)
    assert [p.shape for p in probabilities] == [(300, 10), (300, 2)]
    assert [c.tolist()[:2] for c in classifier.classes_] == [
        ["0", "1"],
        ["even", "odd"],
    ]
    assert classifier.predict(X).shape == Y.shape
    exact = (classifier.predict(X) == Y).all(axis=1)
    assert classifier.score(X, Y) == exact.mean()
    weight = np.arange(300)
    expected = np.average(exact, weights=weight)
    assert classifier.score(X, Y, sample_weight=weight) == pytest.approx(expected)


def test_class_weight_is_a_sample_weight(digits):
    X, y = digits[0], digits[1] > 6
    by_class = TransferClassifier(class_weight="balanced").fit(X, y)
    weight = compute_sample_weight("balanced", y)
    by_row = TransferClassifier().fit(X, y, sample_weight=weight)
    plain = TransferClassifier().fit(X, y)
    # The scaler sees sample weights but not class weights: alike, not equal.
    agree = accuracy_score(by_class.predict(X), by_row.predict(X))
    assert agree > 0.97
    assert by_class.predict(X).sum() > plain.predict(X).sum()


def test_rows_without_weight_do_not_count(digits):
    X, y = digits
    weight = (np.arange(300) % 3 > 0).astype(float)
    X = X.copy()
    X[0] = 1e6  # would stretch the range of values
    weighted = TransferClassifier().fit(X, y, sample_weight=weight)
    dropped = TransferClassifier().fit(X[weight > 0], y[weight > 0])
    assert weighted.value_range_ == dropped.value_range_
    np.testing.assert_allclose(
        weighted.decision_function(digits[0]),
        dropped.decision_function(digits[0]),
        atol=1e-4,
    )


def test_strategy_parameters_can_be_set_where_the_strategy_is_none():
    for strategy in (None, "feature_extraction", FeatureExtraction(C=1)):
        classifier = TransferClassifier(strategy=strategy)
        assert classifier.strategy is strategy
        classifier = clone(classifier).set_params(strategy__C=3.0)
        assert classifier.strategy.C == 3.0


def test_strategy_C_changes_the_fit(digits):
    X, y = digits
    strong, weak = (
        TransferClassifier(strategy=FeatureExtraction(C=C)).fit(X, y).head_.coef
        for C in (1e-4, 1.0)
    )
    assert np.abs(strong).max() < np.abs(weak).max()


@pytest.mark.parametrize("dump", [pickle.dumps, None])
def test_pickle_is_small_and_predicts_the_same_bits(digits, tmp_path, dump):
    X, y = digits
    classifier = TransferClassifier(cache=None).fit(X, y)
    expected = classifier.predict_proba(X)
    if dump:
        data = pickle.dumps(classifier)
        size, loaded = len(data), pickle.loads(data)
    else:
        joblib.dump(classifier, tmp_path / "c.joblib")
        size = (tmp_path / "c.joblib").stat().st_size
        loaded = joblib.load(tmp_path / "c.joblib")
    assert size < 200_000
    np.testing.assert_array_equal(loaded.predict_proba(X), expected)


def test_store_weights_in_pickle_puts_them_in(digits):
    X, y = digits
    small = TransferClassifier().fit(X, y)
    large = TransferClassifier(store_weights_in_pickle=True).fit(X, y)
    assert len(pickle.dumps(large)) > len(pickle.dumps(small)) + 3_000_000
    again = pickle.loads(pickle.dumps(large))
    np.testing.assert_array_equal(again.predict_proba(X), small.predict_proba(X))


def test_same_bits_with_and_without_cache(digits):
    X, y = digits
    cached = TransferClassifier().fit(X, y).predict_proba(X)
    uncached = TransferClassifier(cache=None).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(cached, uncached)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"strategy": FeatureExtraction(C=-1)}, "'C' parameter of FeatureExtraction"),
        ({"strategy": "fine"}, "'strategy' parameter of TransferClassifier"),
        ({"value_range": (1, 0)}, "value_range"),
        ({"device": "cuda:99"}, "device"),
        ({"batch_size": 0}, "batch_size"),
        ({"class_weight": [None, None]}, "class_weight"),
        ({"weights": "IMAGENET99"}, "IMAGENET99"),
        ({"image_shape": (3, 3)}, "image_shape"),
    ],
)
def test_wrong_parameters_are_named(digits, params, message):
    X, y = digits
    with pytest.raises(ValueError, match=message):
        TransferClassifier(**params).fit(X, y)


def test_unknown_backbone_suggests_the_nearest(digits):
    with pytest.raises(BackboneNotFoundError, match="'resnet18'"):
        TransferClassifier("resnet-18").fit(*digits)


def test_one_dict_of_class_weights_for_several_targets_is_refused(digits):
    X, y = digits
    classifier = TransferClassifier(class_weight={0: 1, 1: 2})
    with pytest.raises(ValueError, match="one dict a target"):
        classifier.fit(X, np.column_stack([y % 2, y % 3]))


def test_labels_and_images_of_different_length_are_refused(digits):
    X, y = digits
    with pytest.raises(ValueError, match=r"\[300, 299\]"):
        TransferClassifier().fit(X, y[:-1])


def test_one_class_is_refused(digits):
    X, y = digits
    with pytest.raises(ValueError, match="found 1 class"):
        TransferClassifier().fit(X, np.zeros_like(y))


def test_continuous_targets_are_refused(digits):
    X, y = digits
    with pytest.raises(ValueError, match="continuous"):
        TransferClassifier().fit(X, y + 0.5)
