"""Projectors that were trained elsewhere, as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mvflow.core import ConfigError, Modality
from mvflow.nn.base import probe_rows
from mvflow.projectors.base import Build, Projector

__all__ = ["Pretrained"]


class Pretrained(Projector):
    """Frozen maps of each modality: torch modules, or functions of torch or NumPy arrays.

    Modules are copied, frozen and kept in evaluation mode. A function is called as it is, with
    rows on the device where they are, or, if it does not take a tensor, with a NumPy array.

    Examples:
        >>> rna, image = Modality("rna", (5,)), Modality("image", (1, 4, 4))
        >>> maps = {"rna": nn.Linear(5, 2), "image": lambda x: x.reshape(len(x), -1)[:, :3]}
        >>> Pretrained(maps=maps).width(rna), Pretrained(maps=maps).width(image)
        (2, 3)
    """

    is_opaque: ClassVar[bool] = True
    is_frozen: ClassVar[bool] = True
    maps: Mapping[str, Callable[[Any], Any]]
    """Modality -> map from rows (rows, *row_shape) to projections (rows, width)."""

    def networks(self, modalities: Sequence[Modality], build: Build) -> dict[str, nn.Module]:
        """The maps as modules that do not change."""
        return {m.name: self._frozen(m) for m in modalities}

    def width(self, modality: Modality) -> int:
        """Width of what the map makes of one row of zeros."""
        return self._frozen(modality).width

    def _frozen(self, modality: Modality) -> _Frozen:
        if modality.name not in self.maps:
            msg = (
                f"the pretrained projector has no map for {modality.name!r}: expected one for "
                f"each modality, got {', '.join(sorted(self.maps)) or 'none'}"
            )
            raise ConfigError(msg)
        return _Frozen(copy.deepcopy(self.maps[modality.name]), modality)


class _Frozen(nn.Module):
    """A map that is not trained: no gradient, and always in evaluation mode."""

    def __init__(self, function: Callable[[Any], Any], modality: Modality) -> None:
        super().__init__()
        self.function = function
        self.requires_grad_(False).train(False)
        rows = probe_rows(modality)
        rows = rows.to(next(self.parameters(), rows).device)
        output: Any = None
        for takes_numpy in (False, True):
            self.takes_numpy = takes_numpy
            try:
                output = self._call(rows)
            except Exception as error:
                output = output if isinstance(output, Exception) else error
            if isinstance(output, np.ndarray if takes_numpy else Tensor):
                break
        if not isinstance(output, np.ndarray | Tensor) or output.ndim != 2 or len(output) != 1:
            got = repr(output) if isinstance(output, Exception) else _described(output)
            msg = (
                f"the pretrained map of {modality.name!r} cannot be used: for rows of shape "
                f"{tuple(rows.shape)} expected an array of shape (1, width), got {got}"
            )
            raise ConfigError(msg)
        self.width = int(output.shape[1])

    def train(self, mode: bool = True) -> _Frozen:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Projections (rows, width) in float32, where `x` is."""
        return torch.as_tensor(self._call(x), dtype=torch.float32, device=x.device)

    @torch.no_grad()
    def _call(self, x: Tensor) -> Any:
        return self.function(x.cpu().numpy() if self.takes_numpy else x)


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"shape {tuple(shape)}"
