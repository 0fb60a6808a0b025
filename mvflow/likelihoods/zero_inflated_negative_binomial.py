"""Negative binomial likelihood of counts, with more zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.distributions as td
from torch import Tensor
from torch.nn.functional import logsigmoid

from mvflow.likelihoods.base import Shape, independent
from mvflow.likelihoods.counts import CountDistribution, bounded
from mvflow.likelihoods.negative_binomial import NegativeBinomial, NegativeBinomialCounts

__all__ = ["ZeroInflatedNegativeBinomial"]


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """0 with a probability of its own, else a count of a negative binomial distribution.

    The decoder's last outputs are the log odds of such a zero; the others are those of
    `negative-binomial`.

    Examples:
        >>> p = ZeroInflatedNegativeBinomial().distribution(torch.zeros(1, 3), (1,), {})
        >>> p.mean, p.log_prob(torch.zeros(1, 1)).exp()
        (tensor([[0.5000]]), tensor([0.7500]))
    """

    library: str = "none"
    """"none", "observed", or the name of a covariate: what means are multiplied by."""
    dispersion: Literal["value", "column"] = "value"
    """Whether the decoder gives one for each value, or one is learned for each column."""

    def outputs(self, shape: Shape) -> Shape:
        """Those of `negative-binomial`, then the log odds of zeros."""
        return (super().outputs(shape)[0] + shape[0], *shape[1:])

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """Counts of the first outputs, zero by the odds of the last."""
        parts = raw.chunk(2 + (self.dispersion == "value"), -len(shape))
        counts = self.counts(parts[:-1], raw.dtype, shape, learned)
        return independent(_ZeroInflated(counts, bounded(parts[-1])), shape)


class _ZeroInflated(CountDistribution):
    """Zeros by their log odds, else counts of another distribution."""

    def __init__(self, counts: NegativeBinomialCounts, log_odds: Tensor) -> None:
        super().__init__(counts.rates, counts.dtype)
        self.counts, self.log_odds = counts, log_odds

    @property
    def mean(self) -> Tensor:
        log_share = logsigmoid(-self.log_odds)
        return (self.rates.log_mean + log_share).exp().to(self.dtype)

    @property
    def variance(self) -> Tensor:
        """By the law of total variance."""
        share, mean = torch.sigmoid(-self.log_odds), self.rates.log_mean.exp()
        within = mean + mean.square() / self.counts.log_dispersion.exp()
        return (share * within + share * (1 - share) * mean.square()).to(self.dtype)

    def log_density(self, x: Tensor, log_mean: Tensor) -> Tensor:
        counted = logsigmoid(-self.log_odds) + self.counts.log_density(x, log_mean)
        either = torch.logaddexp(logsigmoid(self.log_odds), counted)
        return torch.where(x == 0, either, counted)

    def _draw(self, log_mean: Tensor, size: torch.Size) -> Tensor:
        counts = self.counts._draw(log_mean, size)
        is_zero = torch.rand_like(counts) < torch.sigmoid(self.log_odds)
        return torch.where(is_zero, torch.zeros_like(counts), counts)
