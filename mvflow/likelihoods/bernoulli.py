"""Bernoulli likelihood of values in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch.distributions as td
from numpy.typing import NDArray
from torch import Tensor

from mvflow.likelihoods.base import ColumnValues, Likelihood, Shape, independent

__all__ = ["Bernoulli"]


class Bernoulli(Likelihood):
    """Bernoulli distribution whose logits are the decoder's output.

    Examples:
        >>> import torch
        >>> Bernoulli().distribution(torch.zeros(1, 2), (2,), {}).mean
        tensor([[0.5000, 0.5000]])
    """

    is_location: ClassVar[bool] = False

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """Bernoulli(sigmoid(raw))."""
        return independent(td.Bernoulli(logits=raw, validate_args=False), shape)

    def columns(self, shape: Shape) -> tuple[ColumnValues, ...]:
        """Each is yes or no."""
        return (ColumnValues("yes or no", 2),) * shape[0]

    def is_valid(self, x: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Values of [0, 1]."""
        return np.asarray((x >= 0) & (x <= 1))

    def expects(self, shape: Shape) -> str:
        """What was expected."""
        return "expected probabilities in [0, 1]; rescale, or use uint8 images"
