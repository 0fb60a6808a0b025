"""The contract of projectors g_j, and of those that are trained by an objective."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mvflow.core import ConfigError, Modality
from mvflow.core.parts import Part

__all__ = ["Build", "Objective", "Projector"]

Build = Callable[[str, int, float], nn.Module]
"""Modality, width of the output, dropout -> the projector network configured for it."""


class Projector(Part):
    """Maps g_j of each modality to what the modalities share (paper 3.4)."""

    group: ClassVar[str] = "projectors"

    @abstractmethod
    def networks(self, modalities: Sequence[Modality], build: Build) -> dict[str, nn.Module]:
        """Modality -> network from its rows (rows, *row_shape) to (rows, `width`) projections.

        Args:
            modalities: all that there are.
            build: makes the configured network, for a projector that has none of its own.

        Raises:
            ConfigError: if a network cannot take rows of its modality.
        """

    @abstractmethod
    def width(self, modality: Modality) -> int:
        """Width of the projections of a modality."""

    @classmethod
    def adapt(cls, value: Any) -> Any:
        """A mapping from all modalities to modules or functions is a `Pretrained` projector."""
        from mvflow.projectors.pretrained import Pretrained  # a kind of this contract

        callables = isinstance(value, Mapping) and value and all(map(callable, value.values()))
        return Pretrained(maps=dict(value)) if callables else None


class Objective(Projector):
    """A projector whose networks are trained on all modalities of a batch at once."""

    dim: PositiveInt = 10
    """Width of all projections."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of hidden units or channels that are dropped in training."""

    @property
    @abstractmethod
    def min_rows(self) -> int:
        """Smallest number of rows on which the loss says anything."""

    @abstractmethod
    def loss(
        self, projections: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Scalar to minimise, of the projections of one batch.

        Args:
            projections: modality -> (rows, dim).
            present: modality -> bool (rows,), of those that some row lacks: each pair of
                modalities is compared over the rows that have both.
        """

    @staticmethod
    def pairs(
        projections: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Projections of each pair of modalities, and the rows that have both (None: all)."""
        masks = present or {}
        for a, b in combinations(sorted(projections), 2):
            both = [masks[name] for name in (a, b) if name in masks]
            here = both[0] & both[-1] if both else None
            yield projections[a], projections[b], here

    def networks(self, modalities: Sequence[Modality], build: Build) -> dict[str, nn.Module]:
        """The configured networks."""
        return {m.name: build(m.name, self.dim, self.dropout) for m in modalities}

    def width(self, modality: Modality) -> int:
        """The setting `dim`."""
        return self.dim

    def check_batch(self, batch_size: int) -> None:
        """Refuse batches that are too small for the loss.

        Raises:
            ConfigError: if a batch has fewer than `min_rows` rows.
        """
        if batch_size < self.min_rows:
            msg = (
                f"projectors.batch_size={batch_size} is too small for "
                f"{type(self).__name__}(dim={self.dim}): use at least {self.min_rows}"
            )
            raise ConfigError(msg)
