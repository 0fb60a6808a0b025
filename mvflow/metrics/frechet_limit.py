"""Fréchet distance for infinitely many rows (Chong and Forsyth 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import Array, namespace
from mvflow.functional import frechet_distance, frechet_distance_of_rows
from mvflow.metrics.estimates import Jackknife
from mvflow.metrics.moments import BLOCKS, FeatureRows, MeanAndCovariance, feature_blocks

__all__ = ["FrechetLimit", "limit_sizes"]

SHARES = (0.5, 0.75, 1.0)
"""Of all rows, through whose distances the line goes."""
MIN_ROWS_PER_FEATURE = 2
"""Below, the bias of the distance is no longer in proportion to 1 / rows."""


def limit_sizes(rows: int, features: int) -> list[int]:
    """Numbers of rows through whose distances the line goes; empty where they are too few.

    Examples:
        >>> limit_sizes(2000, 64), limit_sizes(200, 64)
        ([1000, 1500, 2000], [])
    """
    sizes = [round(share * rows) for share in SHARES]
    return sizes if sizes[0] >= MIN_ROWS_PER_FEATURE * features else []


class FrechetLimit:
    """What the distance of two sets of rows tends to for many rows of both.

    Few rows of either set make a Fréchet distance too large, by an amount in proportion to
    1 / rows. Distances of half, three quarters and all rows of both sets lie on a line in it,
    whose value at zero is the limit. Its error is that of both sets: blocks of both are left out
    in turn, and all is done again.

    Args:
        real: blocks of real rows.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> real = feature_blocks(rng.normal(size=(500, 4)))
        >>> found = FrechetLimit(real).update(rng.normal(size=(500, 4))).jackknife().estimate()
        >>> abs(found.mean) < 3 * found.standard_error
        True
    """

    def __init__(self, real: Sequence[Any]) -> None:
        self.real = real
        self.made = [type(real[0])() for _ in range(BLOCKS)]

    def update(self, features: Array, clusters: ArrayLike | None = None) -> FrechetLimit:
        """Add rows of shape (samples, features), rows of one cluster to one block."""
        count = sum(block.count for block in self.made)
        feature_blocks(features, clusters, start=count, blocks=self.made)
        return self

    def jackknife(self) -> Jackknife:
        """The limit, and what it is without each block."""
        used = np.array([i for i in range(BLOCKS) if self.made[i].count and self.real[i].count])
        left_out = [self._limit(used[used != i]) for i in used] if len(used) > 3 else []
        sizes = np.array([self.made[i].count for i in used[: len(left_out)]])
        return Jackknife(self._limit(used), np.array(left_out), sizes)

    def _limit(self, used: NDArray[np.int64]) -> float:
        """Value at zero of the line through distances by 1 / blocks."""
        sizes = sorted({-(-len(used) * round(4 * share) // 4) for share in SHARES})
        inverse, values = [], []
        for size in sizes:
            ends = [used[:size], used[-size:]] if size < len(used) else [used]
            inverse.append(1 / size)
            values.append(np.mean([self._distance(some) for some in ends]))
        if len(sizes) < 2:
            return float(values[0])
        return float(np.polynomial.Polynomial.fit(inverse, values, 1)(0.0))

    def _distance(self, used: NDArray[np.int64]) -> float:
        made, real = ([blocks[i] for i in used] for blocks in (self.made, self.real))
        if isinstance(made[0], FeatureRows):
            rows, others = FeatureRows.joined(made), FeatureRows.joined(real)
            xp = namespace(others)
            mean = xp.mean(others, axis=0)
            factor = xp.matrix_transpose(others - mean[None, :]) / (others.shape[0] - 1) ** 0.5
            return float(frechet_distance_of_rows(rows, mean, factor))
        a, b = (MeanAndCovariance.merged(blocks).compute() for blocks in (made, real))
        return float(frechet_distance(a.mean, a.covariance, b.mean, b.covariance))
