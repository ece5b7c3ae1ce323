"""FeatureCache as users see it, and the parameter `cache` of the estimators."""

import copy
import os
import pickle
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from _networks import classifier, images, three_convs
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sktransfer import (
    FeatureCache,
    FeatureExtractorTransformer,
    FineTuning,
    GradualUnfreezing,
)
from sktransfer._cache.database import Database
from sktransfer._cache.feature_cache import open_store
from sktransfer._cache.file import DEFAULT_MAX_BYTES
from sktransfer._cache.memory import SHARED
from sktransfer.exceptions import FeatureCacheError, FeatureCacheWarning

X, Y = images(40)


@pytest.fixture
def cache(tmp_path):
    with FeatureCache(tmp_path / "features.sqlite") as opened:
        yield opened


def transformer(cache, **params):
    options = {"image_size": 16, "n_jobs": 1, **params}
    return FeatureExtractorTransformer(three_convs, cache=cache, **options)


@pytest.fixture(scope="module")
def plain():
    """Features without any cache."""
    return transformer(None).fit_transform(X)


# Handles


def test_path_is_absolute_so_that_a_handle_means_the_same_everywhere(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    cache = FeatureCache("features.sqlite", max_bytes=10**6)
    path = str(tmp_path / "features.sqlite")
    assert cache.path == path
    assert repr(cache) == f"FeatureCache({path!r}, max_bytes=1000000)"
    assert repr(FeatureCache(Path(path))) == f"FeatureCache({path!r})"
    assert eval(repr(cache)).max_bytes == 10**6
    assert os.listdir(tmp_path) == []  # made at first use


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        lambda cache: pickle.loads(pickle.dumps(cache)),
        lambda cache: clone(transformer(cache)).cache,
        lambda cache: pickle.loads(pickle.dumps(transformer(cache).fit(X))).cache,
    ],
    ids=["copy", "deepcopy", "pickle", "clone", "pickle of an estimator"],
)
def test_copies_are_handles_to_the_same_file(cache, plain, copied):
    transformer(cache).fit_transform(X)
    other = copied(cache)
    assert repr(other) == repr(cache)
    np.testing.assert_array_equal(transformer(other).fit_transform(X), plain)
    assert cache.info()[3:5] == (40, 40)


def test_file_is_closed_at_the_end_of_a_block_and_opened_again_when_used(tmp_path):
    with FeatureCache(tmp_path / "features.sqlite") as cache:
        transformer(cache).fit_transform(X)
        assert len(os.listdir(tmp_path)) == 3
    assert os.listdir(tmp_path) == ["features.sqlite"]
    assert cache.info().entries == 40
    cache.close()


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, "1 GB", None])
def test_limit_that_is_no_number_of_bytes_is_refused(tmp_path, max_bytes):
    with pytest.raises(ValueError, match=r"max_bytes: found .* at least 1"):
        FeatureCache(tmp_path / "x", max_bytes=max_bytes)


def test_auto_stands_for_the_shared_memory(plain):
    SHARED.clear()
    memory = FeatureCache("auto")
    for cache in ("auto", memory):
        np.testing.assert_array_equal(transformer(cache).fit_transform(X), plain)
    assert memory.info() == SHARED.info()
    assert memory.info()[3:5] == (40, 40)
    memory.clear()
    assert len(SHARED) == 0
    memory.close()
    with pytest.raises(ValueError, match="max_bytes: found 5 with path='auto'"):
        FeatureCache("auto", max_bytes=5)


def test_file_named_auto_can_be_had_by_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with FeatureCache(Path("auto")) as cache:
        assert cache.path == str(tmp_path / "auto")
        assert cache.info().entries == 0


def test_limit_is_ten_gibibytes_unless_said_otherwise(tmp_path):
    assert open_store(tmp_path / "x").max_bytes == DEFAULT_MAX_BYTES == 10 * 1024**3
    assert open_store(FeatureCache(tmp_path / "x", max_bytes=7)).max_bytes == 7


# What an estimator does with it


@pytest.mark.parametrize("given", [str, Path, FeatureCache])
def test_path_and_cache_mean_the_same_file(tmp_path, plain, given):
    path = given(tmp_path / "features.sqlite")
    for _ in range(2):
        np.testing.assert_array_equal(transformer(path).fit_transform(X), plain)
    with FeatureCache(tmp_path / "features.sqlite") as cache:
        assert cache.info()[3:5] == (40, 40)


@pytest.mark.parametrize("given", [3, b"x.sqlite", True])
def test_other_things_are_refused(given):
    with pytest.raises(ValueError, match="The 'cache' parameter"):
        transformer(given).fit(X)


def test_only_new_rows_are_computed_and_rows_keep_their_order(cache, plain):
    transformer(cache).fit_transform(X[::3])
    order = np.random.default_rng(0).permutation(40)
    found = transformer(cache, batch_size=7).fit_transform(X[order])
    np.testing.assert_array_equal(found, plain[order])
    assert cache.info()[3:5] == (14, 40)


def test_rows_that_do_not_fit_are_computed_anew_with_the_same_bits(tmp_path, plain):
    with FeatureCache(tmp_path / "x.sqlite", max_bytes=5000) as cache:
        for _ in range(3):
            np.testing.assert_array_equal(transformer(cache).fit_transform(X), plain)
        info = cache.info()
    assert 0 < info.entries < 40
    assert info.hits == 2 * info.entries
    assert info.misses == 120 - info.hits


def test_failing_network_leaves_what_it_had_computed(cache):
    fitted = transformer(cache, batch_size=16).fit(X)
    network, sizes = fitted.backbone_.for_inference(_cpu()), []

    def fail(_module, args):
        sizes.append(len(args[0]))
        if len(sizes) == 2:
            raise RuntimeError("broke down")

    handle = network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broke down"):
        fitted.transform(X)
    handle.remove()
    cache.close()
    assert cache.info().entries == 16
    assert fitted.transform(X).shape == (40, 16)  # no claim is left behind
    assert cache.info().misses == 40


def _cpu():
    import torch

    return torch.device("cpu")


def test_bad_file_is_an_error_before_anything_is_computed(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8" + bytes(900))
    with pytest.raises(FeatureCacheError, match=r"photo\.jpg' cannot serve"):
        classifier(cache=path).fit(X, Y)
    with pytest.raises(FeatureCacheError, match="something else"):
        FeatureCache(path).info()
    with pytest.raises(FeatureCacheError, match="there is no folder"):
        transformer(tmp_path / "absent" / "x.sqlite").fit_transform(X)


def test_full_disk_costs_no_fit(cache, monkeypatch):
    many, _ = images(300)
    transformer(cache).fit_transform(X[:3])
    database = open_store(cache).database
    with database.connection() as connection:
        (pages,) = connection.execute("pragma page_count").fetchone()
    connect = database._connected

    def limited(with_log):
        connection = connect(with_log)
        connection.execute(f"pragma max_page_count = {pages}")
        return connection

    # The limit is one of each connection; threads that read and write have their own.
    cache.close()
    monkeypatch.setattr(database, "_connected", limited)
    with pytest.warns(FeatureCacheWarning, match="full"):
        found = transformer(cache).fit_transform(many)
    np.testing.assert_array_equal(found, transformer(None).fit_transform(many))


def test_damaged_totals_are_our_own_error(cache):
    cache.info()
    with open_store(cache).database.transaction() as connection:
        connection.execute("drop table totals")
    for question in (cache.info, cache.clear):
        with pytest.raises(FeatureCacheError, match="no such table: totals"):
            question()


# Every strategy at its cut


def bits(estimator):
    return estimator.decision_function(images(20, seed=1)[0]).tobytes()


def test_fine_tuning_reads_its_inputs_from_the_file_in_every_epoch(cache):
    first = classifier(FineTuning("top"), cache=cache, max_epochs=4).fit(X, Y)
    # The probe's features, and what they were at the cut. It is read in four epochs,
    # and in the end, to judge two kinds of weights.
    assert cache.info()[3:5] == ((4 + 2) * 40, 2 * 40)
    cache.close()  # as another session would find it
    again = classifier(FineTuning("top"), cache=cache, max_epochs=4).fit(X, Y)
    assert cache.info().misses == 2 * 40
    without = classifier(FineTuning("top"), cache=None, max_epochs=4).fit(X, Y)
    assert bits(first) == bits(again) == bits(without)


def test_gradual_unfreezing_starts_each_phase_at_its_own_cut(cache):
    strategy = GradualUnfreezing(epochs_per_stage=2)
    first = classifier(strategy, cache=cache, max_epochs=6).fit(X, Y)
    # Features for the probe, then `middle` and `low`; at last nothing is frozen.
    shapes = {(16,), (12, 4, 4), (8, 8, 8)}
    with open_store(cache).database.connection() as connection:
        rows = connection.execute("select shape, count(*) from activations group by 1")
        found = {tuple(map(int, shape.split(","))): n for shape, n in rows}
    assert found == dict.fromkeys(shapes, 40)
    # The pass of the probe leaves `middle`; of `low` the second epoch reads.
    assert cache.info()[3:5] == (3 * 40, 3 * 40)
    without = classifier(strategy, cache=None, max_epochs=6).fit(X, Y)
    assert bits(first) == bits(without)


def test_pixels_stay_in_memory(cache):
    SHARED.clear()
    strategy = FineTuning(init="random")
    with_file = classifier(strategy, cache=cache, max_epochs=3).fit(X, Y)
    assert cache.info().entries == 0
    assert SHARED.info()[3:5] == (3 * 40, 40)
    assert bits(with_file) == bits(classifier(strategy, max_epochs=3).fit(X, Y))


# Several processes


def fine_tuned(cache):
    """Fit in whichever process this runs; say what it predicts."""
    fitted = classifier(FineTuning("top"), cache=cache, max_epochs=3).fit(X, Y)
    return bits(fitted)


def test_another_process_computes_nothing_again(cache):
    here, misses = fine_tuned(cache), cache.info().misses
    there = Parallel(n_jobs=2)(delayed(fine_tuned)(cache) for _ in range(2))
    assert there == [here, here]
    assert cache.info().misses == misses


def test_two_workers_of_a_search_compute_each_image_once(cache):
    grid = {"strategy__C": [0.01, 0.1, 1.0]}
    estimator = classifier("feature_extraction", cache=cache, batch_size=16)
    together = GridSearchCV(estimator, grid, cv=4, n_jobs=2).fit(X, Y)
    assert cache.info()[:5:4] == (40, 40)
    alone = GridSearchCV(estimator.set_params(cache=None), grid, cv=4).fit(X, Y)
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(
            together.cv_results_[name], alone.cv_results_[name]
        )
    plain = sqlite3.connect(cache.path)
    assert plain.execute("select count(*) from claims").fetchall() == [(0,)]
    assert plain.execute("pragma integrity_check").fetchall() == [("ok",)]
    plain.close()


def test_databases_of_other_paths_are_others(cache, tmp_path):
    transformer(cache).fit_transform(X[:5])
    other = Database(str(tmp_path / "other.sqlite"))
    with other.connection() as connection:
        assert connection.execute("select entries from totals").fetchone() == (0,)
    other.close()
