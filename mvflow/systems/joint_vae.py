"""The joint VAE: one Gaussian encoder of all modalities, one decoder each (paper 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from zuko.distributions import DiagNormal

from mvflow.core import ConfigError, Modality, Observed, rescale_weights
from mvflow.functional import normal_kl_standard, squared_correlations
from mvflow.nn import MLP, ModalityDict, encode_rows, join_covariates, upcast_to_float32
from mvflow.stages import Losses
from mvflow.systems.decoders import Decoders

__all__ = ["JointVAE", "head_width"]

BLOCK_ROWS = 2048
"""Rows of which moments are taken at once."""


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


class JointVAE(nn.Module):
    """p(X, z) = N(z; 0, I) prod_j p(x_j|z), with a Gaussian q(z|X) (Eq. 1 and 3).

    q(z|X) has separate heads for the modalities, merged by a small MLP (Table E.6) or laid side by
    side (Appendix E.3).

    Args:
        modalities: their specifications; kept sorted by name, so no order matters.
        heads: name -> network from rows to (rows, `head_width`) features.
        decoders: p(x_j|z) of all modalities.
        latent_dim: dimension of z.
        merge: widths of the hidden layers that merge the heads, or "concat" or "sum".
    """

    def __init__(
        self,
        modalities: Iterable[Modality],
        heads: Mapping[str, nn.Module],
        decoders: Decoders,
        latent_dim: int,
        merge: Merge = (512, 512),
    ) -> None:
        super().__init__()
        self.modalities = tuple(sorted(modalities, key=lambda m: m.name))
        self.latent_dim = latent_dim
        self.weights = rescale_weights(self.modalities)
        self.heads = ModalityDict(heads)
        self.decoders = decoders
        count, width = len(self.modalities), 2 * latent_dim
        self.is_additive = merge == "sum"
        ways = {"concat": _Concat, "sum": _Sum}
        self.merge = (
            ways[merge](count) if isinstance(merge, str) else MLP(width * count, *merge, width)
        )
        self.radius: Tensor
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("radius", torch.tensor(torch.inf))
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.ones(latent_dim))

    def posterior(
        self, x: Mapping[str, Tensor], covariates: Mapping[str, Tensor] | None = None
    ) -> DiagNormal:
        """q(z|X) for rows of all modalities: batch shape (rows,), event shape (latent_dim,)."""
        features = [encode_rows(head, x[name], covariates) for name, head in self.heads.items()]
        loc, log_scale = upcast_to_float32(self.merge(torch.cat(features, -1))).chunk(2, -1)
        return DiagNormal(loc, (7 * torch.tanh(log_scale / 7)).exp())

    def losses(
        self, observed: Observed, beta: float | Tensor = 1.0, independence: float = 0.0
    ) -> Losses:
        """Minus the ELBO with lambda_j and beta (Eq. 3), from one draw of z per row.

        Args:
            observed: rows of all modalities.
            beta: factor of the divergence.
            independence: factor of the squared correlations, over the rows, of the means of
                q(z|X) with the covariates; nothing where there are none.
        """
        q = self.posterior(observed.x, observed.covariates)
        z = q.rsample()
        kl = normal_kl_standard(q.base_dist.loc, q.base_dist.scale).mean()
        total, terms = beta * kl, {"kl": kl}
        for name, fit in self.decoders.log_prob(z, observed).items():
            terms[name] = fit.mean()
            total = total - self.weights[name] * terms[name]
        terms["elbo"] = sum(terms[m.name] for m in self.modalities) - kl
        names = self.decoders.covariates
        if independence and names:
            covariates = join_covariates(names, observed.covariates)
            terms["dependence"] = squared_correlations(q.base_dist.loc, covariates)
            total = total + independence * terms["dependence"]
        return Losses(total, terms)

    @torch.no_grad()
    def record_latents(self, loc: Tensor, scale: Tensor) -> None:
        """Keep the moments and the extent of q(z|X) over the training rows, (rows, latent_dim).

        The extent is 1.1 times the largest root mean square of |z| under any row's q(z|X):
        products of experts are sampled inside the ball of that radius. (The largest |mu| would
        leave out the dimensions that the data do not use: in each, z spreads as in the prior.)
        """
        mean, square, radius = (torch.zeros((), dtype=torch.float64) for _ in range(3))
        for at, spread in _blocks(loc, scale):
            mean = mean + at.sum(0) / len(loc)
            farthest = (at.square() + spread.square()).sum(-1).max()
            radius = torch.maximum(radius, 1.1 * farthest.sqrt())
        for at, spread in _blocks(loc, scale):
            square = square + ((at - mean).square() + spread.square()).sum(0) / len(loc)
        self.radius.copy_(radius)
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(square.sqrt())


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of large tensors, perhaps memory maps, in blocks in float64."""
    for parts in zip(*(t.split(BLOCK_ROWS) for t in tensors), strict=True):
        yield tuple(part.cpu().double() for part in parts)
