"""First layers of networks: rows as vectors, and their standardisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mvflow.core import Modality

__all__ = ["MeasuredInputs", "OneHot", "Standardise", "flat", "flat_features"]


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


class MeasuredInputs(nn.Module):
    """Base of first layers that take something of all training rows before a stage begins."""

    def measure(self, blocks: Callable[[], Iterable[Tensor]]) -> None:
        """Take what is needed.

        Args:
            blocks: gives the rows, some at a time, with NaN where a value is absent; it may be
                called more than once.
        """
        raise NotImplementedError


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
    """Module from rows of `modality` to vectors (rows, flat_features), as its likelihood says."""
    module: nn.Module = modality.likelihood_part.flat(modality.shape)
    return module


def flat_features(modality: Modality) -> int:
    """Width of the vectors that `flat` makes."""
    width: int = modality.likelihood_part.flat_features(modality.shape)
    return width
