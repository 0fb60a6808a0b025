"""Networks written out layer by layer, with batch normalisation (paper Table E.7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from mvflow.core import ConfigError, Covariate, Modality
from mvflow.core.parts import Section
from mvflow.nn.base import Network, Output, check_encoder, finish_decoder
from mvflow.nn.convolutions import ChannelsLast, Transposed
from mvflow.nn.covariates import ConditionalNetwork, total_width
from mvflow.nn.inputs import flat, flat_features

__all__ = ["BatchNorm", "Layer", "LayersDecoder", "LayersEncoder", "LayersNetwork"]

ACTIVATIONS = {"relu": nn.ReLU, "leaky-relu": nn.LeakyReLU}


class Layer(Section):
    """One convolution; a decoder's are transposed, and `channels` then are those it takes."""

    channels: PositiveInt
    """Output channels; input channels in a decoder."""
    kernel: tuple[PositiveInt, PositiveInt] = (4, 4)
    """Height and width of the kernel."""
    stride: tuple[PositiveInt, PositiveInt] = (2, 2)
    """Step along height and width."""
    padding: tuple[NonNegativeInt, NonNegativeInt] = (1, 1)
    """Zeros beside each edge."""


class LayersNetwork(Network):
    """Any convolutions, then linear layers, with normalisation between them (Table E.7).

    A decoder is the mirror: first the linear layers, then transposed convolutions, both written
    from the latent side.

    Examples:
        >>> network = LayersNetwork(layers=[{"channels": 8}], hidden=[16], norm="batch")
        >>> network.encoder(Modality("image", (1, 28, 28)), 5)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """

    layers: tuple[Layer, ...] = ()
    """The convolutions."""
    hidden: tuple[PositiveInt, ...] = ()
    """Widths of the hidden linear layers."""
    norm: Literal["none", "batch"] = "none"
    """Normalisation before each activation."""
    activation: Literal["relu", "leaky-relu"] = "relu"
    """Activation after each layer but the last."""
    activated: bool = False
    """Whether what a decoder's convolutions begin with is normalised and activated, too."""
    output: Output = "identity"
    """What ends a decoder."""

    def encoder(self, modality: Modality, out_features: int, dropout: float = 0.0) -> nn.Module:
        """A `LayersEncoder`."""
        check_encoder(self.output, modality)
        if not self.layers:
            network = LayersEncoder((flat_features(modality),), self, out_features, dropout)
            return nn.Sequential(flat(modality), network)
        self._check(modality, is_decoder=False)
        return LayersEncoder(modality.shape, self, out_features, dropout)

    def conditional_encoder(
        self,
        modality: Modality,
        out_features: int,
        covariates: Sequence[Covariate],
        dropout: float = 0.0,
    ) -> nn.Module:
        """Covariates beside the vectors that the first linear layer takes."""
        width, names = total_width(covariates), [c.name for c in covariates]
        if not self.layers:
            check_encoder(self.output, modality)
            network = LayersEncoder(
                (flat_features(modality) + width,), self, out_features, dropout
            )
            return ConditionalNetwork(flat(modality), network, names)
        encoder = self.encoder(modality, out_features, dropout)
        assert isinstance(encoder, LayersEncoder)
        parts = list(encoder)
        at = 1 + next(i for i, part in enumerate(parts) if isinstance(part, nn.Flatten))
        old = parts[at]
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features + width, old.out_features, bias=old.bias is not None)
        after = nn.Sequential(new, *parts[at + 1 :])
        return ConditionalNetwork(nn.Sequential(*parts[:at]), after, names)

    def decoder(self, in_features: int, modality: Modality) -> nn.Module:
        """A `LayersDecoder`."""
        if self.layers:
            self._check(modality, is_decoder=True)
        shape = modality.likelihood_part.outputs(modality.shape)
        return finish_decoder(LayersDecoder(in_features, self, shape), self.output, modality)

    def _check(self, modality: Modality, *, is_decoder: bool) -> None:
        sides: Sequence[int] = (0,)
        if len(modality.shape) == 3:
            side = modality.shape[1:]
            sides = (
                sides_before(self.layers, side)[0]
                if is_decoder
                else sides_after(self.layers, side)
            )
        if min(sides) < 1:
            msg = (
                f"the {len(self.layers)} convolutions of a layers network cannot take "
                f"{modality.name!r} of shape {modality.shape}: expected (channels, height, "
                "width), large enough for all kernels"
            )
            raise ConfigError(msg)


class BatchNorm(nn.Module):
    """Batch normalisation of features (rows, channels) or images (rows, channels, ...).

    In training by the moments of the batch, in evaluation by their running means, so that a row
    does not depend on the rows beside it. A single value per channel has no variance: such a
    batch is an error in training.

    Args:
        channels: length of the second axis.

    Examples:
        >>> BatchNorm(3).eval()(torch.ones(1, 3)).shape
        torch.Size([1, 3])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel.

        Raises:
            ConfigError: if a batch of one row is trained on and has one value per channel.
        """
        if self.training and x.numel() == x.shape[1]:
            msg = (
                "batch normalisation cannot train on batches of 1 row: use batch_size of 2 or more"
            )
            raise ConfigError(msg)
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training
        )


class LayersEncoder(nn.Sequential):
    """Convolutions, then linear layers; `Flatten` between them, activations after each but one.

    Args:
        shape: of one row, (channels, height, width) if there are convolutions.
        spec: the layers. A bias that batch normalisation would remove is left out.
        out_features: width of the output.
        dropout: share of channels and hidden units that are dropped in training.

    Examples:
        >>> spec = LayersNetwork(layers=[{"channels": 8}], hidden=[16])
        >>> LayersEncoder((1, 28, 28), spec, 5)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, shape: Sequence[int], spec: LayersNetwork, out_features: int, dropout: float = 0.0
    ) -> None:
        parts: list[nn.Module] = [ChannelsLast()] if spec.layers else []
        channels = shape[0]
        for layer in spec.layers:
            parts += [_conv(nn.Conv2d, channels, layer.channels, layer, _has_bias(spec))]
            parts += _activated(spec, layer.channels)
            parts += [nn.Dropout2d(dropout)] if dropout else []
            channels = layer.channels
        sides = sides_after(spec.layers, shape[1:]) if spec.layers else shape[1:]
        features = channels * math.prod(sides)
        parts += [nn.Flatten()]
        for width in spec.hidden:
            parts += [nn.Linear(features, width, bias=_has_bias(spec)), *_activated(spec, width)]
            parts += [nn.Dropout(dropout)] if dropout else []
            features = width
        super().__init__(*parts, nn.Linear(features, out_features))


class LayersDecoder(nn.Sequential):
    """Linear layers, then transposed convolutions that end at exactly `shape`.

    Each transposed convolution undoes a convolution of the same kernel, stride and padding: its
    output padding follows from the size that it has to reach.

    Args:
        in_features: width of the input.
        spec: the layers, from the latent side.
        shape: of one row of the output.
    """

    def __init__(self, in_features: int, spec: LayersNetwork, shape: Sequence[int]) -> None:
        parts: list[nn.Module] = []
        features = in_features
        for width in spec.hidden:
            parts += [nn.Linear(features, width, bias=_has_bias(spec)), *_activated(spec, width)]
            features = width
        sizes = sides_before(spec.layers, shape[1:])
        start = (spec.layers[0].channels, *sizes[0]) if spec.layers else tuple(shape)
        width = math.prod(start)
        if spec.activated and spec.layers:
            parts += [nn.Linear(features, width, bias=_has_bias(spec)), *_activated(spec, width)]
        else:
            parts += [nn.Linear(features, width)]
        parts += [nn.Unflatten(1, start)]
        for i, layer in enumerate(spec.layers):
            is_last = i + 1 == len(spec.layers)
            n_out = shape[0] if is_last else spec.layers[i + 1].channels
            conv = _conv(Transposed, layer.channels, n_out, layer, is_last or _has_bias(spec))
            conv.output_padding = _left_over(layer, sizes[i + 1])
            parts += [conv] if is_last else [conv, *_activated(spec, n_out)]
        super().__init__(*parts)


def sides_after(layers: Sequence[Layer], sides: Sequence[int]) -> tuple[int, ...]:
    """Height and width behind convolutions; below 1 where a kernel does not fit.

    Examples:
        >>> sides_after([Layer(channels=8)] * 4, (28, 28))
        (1, 1)
    """
    for layer in layers:
        span = _spans(layer, sides)
        sides = [n // s + 1 if n >= 0 else 0 for n, s in zip(span, layer.stride, strict=True)]
        if min(sides) < 1:
            break
    return tuple(sides)


def sides_before(layers: Sequence[Layer], sides: Sequence[int]) -> list[tuple[int, ...]]:
    """Height and width before each transposed convolution, and the given ones after the last.

    Examples:
        >>> sides_before([Layer(channels=8, kernel=(3, 3))] * 3, (28, 28))
        [(4, 4), (7, 7), (14, 14), (28, 28)]
    """
    sizes = [tuple(sides)]
    for layer in reversed(layers):
        sizes.append(sides_after([layer], sizes[-1]))
        if min(sizes[-1]) < 1:
            break
    return sizes[::-1]


def _spans(layer: Layer, sides: Sequence[int]) -> list[int]:
    """How far a kernel can move along each side."""
    measures = zip(sides, layer.padding, layer.kernel, strict=True)
    return [n + 2 * p - k for n, p, k in measures]


def _left_over(layer: Layer, sides: Sequence[int]) -> tuple[int, int]:
    height, width = (n % s for n, s in zip(_spans(layer, sides), layer.stride, strict=True))
    return height, width


def _has_bias(spec: LayersNetwork) -> bool:
    return spec.norm == "none"


def _activated(spec: LayersNetwork, channels: int) -> list[nn.Module]:
    norm = [BatchNorm(channels)] if spec.norm == "batch" else []
    return [*norm, ACTIVATIONS[spec.activation]()]


def _conv(
    kind: type[nn.Conv2d] | type[Transposed],
    n_in: int,
    n_out: int,
    layer: Layer,
    bias: bool,
) -> nn.Conv2d | Transposed:
    return kind(n_in, n_out, layer.kernel, layer.stride, layer.padding, bias=bias)
