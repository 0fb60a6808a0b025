"""How generated rows resemble real ones in the features of one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.evaluation.parts import Blocks, Likeness
from mvflow.metrics import (
    FrechetDistance,
    FrechetLimit,
    Manifold,
    MeanAndCovariance,
    Moments,
    feature_blocks,
    precision_and_recall,
)

__all__ = ["GeneratedFeatures", "RealFeatures", "RealRows"]

Features = NDArray[Any]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class RealRows:
    """Real rows of a modality in the features of a network, with what is compared with them.

    Args:
        moments: of all.
        manifold: of some that differ from each other; None where there are too few.
        blocks: of all, for distances of infinitely many rows; None where these are not asked for.
    """

    moments: Moments
    manifold: Manifold | None
    blocks: Sequence[Any] | None


@dataclass
class RealFeatures:
    """Features of real rows, batch by batch.

    Args:
        keeps_blocks: whether distances of infinitely many rows are asked for.
    """

    keeps_blocks: bool
    _total: MeanAndCovariance = field(default_factory=MeanAndCovariance)
    _blocks: list[Any] | None = None
    _some: list[Features] = field(default_factory=list)

    def update(self, features: Features, wanted: NDArray[np.bool_]) -> None:
        """Add rows, and say which of them make the manifold."""
        start = self._total.count
        self._total.update(features)
        self._some.append(features[wanted])
        if self.keeps_blocks:
            self._blocks = feature_blocks(features, start=start, blocks=self._blocks)

    def compute(self) -> RealRows:
        """What generated rows are compared with."""
        some = np.concatenate(self._some)
        manifold = Manifold(some) if len(some) else None
        return RealRows(self._total.compute(), manifold, self._blocks)


class GeneratedFeatures:
    """Features of generated rows, batch by batch, compared with real ones.

    Args:
        real: what they are compared with.
    """

    def __init__(self, real: RealRows) -> None:
        self.real = real
        self.distance = FrechetDistance(real.moments)
        self.limit = None if real.blocks is None else FrechetLimit(real.blocks)
        self._some: list[Features] = []
        self._clusters: list[Indices] = []

    def update(self, features: Features, clusters: Indices | None = None) -> None:
        """Add rows; those of one cluster depend on each other."""
        at = np.arange(self.distance.count, self.distance.count + len(features))
        clusters = at if clusters is None else clusters
        wanted = 0 if self.real.manifold is None else len(self.real.manifold.features)
        left = max(wanted - sum(map(len, self._some)), 0)
        self._some.append(features[:left])
        self._clusters.append(clusters[:left])
        self.distance.update(features, clusters)
        if self.limit is not None:
            self.limit.update(features, clusters)

    def compute(self) -> Likeness:
        """All that is measured; of fewer rows than real ones no precision and no recall."""
        found = Likeness(
            distance=Blocks.of(self.distance.jackknife()),
            limit=None if self.limit is None else Blocks.of(self.limit.jackknife()),
        )
        manifold = self.real.manifold
        if manifold is None or sum(map(len, self._some)) < len(manifold.features):
            return found
        made = Manifold(np.concatenate(self._some), np.concatenate(self._clusters))
        both = precision_and_recall(manifold, made)
        precision, recall = (Blocks.of(one) for one in both)
        return found.model_copy(update={"precision": precision, "recall": recall})
