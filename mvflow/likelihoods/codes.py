"""What likelihoods of class numbers in the columns of a table have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.distributions as td
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mvflow.likelihoods.base import Likelihood, Shape

__all__ = ["Classes", "CodeDistribution", "CodeLikelihood", "Indicators"]

Classes = Annotated[int, Field(ge=2)]
"""Number of classes."""


class CodeLikelihood(Likelihood):
    """Base of kinds whose values are class numbers 0, 1, ..., each column with as many classes.

    Rows are kept and drawn as these numbers; fully connected encoders see indicators.
    """

    is_location: ClassVar[bool] = False
    takes_bytes: ClassVar[bool] = False

    classes: Classes = 2

    @abstractmethod
    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """p(x|z)."""

    def is_valid(self, x: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Whole numbers from 0 to the number of classes less one."""
        return np.asarray((x >= 0) & (x < self.classes) & (x == np.floor(x)))

    def expects(self, shape: Shape) -> str:
        """What was expected."""
        return f"expected class numbers from 0 to {self.classes - 1}"

    def flat(self, shape: Shape) -> nn.Module:
        """Indicators of the classes of all values."""
        return Indicators(self.classes)

    def flat_features(self, shape: Shape) -> int:
        """One for each class of each value."""
        return self.classes * math.prod(shape)


class Indicators(nn.Module):
    """Class numbers (rows, *shape) as indicators (rows, values * classes).

    Examples:
        >>> Indicators(3)(torch.tensor([[2.0, 0.0]]))
        tensor([[0., 0., 1., 1., 0., 0.]])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Map numbers to indicators."""
        numbers = x.long().clamp(0, self.classes - 1)
        one_hot = nn.functional.one_hot(numbers, self.classes)
        return one_hot.flatten(1).to(x.dtype if x.is_floating_point() else torch.float32)


class CodeDistribution(td.Distribution):
    """Class numbers, as numbers of the outputs' type, by their log-probabilities.

    Args:
        log_probabilities: (..., classes), normalised.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, log_probabilities: Tensor) -> None:
        super().__init__(log_probabilities.shape[:-1], validate_args=False)
        self.log_probabilities = log_probabilities

    @property
    def mean(self) -> Tensor:
        """Expected number, which says something only of grades."""
        steps = torch.arange(
            self.log_probabilities.shape[-1], device=self.log_probabilities.device
        )
        return (self.log_probabilities.exp() * steps).sum(-1)

    @property
    def mode(self) -> Tensor:
        """Most probable class."""
        return self.log_probabilities.argmax(-1).to(self.log_probabilities.dtype)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Class numbers."""
        drawn = td.Categorical(logits=self.log_probabilities, validate_args=False).sample(
            torch.Size(sample_shape)
        )
        return drawn.to(self.log_probabilities.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each class number."""
        numbers = value.long()[..., None]
        logs = self.log_probabilities
        wide = torch.broadcast_shapes(logs.shape[:-1], numbers.shape[:-1])
        logs, numbers = logs.expand(*wide, logs.shape[-1]), numbers.expand(*wide, 1)
        return logs.gather(-1, numbers)[..., 0]
