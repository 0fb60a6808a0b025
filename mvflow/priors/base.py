"""The contract of priors that are fitted to the latents of a trained system."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mvflow.core import Observed
from mvflow.core.parts import Part
from mvflow.stages import Rows, StageSpec

__all__ = ["Prior", "latent_draws"]


class Prior(Part):
    """A distribution of z from which is drawn where nothing is observed.

    The latents of a trained system seldom fill its prior p(z): a draw that falls where none are is
    decoded to modalities that do not belong together. A fitted prior is for generation alone:
    likelihoods and products of experts keep p(z).
    """

    group: ClassVar[str] = "priors"
    title: ClassVar[str] = "a prior fitted to the latents"
    """What z is drawn from, in a sentence."""

    @abstractmethod
    def build(self, system: Any) -> nn.Module | None:
        """Module whose call gives the distribution, batch shape (1,); None for p(z) itself."""

    @abstractmethod
    def stages(self, system: Any, module: nn.Module) -> Sequence[StageSpec]:
        """How the module is fitted: the stages to run once the system encodes."""


@torch.no_grad()
def latent_draws(system: Any, rows: Rows, size: int = 2048) -> Iterator[Tensor]:
    """One draw of z from q(z|X) for each row, in float64 on the host, some rows at a time."""
    for batch in rows.batches(size):
        yield system.posterior(Observed.from_columns(batch)).sample().double().cpu()
