"""The contract of likelihoods, and the module that binds one to the shape of a modality."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from mvflow.core.parts import Part
from mvflow.nn.precision import upcast_to_float32

__all__ = ["ColumnValues", "Likelihood", "LikelihoodModule", "independent", "present_log_prob"]

Shape = tuple[int, ...]


class ColumnValues(NamedTuple):
    """What a column of a table holds."""

    kind: Literal["numbers", "counts", "yes or no", "classes", "grades"] = "numbers"
    classes: int = 0
    """How many different values there are; 0 if that is not known."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value that there can be."""
        greatest = {"counts": np.inf, "yes or no": 1.0, "grades": (self.classes or np.inf) - 1}
        return (0.0, greatest[self.kind]) if self.kind in greatest else (-np.inf, np.inf)

    @property
    def is_ordered(self) -> bool:
        """Whether a mean of values says something."""
        return self.kind != "classes"


class Likelihood(Part):
    """p(x|z) of one modality, given the outputs of its decoder.

    A kind says which values it is for (`row_shape`, `dtype`, `is_valid`), how many outputs the
    decoder has for each value (`outputs_per_value`), and what they mean (`distribution`).
    """

    group: ClassVar[str] = "likelihoods"
    outputs_per_value: ClassVar[int] = 1
    """Decoder outputs for each value of a row."""
    is_location: ClassVar[bool] = True
    """Whether the decoder's output is in the units of the data, so that a sigmoid may end it."""
    takes_bytes: ClassVar[bool] = True
    """Whether uint8 values are intensities, 0...255 for [0, 1]."""
    dtype: ClassVar[type[np.generic]] = np.float32
    """Type in which values are kept."""

    @abstractmethod
    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> Distribution:
        """p(x|z), summed over the dimensions of a row.

        Args:
            raw: decoder outputs (..., outputs_per_value * shape[0], *shape[1:]), in float32.
            shape: of one row.
            learned: what `learned` gave, as trained, and what `measured` or `measure` gave.
        """

    def learned(self, shape: Shape) -> dict[str, Tensor]:
        """Initial values of parameters that do not depend on z, such as scales of columns."""
        return {}

    @property
    def size_covariate(self) -> str | None:
        """Name of a covariate whose number scales all of a row, given as `learned["size"]`."""
        return None

    def measured(self, shape: Shape) -> dict[str, Tensor]:
        """What `measure` takes of the training rows, before it did: names, shapes and values."""
        return {}

    def measure(self, blocks: Callable[[], Iterable[Tensor]], shape: Shape) -> dict[str, Tensor]:
        """What is fixed before training by all training rows, such as the spread of columns.

        Args:
            blocks: gives the rows, some at a time, with NaN where a value is absent.
            shape: of one row.
        """
        return {}

    def log_prob(
        self, raw: Tensor, x: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> Tensor:
        """Log p(x|z) in nats per row; a kind may have a faster way than its `distribution`."""
        return self.distribution(raw, shape, learned).log_prob(x)

    def mean(self, distribution: Distribution) -> Tensor:
        """What is generated without noise: by default the mean."""
        return distribution.mean

    def draws_by_default(self, shape: Shape) -> bool:
        """Whether what is generated has noise unless the mean is asked for: so in tables."""
        return len(shape) == 1

    def row_shape(self, shape: Shape) -> Shape:
        """Shape of one row as it is stored."""
        return shape

    def is_valid(self, x: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Which values of rows (rows, *row_shape) can be modelled; all are finite."""
        return np.ones(x.shape, np.bool_)

    def expects(self, shape: Shape) -> str:
        """Sentence for a value that is not valid: what was expected, what to do."""
        return "expected finite numbers"

    def columns(self, shape: Shape) -> tuple[ColumnValues, ...]:
        """What each column of a table holds: by default counts, or else numbers."""
        half, many = (
            self.is_valid(np.full((1, *shape), value), shape).all() for value in (0.5, 1000.0)
        )
        return (ColumnValues("counts" if many and not half else "numbers"),) * shape[0]

    def outputs(self, shape: Shape) -> Shape:
        """Shape of the decoder's output for one row."""
        return (self.outputs_per_value * shape[0], *shape[1:])

    def flat(self, shape: Shape) -> nn.Module:
        """Module from rows to vectors (rows, flat_features), for fully connected encoders."""
        return nn.Flatten()

    def flat_features(self, shape: Shape) -> int:
        """Width of these vectors."""
        return math.prod(shape)


class LikelihoodModule(nn.Module):
    """A likelihood bound to the shape of a modality; its learned parameters are the module's.

    Args:
        likelihood: the kind and its settings.
        shape: of one row.

    Examples:
        >>> from mvflow.likelihoods import Laplace
        >>> module = LikelihoodModule(Laplace(scale=0.5), (3,))
        >>> module(torch.zeros(2, 3)).log_prob(torch.zeros(2, 3))
        tensor([0., 0.])
        >>> module.log_prob(torch.zeros(2, 3), torch.ones(2, 3))
        tensor([-6., -6.])
    """

    def __init__(self, likelihood: Likelihood, shape: Shape) -> None:
        super().__init__()
        self.likelihood, self.shape = likelihood, tuple(shape)
        self.learned = nn.ParameterDict(likelihood.learned(self.shape))
        self._measured = list(likelihood.measured(self.shape))
        for name, value in likelihood.measured(self.shape).items():
            self.register_buffer(name, value)

    @torch.no_grad()
    def measure(self, blocks: Callable[[], Iterable[Tensor]]) -> None:
        """Fix what the kind takes of all training rows.

        Args:
            blocks: gives the rows, some at a time, with NaN where a value is absent.
        """
        if self._measured:
            for name, value in self.likelihood.measure(blocks, self.shape).items():
                self.get_buffer(name).copy_(value)

    def _learned(self, size: Tensor | None) -> dict[str, Tensor]:
        values = dict(self.learned.items())
        values |= {name: self.get_buffer(name) for name in self._measured}
        return values if size is None else {**values, "size": self._wide(size)}

    def _wide(self, size: Tensor) -> Tensor:
        return size.reshape(*size.shape[:-1], *([1] * len(self.shape)))

    def forward(self, raw: Tensor, size: Tensor | None = None) -> Distribution:
        """p(x|z) of decoder outputs (..., *outputs). bfloat16 is upcast: sums are long.

        Args:
            raw: decoder outputs.
            size: number that scales each row, (..., 1), where the kind has a covariate for it.
        """
        raw = upcast_to_float32(raw)
        return self.likelihood.distribution(raw, self.shape, self._learned(size))

    def log_prob(
        self,
        raw: Tensor,
        x: Tensor,
        present: Tensor | None = None,
        size: Tensor | None = None,
    ) -> Tensor:
        """Log p(x|z) in nats per row, summed over the values that are present.

        Args:
            raw: decoder outputs (..., *outputs).
            x: rows.
            present: bool (rows,) or of the shape of x; None: all. What is absent is not read.
            size: as of `forward`.
        """
        raw, learned = upcast_to_float32(raw), self._learned(size)
        if present is None:
            return self.likelihood.log_prob(raw, x, self.shape, learned)
        rows = present.ndim == 1
        mask = present.reshape(-1, *([1] * (x.ndim - 1))) if rows else present
        x = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
        if rows:
            log_prob = self.likelihood.log_prob(raw, x, self.shape, learned)
            return torch.where(present, log_prob, 0.0)
        return present_log_prob(self(raw, size), x, present)

    def mean(self, distribution: Distribution) -> Tensor:
        """What is generated without noise."""
        return self.likelihood.mean(distribution)


def present_log_prob(distribution: Distribution, x: Tensor, present: Tensor | None) -> Tensor:
    """Log density of rows, summed over the values that are present; what is absent is not read.

    Args:
        distribution: of rows.
        x: rows.
        present: bool (rows,) or of the shape of x; None: all.

    Examples:
        >>> rows = independent(torch.distributions.Normal(torch.zeros(2), 1), (2,))
        >>> half = torch.tensor([[True, False]])
        >>> present_log_prob(rows, torch.tensor([[0.0, torch.nan]]), half)
        tensor([-0.9189])
    """
    if present is None:
        return distribution.log_prob(x)
    mask = present.reshape(*present.shape, *([1] * (x.ndim - present.ndim)))
    x = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
    if present.ndim == 1:
        return torch.where(present, distribution.log_prob(x), 0.0)
    values = distribution.base_dist if isinstance(distribution, Independent) else distribution
    log_prob = torch.where(mask, values.log_prob(x), 0.0)
    return log_prob.flatten(log_prob.ndim - x.ndim + 1).sum(-1) if x.ndim > 1 else log_prob


def independent(distribution: Distribution, shape: Shape) -> Distribution:
    """A distribution of values as one of rows, whose log-probability is the sum."""
    return Independent(distribution, len(shape), validate_args=False)
