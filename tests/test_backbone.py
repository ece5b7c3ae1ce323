"""A backbone with its weights: where it comes from, and what its pickle holds."""

import copy
import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torchvision import models

from sktransfer import FeatureCache, FeatureExtractorTransformer
from sktransfer.backbones import _network
from sktransfer.backbones._backbone import open_backbone
from sktransfer.exceptions import WeightsMismatchError


def opened(backbone, weights="default", image_size=32, random_state=None):
    return open_backbone(backbone, weights, image_size, "auto", random_state)


def small_network():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Dropout(), nn.ReLU()
    )


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, batch):
        return self.conv(batch if batch.sum() > 0 else -batch)


class Factory:
    """A callable with a state: each network has one more channel."""

    def __init__(self):
        self.n_calls = 0

    def __call__(self):
        self.n_calls += 1
        return nn.Conv2d(3, self.n_calls, 3)


@pytest.mark.parametrize("weights", ["default", None])
def test_callable_is_seeded_by_random_state(weights):
    digests = [
        opened(small_network, weights, random_state=seed).digest
        for seed in (None, 0, 7, 7)
    ]
    assert digests[0] == digests[1] != digests[2] == digests[3]


def test_callable_touches_no_global_random_state():
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 (the global state is the subject)
    torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    opened(small_network, random_state=5)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_callables_in_threads_get_the_weights_of_their_seeds():
    alone = [opened(small_network, random_state=seed).digest for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(
            lambda seed: opened(small_network, random_state=seed).digest, [0, 1, 2, 3]
        )
        assert list(together) == alone


@pytest.mark.parametrize("as_factory", [False, True], ids=["instance", "factory"])
def test_module_in_use_elsewhere_is_copied_and_left_as_it_is(as_factory):
    network = small_network().double().train()
    network[0].weight.data.fill_(0.25)
    before = copy.deepcopy(network.state_dict())
    backbone = opened((lambda: network) if as_factory else network)
    assert torch.all(backbone.trunk.get_parameter("0.weight") == 0.25)
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])
    digest = backbone.digest
    network[0].weight.data.fill_(0.5)
    assert torch.all(backbone.trunk.get_parameter("0.weight") == 0.25)
    assert opened(network).digest != digest


def test_weights_none_with_a_module_is_an_error():
    with pytest.raises(ValueError, match=r"Parameter weights: found None.*callable"):
        opened(small_network(), None)


def test_weights_file_goes_into_a_callables_network(tmp_path):
    for make in (small_network, DataDependent):
        network = make()
        torch.save(network.state_dict(), tmp_path / "own.pth")
        backbone = opened(make, tmp_path / "own.pth", random_state=1)
        name, tensor = next(iter(network.state_dict().items()))
        loaded = dict(backbone.trunk.named_parameters())
        assert torch.equal(loaded.get(name, loaded.get(f"module.{name}")), tensor)
        path = tmp_path / "again.safetensors"
        backbone.save(path)
        assert opened(make, path, random_state=2).digest == backbone.digest


class Tied(DataDependent):
    """Two names for one convolution."""

    def __init__(self):
        super().__init__()
        self.same = self.conv


def test_network_with_two_names_for_one_tensor_can_be_saved(tmp_path):
    backbone = opened(Tied)
    backbone.save(tmp_path / "tied.safetensors")
    assert opened(Tied, tmp_path / "tied.safetensors").digest == backbone.digest


def test_name_of_weights_means_nothing_to_a_callable():
    with pytest.raises(WeightsMismatchError, match=r"small_network.*\['default'\]"):
        opened(small_network, "IMAGENET1K_V1")


@pytest.mark.parametrize("backbone", [3, None, ["mini"]], ids=str)
def test_what_is_no_backbone_is_a_type_error(backbone):
    with pytest.raises(TypeError, match="Parameter backbone: found"):
        opened(backbone)


def test_callable_that_returns_no_module_is_a_type_error():
    def weights_only():
        return {"weight": torch.zeros(3)}

    with pytest.raises(TypeError, match="callable weights_only returned dict"):
        opened(weights_only)


def test_lambda_is_fitted_and_refused_by_pickle_alone(colour_images):
    X, _ = colour_images
    transformer = FeatureExtractorTransformer(lambda: small_network(), image_size=20)
    features = transformer.fit_transform(X)
    np.testing.assert_array_equal(clone(transformer).fit_transform(X), features)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(transformer)


def test_network_of_a_name_is_loaded_once_and_few_are_kept():
    with ThreadPoolExecutor(4) as pool:
        handles = list(pool.map(lambda _: opened("squeezenet1_1", None), range(4)))
    assert len({id(handle.trunk) for handle in handles}) == 1
    assert copy.deepcopy(handles[0]).trunk is handles[0].trunk
    for seed in range(1, 7):
        opened("squeezenet1_1", None, random_state=seed)
    assert len(_network._shared) == _network._MAX_SHARED
    assert opened("squeezenet1_1", None).digest == handles[0].digest


def test_fused_copy_is_made_once_for_each_device():
    backbone = opened(small_network)
    device = torch.device("cpu")
    assert backbone.for_inference(device) is backbone.for_inference(device)
    assert backbone.for_inference(device) is not backbone.trunk


def test_pickle_of_findable_weights_is_small():
    assert len(pickle.dumps(opened("mini"))) < 5_000
    stored = opened("mini").with_weights_in_pickle()
    assert len(pickle.dumps(stored)) > 2_000_000
    restored = pickle.loads(pickle.dumps(stored))
    assert set(restored._stored) == set(dict(stored.trunk.state_dict()))


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [
        (small_network, "default"),
        (small_network, None),
        (small_network(), "default"),
        (DataDependent, "default"),
        ("squeezenet1_1", None),
    ],
    ids=["callable", "callable None", "module", "untraceable", "name None"],
)
def test_pickle_holds_weights_that_cannot_be_found_again(
    backbone, weights, colour_images
):
    X, _ = colour_images
    transformer = FeatureExtractorTransformer(
        backbone, weights=weights, image_size=32, random_state=9, cache=None
    )
    features = transformer.fit_transform(X)
    restored = pickle.loads(pickle.dumps(transformer))
    np.testing.assert_array_equal(restored.transform(X), features)
    twice = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(transformer))))
    np.testing.assert_array_equal(twice.transform(X), features)


def test_weights_that_changed_since_the_fit_are_refused(tmp_path, colour_images):
    X, _ = colour_images
    path = tmp_path / "base.pth"
    network = models.squeezenet1_1(weights=None)
    torch.save(network.state_dict(), path)
    options = {"weights": path, "image_size": 32, "cache": None}
    by_path = FeatureExtractorTransformer("squeezenet1_1", **options).fit(X)
    with_all = FeatureExtractorTransformer(
        "squeezenet1_1", **options, store_weights_in_pickle=True
    ).fit(X)
    features = by_path.transform(X)
    texts = pickle.dumps(by_path), pickle.dumps(with_all)
    np.testing.assert_array_equal(pickle.loads(texts[0]).transform(X), features)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    with pytest.raises(WeightsMismatchError, match=r"base\.pth.*digest.*fit again"):
        pickle.loads(texts[0]).transform(X)
    path.unlink()
    with pytest.raises(WeightsMismatchError, match="there is no file"):
        pickle.loads(texts[0]).transform(X)
    np.testing.assert_array_equal(pickle.loads(texts[1]).transform(X), features)


def test_saving_under_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Parameter path: found '.*x\.pth'"):
        opened(small_network).save(tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())


def changed(backbone, *names):
    """Add one to some tensors."""
    own = dict(backbone.trunk.state_dict())
    return backbone.with_changes({name: own[name].numpy() + 1 for name in names})


FIRST, LAST = "features.0.0.weight", "features.12.0.weight"
CPU = torch.device("cpu")


def test_changed_backbone_computes_with_the_new_values_and_leaves_the_base():
    base = opened("mini", image_size=64)
    images = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = base.trunk(images)
    tuned = changed(base, LAST)
    assert torch.equal(base.trunk(images), before)
    after = tuned.trunk(images)
    assert not torch.equal(after, before)
    activation = images
    for segment in tuned.segments():
        activation = segment(activation)
    assert torch.equal(activation, after)
    for fast in (tuned.for_inference(CPU), tuned.prefix("pooled", CPU)):
        assert (fast(images) - after).abs().max() <= 1e-5 * after.abs().max()
    assert tuned.stages == base.stages
    assert tuned.base is base
    assert base.base is base


def test_changed_backbone_shares_what_it_has_in_common_with_its_base():
    base = opened("mini", image_size=64)
    tuned = changed(base, LAST)
    assert tuned.trunk.get_parameter(FIRST) is base.trunk.get_parameter(FIRST)
    assert tuned.trunk.get_parameter(LAST) is not base.trunk.get_parameter(LAST)
    assert tuned.prefix("features.8", CPU) is base.prefix("features.8", CPU)
    assert tuned.prefix("features.12", CPU) is not base.prefix("features.12", CPU)
    assert copy.deepcopy(tuned).trunk is tuned.trunk
    known = {tuned.digest, base.digest, tuned.fingerprint, base.fingerprint}
    assert len(known) == 4
    assert tuned.fingerprint_at("features.8") == base.fingerprint_at("features.8")
    for cut in ("features.12", "pooled"):
        assert tuned.fingerprint_at(cut) != base.fingerprint_at(cut)


def test_changes_of_a_changed_backbone_are_added():
    base = opened("mini", image_size=64)
    twice = changed(changed(base, LAST), FIRST)
    assert twice.digest == changed(base, FIRST, LAST).digest
    assert twice.base is base
    own = base.trunk.state_dict()
    back = twice.with_changes({n: own[n].numpy() for n in (FIRST, LAST)})
    assert (back.digest, back.trunk) == (base.digest, base.trunk)


def test_pickle_of_a_changed_backbone_holds_the_changed_tensors_only():
    tuned = changed(opened("mini", image_size=64), FIRST)
    text = pickle.dumps(tuned)
    assert len(text) < 5_000
    restored = pickle.loads(text)
    assert restored.trunk.get_parameter(LAST) is tuned.trunk.get_parameter(LAST)
    assert torch.equal(
        restored.trunk.get_parameter(FIRST), tuned.trunk.get_parameter(FIRST)
    )
    assert restored.base.digest == tuned.base.digest
    assert restored.fingerprint == tuned.fingerprint
    twice = changed(pickle.loads(pickle.dumps(restored)), LAST)
    assert twice.digest == changed(tuned, LAST).digest
    assert len(pickle.dumps(tuned.with_weights_in_pickle())) > 2_000_000


def test_code_that_changed_since_a_pickle_shares_nothing_with_what_it_was(tmp_path):
    module = ModuleType("module_of_ones_own")
    source = "from torch import nn\ndef make():\n    return nn.Sequential({})"
    conv, cache = "nn.Conv2d(3, 4, 3), nn.{}()", FeatureCache(tmp_path / "c.sqlite")

    def write(activation):
        exec(source.format(conv.format(activation)), vars(module))

    def features(X, cache=cache):
        fitted = FeatureExtractorTransformer(module.make, image_size=16, cache=cache)
        return fitted.fit_transform(X)

    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        write("ReLU")
        fitted = FeatureExtractorTransformer(module.make, image_size=16, cache=cache)
        before = fitted.fit_transform(images[:4])
        pickled = pickle.dumps(fitted)
        write("Tanh")
        with pytest.warns(UserWarning, match="'make' is built by other code"):
            of_now = pickle.loads(pickled).transform(images)
        np.testing.assert_array_equal(of_now, features(images, cache=None))
        write("ReLU")
        np.testing.assert_array_equal(features(images)[:4], before)
        np.testing.assert_array_equal(features(images), features(images, cache=None))


@pytest.mark.parametrize("make", [small_network, small_network(), DataDependent])
def test_changed_network_that_cannot_be_found_again_is_pickled_whole(make):
    base = opened(make)
    name = next(iter(base.segments()[0].state_dict()))
    own = base.segments()[0].state_dict()
    tuned = base.with_changes({name: own[name].numpy() * 2})
    images = torch.rand(16, 3, 32, 32)
    expected = tuned.trunk(images)
    assert not torch.equal(expected, base.trunk(images))
    restored = pickle.loads(pickle.dumps(tuned))
    assert torch.equal(restored.trunk(images), expected)
    assert torch.equal(restored.base.trunk(images), base.trunk(images))


def test_changed_backbone_is_the_base_of_another_task(tmp_path):
    tuned = changed(opened("mini"), LAST)
    tuned.save(tmp_path / "tuned.safetensors")
    assert opened("mini", tmp_path / "tuned.safetensors").digest == tuned.digest


def test_changed_backbone_refuses_a_base_that_is_another_now(tmp_path):
    path = tmp_path / "base.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    text = pickle.dumps(changed(opened("squeezenet1_1", path), "features.0.bias"))
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    restored = pickle.loads(text)
    with pytest.raises(WeightsMismatchError, match=r"base\.pth.*digest"):
        restored.trunk  # noqa: B018 (the property loads the weights)


def test_values_given_for_a_change_may_be_overwritten_later():
    base = opened(small_network)
    values = np.ones(6, dtype=np.float64)
    tuned = base.with_changes({"0.bias": values})
    values[:] = 7
    assert tuned.trunk.get_parameter("0.bias").tolist() == [1.0] * 6
    restored = pickle.loads(pickle.dumps(tuned))
    assert restored.trunk.get_parameter("0.bias").tolist() == [1.0] * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1.weights": np.ones(6)}, r"'1\.weights'.*no tensor of that name"),
        ({"0.bias": np.ones(5)}, r"'0\.bias'.*\(5,\).*Expected \(6,\)"),
    ],
)
def test_change_that_does_not_fit_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        opened(small_network).with_changes(change)
