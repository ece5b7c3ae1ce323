"""What identifies a network: its weights, and what is computed with them."""

import pytest
import torch
from torch import nn

from sktransfer.backbones import _graph
from sktransfer.backbones._fingerprint import identity, structure, weights_digest


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, batch):
        return self.conv(batch) if batch.sum() else batch


class Patches(nn.Module):
    """A small transformer."""

    def __init__(self, n_heads=2, **params):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.encoder = nn.TransformerEncoderLayer(
            16, n_heads, 32, batch_first=True, **params
        )

    def forward(self, batch):
        return self.encoder(self.patch(batch).flatten(2).transpose(1, 2)).mean(1)


def averages(**params):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, 2, 1, **params))


def test_structure_and_digest_tell_networks_apart():
    plain, strided = (
        _graph.cut_pooled(nn.Sequential(nn.Conv2d(3, 4, 3, stride=s)), 32)
        for s in (1, 2)
    )
    _graph.restore(strided, {n: t.numpy() for n, t in _graph.tensors(plain).items()})
    assert weights_digest(plain) == weights_digest(strided)
    assert structure(plain) != structure(strided)
    with torch.no_grad():
        strided.get_parameter("0.bias")[0] += 1
    assert weights_digest(plain) != weights_digest(strided)
    assert structure(_graph.cut_pooled(Untraceable(), 32)) is None


@pytest.mark.parametrize(
    ("network", "other"),
    [
        (averages(), averages(count_include_pad=False)),
        (Patches(), Patches(norm_first=True)),
        (Patches(), Patches(n_heads=4)),
        (Patches(), Patches(activation="gelu")),
        (Patches(), Patches(layer_norm_eps=1e-3)),
    ],
    ids=["padding", "norm first", "heads", "activation", "epsilon"],
)
def test_settings_that_no_repr_shows_tell_networks_apart(network, other):
    other.load_state_dict(network.state_dict())
    trunks = [_graph.cut_pooled(made, 32) for made in (network, other)]
    again = _graph.cut_pooled(network, 32)
    (digest, fingerprint, _), (same_digest, another, _) = map(identity, trunks)
    assert digest == same_digest
    assert fingerprint != another
    assert identity(again) == (digest, fingerprint, True)


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def parametrized():
    conv = nn.Conv2d(3, 4, 3)
    nn.utils.parametrize.register_parametrization(conv, "weight", Halved())
    return conv


def hooked():
    conv = nn.Conv2d(3, 4, 3)
    conv.register_forward_hook(lambda module, args, output: output / 2)
    return conv


def with_an_activation_of_ones_own():
    return Patches(activation=lambda batch: batch.clamp(-1, 1))


@pytest.mark.parametrize(
    "make", [Untraceable, parametrized, hooked, with_an_activation_of_ones_own]
)
def test_code_that_cannot_be_read_off_is_never_shared(make):
    trunk = _graph.cut_pooled(make(), 32)
    assert structure(trunk) is None
    assert identity(trunk)[0] == identity(trunk)[0]
    assert identity(trunk)[1] != identity(trunk)[1]
    assert not identity(trunk)[2]
