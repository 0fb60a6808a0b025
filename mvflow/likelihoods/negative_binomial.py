"""Negative binomial likelihood of counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributions as td
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from mvflow.likelihoods.base import Likelihood, Shape, independent

__all__ = ["Log1p", "NegativeBinomial"]

LOG_BOUND = 20.0
"""Means and dispersions stay within exp(-20)...exp(20)."""


class Log1p(nn.Module):
    """Counts x as log(1 + x).

    Examples:
        >>> Log1p()(torch.tensor([0.0, 99.0]))
        tensor([0.0000, 4.6052])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map counts to their logarithms."""
        return torch.log1p(x)


class NegativeBinomial(Likelihood):
    r"""Negative binomial distribution of counts, with mean m and variance m + m^2 / r.

    The decoder's outputs are log m and the log of the dispersion r, softly bounded; with a large
    r it is a Poisson distribution. Fully connected encoders see log(1 + x).

    Examples:
        >>> p = NegativeBinomial().distribution(torch.tensor([[0.0, 0.0]]), (1,), {})
        >>> p.mean, p.variance
        (tensor([[1.]]), tensor([[2.]]))
    """

    outputs_per_value: ClassVar[int] = 2
    is_location: ClassVar[bool] = False
    takes_bytes: ClassVar[bool] = False

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """Counts with log m and log r from the first and the second half of `raw`."""
        bounded = LOG_BOUND * torch.tanh(raw.double() / LOG_BOUND)
        log_mean, log_dispersion = bounded.chunk(2, -len(shape))
        return independent(_Counts(log_mean, log_dispersion, raw.dtype), shape)

    def is_valid(self, x: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Whole numbers from 0 on."""
        return np.asarray((x >= 0) & (x == np.floor(x)))

    def expects(self, shape: Shape) -> str:
        """What was expected."""
        return (
            "expected counts, whole numbers from 0 on; give a negative-binomial likelihood raw "
            "counts, or use a normal one for counts that are normalised or log-transformed"
        )

    def flat(self, shape: Shape) -> nn.Module:
        """Vectors of log(1 + x)."""
        return nn.Sequential(Log1p(), nn.Flatten())


class _Counts(td.Distribution):
    """Negative binomial distribution by log m and log r.

    Both are float64: the gamma functions of large counts and dispersions nearly cancel. What is
    asked for comes in `dtype`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor, dtype: torch.dtype) -> None:
        super().__init__(log_mean.shape, validate_args=False)
        self.log_mean, self.log_dispersion, self.dtype = log_mean, log_dispersion, dtype

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp().to(self.dtype)

    @property
    def variance(self) -> Tensor:
        mean = self.log_mean.exp()
        return (mean + mean.square() / self.log_dispersion.exp()).to(self.dtype)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Poisson counts whose rates are of a gamma distribution."""
        log_rate = self.log_dispersion - self.log_mean
        gamma = td.Gamma(self.log_dispersion.exp(), log_rate.exp(), validate_args=False)
        return torch.poisson(gamma.sample(torch.Size(sample_shape))).to(self.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        x, r = value.double(), self.log_dispersion.exp()
        log_odds = self.log_mean - self.log_dispersion
        ways = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
        return (ways + r * logsigmoid(-log_odds) + x * logsigmoid(log_odds)).to(self.dtype)
