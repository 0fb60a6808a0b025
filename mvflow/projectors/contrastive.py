"""Projectors that bring the modalities of a row together and keep rows apart (Appendix B.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mvflow.functional import pairwise_info_nce
from mvflow.nn.precision import upcast_to_float32
from mvflow.projectors.base import Objective

__all__ = ["Contrastive"]


class Contrastive(Objective):
    """Symmetric InfoNCE on cosine similarities, summed over all pairs (paper B.2-B.4).

    Examples:
        >>> loss, z = Contrastive(dim=2).loss, torch.eye(2)
        >>> bool(loss({"a": z, "b": z}) < loss({"a": z, "b": z.flip(0)}))
        True
    """

    temperature: PositiveFloat = 0.1
    """The smaller, the more the nearest negatives count."""

    @property
    def min_rows(self) -> int:
        """Two: a single row has no negatives."""
        return 2

    def loss(self, projections: Mapping[str, Tensor]) -> Tensor:
        """`mvflow.functional.pairwise_info_nce` in float32 or more."""
        ordered = [upcast_to_float32(projections[name]) for name in sorted(projections)]
        with torch.autocast(ordered[0].device.type, enabled=False):
            return pairwise_info_nce(ordered, self.temperature)
