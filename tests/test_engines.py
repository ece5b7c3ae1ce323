"""Engines and precisions: values, batches, keys, what is kept, and clear errors."""

import pickle

import numpy as np
import pytest
import torch
from _networks import STAGES, base_tensors_of, classifier, images, tensors_of
from _networks import three_convs as network_of_tests
from joblib import Parallel, delayed, parallel_config
from sklearn.base import clone
from torch import nn

from sktransfer import FeatureExtractorTransformer, FineTuning, TransferClassifier
from sktransfer._cache.memory import SHARED
from sktransfer._engine.engines import Engine, resolve_precision
from sktransfer.exceptions import EngineError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ENGINES = ["compile", "onnxruntime"]
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"
)


# One for all tests: what engines make of it is kept.
NETWORK = network_of_tests().eval()


def three_convs():
    return NETWORK


@pytest.fixture(scope="module")
def fitted():
    """Transformers on one network, one for each engine, that share what is kept."""
    X = images(40)[0]
    first = FeatureExtractorTransformer(three_convs, image_size=16, cache=None)
    first.fit(X)

    def with_engine(engine, **parameters):
        transformer = clone(first).set_params(engine=engine, **parameters).fit(X)
        transformer.backbone_ = first.backbone_
        return transformer

    return with_engine


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layer", [("pooled", "avg"), ("middle", "avgmax")])
def test_values_are_those_of_eager_and_do_not_depend_on_the_batch(
    fitted, engine, layer
):
    X, where = images(40)[0], dict(zip(("layer", "pooling"), layer, strict=True))
    expected = fitted("eager", **where).transform(X)
    transformer = fitted(engine, **where)
    found = transformer.transform(X)
    assert found.dtype == np.float32
    assert relative(found, expected) < 1e-4
    for n_rows in (1, 3, 17, 33):
        np.testing.assert_array_equal(transformer.transform(X[:n_rows]), found[:n_rows])
    np.testing.assert_array_equal(transformer.transform(X[::-1]), found[::-1])


def test_shipped_network_gives_the_features_of_eager_with_onnxruntime():
    X = np.random.default_rng(0).integers(0, 256, size=(20, 60, 40, 3), dtype=np.uint8)
    eager, other = (
        FeatureExtractorTransformer(engine=engine, batch_size=16).fit_transform(X)
        for engine in ("eager", "onnxruntime")
    )
    assert 0 < relative(other, eager) < 1e-4  # equal ones would come from the cache


@pytest.mark.all_backbones
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "name", ["mini", "resnet18", "mobilenet_v3_small", "densenet121", "convnext_tiny"]
)
def test_engines_agree_on_every_kind_of_network(name, engine):
    X = np.random.default_rng(0).integers(0, 256, size=(20, 64, 64, 3), dtype=np.uint8)
    eager = FeatureExtractorTransformer(name, weights=None, image_size=64, cache=None)
    other = clone(eager).set_params(engine=engine, batch_size=20).fit(X)
    found = other.transform(X)
    assert relative(found, eager.fit_transform(X)) < 1e-4
    np.testing.assert_array_equal(other.transform(X[:3]), found[:3])
    np.testing.assert_array_equal(other.transform(X[::-1]), found[::-1])


def test_what_an_engine_made_is_kept_for_the_process_and_out_of_pickles(fitted):
    X, transformer = images(20)[0], fitted("onnxruntime")
    expected = transformer.transform(X)
    reader = transformer._job(("pooled", "avg")).network
    assert fitted("onnxruntime")._job(("pooled", "avg")).network is reader
    restored = pickle.loads(pickle.dumps(transformer))
    assert restored.backbone_._network is None
    np.testing.assert_array_equal(restored.transform(X), expected)


def test_session_is_made_anew_for_another_number_of_threads(fitted):
    before = torch.get_num_threads()
    reader = fitted("onnxruntime")._job(("pooled", "avg")).network
    try:
        torch.set_num_threads(before + 1)
        other = fitted("onnxruntime")._job(("pooled", "avg")).network
    finally:
        torch.set_num_threads(before)
    assert other is not reader
    options = other._session.get_session_options()
    assert options.intra_op_num_threads == before + 1
    assert reader._session.get_session_options().intra_op_num_threads == before


def test_engines_and_precisions_do_not_share_what_is_cached(fitted):
    X = images(20)[0]
    SHARED.clear()
    for n, parameters in enumerate(
        [("eager",), ("onnxruntime",), ("eager", "bfloat16")], 1
    ):
        engine, precision = (*parameters, "auto")[:2]
        transformer = fitted(engine, precision=precision, cache="auto")
        alone = clone(transformer).set_params(cache=None).fit(X)
        alone.backbone_ = transformer.backbone_
        np.testing.assert_array_equal(transformer.transform(X), alone.transform(X))
        assert len(SHARED) == n * 20
        transformer.transform(X)
        assert len(SHARED) == n * 20


def test_export_is_quiet_and_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    X = images(4)[0]
    transformer = FeatureExtractorTransformer(
        network_of_tests, engine="onnxruntime", image_size=16, cache=None
    )
    transformer.fit_transform(X)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def _values_and_threads(transformer, X):
    values = transformer.transform(X)
    *_, last_used = transformer.backbone_._loaded().engines.values()
    return values, last_used._session.get_session_options().intra_op_num_threads


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_engines_work_in_workers_of_joblib(fitted, backend):
    X, transformer = images(20)[0], fitted("onnxruntime")
    expected = transformer.transform(X)
    with parallel_config(backend, n_jobs=2):
        found = Parallel()([delayed(_values_and_threads)(transformer, X)])
    values, n_threads = found[0]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)
    assert 2 * n_threads <= max(2, torch.get_num_threads())


def test_training_starts_behind_a_prefix_that_the_engine_runs():
    X, y = images(40)
    eager, other = (
        classifier(FineTuning("top"), backbone=NETWORK, engine=name).fit(X, y)
        for name in ("eager", "onnxruntime")
    )
    assert other.score(X, y) == eager.score(X, y)
    np.testing.assert_allclose(
        other.decision_function(X), eager.decision_function(X), rtol=1e-3, atol=1e-3
    )
    before, after = base_tensors_of(other), tensors_of(other)
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert {name.split(".")[0] for name in changed} == {"top"}
    kept = other.backbone_.base._loaded().engines
    assert {part for _, part in kept} == {("pooled", None), ("middle", None)}


class Deciding(nn.Module):
    """A network that looks at its images before it decides what to compute."""

    def forward(self, batch):
        return (batch if batch.sum() > 0 else -batch).mean((2, 3))


class Lying(nn.Module):
    """A network that computes something else where it is not run eagerly."""

    def forward(self, batch):
        return batch.mean((2, 3)) * (1.001 if torch.compiler.is_compiling() else 1.0)


@pytest.mark.parametrize("name", ENGINES)
def test_network_that_an_engine_cannot_run_is_an_error_that_names_eager(name):
    with pytest.raises(EngineError, match=f"^engine='{name}': .*engine='eager'"):
        Engine(name, "float32", CPU, 16, 8)(Deciding())


@pytest.mark.parametrize("name", ENGINES)
def test_engine_that_gives_other_values_is_found_out(name):
    with pytest.raises(EngineError, match=r"values differ .* by 1\.0e-03 of the larg"):
        Engine(name, "float32", CPU, 16, 8)(Lying())


def test_compile_without_a_compiler_says_what_to_install(monkeypatch, tmp_path):
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", (None, str(tmp_path / "g++")))
    torch._dynamo.reset()
    with pytest.raises(EngineError, match=r"install g\+\+ .* CXX"):
        Engine("compile", "float32", CPU, 16, 8)(nn.Sequential(nn.Sigmoid(), nn.Tanh()))


@pytest.mark.parametrize(
    ("precision", "device"), [("float32", CUDA), ("bfloat16", CPU), ("bfloat16", CUDA)]
)
def test_onnxruntime_refuses_other_devices_and_precisions(precision, device):
    with pytest.raises(EngineError, match=r"on the CPU, with float32.*device='cpu'"):
        Engine("onnxruntime", precision, device, 16, 8)(nn.Identity())


@pytest.mark.parametrize("name", ["engine", "precision"])
def test_unknown_value_names_the_parameter(name):
    for estimator in (FeatureExtractorTransformer, TransferClassifier):
        with pytest.raises(
            ValueError, match=f"'{name}' parameter of {estimator.__name__}"
        ):
            estimator(**{name: "fast"}).fit(np.zeros((4, 8, 8)), [0, 1, 0, 1])


def test_precision_is_chosen_by_the_device():
    assert resolve_precision("auto", CPU) == "float32"
    assert resolve_precision("auto", CUDA) == "bfloat16"
    assert resolve_precision("float32", CUDA) == "float32"
    assert resolve_precision("bfloat16", CPU) == "bfloat16"


@pytest.mark.parametrize("layer", STAGES[1:])
def test_bfloat16_features_are_near_those_of_float32(fitted, layer):
    X = images(20)[0]
    exact = fitted("eager", layer=layer).transform(X)
    transformer = fitted("eager", layer=layer, precision="bfloat16")
    found = transformer.transform(X)
    assert found.dtype == np.float32
    assert 0 < relative(found, exact) < 1e-2
    np.testing.assert_array_equal(transformer.transform(X[:3]), found[:3])


def test_training_in_bfloat16_runs_and_is_another_training():
    X, y = images(40)
    fits = {
        precision: classifier(backbone=NETWORK, precision=precision, max_epochs=3)
        for precision in ("auto", "float32", "bfloat16")
    }
    losses = {p: fit.fit(X, y).history_["train_loss"] for p, fit in fits.items()}
    np.testing.assert_array_equal(losses["auto"], losses["float32"])
    assert (losses["bfloat16"] != losses["float32"]).any()
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)
    tensors = fits["bfloat16"].backbone_.trunk.state_dict().values()
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float32}


@pytest.mark.gpu
@needs_cuda
def test_bfloat16_is_the_precision_of_extraction_on_cuda(fitted):
    X = images(40)[0]
    exact = fitted("eager", device="cuda", precision="float32").transform(X)
    found = fitted("eager", device="cuda").transform(X)
    assert 0 < relative(found, exact) < 1e-2
    assert relative(exact, fitted("eager", device="cpu").transform(X)) < 1e-2


@pytest.mark.gpu
@needs_cuda
def test_training_on_cuda_follows_training_on_the_cpu():
    X, y = images(40)
    losses = {
        (device, precision): classifier(
            backbone=NETWORK, device=device, precision=precision, max_epochs=3
        )
        .fit(X, y)
        .history_["train_loss"]
        for device, precision in [
            ("cpu", "auto"),
            ("cuda", "auto"),
            ("cuda", "float32"),
        ]
    }
    on_cpu = losses["cpu", "auto"]
    np.testing.assert_allclose(losses["cuda", "auto"], on_cpu, rtol=0.05)
    np.testing.assert_allclose(losses["cuda", "float32"], on_cpu, rtol=0.02)
    assert (losses["cuda", "auto"] != losses["cuda", "float32"]).any()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_network_gives_the_values_of_eager_on_cuda(fitted, precision):
    X, options = images(40)[0], {"device": "cuda", "precision": precision}
    found = fitted("compile", **options).transform(X)
    expected = fitted("eager", **options).transform(X)
    assert relative(found, expected) < (1e-4 if precision == "float32" else 2e-2)
