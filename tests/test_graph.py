"""The cut at `pooled`, in torchvision's families and in networks of one's own."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision import models

from sktransfer.backbones import _graph
from sktransfer.backbones._fingerprint import weights_digest
from sktransfer.backbones._torchvision import build
from sktransfer.exceptions import WeightsMismatchError

# Name, width, the module that puts out the last feature map, image size.
FAMILIES = [
    ("resnet18", 512, "layer4", 64),
    ("mobilenet_v3_small", 576, "features", 64),
    ("mobilenet_v2", 1280, "features", 64),
    ("squeezenet1_1", 512, "features", 64),
    ("vgg11", 512, "features", 64),
    ("alexnet", 256, "features", 64),
    ("densenet121", 1024, "features", 64),
    ("inception_v3", 2048, "Mixed_7c", 128),
    ("googlenet", 1024, "inception5b", 64),
    ("efficientnet_b0", 1280, "features", 64),
    ("convnext_tiny", 768, "features", 64),
    ("regnet_y_400mf", 440, "trunk_output", 64),
    ("shufflenet_v2_x0_5", 1024, "conv5", 64),
    ("mnasnet0_5", 1280, "layers", 64),
]


def network_with_statistics(name):
    """Build a network whose batch norms have seen data, so that folding them counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(name).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.7, 1.3)
    return network


def last_map(network, module, images):
    """What one module of the whole, untouched network puts out."""
    found = []
    handle = network.get_submodule(module).register_forward_hook(
        lambda _module, _args, output: found.append(output.clone())
    )
    with torch.inference_mode():
        network(images)
    handle.remove()
    return found[0]


def random_images(size, n=8):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "width", "module", "size"), FAMILIES)
def test_features_are_the_last_feature_map_averaged(name, width, module, size):
    network = network_with_statistics(name)
    images = random_images(size)
    feature_map = last_map(network, module, images)
    if name.startswith("densenet"):
        feature_map = feature_map.relu()
    expected = feature_map.mean((2, 3))
    if name.startswith("convnext"):
        expected = network.classifier[0](expected[..., None, None]).flatten(1)
    trunk = _graph.cut_pooled(network, size)
    with torch.inference_mode():
        features = trunk(images)
        fast = _graph.fused(trunk)(images)
    assert features.shape == (8, width)
    assert features.std(0).max() > 0
    assert torch.equal(features, expected)
    assert (fast - features).abs().max() <= 1e-5 * features.abs().max()


def test_trunk_keeps_the_names_of_the_network_and_drops_its_classifier():
    network = network_with_statistics("resnet18")
    names = _graph.cut_pooled(network, 64).state_dict()
    assert set(names) == {n for n in network.state_dict() if not n.startswith("fc.")}


def test_cut_does_not_depend_on_the_image_size():
    network = network_with_statistics("mobilenet_v3_small")
    codes = {_graph.cut_pooled(network, size).code for size in (16, 32, 96, 224)}
    assert len(codes) == 1


def test_trunk_is_frozen_and_in_eval_mode():
    trunk = _graph.cut_pooled(build("resnet18").train(), 64)
    assert not trunk.training
    assert not any(p.requires_grad for p in trunk.parameters())
    before = {n: t.clone() for n, t in trunk.state_dict().items()}
    trunk(random_images(64))
    assert all(torch.equal(t, before[n]) for n, t in trunk.state_dict().items())


class Stem(nn.Module):
    """Two convolutions, with what a subclass makes of their map."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.second = nn.Conv2d(6, 10, 3, stride=2)

    def feature_map(self, batch):
        return self.second(self.first(batch).relu())


class MapMaker(Stem):
    def forward(self, batch):
        return self.feature_map(batch)


class Untraceable(Stem):
    """What it does depends on the values it sees."""

    def forward(self, batch):
        features = self.feature_map(batch)
        return self.shaped(features if batch.sum() > 0 else -features)

    def shaped(self, features):
        return features


class UntraceableTokens(Untraceable):
    def shaped(self, features):
        return features.flatten(2).transpose(1, 2)


class UntraceableVectors(Untraceable):
    def shaped(self, features):
        return features.mean((2, 3))


class UntraceableDict(Untraceable):
    def shaped(self, features):
        return {"out": features}


class UntraceableScalars(Untraceable):
    def shaped(self, features):
        return features.mean((1, 2, 3))


@pytest.mark.parametrize(
    "kind", [MapMaker, Untraceable, UntraceableTokens, UntraceableVectors]
)
def test_maps_tokens_and_vectors_become_one_vector_an_image(kind):
    network = kind()
    images = random_images(32)
    with torch.inference_mode():
        expected = network.feature_map(images).mean((2, 3))
    trunk = _graph.cut_pooled(network, 32)
    assert isinstance(trunk, _graph.OutputPool) == issubclass(kind, Untraceable)
    for runner in (trunk, _graph.fused(trunk)):
        torch.testing.assert_close(runner(images), expected, rtol=1e-5, atol=1e-6)


def test_network_without_a_feature_map_is_used_as_it_is():
    network = nn.Sequential(nn.Flatten(), nn.Tanh())
    images = random_images(8)
    trunk = _graph.cut_pooled(network, 8)
    assert torch.equal(trunk(images), network(images))


@pytest.mark.parametrize(
    ("kind", "found"),
    [(UntraceableDict, "dict"), (UntraceableScalars, r"shape \(2,\)")],
)
def test_output_that_is_no_map_tokens_or_vectors_is_an_error(kind, found):
    trunk = _graph.cut_pooled(kind(), 32)
    with pytest.raises(WeightsMismatchError, match=f"{kind.__name__}.*{found}"):
        _graph.count_features(trunk, 32, "mine")


def test_names_of_an_untraceable_network_are_its_own():
    network = Untraceable()
    trunk = _graph.cut_pooled(network, 32)
    assert set(_graph.tensors(trunk)) == set(network.state_dict())
    assert set(_graph.stored_tensors(trunk)) == set(network.state_dict())


class TwoNorms(nn.Module):
    """One convolution, read through two norms."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        for norm, shift in ((self.left, 0.5), (self.right, -2.0)):
            norm.running_mean.fill_(shift)
            norm.running_var.fill_(2 - shift)

    def forward(self, batch):
        return self.left(self.conv(batch)) * self.right(self.conv(batch.flip(3)))


class ForkedConv(TwoNorms):
    """One output of a convolution that two norms read."""

    def forward(self, batch):
        shared = self.conv(batch)
        return self.left(shared) * self.right(shared)


class TiedConv(TwoNorms):
    """A convolution whose weights serve once more, without its norm."""

    def forward(self, batch):
        return F.conv2d(self.left(self.conv(batch))[:, :3], self.conv.weight)


@pytest.mark.parametrize("kind", [TwoNorms, ForkedConv, TiedConv])
def test_fusing_does_not_break_a_convolution_that_serves_twice(kind):
    network = kind().eval()
    images = random_images(16)
    expected = network(images).mean((2, 3)).detach()
    fast = _graph.fused(_graph.cut_pooled(network, 16))
    torch.testing.assert_close(fast(images), expected, rtol=1e-5, atol=1e-6)


def test_fusing_leaves_a_weight_alone_that_a_hook_sets():
    conv = nn.utils.spectral_norm(nn.Conv2d(3, 8, 3))
    trunk = _graph.cut_pooled(nn.Sequential(conv, nn.BatchNorm2d(8)), 16)
    images = random_images(16)
    torch.testing.assert_close(_graph.fused(trunk)(images), trunk(images))


def test_part_is_fused_only_where_the_whole_can_be():
    part = _graph.cut_pooled(network_with_statistics("resnet18"), 64)
    whole = _graph.cut_pooled(TwoNorms(), 16)
    assert any(
        isinstance(m, nn.BatchNorm2d) for m in called_modules(_graph.fused(part, whole))
    )


class Statement(nn.Module):
    """Changes a tensor by a statement, or by another name of it."""

    def __init__(self, change):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3)
        self.relu, self.change = nn.ReLU(inplace=True), change

    def forward(self, batch):
        hidden = self.one(batch)
        self.change(self, hidden)
        return self.two(hidden)


def add_to_another_name(_, hidden):
    other = hidden
    other += 1


@pytest.mark.parametrize(
    "change",
    [
        lambda _, hidden: hidden.relu_(),
        lambda _, hidden: F.relu(hidden, True),
        lambda network, hidden: network.relu(hidden),
        add_to_another_name,
    ],
    ids=["method", "function", "layer", "operator"],
)
def test_network_that_its_graph_does_not_describe_is_used_as_it_is(change):
    network = Statement(change)
    trunk, images = _graph.cut_pooled(network, 16), random_images(16)
    assert isinstance(trunk, _graph.OutputPool)
    with torch.inference_mode():
        assert torch.equal(trunk(images), network(images).mean((2, 3)))


class OneSize(nn.Sequential):
    """Classifies images of the usual size only."""

    def forward(self, batch):
        features = self[0](batch)
        torch._assert(features.shape[2] == 55, "found another size")
        return self[1](features.mean((2, 3)))


def test_network_of_one_size_has_a_graph_at_others_too():
    network = OneSize(nn.Conv2d(3, 8, 7, stride=4), nn.Linear(8, 2))
    assert isinstance(_graph.cut_pooled(network, 32), fx.GraphModule)


def test_network_that_draws_has_a_graph_all_the_same():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), AlwaysDropout())
    assert isinstance(_graph.cut_pooled(network, 16), fx.GraphModule)


class AlwaysDropout(nn.Module):
    def forward(self, batch):
        return F.dropout(batch)


def test_fusing_folds_the_norms_and_leaves_the_trunk_alone():
    trunk = _graph.cut_pooled(network_with_statistics("resnet18"), 64)
    digest, code = weights_digest(trunk), trunk.code
    fast = _graph.fused(trunk)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in called_modules(fast))
    assert any(isinstance(m, nn.BatchNorm2d) for m in called_modules(trunk))
    assert (weights_digest(trunk), trunk.code) == (digest, code)


def called_modules(trunk):
    calls = [n for n in trunk.graph.nodes if n.op == "call_module"]
    return [trunk.get_submodule(node.target) for node in calls]


def test_networks_are_traced_in_several_threads_while_another_runs_one():
    bystander = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    ).eval()
    images = random_images(16)
    with torch.inference_mode():
        expected = bystander(images)
    done = Event()

    def run_all_the_time():
        n_runs = 0
        with torch.inference_mode():
            while not done.is_set() or n_runs == 0:
                assert torch.equal(bystander(images), expected)
                n_runs += 1
        return n_runs

    def width(name):
        trunk = _graph.cut_pooled(getattr(models, name)(weights=None), 64)
        assert isinstance(trunk, fx.GraphModule)
        return _graph.count_features(trunk, 64, name)

    names = ["resnet18", "squeezenet1_1", "mobilenet_v3_small"] * 2
    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(run_all_the_time)
        try:
            widths = list(pool.map(width, names))
        finally:
            done.set()
    assert widths == [512, 512, 576] * 2
    assert running.result() > 0


def test_image_too_small_for_the_network_names_the_parameter():
    trunk = _graph.cut_pooled(build("inception_v3"), 32)
    with pytest.raises(ValueError, match=r"inception_v3.*32 x 32.*image_size"):
        _graph.count_features(trunk, 32, "inception_v3")


@pytest.mark.parametrize(
    ("name", "width"),
    [("vgg11", 4096), ("alexnet", 4096), ("mobilenet_v3_small", 1024)],
)
def test_hidden_is_what_the_last_linear_layer_sees(name, width):
    network = network_with_statistics(name)
    images = random_images(64)
    last = network.classifier[-1]
    trunk = _graph.cut_hidden(network, 64, name)
    with torch.inference_mode():
        features = trunk(images)
        assert torch.equal(last(features), network(images))
    assert features.shape == (8, width)
    left_out = {n for n in network.state_dict() if n not in trunk.state_dict()}
    assert {n.rpartition(".")[0] for n in left_out} == {
        f"classifier.{len(network.classifier) - 1}"
    }


@pytest.mark.parametrize("make", [models.resnet18, models.squeezenet1_1, Untraceable])
def test_network_without_hidden_layers_says_so(make):
    with pytest.raises(ValueError, match="'mine' has no layer 'hidden'"):
        _graph.cut_hidden(make(), 64, "mine")
