"""One suite for all kinds of networks, and for modules that are given in their place."""

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from torch import nn

from mvflow.core import ConfigError, Modality
from mvflow.core.parts import create, dump
from mvflow.core.registry import registry
from mvflow.likelihoods import Likelihood
from mvflow.likelihoods.base import independent
from mvflow.nn import GivenNetwork, Network, seeded

SHAPE = (3, 16, 8)
"""Images that all kinds take with their default settings."""


class LocationScale(Likelihood):
    """Two outputs for each value."""

    outputs_per_value: ClassVar[int] = 2
    is_location: ClassVar[bool] = False

    def distribution(self, raw, shape, learned: Mapping[str, torch.Tensor]):
        loc, scale = raw.chunk(2, -len(shape))
        return independent(torch.distributions.Normal(loc, scale.exp()), shape)


class Given(nn.Module):
    """A network of somebody else, with a convolution."""

    def __init__(self, modality, encoder):
        super().__init__()
        outputs = modality.likelihood_part.outputs(modality.shape)
        self.layers = (
            nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(36, 7))
            if encoder
            else nn.Sequential(nn.Linear(5, outputs[0] * 128), nn.Unflatten(1, outputs))
        )

    def forward(self, x):
        return self.layers(x)


def modality(likelihood="normal"):
    return Modality("image", SHAPE, likelihood)


@pytest.fixture(params=[*registry("networks").names(), "given"])
def kind(request):
    return request.param


def built(kind, likelihood="normal", dropout=0.0, seed=0):
    """An encoder to 7 features and a decoder of 5, as a kind makes them."""
    m = modality(likelihood)
    with seeded(seed, kind):
        parts = (
            [create("networks", Given(m, encoder)) for encoder in (True, False)]
            if kind == "given"
            else [create("networks", kind)] * 2
        )
        return parts[0].encoder(m, 7, dropout), parts[1].decoder(5, m)


def ending_in_sigmoid(kind):
    """Settings of a network, or of one inside another, whose decoder ends in a sigmoid."""
    if "network" in registry("networks").load(kind).model_fields:
        return {"kind": kind, "network": ending_in_sigmoid("mlp")}
    return {"kind": kind, "output": "sigmoid"}


def inputs(rows=4):
    with seeded(1, "inputs"):
        return torch.rand(rows, *SHAPE), torch.randn(rows, 5)


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli", LocationScale()])
def test_encoders_give_features_and_decoders_what_the_likelihood_takes(kind, likelihood):
    encoder, decoder = built(kind, likelihood)
    x, z = inputs()
    assert encoder(x).shape == (4, 7)
    expected = modality(likelihood).likelihood_part.outputs(SHAPE)
    assert decoder(z).shape == (4, *expected)


def test_gradients_reach_every_parameter(kind):
    for network, x in zip(built(kind), inputs(), strict=True):
        network(x).square().sum().backward()
        for name, p in network.named_parameters():
            assert p.grad.isfinite().all(), name
            assert p.grad.abs().sum() > 0, name


def test_rows_do_not_see_each_other_in_evaluation(kind):
    for network, x in zip(built(kind), inputs(), strict=True):
        network.eval()
        # products of other sizes round otherwise, float32
        torch.testing.assert_close(network(x[1:2]), network(x)[1:2], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(network(x)[0], network(x)[1])


def test_networks_are_built_anew_each_time(kind):
    """No two share a parameter; weights are torch's random numbers alone."""
    (encoder, _), (again, _), (other, _) = (built(kind, seed=s) for s in (0, 0, 1))
    pairs = list(zip(encoder.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(p, q) and p is not q for p, q in pairs)
    differ = zip(encoder.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(p, q) for p, q in differ)


@pytest.mark.parametrize("kind", registry("networks").names())
def test_settings_survive_being_written(kind):
    part = create("networks", kind)
    assert isinstance(part, Network)
    assert create("networks", dump(part, "networks")) == part


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", registry("networks").names())
@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
def test_a_sigmoid_before_logits_is_refused(kind, likelihood):
    """A bernoulli likelihood takes the sigmoid itself: twice leaves [.5, .73], and no more."""
    part = create("networks", ending_in_sigmoid(kind))
    m = (
        modality("bernoulli")
        if likelihood == "bernoulli"
        else Modality("c", (8, 8, 8), likelihood)
    )
    with pytest.raises(ConfigError, match=f"cannot end in a sigmoid: .*{likelihood!r} takes"):
        part.decoder(5, m)
    low, high = part.decoder(5, modality("laplace"))(100 * inputs()[1]).aminmax()
    assert low >= 0
    assert high <= 1


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", registry("networks").names())
def test_an_encoder_has_no_output(kind):
    with pytest.raises(ConfigError, match="encoder of 'image' has output='sigmoid'"):
        create("networks", ending_in_sigmoid(kind)).encoder(modality(), 7)


# Modules that are given


def test_a_given_module_is_the_encoder_itself_where_its_features_fit():
    module = Given(modality(), encoder=True)
    x, _ = inputs()
    encoder = create("networks", module).encoder(modality(), 7)
    assert torch.equal(encoder(x), module(x))
    wider = create("networks", module).encoder(modality(), 9)
    assert torch.equal(wider(x), wider[1](module(x)))


def test_a_given_module_is_never_changed():
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(384), nn.Linear(384, 7)).eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    encoder = create("networks", module).encoder(modality(), 7).train()
    encoder(inputs()[0]).sum().backward()
    assert not module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_a_given_module_may_find_its_sizes_itself():
    """Lazy layers are filled before a parameter is counted or an optimiser made."""
    lazy = create("networks", nn.Sequential(nn.Flatten(), nn.LazyLinear(7)))
    assert lazy.encoder(modality(), 7)[1].weight.shape == (7, 384)


def test_a_given_module_is_named_where_it_cannot_be_written():
    raw = dump(GivenNetwork(value=nn.Flatten()), "networks")
    assert raw == {"kind": "given", "path": "torch.nn.modules.flatten:Flatten"}
    with pytest.raises(ConfigError, match="passed in Python and cannot be written"):
        create("networks", raw)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Linear(3, 7),
            r"encoder of 'image' \(Linear\) cannot take a row of shape \(3, 16, 8\)",
        ),
        (nn.Conv2d(3, 4, 8), r"gives \(4, 9, 1\) for one row: .*end it with torch.nn.Flatten"),
        (nn.Flatten(0), r"gives \(384,\), not a tensor \(rows, ...\)"),
        (nn.LSTM(8, 2), "cannot take a row|gives tuple, not a tensor"),
    ],
)
def test_given_encoders_that_do_not_fit_are_named(module, message):
    with pytest.raises(ConfigError, match=message):
        create("networks", module).encoder(modality(), 7)


@pytest.mark.bad_input
def test_a_given_decoder_has_to_give_what_the_likelihood_takes():
    decoder = nn.Sequential(nn.Linear(5, 384), nn.Unflatten(1, SHAPE))
    assert create("networks", decoder).decoder(5, modality())(torch.zeros(2, 5)).shape[1:] == SHAPE
    with pytest.raises(ConfigError, match=r"gives \(3, 16, 8\) .* likelihood takes \(6, 16, 8\)"):
        create("networks", decoder).decoder(5, modality(LocationScale()))


def test_a_categorical_modality_is_encoded_by_its_classes():
    """Class numbers enter as indicators: the first layer picks columns of its weights."""
    m = Modality("word", (6,), "categorical")
    for kind in ("mlp", "layers"):
        encoder = create("networks", {"kind": kind, "hidden": ()}).encoder(m, 3)
        (linear,) = (each for each in encoder.modules() if isinstance(each, nn.Linear))
        words = torch.tensor([4, 0])
        expected = linear.weight[:, words].T + linear.bias
        torch.testing.assert_close(encoder(words), expected)
