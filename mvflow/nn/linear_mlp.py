"""Fully connected networks with a linear path beside the hidden layers, for tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mvflow.core import Covariate, Modality
from mvflow.nn.base import Network, Output, check_encoder, finish_decoder
from mvflow.nn.covariates import ConditionalNetwork, total_width
from mvflow.nn.inputs import flat, flat_features
from mvflow.nn.mlp import MLP

__all__ = ["LinearMLP", "LinearMLPNetwork"]


class LinearMLP(nn.Module):
    """W x + MLP(x): what is linear need not pass through the hidden layers.

    Args:
        features: widths from input to output.
        dropout: share of hidden units that are dropped in training; the linear path has none.

    Examples:
        >>> import torch
        >>> LinearMLP(3, 8, 2)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, *features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(features[0], features[-1], bias=False)  # the MLP's last has one
        self.mlp = MLP(*features, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Sum of both paths."""
        total: Tensor = self.linear(x) + self.mlp(x)
        return total


class LinearMLPNetwork(Network):
    """An MLP with a linear path beside it, for rows of any shape.

    Examples:
        >>> import torch
        >>> network = LinearMLPNetwork(hidden=(16,)).encoder(Modality("rna", (50,)), 3)
        >>> network(torch.zeros(2, 50)).shape
        torch.Size([2, 3])
    """

    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (128,)
    """Widths of the hidden layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of hidden units that are dropped in training, of encoders and decoders; a projector's
    own setting replaces it where that is larger."""
    output: Output = "identity"
    """What ends a decoder."""

    def encoder(self, modality: Modality, out_features: int, dropout: float = 0.0) -> nn.Module:
        """Rows as vectors, then a `LinearMLP`."""
        check_encoder(self.output, modality)
        share = max(dropout, self.dropout)
        network = LinearMLP(flat_features(modality), *self.hidden, out_features, dropout=share)
        return nn.Sequential(flat(modality), network)

    def conditional_encoder(
        self,
        modality: Modality,
        out_features: int,
        covariates: Sequence[Covariate],
        dropout: float = 0.0,
    ) -> nn.Module:
        """Rows as vectors and covariates beside them, then a `LinearMLP`."""
        check_encoder(self.output, modality)
        width = flat_features(modality) + total_width(covariates)
        network = LinearMLP(width, *self.hidden, out_features, dropout=max(dropout, self.dropout))
        return ConditionalNetwork(flat(modality), network, [c.name for c in covariates])

    def decoder(self, in_features: int, modality: Modality) -> nn.Module:
        """A `LinearMLP`, whose vectors take the shape of the outputs."""
        shape = modality.likelihood_part.outputs(modality.shape)
        network = LinearMLP(in_features, *self.hidden, math.prod(shape), dropout=self.dropout)
        return finish_decoder(
            nn.Sequential(network, nn.Unflatten(1, shape)), self.output, modality
        )
