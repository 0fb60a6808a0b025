"""Means and distances with their standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import UsageError

__all__ = ["Distance", "Estimate", "Jackknife", "mean_and_error", "mean_of_means"]


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error."""

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Distance(Estimate):
    """A distance between distributions, which is too large where rows are few."""

    infinite: float
    """The same for infinitely many rows, if its bias is in proportion to 1 / rows."""


def mean_and_error(values: ArrayLike, clusters: ArrayLike | None = None) -> Estimate:
    """Mean of values (rows,) and its standard error.

    Args:
        values: of each row.
        clusters: (rows,): rows of one number depend on each other, as those that share an image.
            The error is then that of independent clusters (Liang and Zeger 1986).

    Raises:
        UsageError: if there are no values.

    Examples:
        >>> mean_and_error([1.0, 3.0])
        Estimate(mean=2.0, standard_error=1.0)
        >>> round(mean_and_error([1.0, 1.0, 3.0, 3.0], clusters=[0, 0, 1, 1]).standard_error, 9)
        1.0
    """
    return mean_of_means([values], clusters)


def mean_of_means(
    parts: Sequence[ArrayLike],
    clusters: ArrayLike | None = None,
    at: Sequence[ArrayLike] | None = None,
) -> Estimate:
    """Mean of the means of several series of the same rows, and its standard error.

    Args:
        parts: values of each row, (rows,); a shorter series has only the first rows.
        clusters: as in `mean_and_error`.
        at: which rows each series has, where they are others than the first.

    Raises:
        UsageError: if a series has no values.

    Examples:
        >>> mean_of_means([[1.0, 0.0], [0.0, 1.0]])  # rows that make up for one another
        Estimate(mean=0.5, standard_error=0.0)
        >>> mean_of_means([[1.0, 0.0], [0.0, 1.0]], at=[[0, 1], [2, 3]]).standard_error > 0
        True
    """
    series = [np.asarray(part, np.float64) for part in parts]
    if not series or min(map(len, series)) == 0:
        msg = "no value was given: the mean has no value"
        raise UsageError(msg)
    means = [float(values.mean()) for values in series]
    rows = [np.arange(len(values)) for values in series] if at is None else [*map(np.asarray, at)]
    used = np.unique(np.concatenate(rows))
    influence: NDArray[Any] = np.zeros(len(used))
    for values, mean, own in zip(series, means, rows, strict=True):
        places = np.searchsorted(used, own)
        influence[places] += (values - mean) / (len(values) * len(series))
    if clusters is not None:
        _, of = np.unique(np.asarray(clusters)[used], return_inverse=True)
        influence = np.bincount(of, influence)
    count = len(influence)
    squares = float((influence**2).sum())
    error = (squares * count / (count - 1)) ** 0.5 if count > 1 else float("nan")
    return Estimate(float(np.mean(means)), error)


class Jackknife(NamedTuple):
    """A statistic of all rows, and of all but each block of them."""

    full: float
    """Of all rows."""
    left_out: NDArray[Any]
    """(blocks,)."""
    sizes: NDArray[Any]
    """(blocks,): rows of each block."""

    def estimate(self) -> Distance:
        """Standard error and limit by leaving out blocks of unequal sizes (Busing et al. 1999)."""
        blocks, rows = len(self.sizes), self.sizes.sum()
        if blocks < 2:
            return Distance(self.full, float("nan"), float("nan"))
        limit = blocks * self.full - float(((1 - self.sizes / rows) * self.left_out).sum())
        times = rows / self.sizes
        pseudo = times * self.full - (times - 1) * self.left_out
        variance = float(np.mean((pseudo - limit) ** 2 / (times - 1)))
        return Distance(self.full, variance**0.5, limit)

    @classmethod
    def mean(cls, parts: Sequence[Jackknife]) -> Jackknife:
        """Mean of several statistics of the same blocks of rows."""
        return cls(
            float(np.mean([part.full for part in parts])),
            np.mean([part.left_out for part in parts], axis=0),
            parts[0].sizes,
        )
