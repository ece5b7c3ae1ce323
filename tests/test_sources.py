"""Where activations come from: which network, which store, which device batches."""

import pickle
import re
from functools import partial
from threading import Lock

import numpy as np
import pandas as pd
import pytest
import torch
from _networks import classifier, images, regressor
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.model_selection import KFold
from sklearn.preprocessing import FunctionTransformer

from sktransfer import Augmentation, FeatureExtraction, MLPHead
from sktransfer._engine.prefix import MIN_ROWS
from sktransfer._images.views import training_views
from sktransfer._sources import Sources, identity_of, start_of

CPU = torch.device("cpu")


def sources(seed=0, n=12, **params):
    """Sources of a fit, and its images."""
    X, y = images(n)
    estimator = classifier("feature_extraction", **params).fit(X, y)
    read = estimator._read_images(X, reset=False)
    params = estimator.augmentation, estimator.augmentation_views
    views = training_views(*params, random_state=None, seed=seed)
    return Sources(estimator, read, CPU, views), estimator


def activations(source, rows=range(12), view=0):
    return source.finish(source.load(np.array(rows), view))


def test_before_everything_activations_are_normalized_images():
    made, _ = sources()
    batch = activations(made(None, training=True))
    assert batch.shape == (12, 3, 16, 16)
    assert batch.dtype == torch.float32


@pytest.mark.parametrize("cut", ["low", "middle", "top", "pooled"])
def test_behind_a_cut_they_are_what_the_stages_before_it_put_out(cut):
    made, estimator = sources()
    batch = activations(made(None, training=True))
    with torch.no_grad():
        for segment in estimator.backbone_.segments():
            batch = segment(batch)
            if segment.name == cut:
                break
    torch.testing.assert_close(activations(made(cut, training=True)), batch)


def test_one_source_serves_training_and_validation_without_augmentation():
    made, _ = sources()
    assert made("top", training=True) is made("top", training=False)
    assert made("top", training=True) is not made("low", training=True)


@pytest.mark.parametrize("augmentation", ["standard", Augmentation(rotation=30)])
def test_augmentation_is_for_training_and_new_in_every_view(augmentation):
    made, _ = sources(augmentation=augmentation)
    training, judging = made("low", training=True), made("low", training=False)
    plain = activations(judging)
    views = [activations(training, view=view) for view in (0, 1)]
    assert not torch.equal(views[0], plain)
    assert not torch.equal(views[0], views[1])
    assert torch.equal(activations(training, view=1), views[1])
    assert torch.equal(activations(judging, view=1), plain)


def test_augmentation_is_a_function_of_the_seed_and_not_of_the_batch():
    one, other = (sources(seed, augmentation="standard")[0] for seed in (0, 0))
    third = sources(1, augmentation="standard")[0]
    forwards = activations(one(None, training=True), view=3)
    backwards = activations(other(None, training=True), range(11, -1, -1), view=3)
    assert torch.equal(forwards, backwards.flip(0))
    assert not torch.equal(forwards, activations(third(None, training=True), view=3))


def test_nothing_random_is_kept():
    made, _ = sources(augmentation="standard")
    source = made("low", training=True)
    activations(source)
    assert source.store is source.key_of is None
    assert made("low", training=False).store is not None


def test_crops_are_decoded_at_a_larger_size():
    factors = [
        sources(augmentation=augmentation)[0](None, training=True).decode_factor
        for augmentation in (Augmentation(crop_scale=(0.25, 1.0)), lambda image: image)
    ]
    assert factors == [2.0, 1.0]


def test_known_activations_do_not_pass_the_network_again():
    made, _ = sources()
    source = made("middle", training=True)
    first = activations(source)

    def refuse(*args):
        raise AssertionError("computed again")

    source.network.register_forward_hook(refuse)
    assert torch.equal(activations(source), first)
    # Another fit with the same backbone, too.
    again = sources()[0]("middle", training=True)
    again.network = refuse
    assert torch.equal(activations(again), first)


def test_without_a_cache_a_fit_keeps_activations_for_itself():
    made, _ = sources(cache=None)
    source = made("middle", training=True)
    first = activations(source)
    calls = []
    source.network.register_forward_hook(lambda *args: calls.append(1))
    assert torch.equal(activations(source), first)
    other = sources(cache=None)[0]("middle", training=True)
    other.network.register_forward_hook(lambda *args: calls.append(2))
    activations(other)
    assert set(calls) == {2}


def test_short_batches_are_filled_up():
    made, _ = sources(cache=None, batch_size=4)
    source = made("middle", training=True)
    sizes = []
    source.network.register_forward_hook(
        lambda m, args, out: sizes.append(len(args[0]))
    )
    one = activations(source, [5])
    assert sizes == [MIN_ROWS]
    assert torch.equal(one, activations(source, range(12))[5:6])


def identity(X=None, y=None, weight=None, groups=None, **params):
    default = images(12)
    X, y = default[0] if X is None else X, default[1] if y is None else y
    estimator = classifier(params.pop("strategy", "fine_tuning"), **params)
    return identity_of(estimator, estimator._read(X, y, weight, groups))


def own_loss(output, target):
    return output.sum(dim=1)


X, Y = images(12)
SAME = {
    "again": {},
    "cache": {"cache": None},
    "threads": {"n_jobs": 2},
    "lines": {"verbose": 1},
    "weights of one": {"weight": np.ones(12)},
}
OTHER = {
    "images": {"X": X[::-1]},
    "one pixel": {"X": np.where(np.arange(X.size).reshape(X.shape) == 700, 9, X)},
    "labels": {"y": Y[::-1].copy()},
    "names of labels": {"y": Y.astype(str)},
    "weights": {"weight": np.arange(1.0, 13)},
    "groups": {"groups": np.arange(12) // 2},
    "other groups": {"groups": np.arange(12) // 3},
    "epochs": {"max_epochs": 7},
    "seed": {"random_state": 1},
    "strategy": {"strategy": "gradual_unfreezing"},
    "loss": {"loss": "focal"},
    "own loss": {"loss": own_loss},
    "part of an own loss": {"loss": partial(own_loss, weights=np.arange(3))},
    "another part of it": {"loss": partial(own_loss, weights=np.arange(3, 0, -1))},
    "optimizer": {"optimizer": torch.optim.SGD, "lr": 0.1},
    "another optimizer": {"optimizer": torch.optim.Adam, "lr": 0.1},
    "augmentation": {"augmentation": Augmentation()},
    "other augmentation": {"augmentation": Augmentation(rotation=3)},
}


@pytest.mark.parametrize("params", SAME.values(), ids=SAME)
def test_same_fit_has_the_same_identity(params):
    assert identity(**params) == identity()


def test_other_fits_have_other_identities():
    identities = [identity(**params) for params in [{}, *OTHER.values()]]
    assert len(set(identities)) == len(OTHER) + 1


def test_generators_are_the_same_fit_wherever_they_are_in_memory():
    states = [np.random.RandomState(0) for _ in range(2)]
    assert len({identity(random_state=state) for state in states}) == 1


class Steps:
    """An object without a repr of its own, which knows itself and cannot be pickled."""

    def __init__(self, n):
        self.n, self.me, self.lock = n, self, Lock()


def own_log():
    """A function that is somewhere else in memory each time."""

    def log(values, base=2, **more):
        return np.log1p(values) / np.log(base)

    return log


def table_of(n):
    values = np.arange(5000)
    return pd.DataFrame({"a": np.where(values == 2500, n, values)})


def columns_of(n):
    selector = make_column_selector(pattern=f"column {n}")
    steps = [("log", FunctionTransformer(own_log()), [n]), ("as is", "drop", selector)]
    return ColumnTransformer(steps)


# Parameters of a transformer that a number makes, with nothing where it was in memory.
NESTED = {
    "number": float,
    "function": lambda n: [own_log(), np.log, np.exp][n:],
    "partial": lambda n: partial(own_log(), base=n, weights=np.arange(n)),
    "object": Steps,
    "objects": lambda n: {"steps": [Steps(n)], own_log(): {own_log(): n}},
    "array": lambda n: table_of(n).to_numpy(),
    "array of objects": lambda n: np.array([own_log(), n], dtype=object),
    "frame": table_of,
    "tensor": lambda n: torch.arange(5000).eq(2500 + n).bfloat16(),
    "set": lambda n: {f"column {k}" for k in range(10 * n)},
    "generator": np.random.RandomState,
    "folds": lambda n: KFold(
        n + 1, shuffle=True, random_state=np.random.default_rng(n)
    ),
    "columns": columns_of,
    "pattern": lambda n: re.compile(f"{'long' * 100}{n}"),
}


@pytest.mark.parametrize("make", NESTED.values(), ids=NESTED)
def test_what_a_transformer_holds_is_the_same_fit_wherever_it_is_in_memory(make):
    def identity_with(n):
        return identity(tabular=FunctionTransformer(own_log(), kw_args={"k": make(n)}))

    assert identity_with(1) == identity_with(1) != identity_with(2)


def test_own_callables_that_count_their_calls_are_the_same_fit():
    class Counting:
        n_calls = 0

        def __call__(self, *args):
            self.n_calls += 1
            return own_loss(*args)

    loss = Counting()
    first = identity(loss=loss)
    loss(torch.ones(1, 1), None)
    assert identity(loss=loss) == first


def test_weights_of_the_backbone_belong_to_a_fit(tmp_path):
    path = tmp_path / "tuned.safetensors"
    classifier().fit(X, Y).backbone_.save(path)
    first = identity(weights=path)
    classifier(lr=0.1).fit(X, Y).backbone_.save(path)
    assert identity(weights=path) != first


def test_numbers_to_predict_belong_to_a_fit():
    def identity_with(y, **params):
        estimator = regressor(**params)
        return identity_of(estimator, estimator._read(X, y, None, None))

    y = np.linspace(0, 1, 12)
    gaps = np.column_stack([y, np.where(y > 0.5, np.nan, y)])
    other = np.column_stack([y, np.where(y > 0.6, np.nan, y)])
    assert identity_with(y) == identity_with(y.tolist())
    others = [identity_with(t) for t in (y, y + 1e-9, 2 * y, gaps, other)]
    assert len({*others, identity_with(y, loss="l1")}) == 6


def start(estimator):
    return start_of(estimator, estimator._fitted_module())


@pytest.mark.parametrize("head", ["linear", MLPHead((4,))], ids=str)
@pytest.mark.parametrize("strategy", ["fine_tuning", FeatureExtraction("gradient")])
def test_start_is_what_was_learnt(strategy, head):
    one, same = (classifier(strategy, head=head).fit(X, Y) for _ in range(2))
    assert start(one) == start(same) == start(pickle.loads(pickle.dumps(one)))
    others = [classifier(strategy, head=head, lr=lr).fit(X, Y) for lr in (0.1, 0.2)]
    assert len({start(estimator) for estimator in [one, *others]}) == 3


def test_start_after_a_fit_that_changed_nothing_is_another():
    strategy = FeatureExtraction("gradient")
    estimator = classifier(strategy, warm_start=True).fit(X, Y)
    before, coef = start(estimator), estimator.head_.coef
    estimator.set_params(lr=1e-30).fit(X, Y)
    np.testing.assert_array_equal(estimator.head_.coef, coef)
    assert start(estimator) != before


def test_start_belongs_to_a_fit():
    estimator = classifier()
    fit = estimator._read(X, Y, None, None)
    starts = ["", "start", "other"]
    assert len({identity_of(estimator, fit, start) for start in starts}) == 3
