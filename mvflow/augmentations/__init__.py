"""Augmentations: other rows that say the same, for stages that learn what a modality tells."""

from mvflow.augmentations.base import Augmentation
from mvflow.augmentations.image import ImageAugmentation
from mvflow.augmentations.table import TableAugmentation

__all__ = ["Augmentation", "ImageAugmentation", "TableAugmentation"]
