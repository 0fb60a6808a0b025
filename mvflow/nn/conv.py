"""Halving convolutions and their mirror (SVHN networks of paper Table E.6)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn

from mvflow.core import Modality
from mvflow.nn.base import Network, Output, check_encoder, finish_decoder
from mvflow.nn.convolutions import (
    FullKernelConv2d,
    FullKernelConvTranspose2d,
    Transposed,
    check_image,
    halved,
)

__all__ = ["ConvDecoder", "ConvEncoder", "ConvNetwork"]


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
        kernel = halved(shape, len(channels))
        layers: list[nn.Module] = []
        for n_in, n_out in zip((shape[0], *channels), channels, strict=False):
            layers += [nn.Conv2d(n_in, n_out, 4, 2, 1), nn.ReLU(inplace=True)]
            layers += [nn.Dropout2d(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers, FullKernelConv2d(channels[-1], out_features, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (rows, channels, height, width) to features (rows, out_features)."""
        return self.layers(x)


class ConvDecoder(nn.Module):
    """Mirror of `ConvEncoder`: from (rows, features) to (rows, channels, height, width)."""

    def __init__(self, in_features: int, channels: Sequence[int], shape: Sequence[int]) -> None:
        super().__init__()
        kernel = halved(shape, len(channels))
        layers: list[nn.Module] = [
            FullKernelConvTranspose2d(in_features, channels[0], kernel),
            nn.ReLU(),
        ]
        for n_in, n_out in zip(channels, (*channels[1:], shape[0]), strict=True):
            layers += [Transposed(n_in, n_out, 4, 2, 1), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        """Map features to images, laid out in memory with channels last."""
        return self.layers(z)


class ConvNetwork(Network):
    """Strided 4x4 convolutions, each halving height and width (SVHN of paper Table E.6).

    Examples:
        >>> import torch
        >>> decoder = ConvNetwork(channels=(8, 4)).decoder(5, Modality("image", (3, 8, 12)))
        >>> decoder(torch.zeros(2, 5)).shape
        torch.Size([2, 3, 8, 12])
    """

    channels: tuple[PositiveInt, ...] = (32, 64, 128)
    """Output channels of the convolutions; for a decoder from the latent side."""
    output: Output = "identity"
    """What ends a decoder."""

    def encoder(self, modality: Modality, out_features: int, dropout: float = 0.0) -> nn.Module:
        """A `ConvEncoder`."""
        check_encoder(self.output, modality)
        check_image("conv", self.channels, len(self.channels), modality)
        return ConvEncoder(modality.shape, self.channels, out_features, dropout)

    def decoder(self, in_features: int, modality: Modality) -> nn.Module:
        """A `ConvDecoder`."""
        check_image("conv", self.channels, len(self.channels), modality)
        shape = modality.likelihood_part.outputs(modality.shape)
        body = ConvDecoder(in_features, self.channels, shape)
        return finish_decoder(body, self.output, modality)
