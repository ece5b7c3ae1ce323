"""Heads: what is built, exact solutions inside layers and back, users' modules."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn

from sktransfer import MLPHead
from sktransfer._engine.exact import fit_linear_head, fit_regression_head
from sktransfer._engine.heads import (
    ClassModuleHead,
    RegressionModuleHead,
    Standardized,
    build_head,
    load_solution,
    trained_linear_heads,
    trained_regression_head,
)
from sktransfer._randomness import seeded_globals


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)


def labels(features, n_classes):
    total = features[:, 0] + features[:, 1]
    return np.digitize(total, np.quantile(total, np.arange(1, n_classes) / n_classes))


def built(head, n_features=12, n_outputs=3):
    with seeded_globals(0):
        return build_head(head, n_features, n_outputs)


def logits_of(layer, features):
    with torch.no_grad():
        dtype = next(layer.parameters()).dtype
        return layer(torch.from_numpy(features).to(dtype)).double().numpy()


# Building


def test_linear_head_is_one_linear_layer():
    head = built("linear")
    assert type(head) is nn.Linear
    assert (head.in_features, head.out_features) == (12, 3)
    assert torch.equal(built("linear").weight, head.weight)


@pytest.mark.parametrize(
    ("hidden", "widths"),
    [((), [(12, 3)]), ((8,), [(12, 8), (8, 3)]), ([8, 5], [(12, 8), (8, 5), (5, 3)])],
)
def test_mlp_head_has_the_hidden_layers_it_is_asked_for(hidden, widths):
    head = built(MLPHead(hidden, dropout=0.3))
    layers = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == widths
    dropouts = [m.p for m in head.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [0.3] * len(hidden)
    assert head(torch.zeros(5, 12)).shape == (5, 3)


def test_mlp_head_is_not_linear():
    head = built(MLPHead((8,)))
    at = [logits_of(head, np.full((1, 12), x, np.float32)) for x in (-1, 0, 1)]
    assert np.abs(at[0] + at[2] - 2 * at[1]).max() > 1e-3


def test_mlp_head_is_a_parameter_object():
    head = MLPHead(hidden=(8, 4))
    assert clone(head).get_params() == {"hidden": (8, 4), "dropout": 0.2}
    assert repr(head) == "MLPHead(hidden=(8, 4))"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (MLPHead(hidden=8), "hidden"),
        (MLPHead(dropout=1.0), "dropout"),
        (MLPHead(dropout=-0.1), "dropout"),
    ],
)
def test_mlp_head_with_a_bad_parameter_names_it(head, name):
    with pytest.raises(InvalidParameterError, match=f"'{name}' parameter of MLPHead"):
        head(4, 2)


@pytest.mark.parametrize("hidden", [(0,), (8, -1), (8.5,), ("8",)])
def test_hidden_widths_are_positive_whole_numbers(hidden):
    with pytest.raises(ValueError, match=r"Parameter hidden: found .* positive whole"):
        MLPHead(hidden)(4, 2)


def test_callable_gets_the_numbers_of_features_and_outputs():
    def head(n_features, n_outputs):
        return nn.Sequential(
            nn.BatchNorm1d(n_features), nn.Linear(n_features, n_outputs)
        )

    module = built(head, 5, 2)
    assert module(torch.zeros(3, 5)).shape == (3, 2)
    # Looking at its shape has left its state alone.
    assert module[0].num_batches_tracked == 0


@pytest.mark.parametrize("returned", [None, nn.Linear, "linear", lambda x: x])
def test_callable_that_returns_no_module_is_refused(returned):
    name = type(returned).__name__
    with pytest.raises(
        TypeError, match=f"Parameter head: the callable returned {name}"
    ):
        build_head(lambda n, k: returned, 4, 2)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        (lambda n, k: nn.Linear(n, k + 1), r"\(2, 4\)"),
        (lambda n, k: nn.Sequential(nn.Linear(n, 1), nn.Flatten(0)), r"\(2,\)"),
        (lambda n, k: nn.Identity(), r"\(2, 6\)"),
    ],
)
def test_module_that_does_not_give_one_logit_an_output_is_refused(head, shape):
    message = rf"2 rows of 6 features .* returned shape {shape}\. Expected \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        build_head(head, 6, 3)


def test_error_of_a_users_callable_is_theirs():
    with pytest.raises(ZeroDivisionError):
        build_head(lambda n, k: n / 0, 4, 2)


# Exact solutions inside layers


def test_solution_of_two_classes_is_split_evenly_between_the_rows(features):
    head = fit_linear_head(features, labels(features, 2), C=0.1)
    layer = built("linear", n_outputs=2)
    load_solution(layer, [head])
    assert torch.equal(layer.weight[0], -layer.weight[1])
    assert torch.equal(layer.bias[0], -layer.bias[1])
    logits, z = logits_of(layer, features), head.decision_function(features)
    np.testing.assert_allclose(logits, np.column_stack([-z / 2, z / 2]), atol=1e-5)
    probabilities = softmax(logits, axis=1)
    np.testing.assert_allclose(
        probabilities, head.predict_proba(features), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("n_classes", [3, 5])
def test_solution_of_more_classes_is_the_layer(features, n_classes):
    head = fit_linear_head(features, labels(features, n_classes), C=0.1)
    layer = built("linear", n_outputs=n_classes)
    load_solution(layer, [head])
    np.testing.assert_allclose(
        logits_of(layer, features), head.decision_function(features), atol=1e-5
    )


def many_labels(features):
    """Solved heads of four labels: two that vary, one always 0, one always 1."""
    first, second = features[:, 0] > 0, features[:, 1] > 0.5
    columns = [first, np.zeros(60), second, np.ones(60)]
    return [fit_linear_head(features, y.astype(int), C=0.1) for y in columns]


def test_solutions_of_many_labels_are_the_rows_of_one_layer(features):
    heads = many_labels(features)
    layer = built("linear", n_outputs=4)
    load_solution(layer, heads)
    expected = np.column_stack([head.decision_function(features) for head in heads])
    np.testing.assert_allclose(logits_of(layer, features), expected, atol=1e-5)
    certain = expit(logits_of(layer, features))
    np.testing.assert_allclose(certain[:, 1], 0, atol=1e-12)
    np.testing.assert_allclose(certain[:, 3], 1, atol=1e-12)


def test_solutions_of_two_labels_are_not_taken_for_two_classes(features):
    heads = many_labels(features)[::2]
    layer = built("linear", n_outputs=2)
    load_solution(layer, heads)
    expected = np.column_stack([head.decision_function(features) for head in heads])
    np.testing.assert_allclose(logits_of(layer, features), expected, atol=1e-5)


def assert_same_predictions(found, expected, features):
    for method in ("decision_function", "predict_proba"):
        np.testing.assert_allclose(
            getattr(found, method)(features),
            getattr(expected, method)(features),
            rtol=1e-4,
            atol=1e-5,
        )
    np.testing.assert_array_equal(found.predict(features), expected.predict(features))


@pytest.mark.parametrize("n_classes", [1, 2, 3, 5])
def test_solution_comes_back_from_its_layer(features, n_classes):
    names = np.array(list("abcde"))[:n_classes]
    y = names[labels(features, n_classes)]
    head = fit_linear_head(features, y, C=0.1)
    layer = built("linear", n_outputs=n_classes)
    load_solution(layer, [head])
    (found,) = trained_linear_heads(layer, [names])
    assert found.coef.dtype == found.intercept.dtype == np.float64
    assert found.coef.shape == head.coef.shape
    assert found.classes is names
    assert_same_predictions(found, head, features)


def test_solutions_of_many_labels_come_back_from_their_layer(features):
    heads = many_labels(features)
    layer = built("linear", n_outputs=4)
    load_solution(layer, heads)
    found = trained_linear_heads(layer, [head.classes for head in heads])
    assert len(found) == 4
    for one, expected in zip(found, heads, strict=True):
        assert_same_predictions(one, expected, features)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_trained_layer_predicts_as_its_softmax(features, n_classes):
    layer = built("linear", n_outputs=n_classes)
    (head,) = trained_linear_heads(layer, [np.arange(n_classes)])
    expected = softmax(logits_of(layer, features), axis=1)
    np.testing.assert_allclose(head.predict_proba(features), expected, rtol=1e-5)
    np.testing.assert_array_equal(head.predict(features), expected.argmax(axis=1))


def test_heads_taken_from_a_layer_do_not_change_with_it(features):
    layer = built("linear")
    (head,) = trained_linear_heads(layer, [np.arange(3)])
    before = head.decision_function(features)
    with torch.no_grad():
        layer.weight += 1
    np.testing.assert_array_equal(head.decision_function(features), before)


@pytest.mark.parametrize("standardized", [False, True])
def test_ridge_becomes_a_layer_of_standardized_values_and_back(features, standardized):
    y = 1000 + 50 * features[:, 0]
    solved = fit_regression_head(features, y, 0.1, None, 990.0, 40.0)
    layer = built("linear", n_outputs=1)
    if standardized:
        layer = Standardized(layer, features.mean(axis=0) + 1, np.full(12, 3.0))
    load_solution(layer, [solved])
    expected = (solved.predict(features) - 990) / 40
    np.testing.assert_allclose(logits_of(layer, features)[:, 0], expected, atol=1e-5)
    again = trained_regression_head(layer, 990.0, 40.0)
    assert (again.standardization is not None) == standardized
    assert again.coef.dtype == np.float64
    np.testing.assert_allclose(
        again.predict(features), solved.predict(features), atol=1e-3
    )


# Heads that are modules


def module_head(classes, n_outputs=None, rows=16, multilabel=False, n_features=12):
    n_outputs = len(classes) if n_outputs is None else n_outputs
    with seeded_globals(0):
        module = MLPHead((40,))(n_features, n_outputs)
    return ClassModuleHead(module, np.array(classes), multilabel, rows, n_features)


def test_module_head_runs_without_dropout_and_gradients(features):
    module = nn.Sequential(
        nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 3)
    ).train()
    head = ClassModuleHead(module, np.arange(3), False, 16, 12)
    first = head.decision_function(features)
    np.testing.assert_array_equal(head.decision_function(features), first)
    assert head.module[0].num_batches_tracked == 0
    assert not any(p.requires_grad for p in head.module.parameters())


def test_module_head_of_classes_is_a_softmax(features):
    head = module_head(["a", "b", "c"])
    logits = logits_of(head.module, features)
    np.testing.assert_allclose(head.decision_function(features), logits, atol=1e-6)
    expected = softmax(logits, axis=1)
    np.testing.assert_allclose(head.predict_proba(features), expected, rtol=1e-5)
    labels = np.array(["a", "b", "c"])[logits.argmax(axis=1)]
    np.testing.assert_array_equal(head.predict(features), labels)
    assert len(set(labels)) > 1


def test_module_head_of_two_classes_has_one_decision(features):
    head = module_head(["a", "b"])
    decision = head.decision_function(features)
    assert decision.shape == (60,)
    np.testing.assert_allclose(
        head.predict_proba(features),
        np.column_stack([expit(-decision), expit(decision)]),
    )
    expected = np.where(decision > 0, "b", "a")
    np.testing.assert_array_equal(head.predict(features), expected)
    assert len(set(expected)) == 2


def test_module_head_of_many_labels_has_a_decision_a_label(features):
    head = module_head([0, 1], multilabel=True)
    logits = logits_of(head.module, features)
    np.testing.assert_allclose(head.decision_function(features), logits, atol=1e-6)
    np.testing.assert_allclose(head.predict_proba(features), expit(logits), rtol=1e-5)
    np.testing.assert_array_equal(head.predict(features), logits > 0)
    assert head.predict(features).dtype.kind == "i"


def test_module_head_of_a_continuous_target_predicts_in_its_units(features):
    with seeded_globals(0):
        module = MLPHead((40,))(12, 1)
    head = RegressionModuleHead(module, 1000.0, 50.0, 16, 12)
    expected = logits_of(module, features)[:, 0] * 50 + 1000
    assert np.ptp(expected) > 1
    np.testing.assert_array_equal(head.predict(features), expected)
    np.testing.assert_array_equal(head.predict(features[:3]), expected[:3])


def test_module_head_of_one_class_predicts_it(features):
    head = module_head(["only"])
    assert head.decision_function(features).shape == (60,)
    assert head.predict_proba(features).tolist() == [[1.0]] * 60
    assert head.predict(features).tolist() == ["only"] * 60


@pytest.mark.parametrize("rows", [1, 5, 16, 60, 100])
def test_row_of_a_module_head_does_not_depend_on_its_neighbours(rows):
    features = np.random.default_rng(1).normal(size=(70, 576)).astype(np.float32)
    head = module_head(list("abc"), rows=rows, n_features=576)
    whole = head.decision_function(features)
    assert len(np.unique(whole, axis=0)) == 70
    for row in (0, 33, 69):
        alone = head.decision_function(features[[row]])
        np.testing.assert_array_equal(alone[0], whole[row])
    for n in (2, 15, 17, 61):
        np.testing.assert_array_equal(head.decision_function(features[:n]), whole[:n])
        np.testing.assert_array_equal(head.decision_function(features[-n:]), whole[-n:])
    np.testing.assert_array_equal(
        head.decision_function(features[::-1].copy()), whole[::-1]
    )


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, [16] * 4), (16, [16] * 4), (25, [25] * 3), (99, [99])]
)
def test_module_head_runs_on_whole_batches_only(features, rows, expected):
    head, sizes = module_head(list("abc"), rows=rows), []
    head.module.register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    assert len(head.predict(features)) == 60
    assert sizes == expected
