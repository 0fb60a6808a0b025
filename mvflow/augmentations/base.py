"""The contract of augmentations."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from mvflow.core import Modality
from mvflow.core.parts import Part

__all__ = ["Augmentation", "Probability"]

Probability = Annotated[float, Field(ge=0, le=1)]


class Augmentation(Part):
    """Changes rows of a modality, in training alone, by what does not matter in them.

    Stages that learn what a modality tells (projectors, posteriors) see changed rows; latents,
    likelihoods and all that is measured are those of the rows as they are.
    """

    group: ClassVar[str] = "augmentations"

    @abstractmethod
    def check(self, modality: Modality) -> None:
        """Refuse a modality whose rows cannot be changed so.

        Raises:
            ConfigError: saying why.
        """

    @abstractmethod
    def augment(self, x: Tensor) -> Tensor:
        """Changed rows, as x (rows, *shape): each by itself, on its device, drawn by torch."""
