"""Weights that change over a stage, as functions of progress alone."""

from __future__ import annotations

from typing import overload

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mvflow.config import Share, Training

__all__ = ["BetaTraining", "annealed", "ramped"]


class BetaTraining(Training):
    """A stage whose divergences have the factor beta.

    It falls from `beta_start` to `beta` over the share `anneal` of the stage.
    """

    beta: PositiveFloat = 1.0
    beta_start: PositiveFloat | None = None
    anneal: Share = 0.5

    def beta_at(self, progress: float | Tensor) -> float | Tensor:
        """The factor at `progress` in [0, 1]."""
        return annealed(self.beta_start, self.beta, self.anneal, progress)

    def idle(self) -> list[str]:
        """The share over which nothing falls, where it was chosen."""
        if self.anneal == type(self).model_fields["anneal"].default:
            return super().idle()
        if self.beta_start is None:
            why = "without {section}.beta_start, from which beta falls"
        elif self.beta_start == self.beta:
            why = "where {section}.beta_start is {section}.beta"
        else:
            return super().idle()
        return [*super().idle(), f"{{section}}.anneal = {self.anneal:g} has no effect {why}"]

    def beta_words(self) -> str:
        """The factor for reports.

        Examples:
            >>> BetaTraining(beta=2.5, beta_start=10, anneal=0.25).beta_words()
            '2.5, from 10 over the first 25%'
        """
        if self.beta_start in (None, self.beta):
            return f"{self.beta:g}"
        return f"{self.beta:g}, from {self.beta_start:g} over the first {self.anneal:.0%}"


@overload
def annealed(start: float | None, end: float, share: float, progress: float) -> float: ...


@overload
def annealed(
    start: float | None, end: float, share: float, progress: float | Tensor
) -> float | Tensor: ...


def annealed(
    start: float | None, end: float, share: float, progress: float | Tensor
) -> float | Tensor:
    """Geometric interpolation from `start` to `end` over the first `share` of training.

    A tensor `progress` gives a tensor of torch's default dtype, without a host-device
    synchronisation, so that it can be part of a captured step.

    Examples:
        >>> [round(annealed(20, 1, 0.5, p), 2) for p in (0, 0.25, 0.5, 1)]
        [20.0, 4.47, 1.0, 1]
        >>> annealed(20, 1, 0.5, torch.tensor(0.25, dtype=torch.float64))
        tensor(4.4721)
    """
    if start is None or share == 0:
        return end
    if isinstance(progress, Tensor):
        value: Tensor = start * (end / start) ** (progress / share)
        return value.masked_fill(progress > share, end).to(torch.get_default_dtype())
    return end if progress > share else start * (end / start) ** (progress / share)


def ramped(share: float, progress: float | Tensor) -> float | Tensor:
    """Straight rise from 0 to 1 over the first `share` of training: a warm-up.

    Examples:
        >>> [ramped(0.5, p) for p in (0.0, 0.25, 0.5, 1.0)], ramped(0.0, 0.0)
        ([0.0, 0.5, 1.0, 1.0], 1.0)
        >>> ramped(0.5, torch.tensor(0.25, dtype=torch.float64))
        tensor(0.5000)
    """
    if share == 0:
        return 1.0
    if isinstance(progress, Tensor):
        return (progress / share).clamp_max(1.0).to(torch.get_default_dtype())
    return min(1.0, progress / share)
