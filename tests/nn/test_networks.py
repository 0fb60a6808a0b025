"""Networks of the paper against the parameter counts and shapes of its tables."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mvflow.config import recipe
from mvflow.core import ConfigError, Modality
from mvflow.core.parts import create
from mvflow.nn import (
    BatchNorm,
    ConvNetwork,
    Layer,
    LayersDecoder,
    LayersEncoder,
    LayersNetwork,
    MLPNetwork,
    ResidualBlock,
    ResNetwork,
    seeded,
)

MNIST = Modality("mnist", (1, 28, 28))
SVHN = Modality("svhn", (3, 32, 32))
POLY = Modality("m0", (3, 28, 28))
SOUND = Modality("sound", (1, 32, 128))
TRAJECTORY = Modality("trajectory", (200,))


def conv(n_in, n_out, *kernel, bias=True):
    """Parameters of a convolution, transposed or not."""
    return n_in * n_out * math.prod(kernel) + bias * n_out


def linear(n_in, n_out, bias=True):
    return conv(n_in, n_out, bias=bias)


def normed(n_in, n_out, *kernel):
    """A layer without bias, and the scale and shift of its batch normalisation."""
    return conv(n_in, n_out, *kernel, bias=False) + 2 * n_out


def block(n_in, n_out):
    """Residual block of Figure E.18."""
    n_hidden = min(n_in, n_out)
    shortcut = 0 if n_in == n_out else n_in * n_out
    return conv(n_in, n_hidden, 3, 3) + conv(n_hidden, n_out, 3, 3) + shortcut


def network(name, modality, part):
    """A network as a recipe has it."""
    return create("networks", recipe(name)["modalities"][modality][part])


# recipe, modality, latent, parameters of the encoder with two heads and of the decoder
TABLES = [
    (
        "mnist-svhn",
        MNIST,
        20,
        linear(784, 400) + 2 * linear(400, 20),
        linear(20, 400) + linear(400, 784),
    ),
    (
        "mnist-svhn",
        SVHN,
        20,
        conv(3, 32, 4, 4) + conv(32, 64, 4, 4) + conv(64, 128, 4, 4) + 2 * conv(128, 20, 4, 4),
        conv(20, 128, 4, 4) + conv(128, 64, 4, 4) + conv(64, 32, 4, 4) + conv(32, 3, 4, 4),
    ),
    (
        "polymnist",
        POLY,
        190,
        conv(3, 64, 3, 3)
        + (block(64, 64) + block(64, 128) + block(128, 256))
        + 2 * linear(256 * 7 * 7, 190),
        linear(190, 256 * 7 * 7)
        + (block(256, 128) + block(128, 64) + block(64, 64))
        + conv(64, 3, 3, 3),
    ),
    (
        "mhd",
        Modality("image", (1, 28, 28)),
        64,
        normed(1, 128, 4, 4)
        + normed(128, 256, 4, 4)
        + normed(256, 512, 4, 4)
        + normed(512, 1024, 4, 4)
        + 2 * linear(1024, 64),
        linear(64, 1024 * 4 * 4)
        + normed(1024, 512, 3, 3)
        + normed(512, 256, 3, 3)
        + conv(256, 1, 3, 3),
    ),
    (
        "mhd",
        SOUND,
        64,
        normed(1, 128, 1, 128)
        + normed(128, 128, 4, 1)
        + normed(128, 256, 4, 1)
        + 2 * linear(2048, 64),
        normed(64, 2048) + normed(256, 128, 4, 1) + normed(128, 128, 4, 1) + conv(128, 1, 1, 128),
    ),
    (
        "mhd",
        TRAJECTORY,
        64,
        normed(200, 512) + 2 * normed(512, 512) + 2 * linear(512, 64),
        normed(64, 512) + 2 * normed(512, 512) + linear(512, 200),
    ),
]
IDS = [f"{name}-{modality.name}" for name, modality, *_ in TABLES]


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "modality", "latent", "encoder", "decoder"), TABLES, ids=IDS)
def test_parameters_are_those_of_the_paper(name, modality, latent, encoder, decoder):
    with torch.device("meta"):
        built = network(name, modality.name, "encoder").encoder(modality, 2 * latent)
        assert count(built) == encoder
        built = network(name, modality.name, "decoder").decoder(latent, modality)
        assert count(built) == decoder


SPECS = [
    (MLPNetwork(), TRAJECTORY),
    (ConvNetwork(channels=[4, 6]), POLY),
    (ResNetwork(channels=[4, 6, 8]), POLY),
    (ResNetwork(channels=[4]), MNIST),
    (LayersNetwork(layers=[{"channels": 4}] * 4), MNIST),
    (LayersNetwork(layers=[{"channels": 4, "kernel": (3, 3)}] * 3), POLY),
    (
        LayersNetwork(
            layers=[{"channels": 4, "kernel": (1, 128), "stride": (1, 1), "padding": (0, 0)}],
            hidden=[5],
            norm="batch",
            activated=True,
        ),
        SOUND,
    ),
    (LayersNetwork(hidden=[5, 6], norm="batch"), TRAJECTORY),
]


@pytest.mark.parametrize(("spec", "modality"), SPECS)
@pytest.mark.parametrize("output", ["identity", "sigmoid"])
def test_shapes_for_one_row_and_more_in_either_mode(spec, modality, output):
    """In evaluation a row is the same alone as among others; gradients reach all parameters."""
    with seeded(0, "networks"):
        encoder = spec.encoder(modality, 7)
        decoder = spec.model_copy(update={"output": output}).decoder(3, modality)
        x, z = torch.rand(4, *modality.shape), torch.randn(4, 3)
    for module, rows, shape in ((encoder, x, (7,)), (decoder, z, modality.shape)):
        assert module(rows).shape == (4, *shape)
        module(rows).square().sum().backward()
        assert all(p.grad is not None for p in module.parameters())
        module.eval()
        torch.testing.assert_close(module(rows[:1]), module(rows)[:1], rtol=1e-4, atol=1e-6)
        module.train()
        if getattr(spec, "norm", "none") == "none":
            assert module(rows[:1]).shape == (1, *shape)
    low, high = decoder(z).aminmax()
    assert output == "identity" or (low >= 0 and high <= 1)


@pytest.mark.parametrize("shape", [(3,), (3, 5, 4)])
def test_batch_normalisation_is_that_of_numpy(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, size=(6, *shape))
    layer = BatchNorm(3).double()
    axes = (0, *range(2, x.ndim))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    expected = (x - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach(), expected, rtol=1e-10)
    # running means move by a tenth; the variance is that with Bessel's correction
    n = x.size // 3
    np.testing.assert_allclose(layer.running_mean, 0.1 * mean.ravel(), rtol=1e-6)
    unbiased = 0.9 + 0.1 * var.ravel() * n / (n - 1)
    np.testing.assert_allclose(layer.running_var, unbiased, rtol=1e-6)


@pytest.mark.bad_input
def test_one_row_cannot_be_normalised_in_training():
    layer = BatchNorm(3)
    with pytest.raises(ConfigError, match="batches of 1 row: use batch_size of 2 or more"):
        layer(torch.ones(1, 3))
    assert layer(torch.rand(1, 3, 2, 2)).shape == (1, 3, 2, 2)  # an image has pixels to compare


def test_a_residual_block_adds_a_tenth_of_its_convolutions():
    with seeded(0, "block"):
        same, wider = ResidualBlock(4, 4), ResidualBlock(4, 6)
        x = torch.randn(2, 4, 5, 5)
    for layer in (same, wider):
        first = F.conv2d(F.leaky_relu(x, 0.2), layer.first.weight, layer.first.bias, padding=1)
        change = F.conv2d(
            F.leaky_relu(first, 0.2), layer.second.weight, layer.second.bias, padding=1
        )
        carried = x
        if layer is wider:
            carried = torch.einsum("bihw,oi->bohw", x, layer.shortcut.weight[:, :, 0, 0])
        torch.testing.assert_close(layer(x), carried + 0.1 * change)


def test_dropout_acts_in_training_alone():
    for spec, modality in SPECS[1:6]:
        network = spec.encoder(modality, 7, dropout=0.9)
        if not any(isinstance(m, nn.Dropout | nn.Dropout2d) for m in network.modules()):
            raise AssertionError(spec)
        x = torch.rand(2, *modality.shape)
        network.eval()
        assert torch.equal(network(x), network(x))


layers = st.builds(
    Layer,
    channels=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)


@settings(deadline=None, max_examples=80)
@given(
    chosen=st.lists(layers, min_size=1, max_size=3),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12)),
)
def test_a_decoder_ends_at_its_shape_or_is_refused(chosen, shape):
    spec = LayersNetwork(layers=chosen)
    modality = Modality("a", shape)
    mirror = spec.model_copy(update={"layers": spec.layers[::-1]})
    sides = shape[1:]
    for layer in mirror.layers:
        measures = zip(sides, layer.kernel, layer.stride, layer.padding, strict=True)
        sides = [(n + 2 * p - k) // s + 1 if n + 2 * p >= k else 0 for n, k, s, p in measures]
        if 0 in sides:  # a kernel larger than what it slides over
            for build in (
                lambda: spec.decoder(2, modality),
                lambda: mirror.encoder(modality, 2),
            ):
                with pytest.raises(ConfigError, match="cannot take"):
                    build()
            return
    decoder, encoder = spec.decoder(2, modality), mirror.encoder(modality, 2)
    assert isinstance(encoder, LayersEncoder)
    assert isinstance(decoder.eval(), LayersDecoder)
    assert decoder(torch.zeros(1, 2)).shape == (1, *shape)
    assert encoder(torch.zeros(1, *shape)).shape == (1, 2)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        (ResNetwork(), (3, 30, 28), "3 layers cannot take 'a' of .*multiples of 4"),
        (ResNetwork(), (200,), "resnet network .* cannot take 'a' of shape"),
        (ResNetwork(channels=()), (3, 8, 8), "resnet network of 'a' has no layers"),
        (ConvNetwork(channels=()), (3, 8, 8), "conv network of 'a' has no layers"),
        (
            LayersNetwork(layers=[{"channels": 4}] * 5),
            (1, 28, 28),
            "5 convolutions of a layers network cannot take 'a' of shape .*large enough",
        ),
        (
            LayersNetwork(layers=[{"channels": 4}]),
            (200,),
            r"cannot take 'a' of shape \(200,\): expected \(channels, height, width\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(spec, shape, message):
    modality = Modality("a", shape)
    with pytest.raises(ConfigError, match=message):
        spec.encoder(modality, 2)
    with pytest.raises(ConfigError, match=message):
        spec.decoder(2, modality)
