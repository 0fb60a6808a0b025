"""Residual networks for images (paper Figure E.18, as published with MMVAE+)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from mvflow.core import Modality
from mvflow.nn.base import Network, Output, check_encoder, finish_decoder
from mvflow.nn.convolutions import ChannelsLast, check_image, halved

__all__ = ["ResNetwork", "ResidualBlock", "ResidualDecoder", "ResidualEncoder"]

SLOPE = 0.2
SHARE = 0.1
"""A block adds this share of its convolutions to its input."""


class ResidualBlock(nn.Module):
    """x + 0.1 f(x), where f is two 3x3 convolutions, each after a leaky ReLU.

    Where the number of channels changes, a 1x1 convolution without bias carries x over.

    Args:
        n_in: channels that go in.
        n_out: channels that come out.

    Examples:
        >>> ResidualBlock(2, 3)(torch.zeros(1, 2, 5, 5)).shape
        torch.Size([1, 3, 5, 5])
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        n_hidden = min(n_in, n_out)
        self.first = nn.Conv2d(n_in, n_hidden, 3, padding=1)
        self.second = nn.Conv2d(n_hidden, n_out, 3, padding=1)
        self.shortcut = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (rows, n_in, height, width) to (rows, n_out, height, width)."""
        hidden = self.first(leaky_relu(x, SLOPE))
        change = self.second(leaky_relu(hidden, SLOPE, inplace=True))
        return torch.add(self.shortcut(x), change, alpha=SHARE)


class ResidualEncoder(nn.Sequential):
    """Blocks of growing width with halving averages between them, then a linear layer.

    Args:
        shape: (channels, height, width); each halving needs height and width to be even.
        channels: widths of the blocks, one more than there are halvings.
        out_features: width of the output.
        dropout: share of channels that are dropped after each block in training.

    Examples:
        >>> ResidualEncoder((3, 28, 28), (4, 8, 16), 5)(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        out_features: int,
        dropout: float = 0.0,
    ) -> None:
        layers: list[nn.Module] = [nn.Conv2d(shape[0], channels[0], 3, padding=1)]
        for n_in, n_out in pairwise((channels[0], *channels)):
            layers += [nn.AvgPool2d(3, 2, 1)] if len(layers) > 1 else []
            layers += [ResidualBlock(n_in, n_out)]
            layers += [nn.Dropout2d(dropout)] if dropout else []
        height, width = halved(shape, len(channels) - 1)
        last = nn.Linear(channels[-1] * height * width, out_features)
        super().__init__(ChannelsLast(), *layers, nn.Flatten(), last)


class ResidualDecoder(nn.Sequential):
    """From (rows, features) to images: a linear layer, then blocks with doublings between them.

    Args:
        in_features: width of the input.
        channels: widths of the blocks from the latent side.
        shape: (channels, height, width) of the output.
    """

    def __init__(self, in_features: int, channels: Sequence[int], shape: Sequence[int]) -> None:
        height, width = halved(shape, len(channels) - 1)
        layers: list[nn.Module] = [
            nn.Linear(in_features, channels[0] * height * width),
            nn.Unflatten(1, (channels[0], height, width)),
        ]
        for n_in, n_out in pairwise(channels):
            layers += [ResidualBlock(n_in, n_out), nn.Upsample(scale_factor=2)]
        layers += [ResidualBlock(channels[-1], channels[-1]), nn.LeakyReLU(SLOPE)]
        super().__init__(*layers, nn.Conv2d(channels[-1], shape[0], 3, padding=1))


class ResNetwork(Network):
    """Residual blocks of the given widths with a halving between each two (paper Figure E.18).

    Examples:
        >>> network = ResNetwork(channels=(4, 8, 16)).encoder(Modality("image", (3, 28, 28)), 5)
        >>> network(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    channels: tuple[PositiveInt, ...] = (64, 128, 256)
    """Widths of the blocks; for a decoder from the latent side, as (256, 128, 64)."""
    output: Output = "identity"
    """What ends a decoder."""

    def encoder(self, modality: Modality, out_features: int, dropout: float = 0.0) -> nn.Module:
        """A `ResidualEncoder`."""
        check_encoder(self.output, modality)
        check_image("resnet", self.channels, len(self.channels) - 1, modality)
        return ResidualEncoder(modality.shape, self.channels, out_features, dropout)

    def decoder(self, in_features: int, modality: Modality) -> nn.Module:
        """A `ResidualDecoder`."""
        check_image("resnet", self.channels, len(self.channels) - 1, modality)
        shape = modality.likelihood_part.outputs(modality.shape)
        body = ResidualDecoder(in_features, self.channels, shape)
        return finish_decoder(body, self.output, modality)
