"""How the heads of a joint encoder are merged, of complete rows and of rows that lack some."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from mvflow.core import ConfigError
from mvflow.nn import MLP

__all__ = ["MaskedMerge", "Merge", "head_width", "merge_network"]

Merge = Iterable[int] | Literal["concat", "sum"]
"""Widths of hidden layers, or a way without any."""


def head_width(latent_dim: int, modalities: int, merge: Merge) -> int:
    """Features that each head of q(z|X) has: location and log-scale of z, or of its part.

    Raises:
        ConfigError: if the heads are to be concatenated and z has no equal part for each.

    Examples:
        >>> head_width(200, 5, (512, 512)), head_width(200, 5, "concat")
        (400, 80)
    """
    if merge != "concat":
        return 2 * latent_dim
    if latent_dim % modalities:
        msg = (
            f"latent_dim {latent_dim} cannot be shared out among {modalities} modalities: "
            'joint.merge="concat" needs a multiple of their number'
        )
        raise ConfigError(msg)
    return 2 * latent_dim // modalities


def merge_network(merge: Merge, modalities: int, latent_dim: int, *, masked: bool) -> nn.Module:
    """From the heads' features side by side to locations and log-scales (rows, 2 latent_dim).

    With `masked` it is a `MaskedMerge`, which is called with the presence of each modality too.
    """
    width = 2 * latent_dim
    if isinstance(merge, str):
        network: nn.Module = {"concat": _Concat, "sum": _Sum}[merge](modalities)
    else:
        hidden = tuple(merge)
        network = MLP(width * modalities + modalities * (masked and bool(hidden)), *hidden, width)
    return MaskedMerge(network, modalities, latent_dim) if masked else network


class _Concat(nn.Module):
    """The locations of all heads side by side, then their log-scales."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, features: Tensor) -> Tensor:
        return features.unflatten(-1, (self.heads, 2, -1)).transpose(-3, -2).flatten(-3)


class _Sum(nn.Module):
    """The sum of all heads."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, features: Tensor) -> Tensor:
        return features.unflatten(-1, (self.heads, -1)).sum(-2)


class MaskedMerge(nn.Module):
    """Merges the heads of what a row has: the others are 0, and flags say which are there.

    Hidden layers see the flags beside the features. A sum, or a linear map, is of the heads that
    are there; its locations are stretched and its log-scales shifted by what is absent, each
    dimension by learned amounts, as the posterior of a linear model is where less is observed.
    Both begin at no change, and do nothing in complete rows. Heads side by side need no flags: the
    part of z of an absent one stays at the prior.

    Args:
        network: merges the features.
        modalities: number of heads.
        latent_dim: dimension of z.

    Examples:
        >>> merge = merge_network("sum", 2, 1, masked=True)
        >>> heads = torch.tensor([[1.0, 0.5, 2.0, 0.25]])
        >>> merge(heads, torch.tensor([[True, False]])).tolist()
        [[1.0, 0.5]]
    """

    def __init__(self, network: nn.Module, modalities: int, latent_dim: int) -> None:
        super().__init__()
        self.network, self.modalities = network, modalities
        self.sees_flags = isinstance(network, MLP) and len(network) > 1
        self.is_stretched = isinstance(network, _Sum | MLP) and not self.sees_flags
        if self.is_stretched:
            self.stretch = nn.Parameter(torch.zeros(modalities, latent_dim))
            self.shift = nn.Parameter(torch.zeros(modalities, latent_dim))

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Merge the features (rows, modalities * width) of what is present (rows, modalities)."""
        each = features.unflatten(-1, (self.modalities, -1))
        seen = torch.where(present[..., None], each, 0.0).flatten(-2)
        if self.sees_flags:
            merged: Tensor = self.network(torch.cat([seen, present.to(seen)], -1))
            return merged
        merged = self.network(seen)
        if not self.is_stretched:
            return merged
        absent = (~present).to(seen)
        loc, log_scale = merged.chunk(2, -1)
        return torch.cat(
            [loc * (absent @ self.stretch).exp(), log_scale + absent @ self.shift], -1
        )
