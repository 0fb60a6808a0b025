"""Mean and covariance of features, and the Fréchet distance, in batches of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from mvflow.core import Array, UsageError, namespace
from mvflow.functional import covariance_factor, frechet_distance, frechet_distance_of_rows
from mvflow.metrics.estimates import Distance, Jackknife

__all__ = ["FeatureRows", "FrechetDistance", "MeanAndCovariance", "Moments", "feature_blocks"]

BLOCKS = 10
"""Blocks of rows that are left out in turn for the standard error of a distance."""
MANY_FEATURES = 512
"""Number of features above which rows are kept in place of their moments."""


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features.

    Args:
        mean: (features,).
        covariance: (features, features), divided by one less than the number of rows.
    """

    mean: Array
    covariance: Array

    @cached_property
    def factor(self) -> Array:
        """F with F F' = covariance, computed once."""
        return covariance_factor(self.covariance)


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


class FeatureRows:
    """Rows of features kept as they are: where features are many, they take less than moments."""

    def __init__(self, rows: Iterable[Array] = ()) -> None:
        self.rows = list(rows)

    def update(self, features: Array) -> Self:
        """Add rows of shape (samples, features)."""
        if features.shape[0]:
            self.rows.append(features)
        return self

    @property
    def count(self) -> int:
        """Number of rows so far."""
        return sum(rows.shape[0] for rows in self.rows)

    @staticmethod
    def joined(parts: Iterable[FeatureRows]) -> Array:
        """All rows of several."""
        rows = [some for part in parts for some in part.rows]
        return namespace(rows[0]).concat(rows, axis=0)


def feature_blocks(
    features: Array,
    clusters: ArrayLike | None = None,
    *,
    start: int = 0,
    blocks: Sequence[Any] | None = None,
) -> list[Any]:
    """Rows of features in ten blocks, as their moments or, where features are many, as they are.

    Args:
        features: (samples, features).
        clusters: (samples,): rows of one number depend on each other, and share a block.
        start: number of the first row, where they have no clusters.
        blocks: to which they are added; by default new ones.

    Examples:
        >>> import numpy as np
        >>> [block.count for block in feature_blocks(np.zeros((12, 1)))]
        [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    xp, (n, width) = namespace(features), features.shape
    if blocks is None:
        kind = FeatureRows if width > MANY_FEATURES else MeanAndCovariance
        blocks = [kind() for _ in range(BLOCKS)]
    at = np.arange(start, start + n) if clusters is None else np.asarray(clusters)
    for i, block in enumerate(blocks):
        rows = np.flatnonzero(at % BLOCKS == i)
        block.update(xp.take(features, xp.asarray(rows), axis=0))
    return list(blocks)


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
        is_wide = reference.mean.shape[0] > MANY_FEATURES
        kind = FeatureRows if is_wide else MeanAndCovariance
        self.blocks: list[Any] = [kind() for _ in range(BLOCKS)]

    def update(self, features: Array, clusters: ArrayLike | None = None) -> Self:
        """Add rows of shape (samples, features).

        Args:
            features: of the rows.
            clusters: (samples,): rows of one number depend on each other.
        """
        feature_blocks(features, clusters, start=self.count, blocks=self.blocks)
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

    def _distance(self, blocks: Iterable[Any]) -> float:
        reference, known = self.reference, list(blocks)
        if known and isinstance(known[0], FeatureRows):
            rows = FeatureRows.joined(known)
            if rows.shape[0] > 1:
                return float(frechet_distance_of_rows(rows, reference.mean, reference.factor))
            known = [MeanAndCovariance().update(rows)]
        made = MeanAndCovariance.merged(known).compute()
        found = frechet_distance(made.mean, made.covariance, reference.mean, reference.covariance)
        return float(found)
