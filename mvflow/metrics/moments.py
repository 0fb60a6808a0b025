"""Mean and covariance of features, and the Fréchet distance, in batches of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from mvflow.core import Array, UsageError, namespace
from mvflow.functional import frechet_distance
from mvflow.metrics.estimates import Distance, Jackknife

__all__ = ["FrechetDistance", "MeanAndCovariance", "Moments"]

BLOCKS = 10
"""Blocks of rows that are left out in turn for the standard error of a distance."""


class Moments(NamedTuple):
    """Mean and covariance of features."""

    mean: Array
    """(features,)."""
    covariance: Array
    """(features, features), divided by one less than the number of rows."""


class MeanAndCovariance:
    """Mean and covariance of rows of features, by Welford's method merged over batches.

    It holds one number for each pair of features, in float64, however many rows are added.

    Examples:
        >>> import numpy as np
        >>> rows = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
        >>> MeanAndCovariance().update(rows[:1]).update(rows[1:]).compute().covariance
        array([[4., 4.],
               [4., 4.]])
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.scatter: Any = 0.0

    def update(self, features: Array) -> Self:
        """Add rows of shape (samples, features)."""
        xp = namespace(features)
        if features.shape[0] == 0:
            return self
        features = xp.astype(features, xp.float64)
        mean = xp.mean(features, axis=0)
        centred = features - mean[None, :]
        self._add(features.shape[0], mean, xp.matrix_transpose(centred) @ centred)
        return self

    def _add(self, n: int, mean: Any, scatter: Any) -> None:
        if n == 0:
            return
        delta, total = mean - self.mean, self.count + n
        between = delta[:, None] * delta[None, :] * (self.count * n / total)
        self.scatter = self.scatter + scatter + between
        self.mean = self.mean + delta * (n / total)
        self.count = total

    @classmethod
    def merged(cls, parts: Iterable[MeanAndCovariance]) -> Self:
        """Of all rows that were added to any of several."""
        total = cls()
        for part in parts:
            total._add(part.count, part.mean, part.scatter)
        return total

    def compute(self) -> Moments:
        """Mean and covariance so far; of one row the covariance is zero.

        Raises:
            UsageError: if nothing was added.
        """
        if self.count == 0:
            msg = "no row was added: the covariance has no value"
            raise UsageError(msg)
        return Moments(self.mean, self.scatter / max(self.count - 1, 1))


class FrechetDistance:
    """Fréchet distance of rows of features from those of a reference.

    Few rows make it too large, by about as much as as many rows of the reference itself are away:
    compare values of equal numbers of rows.

    Args:
        reference: moments of the real rows, computed once for all that is compared with them.

    Examples:
        >>> import numpy as np
        >>> real = MeanAndCovariance().update(np.array([[0.0], [2.0]])).compute()
        >>> FrechetDistance(real).update(np.array([[3.0], [5.0]])).compute().mean
        9.0
    """

    def __init__(self, reference: Moments) -> None:
        self.reference = reference
        self.blocks = [MeanAndCovariance() for _ in range(BLOCKS)]

    def update(self, features: Array, clusters: ArrayLike | None = None) -> Self:
        """Add rows of shape (samples, features).

        Args:
            features: of the rows.
            clusters: (samples,): rows of one number depend on each other.
        """
        xp, n = namespace(features), features.shape[0]
        at = np.arange(self.count, self.count + n) if clusters is None else np.asarray(clusters)
        for i, block in enumerate(self.blocks):
            rows = np.flatnonzero(at % BLOCKS == i)
            block.update(xp.take(features, xp.asarray(rows), axis=0))
        return self

    @property
    def count(self) -> int:
        """Number of rows so far."""
        return sum(block.count for block in self.blocks)

    def jackknife(self) -> Jackknife:
        """Distance of all rows, and of all but each block of them.

        Raises:
            UsageError: if nothing was added.
        """
        used = [block for block in self.blocks if block.count]
        distance = self._distance(used)
        others = [[b for b in used if b is not block] for block in used]
        left_out = [self._distance(blocks) if blocks else distance for blocks in others]
        sizes = np.array([block.count for block in used])
        return Jackknife(distance, np.array(left_out), sizes)

    def compute(self) -> Distance:
        """Distance so far, its standard error, and its limit for many rows.

        Raises:
            UsageError: if nothing was added.
        """
        return self.jackknife().estimate()

    def _distance(self, blocks: Iterable[MeanAndCovariance]) -> float:
        moments = MeanAndCovariance.merged(blocks).compute()
        return float(frechet_distance(*moments, *self.reference))
