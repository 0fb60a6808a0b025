"""Poisson likelihood of counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributions as td
from torch import Tensor

from mvflow.likelihoods.base import Shape, independent
from mvflow.likelihoods.counts import CountDistribution, CountLikelihood

__all__ = ["Poisson"]


class Poisson(CountLikelihood):
    """Poisson distribution of counts; the decoder gives the log of the mean, softly bounded.

    Examples:
        >>> p = Poisson().distribution(torch.tensor([[0.0]]), (1,), {})
        >>> p.mean, p.log_prob(torch.tensor([[0.0]]))
        (tensor([[1.]]), tensor([-1.]))
    """

    library: str = "none"
    """"none", "observed", or the name of a covariate: what means are multiplied by."""

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """Poisson(exp(raw))."""
        return independent(_Poisson(self.rates(raw, shape, learned), raw.dtype), shape)


class _Poisson(CountDistribution):
    """Poisson distribution."""

    @property
    def variance(self) -> Tensor:
        return self.mean

    def log_density(self, x: Tensor, log_mean: Tensor) -> Tensor:
        return x * log_mean - log_mean.exp() - torch.lgamma(x + 1)

    def _draw(self, log_mean: Tensor, size: torch.Size) -> Tensor:
        return torch.poisson(log_mean.exp().expand(size + log_mean.shape))
