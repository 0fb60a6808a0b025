"""The prior of the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from mvflow.priors.base import Prior
from mvflow.stages import StageSpec

__all__ = ["Standard"]


class Standard(Prior):
    """The model's own p(z), such as N(0, I): nothing is fitted."""

    title: ClassVar[str] = "the model's own prior"

    def build(self, system: Any) -> None:
        """Nothing."""
        return

    def stages(self, system: Any, module: nn.Module) -> Sequence[StageSpec]:
        """None."""
        return ()
