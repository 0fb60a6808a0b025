"""The joint VAE: one Gaussian encoder of all modalities, one decoder each (paper 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from zuko.distributions import DiagNormal

from mvflow.core import Modality, Observed, rescale_weights
from mvflow.functional import normal_kl_standard, squared_correlations
from mvflow.nn import ModalityDict, concurrently, encode_rows, join_covariates, upcast_to_float32
from mvflow.stages import Losses
from mvflow.systems.decoders import Decoders
from mvflow.systems.masking import presence
from mvflow.systems.merging import Merge, merge_network

__all__ = ["JointVAE"]

BLOCK_ROWS = 2048
"""Rows of which moments are taken at once."""


class JointVAE(nn.Module):
    """p(X, z) = N(z; 0, I) prod_j p(x_j|z), with a Gaussian q(z|X) (Eq. 1 and 3).

    q(z|X) has separate heads for the modalities, merged by a small MLP (Table E.6) or laid side by
    side (Appendix E.3). A masked one is q(z|x_S) of whatever a row has.

    Args:
        modalities: their specifications; kept sorted by name, so no order matters.
        heads: name -> network from rows to (rows, `head_width`) features.
        decoders: p(x_j|z) of all modalities.
        latent_dim: dimension of z.
        merge: widths of the hidden layers that merge the heads, or "concat" or "sum".
        masked: whether rows may lack modalities.
    """

    def __init__(
        self,
        modalities: Iterable[Modality],
        heads: Mapping[str, nn.Module],
        decoders: Decoders,
        latent_dim: int,
        merge: Merge = (512, 512),
        *,
        masked: bool = False,
    ) -> None:
        super().__init__()
        self.modalities = tuple(sorted(modalities, key=lambda m: m.name))
        self.latent_dim = latent_dim
        self.weights = rescale_weights(self.modalities)
        self.heads = ModalityDict(heads)
        self.decoders = decoders
        self.is_additive, self.is_masked = merge == "sum", masked
        self.merge = merge_network(merge, len(self.modalities), latent_dim, masked=masked)
        self.radius: Tensor
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("radius", torch.tensor(torch.inf))
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.ones(latent_dim))

    def posterior(self, observed: Observed) -> DiagNormal:
        """q(z|X), or q(z|x_S) of what each row has: batch (rows,), event (latent_dim,)."""
        covariates = observed.covariates
        if not self.is_masked:
            x = observed.x
            heads = concurrently(
                [partial(encode_rows, head, x[n], covariates) for n, head in self.heads.items()]
            )
            features = self.merge(torch.cat(heads, -1))
        else:
            present = presence(observed, list(self.heads)).T
            calls = [
                partial(encode_rows, self.heads[n], observed.encodable(n), covariates)
                for n in observed.x
            ]
            known = dict(zip(observed.x, concurrently(calls), strict=True))
            nothing = torch.zeros_like(next(iter(known.values())))
            heads = [known.get(name, nothing) for name in self.heads]
            features = self.merge(torch.cat(heads, -1), present)
        loc, log_scale = upcast_to_float32(features).chunk(2, -1)
        return DiagNormal(loc, (7 * torch.tanh(log_scale / 7)).exp())

    def losses(
        self, observed: Observed, beta: float | Tensor = 1.0, independence: float = 0.0
    ) -> Losses:
        """Minus the ELBO with lambda_j and beta (Eq. 3), from one draw of z per row.

        In rows that lack modalities it is the bound on log p(x_S) of what they have.

        Args:
            observed: rows of all modalities; of some, where it is masked.
            beta: factor of the divergence.
            independence: factor of the squared correlations, over the rows, of the means of
                q(z|X) with the covariates; nothing where there are none.
        """
        q = self.posterior(observed)
        z = q.rsample()
        kl = normal_kl_standard(q.base_dist.loc, q.base_dist.scale).mean()
        total, terms = beta * kl, {"kl": kl}
        for name, fit in self.decoders.log_prob(z, observed).items():
            terms[name] = fit.mean()
            total = total - self.weights[name] * terms[name]
        terms["elbo"] = sum(terms[name] for name in sorted(observed.x)) - kl
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
