"""Rows of numbers with noise, some of whose values are those of other rows."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from mvflow.augmentations.base import Augmentation, Probability
from mvflow.core import ConfigError, Modality

__all__ = ["TableAugmentation"]


class TableAugmentation(Augmentation):
    """Noise on each value, and values that are replaced by those of another row of the batch.

    What is replaced tells nothing of its row, and is as the column's values are. Values may be of
    any shape.

    Examples:
        >>> torch.manual_seed(0) and None
        >>> x = torch.arange(6.0)[:, None]
        >>> changed = TableAugmentation(noise=0, dropout=0.5).augment(x)
        >>> bool(torch.isin(changed, x).all())
        True
    """

    noise: NonNegativeFloat = 0.1
    """Standard deviation of what is added, in units of the batch's in each column."""
    dropout: Probability = 0.1
    """Share of the values that are replaced."""

    def check(self, modality: Modality) -> None:
        """Refuse single classes, which are all that a row has, and noise on what has none."""
        likelihood = modality.likelihood_part
        if not likelihood.row_shape(modality.shape):
            msg = (
                f"augmentation 'table' would replace all that a row of {modality.name!r} has, its "
                "class: leave it out"
            )
            raise ConfigError(msg)
        if self.noise and not likelihood.is_location:
            msg = (
                f"augmentation 'table' cannot add noise to values of likelihood "
                f"{likelihood.kind!r}, which modality {modality.name!r} has: set noise=0"
            )
            raise ConfigError(msg)

    def augment(self, x: Tensor) -> Tensor:
        """Rows (rows, *shape)."""
        if self.dropout:
            others = x[torch.randperm(len(x), device=x.device)]
            replaced = torch.rand(x.shape, device=x.device) < self.dropout
            changed = torch.where(replaced, others, x)
        else:
            changed = x
        if self.noise:
            spread = x.std(0, correction=0, keepdim=True)
            changed = changed + self.noise * spread * torch.randn_like(x)
        return changed
