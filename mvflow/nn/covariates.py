"""Networks that see covariates beside their input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mvflow.core import Covariate, UsageError

__all__ = ["ConditionalNetwork", "SummedNetwork", "encode_rows", "join_covariates", "total_width"]


def total_width(covariates: Sequence[Covariate]) -> int:
    """Features that all covariates have together."""
    return sum(c.width for c in covariates)


def join_covariates(names: Sequence[str], covariates: Mapping[str, Tensor] | None) -> Tensor:
    """The named covariates side by side, (..., width).

    Raises:
        UsageError: if one is not given.

    Examples:
        >>> age, batch = torch.zeros(2, 1), torch.ones(2, 3)
        >>> join_covariates(["age", "batch"], {"batch": batch, "age": age})
        tensor([[0., 1., 1., 1.],
                [0., 1., 1., 1.]])
    """
    given = covariates or {}
    for name in names:
        if name not in given:
            msg = f"the model has the covariate {name!r}: give covariates={{{name!r}: values}}"
            raise UsageError(msg)
    return torch.cat([given[name] for name in names], -1)


class ConditionalNetwork(nn.Module):
    """An encoder of rows and covariates: these go beside what the first layers make of rows.

    Args:
        first: from rows to vectors (rows, width).
        last: from vectors and covariates side by side to features.
        covariates: their names, in the order in which they stand.

    Examples:
        >>> network = ConditionalNetwork(nn.Flatten(), nn.Linear(6, 2), ["batch"])
        >>> network(torch.zeros(5, 2, 2), {"batch": torch.zeros(5, 2)}).shape
        torch.Size([5, 2])
    """

    takes_covariates = True

    def __init__(self, first: nn.Module, last: nn.Module, covariates: Sequence[str]) -> None:
        super().__init__()
        self.first, self.last, self.covariates = first, last, tuple(covariates)

    def forward(self, x: Tensor, covariates: Mapping[str, Tensor] | None) -> Tensor:
        """Features (rows, width)."""
        joined = join_covariates(self.covariates, covariates)
        output: Tensor = self.last(torch.cat([self.first(x), joined], -1))
        return output


class SummedNetwork(nn.Module):
    """Features of rows plus a linear map of covariates.

    For a network that ends in a linear layer it is the same as to lay covariates beside the input
    of that layer.

    Args:
        network: from rows to features (rows, features).
        linear: from covariates to as many features.
        covariates: their names, in the order in which they stand.
    """

    takes_covariates = True

    def __init__(self, network: nn.Module, linear: nn.Linear, covariates: Sequence[str]) -> None:
        super().__init__()
        self.network, self.linear, self.covariates = network, linear, tuple(covariates)

    def forward(self, x: Tensor, covariates: Mapping[str, Tensor] | None) -> Tensor:
        """Features (rows, width)."""
        output: Tensor = self.network(x) + self.linear(
            join_covariates(self.covariates, covariates)
        )
        return output


def encode_rows(network: nn.Module, x: Tensor, covariates: Mapping[str, Tensor] | None) -> Tensor:
    """Features of rows by a network that may see covariates, or not."""
    takes_covariates = getattr(network, "takes_covariates", False)
    features: Tensor = network(x, covariates) if takes_covariates else network(x)
    return features
