"""Categorical likelihood of one class per row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch.distributions as td
from numpy.typing import NDArray
from torch import Tensor, nn

from mvflow.likelihoods.base import Likelihood, Shape
from mvflow.nn.inputs import OneHot

__all__ = ["Categorical"]


class Categorical(Likelihood):
    """Categorical distribution whose logits are the decoder's output; rows are class numbers.

    Examples:
        >>> import torch
        >>> d = Categorical().distribution(torch.zeros(1, 4), (4,), {})
        >>> d.log_prob(torch.tensor([2])).exp(), Categorical().mean(d).shape
        (tensor([0.2500]), torch.Size([1, 4]))
    """

    is_location: ClassVar[bool] = False
    takes_bytes: ClassVar[bool] = False
    dtype: ClassVar[type[np.generic]] = np.int64

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """Categorical(softmax(raw))."""
        return td.Categorical(logits=raw, validate_args=False)

    def mean(self, distribution: td.Distribution) -> Tensor:
        """Class probabilities."""
        assert isinstance(distribution, td.Categorical)
        probabilities: Tensor = distribution.probs
        return probabilities

    def draws_by_default(self, shape: Shape) -> bool:
        """Class probabilities say more than draws of a class."""
        return False

    def row_shape(self, shape: Shape) -> Shape:
        """One class number per row."""
        return ()

    def is_valid(self, x: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Whole numbers from 0 to the number of classes less one."""
        return np.asarray((x >= 0) & (x < shape[0]) & (x == np.floor(x)))

    def expects(self, shape: Shape) -> str:
        """What was expected."""
        return f"expected a class from 0 to {shape[0] - 1}"

    def flat(self, shape: Shape) -> nn.Module:
        """Indicators of the classes."""
        return OneHot(shape[0])
