"""Encoders and decoders: plain networks from rows to features and back (paper Appendix E)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from mvflow.config import ConvNetwork, LayersNetwork, MLPNetwork, Network, ResNetwork
from mvflow.core import ConfigError, Modality
from mvflow.nn.convolutions import Covering, Transposed, Uncovering
from mvflow.nn.layers import LayersDecoder, LayersEncoder, sides_after, sides_before
from mvflow.nn.residual import ResidualDecoder, ResidualEncoder

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "OneHot",
    "Standardise",
    "build_decoder",
    "build_encoder",
    "flat",
]


class MLP(nn.Sequential):
    """Linear layers with ReLU between them.

    Args:
        features: widths from input to output.
        dropout: share of hidden units that are dropped in training.

    Examples:
        >>> import torch
        >>> MLP(3, 8, 2)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, *features: int, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for n_in, n_out in zip(features, features[1:-1], strict=False):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
        super().__init__(*layers, nn.Linear(features[-2], features[-1]))


class ConvEncoder(nn.Module):
    """Halving convolutions, then one that covers what is left (SVHN encoder of Table E.6).

    Args:
        shape: (channels, height, width); each layer needs height and width to be even.
        channels: output channels of the halving layers.
        out_features: width of the output.
        dropout: share of hidden channels that are dropped in training.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        out_features: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        rest = _halved(shape, channels)
        layers: list[nn.Module] = []
        for n_in, n_out in zip((shape[0], *channels), channels, strict=False):
            layers += [nn.Conv2d(n_in, n_out, 4, 2, 1), nn.ReLU(inplace=True)]
            layers += [nn.Dropout2d(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers, Covering(channels[-1], out_features, rest))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (rows, channels, height, width) to features (rows, out_features)."""
        return self.layers(x)


class ConvDecoder(nn.Module):
    """Mirror of `ConvEncoder`: from (rows, features) to (rows, channels, height, width)."""

    def __init__(self, in_features: int, channels: Sequence[int], shape: Sequence[int]) -> None:
        super().__init__()
        rest = _halved(shape, channels)
        layers: list[nn.Module] = [Uncovering(in_features, channels[0], rest), nn.ReLU()]
        for n_in, n_out in zip(channels, (*channels[1:], shape[0]), strict=True):
            layers += [Transposed(n_in, n_out, 4, 2, 1), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        """Map features to images, laid out in memory with channels last."""
        return self.layers(z)


class OneHot(nn.Module):
    """Class numbers (rows,) as indicators (rows, classes); class probabilities stay as they are.

    Examples:
        >>> import torch
        >>> OneHot(3)(torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Map integers to indicators."""
        return x if x.is_floating_point() else nn.functional.one_hot(x, self.classes).float()


class Standardise(nn.Module):
    """Features with the mean and standard deviation of given rows brought to 0 and 1.

    Args:
        features: width of the input.

    Examples:
        >>> import torch
        >>> layer = Standardise(1)
        >>> layer.fit(lambda: [torch.tensor([[1.0]]), torch.tensor([[3.0]])])
        >>> layer(torch.tensor([[3.0]]))
        tensor([[1.]])
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    @torch.no_grad()
    def fit(self, blocks: Callable[[], Iterable[Tensor]]) -> None:
        """Take the moments of rows; constant features are only centred.

        Args:
            blocks: gives the rows, a block (rows, features) at a time; it is called twice, so
                that they need not all be in memory.
        """
        count, total = 0, torch.zeros(len(self.mean), dtype=torch.float64)
        for x in blocks():
            count, total = count + len(x), total + x.cpu().double().sum(0)
        mean, square = total / count, torch.zeros_like(total)
        for x in blocks():
            square += (x.cpu().double() - mean).square().sum(0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(square > 0, (square / count).sqrt(), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise rows of features."""
        return (x - self.mean) / self.std


def flat(modality: Modality) -> nn.Module:
    """Module from rows of `modality` to vectors (rows, size)."""
    return OneHot(modality.size) if modality.likelihood == "categorical" else nn.Flatten()


def build_encoder(
    spec: Network, modality: Modality, out_features: int, dropout: float = 0.0
) -> nn.Module:
    """Network from rows (rows, *shape) of `modality` to features (rows, out_features).

    Raises:
        ConfigError: if the network cannot take rows of that shape.
    """
    match spec:
        case MLPNetwork():
            mlp = MLP(modality.size, *spec.hidden, out_features, dropout=dropout)
            return nn.Sequential(flat(modality), mlp)
        case ConvNetwork():
            _check_image(spec.kind, len(spec.channels), spec.channels, modality)
            return ConvEncoder(modality.shape, spec.channels, out_features, dropout)
        case ResNetwork():
            _check_image(spec.kind, len(spec.channels) - 1, spec.channels, modality)
            return ResidualEncoder(modality.shape, spec.channels, out_features, dropout)
        case LayersNetwork(layers=()):
            network = LayersEncoder((modality.size,), spec, out_features, dropout)
            return nn.Sequential(flat(modality), network)
        case LayersNetwork():
            _check_layers(spec, modality, is_decoder=False)
            return LayersEncoder(modality.shape, spec, out_features, dropout)


def build_decoder(spec: Network, in_features: int, modality: Modality) -> nn.Module:
    """Network from (rows, in_features) to the parameters (rows, *shape) of p(x|z)."""
    body: nn.Module
    match spec:
        case MLPNetwork():
            mlp = MLP(in_features, *spec.hidden, modality.size)
            body = nn.Sequential(mlp, nn.Unflatten(1, modality.shape))
        case ConvNetwork():
            _check_image(spec.kind, len(spec.channels), spec.channels, modality)
            body = ConvDecoder(in_features, spec.channels, modality.shape)
        case ResNetwork():
            _check_image(spec.kind, len(spec.channels) - 1, spec.channels, modality)
            body = ResidualDecoder(in_features, spec.channels, modality.shape)
        case LayersNetwork():
            _check_layers(spec, modality, is_decoder=True)
            body = LayersDecoder(in_features, spec, modality.shape)
    return nn.Sequential(body, nn.Sigmoid()) if spec.output == "sigmoid" else body


def _halved(shape: Sequence[int], channels: Sequence[int]) -> tuple[int, int]:
    return shape[1] >> len(channels), shape[2] >> len(channels)


def _check_image(kind: str, halvings: int, channels: Sequence[int], modality: Modality) -> None:
    if not channels:
        msg = f"the {kind} network of {modality.name!r} has no layers: name their channels"
        raise ConfigError(msg)
    step = 1 << halvings
    if len(modality.shape) != 3 or any(n % step for n in modality.shape[1:]):
        msg = (
            f"a {kind} network with {len(channels)} layers cannot take {modality.name!r} of "
            f"shape {modality.shape}: expected (channels, height, width), both multiples of {step}"
        )
        raise ConfigError(msg)


def _check_layers(spec: LayersNetwork, modality: Modality, *, is_decoder: bool) -> None:
    if not spec.layers:
        return
    sides: Sequence[int] = (0,)
    if len(modality.shape) == 3:
        side = modality.shape[1:]
        sides = (
            sides_before(spec.layers, side)[0] if is_decoder else sides_after(spec.layers, side)
        )
    if min(sides) < 1:
        msg = (
            f"the {len(spec.layers)} convolutions of a layers network cannot take "
            f"{modality.name!r} of shape {modality.shape}: expected (channels, height, width), "
            "large enough for all kernels"
        )
        raise ConfigError(msg)
