"""Precision and recall of generated rows, with standard errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.functional import inside_balls, neighbour_radii, squared_distances
from mvflow.metrics.estimates import Jackknife
from mvflow.metrics.moments import BLOCKS

__all__ = ["NEIGHBOURS", "Manifold", "precision_and_recall"]

NEIGHBOURS = 3
"""To the how-manieth a ball reaches, as Kynkäänniemi et al. (2019) have it."""

Floats = NDArray[np.float64]


class Manifold:
    """Rows of features with the balls around them; of all rows, and without each block.

    Args:
        features: (samples, features).
        clusters: (samples,): rows of one number depend on each other, and share a block.

    Examples:
        >>> Manifold(np.arange(4.0)[:, None]).radii(None)
        array([9., 4., 4., 9.])
    """

    def __init__(self, features: ArrayLike, clusters: ArrayLike | None = None) -> None:
        self.features = np.asarray(features, np.float64)
        rows = len(self.features)
        at = np.arange(rows) if clusters is None else np.asarray(clusters)
        self.blocks = at % BLOCKS
        self._radii: dict[int | None, Floats] = {}

    @cached_property
    def _distances(self) -> Floats:
        return squared_distances(self.features, self.features)

    def kept(self, left_out: int | None) -> NDArray[np.bool_]:
        """Which rows are left without a block; None: all."""
        return np.asarray(self.blocks != (-1 if left_out is None else left_out))

    def radii(self, left_out: int | None) -> Floats:
        """Squared radii of the balls around the rows that are left without a block."""
        if left_out not in self._radii:
            kept = self.kept(left_out)
            self._radii[left_out] = neighbour_radii(self._distances[kept][:, kept], NEIGHBOURS)
        return self._radii[left_out]


def precision_and_recall(real: Manifold, made: Manifold) -> tuple[Jackknife, Jackknife]:
    """Share of generated rows in the manifold of real ones, and the other way round.

    Both depend on the number of rows: compare values of equal numbers, and of as many real rows
    as generated ones. Where both follow one distribution they are below one, by what so few rows
    leave uncovered: as many other real rows say by how much. The error is that of both sets,
    whose blocks are left out together.

    Examples:
        >>> rows = np.random.default_rng(0).normal(size=(50, 1))
        >>> both = precision_and_recall(Manifold(rows), Manifold(rows + 100))
        >>> [found.estimate().mean for found in both]
        [0.0, 0.0]
    """
    apart = squared_distances(made.features, real.features)

    def precision(left_out: int | None) -> float:
        some = apart[made.kept(left_out)][:, real.kept(left_out)]
        return float(inside_balls(some, real.radii(left_out)).mean())

    def recall(left_out: int | None) -> float:
        some = apart[made.kept(left_out)][:, real.kept(left_out)].T
        return float(inside_balls(some, made.radii(left_out)).mean())

    return _jackknife(precision, real, made), _jackknife(recall, real, made)


def _jackknife(
    statistic: Callable[[int | None], float], real: Manifold, made: Manifold
) -> Jackknife:
    counts = np.bincount(made.blocks, minlength=BLOCKS)
    fewest = min(np.sum(part.kept(block)) for part in (real, made) for block in range(BLOCKS))
    used = np.flatnonzero(counts) if fewest > NEIGHBOURS else np.arange(0)
    left_out = np.array([statistic(int(block)) for block in used])
    return Jackknife(statistic(None), left_out, counts[used])
