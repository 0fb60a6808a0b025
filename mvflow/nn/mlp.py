"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import PositiveInt
from torch import nn

from mvflow.core import Covariate, Modality
from mvflow.nn.base import Network, Output, check_encoder, finish_decoder
from mvflow.nn.covariates import ConditionalNetwork, total_width
from mvflow.nn.inputs import flat, flat_features

__all__ = ["MLP", "MLPNetwork"]


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


class MLPNetwork(Network):
    """Fully connected layers with ReLU between them, for rows of any shape.

    Examples:
        >>> import torch
        >>> network = MLPNetwork(hidden=(16,)).encoder(Modality("image", (1, 4, 4)), 3)
        >>> network(torch.zeros(2, 1, 4, 4)).shape
        torch.Size([2, 3])
    """

    hidden: tuple[PositiveInt, ...] = (128,)
    """Widths of the hidden layers."""
    output: Output = "identity"
    """What ends a decoder."""

    def encoder(self, modality: Modality, out_features: int, dropout: float = 0.0) -> nn.Module:
        """Rows as vectors, then an `MLP`."""
        check_encoder(self.output, modality)
        mlp = MLP(flat_features(modality), *self.hidden, out_features, dropout=dropout)
        return nn.Sequential(flat(modality), mlp)

    def conditional_encoder(
        self,
        modality: Modality,
        out_features: int,
        covariates: Sequence[Covariate],
        dropout: float = 0.0,
    ) -> nn.Module:
        """Rows as vectors and covariates beside them, then an `MLP`."""
        check_encoder(self.output, modality)
        width = flat_features(modality) + total_width(covariates)
        network = MLP(width, *self.hidden, out_features, dropout=dropout)
        return ConditionalNetwork(flat(modality), network, [c.name for c in covariates])

    def decoder(self, in_features: int, modality: Modality) -> nn.Module:
        """An `MLP`, whose vectors take the shape of the outputs."""
        shape = modality.likelihood_part.outputs(modality.shape)
        body = nn.Sequential(
            MLP(in_features, *self.hidden, math.prod(shape)), nn.Unflatten(1, shape)
        )
        return finish_decoder(body, self.output, modality)
