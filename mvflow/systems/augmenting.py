"""Augmented rows for the stages that learn what a modality tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mvflow.augmentations import Augmentation
from mvflow.config import Config
from mvflow.core import Observed
from mvflow.core.parts import dump

__all__ = ["augmentation_settings", "augmentations_of", "augmented"]


def augmentations_of(config: Config) -> dict[str, Augmentation]:
    """Modality -> its augmentation, of those that have one.

    Raises:
        ConfigError: if a modality cannot be augmented so.
    """
    found = {}
    for modality in config.specifications():
        augmentation = config.modalities[modality.name].augmentation
        if augmentation is not None:
            augmentation.check(modality)
            found[modality.name] = augmentation
    return found


def augmentation_settings(augmentations: Mapping[str, Augmentation]) -> dict[str, Any]:
    """What a stage reads of them: nothing where there is none."""
    if not augmentations:
        return {}
    return {"augmentations": {n: dump(a, "augmentations") for n, a in augmentations.items()}}


def augmented(observed: Observed, augmentations: Mapping[str, Augmentation]) -> Observed:
    """The same rows with modalities changed at random; all that comes with them stays."""
    changed = {
        name: augmentation.augment(_mean_filled(observed, name))
        for name, augmentation in augmentations.items()
        if name in observed.x
    }
    return observed._replace(x={**observed.x, **changed})


def _mean_filled(observed: Observed, name: str) -> Tensor:
    """Values of a modality; those that are absent are means of those that are not."""
    present = (observed.present or {}).get(name)
    if present is None:
        return observed.x[name]
    x = observed.filled(name)
    mask = present.reshape(*present.shape, *[1] * (x.ndim - present.ndim))
    mean = x.sum(0) / mask.sum(0).clamp(min=1)
    return torch.where(mask, x, mean.to(x.dtype))
