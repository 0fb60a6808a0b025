"""Projectors g_j: maps of each modality to what the modalities share (Eq. 13; Appendix B)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mvflow.config import Projectors
from mvflow.core import ConfigError
from mvflow.functional import pairwise_info_nce, pairwise_total_correlation
from mvflow.nn import widened

__all__ = ["OBJECTIVES", "Objective", "contrastive", "dcca"]

Objective = Callable[[Mapping[str, Tensor]], Tensor]
"""Loss of the projections of one batch: name -> (rows, dim)."""


def contrastive(settings: Projectors) -> Objective:
    """Symmetric InfoNCE on cosine similarities, summed over all pairs (B.2-B.4).

    Examples:
        >>> import torch
        >>> loss = contrastive(Projectors(dim=2))
        >>> z = torch.eye(2)
        >>> bool(loss({"a": z, "b": z}) < loss({"a": z, "b": z.flip(0)}))
        True
    """

    def loss(projections: Mapping[str, Tensor]) -> Tensor:
        ordered = [widened(projections[name]) for name in sorted(projections)]
        with torch.autocast(ordered[0].device.type, enabled=False):
            return pairwise_info_nce(ordered, settings.temperature)

    return loss


def dcca(settings: Projectors) -> Objective:
    """Minus the total correlation, summed over all pairs of modalities (B.1).

    Raises:
        ConfigError: if a batch is too small to estimate correlations of that many dimensions:
            with n rows, pure noise correlates by about sqrt(dim / n) in each.
    """
    fewest = 10 * settings.dim
    if settings.batch_size < fewest:
        msg = (
            f"projectors.batch_size={settings.batch_size} is too small for DCCA in "
            f"{settings.dim} dimensions: use at least {fewest}, better {25 * settings.dim}"
        )
        raise ConfigError(msg)

    def loss(projections: Mapping[str, Tensor]) -> Tensor:
        ordered = [projections[name] for name in sorted(projections)]
        return -pairwise_total_correlation(ordered, settings.ridge)

    return loss


OBJECTIVES: dict[str, Callable[[Projectors], Objective]] = {
    "contrastive": contrastive,
    "dcca": dcca,
}
"""Training objectives of projectors, by name."""
