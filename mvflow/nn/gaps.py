"""Encoders of rows whose values may be absent: these get the training mean, and a flag each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mvflow.core import Covariate, Modality
from mvflow.core.parts import Kind, create
from mvflow.nn.base import Network

__all__ = ["GapsEncoder", "GapsNetwork", "accepting_gaps"]

FLAGS = "absent"


class GapsEncoder(nn.Module):
    """An encoder that sees flags beside rows, and in place of what is absent the training mean.

    Args:
        network: from rows and covariates, of which `flags` is one, to features.
        modality: name of the modality.
        shape: of one row.
        hide: mean share of the values that are hidden in training, too; any from none to twice
            as many of a row, so that rows with larger gaps than those of training are no news.
        flags: name by which the network knows the flags.

    Examples:
        >>> encoder = GapsNetwork().encoder(Modality("rna", (3,)), 2)
        >>> encoder.measure(lambda: [torch.tensor([[1.0, 2.0, torch.nan], [3.0, 4.0, 5.0]])])
        >>> encoder.fill
        tensor([2., 3., 5.])
        >>> encoder.eval()(torch.tensor([[torch.nan, 2.0, 3.0]])).shape
        torch.Size([1, 2])
    """

    takes_covariates = True

    def __init__(
        self,
        network: nn.Module,
        modality: str,
        shape: tuple[int, ...],
        hide: float,
        flags: str = FLAGS,
    ) -> None:
        super().__init__()
        self.network, self.modality, self.hide, self.flags = network, modality, hide, flags
        self.fill: Tensor
        self.register_buffer("fill", torch.zeros(shape))

    @torch.no_grad()
    def measure(self, blocks: Callable[[], Iterable[Tensor]]) -> None:
        """Take the mean of each value over the training rows that have it.

        Args:
            blocks: gives the rows, some at a time, with NaN where a value is absent.
        """
        total = torch.zeros_like(self.fill, dtype=torch.float64)
        count = torch.zeros_like(total)
        for x in blocks():
            total = total + x.double().nansum(0)
            count = count + (~x.isnan()).sum(0)
        self.fill.copy_(torch.where(count > 0, total / count.clamp_min(1), 0.0))

    def forward(self, x: Tensor, covariates: Mapping[str, Tensor] | None = None) -> Tensor:
        """Features of rows in which NaN stands for what is absent."""
        absent = x.isnan()
        if self.training and self.hide:
            share = 2 * self.hide * torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device)
            absent = absent | (torch.rand(x.shape, device=x.device) < share)
        x = torch.where(absent, self.fill.to(x.dtype), x)
        flags = absent.flatten(1).to(x.dtype)
        features: Tensor = self.network(x, {**(covariates or {}), self.flags: flags})
        return features


class GapsNetwork(Network):
    """Any other network, as an encoder of rows with gaps; its decoder is that of the other.

    Vectors see the flags beside their values, images beside the input of the last layer.

    Examples:
        >>> network = GapsNetwork(network={"kind": "mlp", "hidden": [16]})
        >>> network.encoder(Modality("rna", (50,)), 3)(torch.full((2, 50), torch.nan)).shape
        torch.Size([2, 3])
    """

    network: Annotated[Any, Kind("networks")] = Field(
        default_factory=lambda: create("networks", "mlp")
    )
    """The network itself."""
    hide: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """Mean share of the values of a row that its encoder does not see in training."""

    def encoder(self, modality: Modality, out_features: int, dropout: float = 0.0) -> nn.Module:
        """The network's encoder, which sees flags besides."""
        return self.conditional_encoder(modality, out_features, (), dropout)

    def conditional_encoder(
        self,
        modality: Modality,
        out_features: int,
        covariates: Sequence[Covariate],
        dropout: float = 0.0,
    ) -> nn.Module:
        """The network's encoder, which sees covariates and flags besides."""
        shape = tuple(modality.likelihood_part.row_shape(modality.shape))
        name = FLAGS
        while name in {c.name for c in covariates}:
            name = f"{name}-"
        flags = Covariate(name, tuple(map(str, range(math.prod(shape)))))
        network = self.network.conditional_encoder(
            modality, out_features, (*covariates, flags), dropout
        )
        return GapsEncoder(network, modality.name, shape, self.hide, name)

    def decoder(self, in_features: int, modality: Modality) -> nn.Module:
        """The network's decoder."""
        decoder: nn.Module = self.network.decoder(in_features, modality)
        return decoder


def accepting_gaps(network: Network) -> Network:
    """The network, as an encoder of rows whose values may be absent.

    Examples:
        >>> from mvflow.nn import MLPNetwork
        >>> accepting_gaps(MLPNetwork()).network.kind
        'mlp'
        >>> accepting_gaps(GapsNetwork()) == GapsNetwork()
        True
    """
    return network if isinstance(network, GapsNetwork) else GapsNetwork(network=network)
