"""Student's t likelihood: a normal one for columns with outliers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.distributions as td
from pydantic import PositiveFloat
from torch import Tensor

from mvflow.likelihoods.base import Shape, independent
from mvflow.likelihoods.scales import Scale, ScaledLikelihood, columns_of

__all__ = ["StudentT"]

LOG_BOUND = 5.0
"""Learned degrees of freedom stay between 1 + exp(-5) and 1 + exp(5)."""


class StudentT(ScaledLikelihood):
    """Student's t distribution around the decoder's output.

    Learned degrees of freedom begin at 10 and stay above 1, so that the mean exists.

    Examples:
        >>> p = StudentT(scale=1.0, df=3.0).distribution(torch.zeros(1, 2), (2,), {})
        >>> p.variance
        tensor([[3., 3.]])
    """

    scale: Scale = "learned"
    """Scale in units of the data, or "learned" for each column."""
    df: PositiveFloat | Literal["learned"] = "learned"
    """Degrees of freedom, or "learned" for each column."""

    def learned(self, shape: Shape) -> dict[str, Tensor]:
        """Scales, and logs of the degrees of freedom less 1."""
        start = torch.full(columns_of(shape), LOG_BOUND * math.atanh(math.log(9) / LOG_BOUND))
        return super().learned(shape) | ({"log_df": start} if self.df == "learned" else {})

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """StudentT(df, raw, scale)."""
        df: Tensor | float = self.df if self.df != "learned" else _bounded(learned["log_df"])
        values = td.StudentT(df, raw, self.scale_of(learned), validate_args=False)
        return independent(values, shape)


def _bounded(log_df: Tensor) -> Tensor:
    return 1 + (LOG_BOUND * torch.tanh(log_df / LOG_BOUND)).exp()
