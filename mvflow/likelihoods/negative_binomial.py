"""Negative binomial likelihood of counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.distributions as td
from torch import Tensor
from torch.nn.functional import logsigmoid

from mvflow.likelihoods.base import Shape, independent
from mvflow.likelihoods.counts import CountDistribution, CountLikelihood, Rates, bounded

__all__ = ["NegativeBinomial", "NegativeBinomialCounts"]


class NegativeBinomial(CountLikelihood):
    r"""Negative binomial distribution of counts, with mean m and variance m + m^2 / r.

    The decoder's outputs are log m and, unless it is learned for each column, the log of the
    dispersion r, softly bounded; with a large r it is a Poisson distribution. Fully connected
    encoders see log(1 + x). For sequenced cells: `library="observed", dispersion="column"`.

    Examples:
        >>> p = NegativeBinomial().distribution(torch.tensor([[0.0, 0.0]]), (1,), {})
        >>> p.mean, p.variance
        (tensor([[1.]]), tensor([[2.]]))
    """

    library: str = "none"
    """"none", "observed", or the name of a covariate: what means are multiplied by."""
    dispersion: Literal["value", "column"] = "value"
    """Whether the decoder gives one for each value, or one is learned for each column."""

    def learned(self, shape: Shape) -> dict[str, Tensor]:
        """Log dispersion of each column."""
        return {"log_dispersion": torch.ones(shape)} if self.dispersion == "column" else {}

    def outputs(self, shape: Shape) -> Shape:
        """Log means, then log dispersions unless these are of columns."""
        return ((1 + (self.dispersion == "value")) * shape[0], *shape[1:])

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """Counts with log m and log r from the first and the second half of `raw`."""
        parts = raw.chunk(1 + (self.dispersion == "value"), -len(shape))
        return independent(self.counts(parts, raw.dtype, shape, learned), shape)

    def counts(
        self,
        parts: tuple[Tensor, ...],
        dtype: torch.dtype,
        shape: Shape,
        learned: Mapping[str, Tensor],
    ) -> NegativeBinomialCounts:
        """Counts of each value, of the outputs for means and, unless learned, dispersions."""
        by_column = self.dispersion == "column"
        log_dispersion = bounded(learned["log_dispersion"] if by_column else parts[1])
        return NegativeBinomialCounts(self.rates(parts[0], shape, learned), log_dispersion, dtype)


class NegativeBinomialCounts(CountDistribution):
    """Negative binomial distribution by log m and log r."""

    def __init__(self, rates: Rates, log_dispersion: Tensor, dtype: torch.dtype) -> None:
        super().__init__(rates, dtype)
        self.log_dispersion = log_dispersion

    @property
    def variance(self) -> Tensor:
        """By the mean and the dispersion."""
        mean = self.rates.log_mean.exp()
        return (mean + mean.square() / self.log_dispersion.exp()).to(self.dtype)

    def log_density(self, x: Tensor, log_mean: Tensor) -> Tensor:
        """Log probability of each count under a mean."""
        r, log_odds = self.log_dispersion.exp(), log_mean - self.log_dispersion
        ways = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
        return ways + r * logsigmoid(-log_odds) + x * logsigmoid(log_odds)

    def _draw(self, log_mean: Tensor, size: torch.Size) -> Tensor:
        """Poisson counts whose rates are of a gamma distribution."""
        log_rate = self.log_dispersion - log_mean
        shape = self.log_dispersion.exp().expand_as(log_rate)
        gamma = td.Gamma(shape, log_rate.exp(), validate_args=False)
        return torch.poisson(gamma.sample(size))
