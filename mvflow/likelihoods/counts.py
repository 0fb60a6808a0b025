"""What likelihoods of counts have in common: log means, library sizes, encoder inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.distributions as td
from numpy.typing import NDArray
from torch import Tensor, nn

from mvflow.core.parts import Later
from mvflow.likelihoods.base import Likelihood, Shape
from mvflow.likelihoods.scales import column_moments
from mvflow.nn.inputs import MeasuredInputs

__all__ = [
    "CountDistribution",
    "CountLikelihood",
    "Log1p",
    "LogShares",
    "Rates",
    "StandardisedCounts",
    "bounded",
]

LOG_BOUND = 20.0
"""Decoders' log means, log dispersions and log odds stay within exp(-20)...exp(20)."""

SHARES_PER = 1e4
"""Counts that encoders see each row scaled to, where its library size is modelled apart."""


class CountLikelihood(Likelihood):
    """Base of kinds of counts.

    With `library = "observed"` the mean is the library size, the sum of the row's counts, times a
    share that the decoder gives: how deeply a row was sequenced then need not be in z. A density
    is taken given the library size of the row itself. What is generated has the median library
    size of the training rows. With the name of a covariate that is a number, the mean is that
    number, such as a size factor, times the exponential of the decoder's output, in densities and
    in generation.
    """

    is_location: ClassVar[bool] = False
    takes_bytes: ClassVar[bool] = False

    library: str = "none"
    inputs: Annotated[Literal["log", "standardised"], Later()] = "log"
    """What fully connected encoders see: logarithms, or `StandardisedCounts`."""

    @property
    def size_covariate(self) -> str | None:
        """Name of the covariate that scales all means of a row, if there is one."""
        return None if self.library in ("none", "observed") else self.library

    def measured(self, shape: Shape) -> dict[str, Tensor]:
        """Median library size of the training rows."""
        return {"library": torch.tensor(1.0)} if self.library == "observed" else {}

    def measure(self, blocks: Callable[[], Iterable[Tensor]], shape: Shape) -> dict[str, Tensor]:
        """Median library size of rows that have any counts."""
        if self.library != "observed":
            return {}
        sums = torch.cat([x.double().flatten(1).nansum(1).cpu() for x in blocks()])
        some = sums[sums > 0]
        return {"library": some.median() if len(some) else torch.tensor(1.0)}

    def rates(self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]) -> Rates:
        """Means, of their part of the decoder's outputs, in float64."""
        logs, dims = bounded(raw), tuple(range(-len(shape), 0))
        if self.library == "observed":
            shares = logs - torch.logsumexp(logs, dims, keepdim=True)
            return Rates(shares, learned["library"].double().log(), dims)
        if self.size_covariate is not None:
            logs = logs + learned["size"].double().clamp_min(1e-8).log()
        return Rates(logs, None, dims)

    @abstractmethod
    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """p(x|z)."""

    def is_valid(self, x: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Whole numbers from 0 on."""
        return np.asarray((x >= 0) & (x == np.floor(x)))

    def expects(self, shape: Shape) -> str:
        """What was expected."""
        return (
            f"expected counts, whole numbers from 0 on; give a {self.kind} likelihood raw "
            "counts, or use a normal one for counts that are normalised or log-transformed"
        )

    def flat(self, shape: Shape) -> nn.Module:
        """Vectors of log(1 + x), or of log(1 + 10^4 x / library size); perhaps standardised."""
        by_row = self.library == "observed"
        if self.inputs == "standardised":
            return nn.Sequential(StandardisedCounts(self.flat_features(shape), by_row=by_row))
        first = LogShares() if by_row else Log1p()
        return nn.Sequential(first, nn.Flatten())


def bounded(raw: Tensor) -> Tensor:
    """Decoder outputs as logarithms, softly bounded, in float64."""
    return LOG_BOUND * torch.tanh(raw.double() / LOG_BOUND)


class Log1p(nn.Module):
    """Counts x as log(1 + x).

    Examples:
        >>> Log1p()(torch.tensor([0.0, 99.0]))
        tensor([0.0000, 4.6052])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map counts to their logarithms."""
        return torch.log1p(x)


class LogShares(nn.Module):
    """Counts of rows as log(1 + 10^4 x / sum of the row).

    Examples:
        >>> LogShares()(torch.tensor([[1.0, 3.0]])).expm1().round()
        tensor([[2500., 7500.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map counts to logarithms of their shares."""
        total = x.sum(tuple(range(1, x.ndim)), keepdim=True).clamp_min(1)
        return torch.log1p(SHARES_PER * x / total)


class StandardisedCounts(MeasuredInputs):
    """Counts on a scale where their noise is even, columns brought to mean 0 and deviation 1.

    Where library sizes are modelled apart these are square roots of shares, whose noise is mostly
    that of counting; else log(1 + x).

    Args:
        columns: counts of a row.
        by_row: whether counts are divided by the sum of their row.

    Examples:
        >>> layer = StandardisedCounts(2, by_row=True)
        >>> layer.measure(lambda: [torch.tensor([[1.0, 0.0], [1.0, 3.0]])])
        >>> layer(torch.tensor([[1.0, 0.0], [2.0, 6.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """

    def __init__(self, columns: int, *, by_row: bool) -> None:
        super().__init__()
        self.by_row = by_row
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("std", torch.ones(columns))

    def measure(self, blocks: Callable[[], Iterable[Tensor]]) -> None:
        """Mean and deviation of each column; 1 where it is constant."""
        mean, std = column_moments(lambda: map(self._even, blocks()), tuple(self.mean.shape))
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Rows of counts as vectors."""
        return (self._even(x) - self.mean) / self.std

    def _even(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if not self.by_row:
            return torch.log1p(x)
        return torch.sqrt(SHARES_PER * x / x.nansum(1, keepdim=True).clamp_min(1))


@dataclass(frozen=True, slots=True)
class Rates:
    """Logarithms of means, which may depend on the library size."""

    logs: Tensor
    """Log means; log shares where there is a library."""
    log_library: Tensor | None
    """What is taken where no counts are at hand; None: means do not depend on it."""
    dims: tuple[int, ...]
    """Dimensions of a row, counted from the last."""

    @property
    def log_mean(self) -> Tensor:
        """Log means where no counts are at hand."""
        return self.logs if self.log_library is None else self.logs + self.log_library

    def given(self, counts: Tensor) -> Tensor:
        """Log means of rows with the library size of these counts."""
        if self.log_library is None:
            return self.logs
        return self.logs + counts.sum(self.dims, keepdim=True).clamp_min(1).log()


class CountDistribution(td.Distribution):
    """Counts by their log means, in float64: gamma functions of large counts nearly cancel.

    What is asked for comes in `dtype`. A density is taken given the library size of the counts.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, rates: Rates, dtype: torch.dtype) -> None:
        super().__init__(rates.logs.shape, validate_args=False)
        self.rates, self.dtype = rates, dtype

    @property
    def mean(self) -> Tensor:
        """Where there is a library size, that of the one which is taken without counts."""
        return self.rates.log_mean.exp().to(self.dtype)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts of that library size."""
        return self._draw(self.rates.log_mean, torch.Size(sample_shape)).to(self.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of each count, given the library size of its row."""
        x = value.double()
        return self.log_density(x, self.rates.given(x)).to(self.dtype)

    def log_density(self, x: Tensor, log_mean: Tensor) -> Tensor:
        """Log probability of each count under a mean, in float64."""
        raise NotImplementedError

    def _draw(self, log_mean: Tensor, size: torch.Size) -> Tensor:
        raise NotImplementedError
