"""Convolutions that give what torch's give, at less cost; which images can be halved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mvflow.core import ConfigError, Modality

__all__ = [
    "ChannelsLast",
    "FullKernelConv2d",
    "FullKernelConvTranspose2d",
    "Transposed",
    "check_image",
    "halved",
]


class ChannelsLast(nn.Module):
    """The same images with the channels of a pixel side by side in memory: faster convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """Values and shape stay."""
        return x.contiguous(memory_format=torch.channels_last)


class FullKernelConv2d(nn.Conv2d):
    """A convolution whose kernel covers its input: a matrix, and far faster as such."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (rows, channels, *kernel_size) to (rows, out_channels)."""
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return nn.functional.linear(x.permute(0, 2, 3, 1).flatten(1), weight, self.bias)


class FullKernelConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of a single pixel: a matrix, and far faster as such."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (rows, channels) to (rows, out_channels, *kernel_size), channels last in memory."""
        assert self.bias is not None
        weight = self.weight.permute(0, 2, 3, 1)
        out = (x @ weight.flatten(1)).unflatten(1, weight.shape[1:]) + self.bias
        return out.permute(0, 3, 1, 2)


class Transposed(nn.ConvTranspose2d):
    """A transposed convolution that adds its bias afterwards.

    Within the convolution, in bfloat16 on a CPU, it adds a third to one and a half times of what
    the gradient by the weights costs.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map images (rows, channels, height, width) to images."""
        assert isinstance(self.padding, tuple)
        out = nn.functional.conv_transpose2d(
            x, self.weight, None, self.stride, self.padding, self.output_padding
        )
        return out if self.bias is None else out.add_(self.bias.to(out.dtype)[:, None, None])


def halved(shape: Sequence[int], times: int) -> tuple[int, int]:
    """Height and width of images (channels, height, width) after so many halvings.

    Examples:
        >>> halved((3, 32, 16), 3)
        (4, 2)
    """
    return shape[1] >> times, shape[2] >> times


def check_image(kind: str, channels: Sequence[int], halvings: int, modality: Modality) -> None:
    """Refuse rows that a network of `kind` cannot halve so many times.

    Raises:
        ConfigError: if there are no channels, or `modality` has no images that can be halved.
    """
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
