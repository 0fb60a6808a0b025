"""Images that are moved, turned, and differently lit."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional

from mvflow.augmentations.base import Augmentation, Probability
from mvflow.core import ConfigError, Modality

__all__ = ["ImageAugmentation"]

Share = Annotated[float, Field(ge=0, lt=1)]


class ImageAugmentation(Augmentation):
    """Images (channels, height, width) that are moved, turned and scaled, then lit differently.

    All changes are drawn anew for each image, evenly up to what is set.

    Examples:
        >>> torch.manual_seed(0) and None
        >>> ImageAugmentation(shift=0.1).augment(torch.rand(5, 3, 8, 8)).shape
        torch.Size([5, 3, 8, 8])
    """

    shift: Share = 0.08
    """Largest shift in each direction, as a share of the side."""
    rotation: NonNegativeFloat = 8.0
    """Largest angle, in degrees."""
    scale: Share = 0.08
    """Largest change of size, as a share of it."""
    contrast: Share = 0.2
    """Largest change of the distance of intensities to the mean of the image."""
    brightness: Share = 0.1
    """Largest amount that is added to all intensities, in units of the image's range."""
    colour: Share = 0.1
    """The same for each channel by itself, where there are several."""
    inversion: Probability = 0.0
    """How often intensities are turned round: the darkest becomes the lightest."""

    def check(self, modality: Modality) -> None:
        """Refuse what are not images of numbers."""
        likelihood = modality.likelihood_part
        is_float = np.issubdtype(likelihood.dtype, np.floating)
        if len(likelihood.row_shape(modality.shape)) != 3 or not is_float:
            msg = (
                "augmentation 'image' is for images of numbers (channels, height, width), but "
                f"modality {modality.name!r} has shape {modality.shape} and likelihood "
                f"{likelihood.kind!r}: choose another augmentation, or none"
            )
            raise ConfigError(msg)

    def augment(self, x: Tensor) -> Tensor:
        """Images (rows, channels, height, width), what moves in is as the border."""
        return self._lit(self._moved(x)) if len(x) else x

    def _moved(self, x: Tensor) -> Tensor:
        if not (self.shift or self.rotation or self.scale):
            return x
        angle = _even(x, 1) * math.radians(self.rotation)
        size = 1 + _even(x, 1) * self.scale
        across = 2 * self.shift * _even(x, 2)  # coordinates run from -1 to 1
        cos, sin = angle.cos() / size, angle.sin() / size
        ratio = x.shape[2] / x.shape[3]  # turned in pixels, not in coordinates
        rows = torch.stack([cos, -sin * ratio, sin / ratio, cos], -1).view(-1, 2, 2)
        maps = torch.cat([rows, across[..., None]], -1)
        grid = functional.affine_grid(maps, list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)

    def _lit(self, x: Tensor) -> Tensor:
        darkest, lightest = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        extent, mean = lightest - darkest, x.mean((1, 2, 3), keepdim=True)
        if self.contrast:
            x = mean + (x - mean) * (1 + self.contrast * _even(x, 1)[..., None, None])
        if self.brightness:
            x = x + extent * self.brightness * _even(x, 1)[..., None, None]
        if self.colour and x.shape[1] > 1:
            x = x + extent * self.colour * _even(x, x.shape[1])[..., None, None]
        if self.inversion:
            turned = (_even(x, 1)[..., None, None] + 1) / 2 < self.inversion
            x = torch.where(turned, darkest + lightest - x, x)
        return x


def _even(x: Tensor, columns: int) -> Tensor:
    """Numbers between -1 and 1, (rows, columns)."""
    return 2 * torch.rand(len(x), columns, device=x.device, dtype=x.dtype) - 1
