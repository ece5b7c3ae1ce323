"""Stages: where networks may be cut, and the pieces between the cuts."""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision import models, ops

from sktransfer.backbones import get_backbone
from sktransfer.backbones._backbone import open_backbone

CPU = torch.device("cpu")


def opened(backbone, image_size=32, weights="default"):
    return open_backbone(backbone, weights, image_size, "auto", None)


def names(backbone):
    return [stage.name for stage in backbone.stages]


def random_images(size, n=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def small_maxvit():
    return models.MaxVit((64, 64), 16, 2, [16, 32, 64], [1, 2, 1], 16, 0.2)


def small_vit():
    return models.VisionTransformer(64, 16, 12, 4, 64, 128)


def with_auxiliary_heads(name):
    make = getattr(models, name)
    return make(weights=None, transform_input=True, init_weights=False, aux_logits=True)


# Network; image size; the stage from where on the model's own layers finish the work,
# as a function of model and activation; names of the stages.
FAMILIES = {
    "resnet18": (
        64,
        ("pooled", lambda m, x: m.fc(x)),
        "stem layer1 layer2 layer3 layer4 pooled",
    ),
    "densenet121": (
        64,
        ("pooled", lambda m, x: m.classifier(x)),
        "stem features.denseblock1 features.denseblock2 features.denseblock3 "
        "features.denseblock4 pooled",
    ),
    "inception_v3": (
        128,
        ("pooled", lambda m, x: m.fc(x)),
        "Conv2d_2b_3x3 Conv2d_4a_3x3 Mixed_5d Mixed_6e Mixed_7c pooled",
    ),
    "googlenet": (
        64,
        ("pooled", lambda m, x: m.fc(x)),
        "conv1 conv3 inception3b inception4e inception5b pooled",
    ),
    "mobilenet_v2": (
        64,
        ("pooled", lambda m, x: m.classifier(x)),
        "features.1 features.3 features.6 features.13 features.18 pooled",
    ),
    "mobilenet_v3_small": (
        64,
        ("pooled", lambda m, x: m.classifier(x)),
        "features.0 features.1 features.3 features.8 features.12 pooled",
    ),
    "efficientnet_b0": (
        64,
        ("pooled", lambda m, x: m.classifier(x)),
        "features.1 features.2 features.3 features.5 features.8 pooled",
    ),
    "convnext_tiny": (
        64,
        ("pooled", lambda m, x: m.classifier[2](x)),
        "features.1 features.3 features.5 features.7 pooled",
    ),
    "vgg11": (
        64,
        ("features.20", lambda m, x: m.classifier(m.avgpool(x).flatten(1))),
        "features.2 features.5 features.10 features.15 features.20 pooled",
    ),
    "squeezenet1_1": (
        64,
        ("features.12", lambda m, x: m.classifier(x).flatten(1)),
        "stem features.4 features.7 features.12 pooled",
    ),
    "shufflenet_v2_x0_5": (
        64,
        ("pooled", lambda m, x: m.fc(x)),
        "conv1 stage2 stage3 conv5 pooled",
    ),
    "mnasnet0_5": (
        64,
        ("pooled", lambda m, x: m.classifier(x)),
        "stem layers.8 layers.9 layers.11 layers.16 pooled",
    ),
    "regnet_y_400mf": (
        64,
        ("pooled", lambda m, x: m.fc(x)),
        "stem trunk_output.block1 trunk_output.block2 trunk_output.block3 "
        "trunk_output.block4 pooled",
    ),
    "alexnet": (
        64,
        ("features.12", lambda m, x: m.classifier(m.avgpool(x).flatten(1))),
        "features.2 features.5 features.12 pooled",
    ),
    "vit": (
        64,
        ("pooled", lambda m, x: m.heads(x)),
        "stem encoder.layers.encoder_layer_2 encoder.layers.encoder_layer_5 "
        "encoder.layers.encoder_layer_8 encoder.layers.encoder_layer_11 pooled",
    ),
    "swin_t": (
        64,
        ("pooled", lambda m, x: m.head(x)),
        "features.1 features.3 features.5 features.7 pooled",
    ),
    "maxvit": (
        64,
        ("pooled", lambda m, x: m.classifier[3:](x)),
        "stem blocks.0 blocks.1 blocks.2 pooled",
    ),
}


def build(name):
    """Build a network whose batch norms have seen data, so that folding them counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name in ("maxvit", "vit"):
            network = small_maxvit() if name == "maxvit" else small_vit()
        elif name in ("googlenet", "inception_v3"):
            network = with_auxiliary_heads(name)
        else:
            network = models.get_model(name, weights=None)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.7, 1.3)
    return network.eval()


def outputs_of_modules(network, images, paths):
    """Run a network; return its output and those of some modules."""
    found = {}

    def keep(path):
        return lambda _module, _args, output: found.update({path: output.clone()})

    handles = [
        network.get_submodule(path).register_forward_hook(keep(path)) for path in paths
    ]
    output = network(images)
    for handle in handles:
        handle.remove()
    return output, found


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_in_a_row_compute_what_the_model_does(name):
    size, (last_on_road, rest), expected = FAMILIES[name]
    network, images = build(name), random_images(size)
    backbone = opened(network, size)
    assert " ".join(names(backbone)) == expected
    modules = set(dict(network.named_modules())) & set(names(backbone)) - {"stem"}
    with torch.inference_mode():
        logits, maps = outputs_of_modules(network, images, modules)
        activation = images
        for segment, stage in zip(backbone.segments(), backbone.stages, strict=True):
            activation = segment(activation)
            assert segment.name == stage.name
            assert activation.shape[1:] == stage.shape
            if stage.name in modules:
                assert torch.equal(activation, maps[stage.name])
            if stage.name == last_on_road:
                assert torch.equal(rest(network, activation), logits)
            prefix = backbone.prefix(stage.name, CPU)
            difference = (prefix(images) - activation).abs().max()
            assert difference <= 1e-5 * activation.abs().max()
        assert torch.equal(activation, backbone.trunk(images))


@pytest.mark.parametrize("name", FAMILIES)
def test_one_pass_gives_features_and_a_stage_on_the_way_to_the_bit(name):
    size = FAMILIES[name][0]
    backbone, images = opened(build(name), size), random_images(size)
    with torch.inference_mode():
        expected = backbone.for_inference(CPU)(images)
        for cut in names(backbone)[:-1]:
            if (name, cut) == ("maxvit", "stem"):  # a norm is next
                continue
            features, activation = backbone.tapped(cut, CPU)(images)
            assert torch.equal(features, expected)
            assert torch.equal(activation, backbone.prefix(cut, CPU)(images))


def test_no_pass_gives_a_stage_into_which_a_norm_is_folded():
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = Wrapped(nn.Conv2d(3, 8, 3, 2)), nn.BatchNorm2d(8)
            self.three = Wrapped(nn.Conv2d(8, 8, 3, 2))

        def forward(self, batch):
            return self.three(self.two(self.one(batch)))

    backbone = opened(Stem())
    assert backbone.tapped("one", CPU) is None


@pytest.mark.parametrize("name", ["resnet18", "maxvit"])
def test_tensors_of_all_segments_are_those_of_the_trunk(name):
    backbone = opened(build(name), 64)
    found = [n for s in backbone.segments() for n in s.state_dict()]
    assert sorted(found) == sorted(backbone.trunk.state_dict())
    counts = [sum(p.numel() for p in s.parameters()) for s in backbone.segments()]
    assert counts == [stage.n_parameters for stage in backbone.stages]
    assert sum(counts) == sum(p.numel() for p in backbone.trunk.parameters())


def chain_of_layers(*strides):
    """A network of batch norms and nothing that looks like a block."""
    layers, width = [], 3
    for i, stride in enumerate(strides):
        layers += [nn.Conv2d(width, 8 * (i + 1), 3, stride, padding=1)]
        width = 8 * (i + 1)
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        ((2, 2, 2), ["2", "5", "8", "pooled"]),
        ((1, 2, 1), ["2", "8", "pooled"]),
        ((1, 1, 1), ["8", "pooled"]),
    ],
)
def test_without_blocks_each_resolution_is_a_stage(strides, expected):
    backbone = opened(chain_of_layers(*strides), 16)
    assert names(backbone) == expected


def test_stages_do_not_depend_on_the_image_size():
    network = build("squeezenet1_1")
    found = {tuple(names(opened(network, size))) for size in (32, 96, 224, 300)}
    assert len(found) == 1


def test_stages_of_a_name_need_no_weights_and_are_found_once(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("this is a download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    stages = get_backbone("resnet18").stages
    assert stages is get_backbone("resnet18").stages
    assert [s.shape for s in stages[-2:]] == [(512, 7, 7), (512,)]
    assert get_backbone("mini").stages[0].shape == (16, 48, 48)


class Expanding(nn.Module):
    """An inverted bottleneck without a short cut: each tensor in it is alone."""

    def __init__(self, width, out):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, 6 * width, 1), nn.ReLU())
        self.depth = nn.Sequential(
            nn.Conv2d(6 * width, 6 * width, 3, 2, 1, groups=width), nn.ReLU()
        )
        self.project = nn.Conv2d(6 * width, out, 1)

    def forward(self, batch):
        return self.project(self.depth(self.expand(batch)))


class Wrapped(nn.Module):
    """A network inside another."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch):
        return self.network(batch)


def test_no_stage_ends_inside_an_inverted_bottleneck():
    blocks = [Expanding(8, 16), Expanding(16, 16), Expanding(16, 24)]
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), *blocks)
    assert names(opened(network)) == ["stem", "2", "3", "4", "pooled"]


def test_stages_of_a_wrapped_network_bear_its_paths():
    backbone = opened(Wrapped(build("resnet18")), 64)
    layers = [f"network.layer{i}" for i in range(1, 5)]
    assert names(backbone) == ["stem", *layers, "pooled"]


def test_many_blocks_of_one_resolution_are_four_stages():
    class Block(nn.Conv2d):
        def forward(self, batch):
            return batch + super().forward(batch).relu()

    blocks = nn.Sequential(*[Wrapped(Block(8, 8, 3, padding=1)) for _ in range(10)])
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), blocks)
    assert names(opened(network)) == ["stem", "2.1", "2.4", "2.6", "2.9", "pooled"]


class RandomDepth(nn.Sequential):
    """Stages of which the second is random, by functions, in train mode only."""

    def __init__(self, drop):
        layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 2, 1)]
        super().__init__(*layers)
        self.drop = drop

    def forward(self, batch):
        batch = self[1](self[0](batch - torch.tensor([0.5])))
        return self.drop(self[2](batch), self.training)


class Stochastic(nn.Module):
    def __init__(self):
        super().__init__()
        self.depth = ops.StochasticDepth(0.5, "row")

    def forward(self, batch, training):
        return self.depth(batch)


@pytest.mark.parametrize(
    ("drop", "name"),
    [(lambda x, on: F.dropout(x, 0.5, on), "2"), (Stochastic(), "drop")],
    ids=["dropout", "stochastic depth"],
)
def test_train_mode_is_random_where_the_network_is_and_eval_mode_is_not(drop, name):
    backbone = opened(RandomDepth(drop))
    images = random_images(32)
    expected = backbone.trunk(images)
    first, second, pooled = backbone.segments()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        activation = first(images)
        runs = [second.train()(activation) for _ in range(2)]
    assert second.name == name
    assert not torch.equal(*runs)
    assert torch.equal(pooled(second.eval()(activation)), expected)


def test_batch_norms_keep_their_own_mode_in_a_segment_that_trains():
    segment = opened(chain_of_layers(2), 16).segments()[0].train()
    norm = segment.get_submodule("1")
    assert norm.training
    norm.eval()
    before = norm.running_mean.clone()
    frozen = segment(random_images(16))
    assert torch.equal(norm.running_mean, before)
    assert torch.equal(frozen, segment.eval()(random_images(16)))
    norm.train()
    assert not torch.equal(frozen, segment(random_images(16)))
    assert not torch.equal(norm.running_mean, before)


def test_auxiliary_heads_of_training_are_no_part_of_a_segment():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 16, 3, 2)
            self.fc, self.aux = nn.Linear(16, 5), nn.Linear(8, 5)

        def forward(self, batch):
            low = self.one(batch)
            if self.training:
                return self.fc(self.two(low).mean((2, 3))), self.aux(low.mean((2, 3)))
            return self.fc(self.two(low).mean((2, 3)))

    backbone = opened(Auxiliary())
    assert names(backbone) == ["one", "two", "pooled"]
    activation = random_images(32)
    for segment in backbone.segments():
        activation = segment.train()(activation)
        assert not any(n.startswith("aux") for n in segment.state_dict())
    assert activation.shape == (16, 16)


class OnlyInTraining(nn.Module):
    """Three convolutions, and something that happens in training only."""

    def __init__(self, change):
        super().__init__()
        self.one, self.two, self.three = (
            nn.Conv2d(n, 16, 3, 2, 1) for n in (3, 16, 16)
        )
        self.aux = nn.Linear(16, 5)
        self.register_buffer("mean", torch.zeros(16))
        self.change = change

    def forward(self, batch):
        hidden = torch.relu(self.one(batch))
        if self.training:
            hidden = self.change(self, hidden)
        return torch.relu(self.three(torch.relu(self.two(hidden)))).mean((2, 3))


def followed(network, hidden):
    network.mean.mul_(0.9).add_(0.1 * hidden.mean((0, 2, 3)))
    return hidden


def supervised_deeply(network, hidden):
    network.loss = network.aux(hidden.mean((2, 3)))
    return hidden


def dropped(_, hidden):
    hidden.mul_(0)
    return hidden


@pytest.mark.parametrize(
    "change",
    [
        lambda _, hidden: torch.relu(hidden + 0.1 * torch.randn_like(hidden)),
        followed,
        supervised_deeply,
        dropped,
    ],
    ids=["noise", "running mean", "auxiliary head", "statement"],
)
def test_what_happens_in_training_only_moves_no_boundary(change):
    backbone = opened(OnlyInTraining(change))
    assert names(backbone) == ["one", "two", "three", "pooled"]
    images = random_images(32)
    activation = images
    for segment in backbone.segments():
        own = {name.split(".")[0] for name in segment.state_dict()}
        assert own == ({segment.name} - {"pooled"})
        activation = segment.train()(activation)
    torch.testing.assert_close(activation, backbone.trunk(images))


def test_statement_behind_the_features_does_not_matter():
    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.fc = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 5)

        def forward(self, batch):
            low = F.dropout(self.one(batch), 0.5, self.training)
            scores = self.fc(low.mean((2, 3)))
            scores.clamp_(-5, 5)
            return scores

    first = opened(Clamped()).segments()[0]
    images = random_images(32)
    assert not torch.equal(first.train()(images), first.eval()(images))


class Recurrent(nn.Module):
    """Reads the pixels of a map one after the other."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1)
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, batch):
        low = self.conv(batch)
        tokens, _ = self.rnn(low.flatten(2).transpose(1, 2))
        return self.last(tokens.transpose(1, 2).reshape(low.shape)).mean((2, 3))


def test_recurrent_network_is_opened_without_going_through_large_images():
    assert names(opened(Recurrent(), 16))[-1] == "pooled"


class Scaled(nn.Module):
    """Tensors that belong to no layer, one of them not in the state dict."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 2.0))
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, batch):
        return (self.conv(batch) * self.scale + self.shift).relu()


class Untraceable(Scaled):
    """What it does depends on the values it sees."""

    def forward(self, batch):
        return super().forward(batch if batch.sum() > 0 else -batch)


@pytest.fixture(params=["this torch", "torch 2.11"])
def torch_or_older(request, monkeypatch):
    """Older versions of torch make all buffers of a graph persistent."""
    if request.param == "torch 2.11":
        copy_attribute = fx.graph_module._copy_attr

        def older(from_module, to_module, target):
            copy_attribute(from_module, to_module, target)
            to_module._non_persistent_buffers_set.discard(target)

        monkeypatch.setattr(fx.graph_module, "_copy_attr", older)


@pytest.mark.usefixtures("torch_or_older")
@pytest.mark.parametrize("kind", [Scaled, Untraceable])
def test_segments_are_copied_and_moved_with_all_their_tensors(kind):
    backbone = opened(kind())
    images = random_images(32)
    segments = nn.Sequential(*backbone.segments())
    twin = copy.deepcopy(segments).double()
    assert twin(images.double()).dtype == torch.float64
    assert torch.equal(segments(images), backbone.trunk(images))
    stored = [n.split(".", 1)[1] for n in twin.state_dict()]
    assert sorted(stored) == ["conv.bias", "conv.weight", "scale"]
    assert any(n.endswith("shift") for n, _ in twin.named_buffers())
    with torch.no_grad():
        dict(twin.named_parameters())["0.scale"].zero_()
    assert twin(images.double()).unique().tolist() == [1.0]
    assert torch.equal(segments(images), backbone.trunk(images))


def test_names_of_layers_do_not_collide_with_those_of_a_segment():
    layers = {"name": nn.Conv2d(3, 4, 3, 2), "training_": nn.Conv2d(4, 4, 3, 2)}
    network = nn.Sequential(OrderedDict(layers))
    backbone = opened(network)
    assert names(backbone) == [*layers, "pooled"]
    images = random_images(32)
    segments = nn.Sequential(*backbone.segments())
    assert torch.equal(segments(images), backbone.trunk(images))


class UNet(nn.Module):
    """A skip connection: the tensors between its ends are never alone."""

    def __init__(self):
        super().__init__()
        self.down, self.bottom = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.up, self.out = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(16, 8, 3, 2, 1)

    def forward(self, batch):
        high = self.down(batch)
        return self.out(torch.cat([high, self.up(self.bottom(high))], 1))


def test_no_stage_ends_beside_a_skip_connection():
    assert names(opened(UNet(), 64)) == ["down", "out", "pooled"]


def test_segments_are_frozen_fresh_and_in_eval_mode():
    backbone = opened(chain_of_layers(2, 2), 16)
    segments = backbone.segments()
    before = backbone.trunk.state_dict()
    for segment in segments:
        assert not any(module.training for module in segment.modules())
        for parameter in segment.parameters():
            assert not parameter.requires_grad
            parameter.data.zero_()
    assert all(before[n].any() for n in before if n.endswith("weight"))
    again = {n: t for s in backbone.segments() for n, t in s.state_dict().items()}
    assert all(torch.equal(again[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "activation",
    [
        lambda batch: F.relu(batch, inplace=True),
        lambda batch: F.relu(batch, True),
        lambda batch: F.elu_(batch),
        lambda batch: torch.relu_(batch),
        lambda batch: batch.relu_(),
    ],
    ids=["by name", "by position", "of Python", "of torch", "method"],
)
def test_segment_leaves_its_input_as_it_is(activation):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = Wrapped(nn.Conv2d(3, 8, 3, 2))
            self.two = Wrapped(nn.Conv2d(8, 8, 3, 2))

        def forward(self, batch):
            return self.two(activation(self.one(batch)))

    backbone = opened(InPlace())
    assert names(backbone) == ["one", "two", "pooled"]
    first, second, _ = backbone.segments()
    activation = first(random_images(32))
    before = activation.clone()
    second(activation)
    assert torch.equal(activation, before)
    assert (before < 0).any()


class Shared(nn.Module):
    """One convolution in two of three resolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.three = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, batch):
        return self.three(self.two(self.two(self.one(batch))))


class SharedBuffer(Shared):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.ones(1))

    def forward(self, batch):
        batch = self.two(self.one(batch) + self.shift)
        return self.three(batch + self.shift)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Shared, ["one", "three", "pooled"]), (SharedBuffer, ["two", "three", "pooled"])],
)
def test_stages_that_share_a_tensor_are_one(kind, expected):
    backbone = opened(kind(), 64)
    assert names(backbone) == expected
    segments = backbone.segments()
    found = [n for segment in segments for n in segment.state_dict()]
    assert len(found) == len(set(found))
    assert sorted(found) == sorted(backbone.trunk.state_dict())
    images = random_images(64)
    assert torch.equal(nn.Sequential(*segments)(images), backbone.trunk(images))


def test_untraceable_network_is_one_stage_that_can_be_trained():
    backbone = opened(Untraceable())
    (stage,) = backbone.stages
    assert (stage.name, stage.shape) == ("pooled", (4,))
    (segment,) = backbone.segments()
    segment.train().requires_grad_(True)
    segment(random_images(32)).sum().backward()
    assert all(p.grad is not None for p in segment.parameters())
    with pytest.raises(ValueError, match=r"\['pooled'\].*cannot be traced"):
        backbone.prefix("layer1", CPU)


def test_unknown_stage_lists_the_stages_and_the_nearest():
    backbone = opened("resnet18", 64, weights=None)
    with pytest.raises(ValueError, match=r"'layer5'.*'stem', 'layer1'.*mean 'layer"):
        backbone.prefix("layer5", CPU)


def test_prefix_is_shared_by_the_handles_of_a_network():
    one, other = (opened("mini", 64) for _ in range(2))
    prefix = one.prefix("features.3", CPU)
    assert prefix is other.prefix("features.3", CPU)
    assert not any(p.requires_grad for p in prefix.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in called_modules(prefix))
    assert one.prefix("pooled", CPU) is one.for_inference(CPU)


def called_modules(prefix):
    calls = [n for n in prefix.graph.nodes if n.op == "call_module"]
    return [prefix.get_submodule(node.target) for node in calls]


def test_network_keeps_a_few_fused_copies_only():
    backbone = opened("mini")
    cuts = [stage.name for stage in backbone.stages]
    for cut in cuts:
        backbone.prefix(cut, torch.device("cpu"))
    assert len(cuts) > 4
    assert len(backbone._loaded().fused) == 4
    last = backbone.prefix(cuts[-2], torch.device("cpu"))
    assert backbone.prefix(cuts[-2], torch.device("cpu")) is last
