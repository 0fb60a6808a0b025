"""Projectors that bring the modalities of a row together and keep rows apart (Appendix B.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mvflow.functional import info_nce
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

    def loss(
        self, projections: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """`mvflow.functional.info_nce` of each pair in float32 or more.

        Negatives of a row are those rows that have both modalities, too.
        """
        ordered = {name: upcast_to_float32(g) for name, g in projections.items()}
        with torch.autocast(next(iter(ordered.values())).device.type, enabled=False):
            each = [
                info_nce(a, b, self.temperature, here)
                for a, b, here in self.pairs(ordered, present)
            ]
            return sum(each[1:], start=each[0])
