"""The posterior of every family: encoder, standardisation, flow."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.lazy import LazyDistribution, LazyTransform

from mvflow.nn.covariates import encode_rows
from mvflow.nn.precision import upcast_to_float32
from mvflow.posteriors.fast import accelerate

__all__ = ["FlowPosterior"]

LOG_SCALE_BOUND = 7.0
"""Standard deviations of the base stay within exp(-7)...exp(7) of the standardised latent."""


class FlowPosterior(LazyDistribution):
    r"""q(z|x): a diagonal Gaussian that depends on x, pushed through a flow (JNF, Eq. 10).

    Calling it with the data of one modality encodes them once and returns a distribution with
    `log_prob` and `sample`; a sampler holds that distribution over all its steps.

    zuko's transforms go from z to the base variable: they are the inverse of f in the paper,
    so the log-determinant is added where Eq. 10 subtracts that of f.

    z is standardised first with the moments of the aggregated joint posterior (`standardise`):
    spline transforms act only on [-5, 5], and all families then start near the truth. For affine
    transforms this is a reparametrisation, so `maf` remains the paper's family.

    Args:
        encoder: x -> (rows, 2 * latent + context).
        latent: dimension of z.
        transform: flow over standardised z, or None for a Gaussian.
        context: number of features of x that also condition the transforms (0 in the paper).

    Examples:
        >>> q = FlowPosterior(nn.Linear(3, 4), latent=2)
        >>> q(torch.zeros(5, 3)).log_prob(torch.zeros(7, 5, 2)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent: int,
        transform: LazyTransform | None = None,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.transform = accelerate(transform)
        self.context = context
        self.shift: Tensor
        self.spread: Tensor
        self.register_buffer("shift", torch.zeros(latent))
        self.register_buffer("spread", torch.ones(latent))

    def standardise(self, loc: Tensor, scale: Tensor) -> None:
        """Fix the mean and standard deviation (latent,) of z that the flow sees as 0 and 1."""
        self.shift.copy_(loc)
        self.spread.copy_(scale)

    def forward(
        self, x: Tensor, covariates: Mapping[str, Tensor] | None = None
    ) -> NormalizingFlow:
        """The posterior of each row of `x`: batch shape (rows,), event shape (latent,)."""
        latent = len(self.shift)
        features = upcast_to_float32(encode_rows(self.encoder, x, covariates))
        loc, log_scale, context = features.split([latent, latent, self.context], dim=-1)
        log_scale = LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND)
        given, base = context if self.context else None, DiagNormal(loc, log_scale.exp())
        return self.transform.flow(given, base, shift=self.shift, spread=self.spread)
