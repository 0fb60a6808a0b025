"""The contract of subset rules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.distributions import Distribution

from mvflow.core import LatentSpace, Modality, Observed
from mvflow.core.parts import Part
from mvflow.inference import Target
from mvflow.stages import StageSpec
from mvflow.systems.base import LearnedPrior

__all__ = ["Experts", "SubsetRule"]


class Experts(Protocol):
    """What a subset rule sees of a system: posteriors of single modalities, a frozen latent."""

    settings: Any
    modalities: tuple[Modality, ...]
    latent: LatentSpace

    @property
    def radius(self) -> Tensor:
        """Of the ball that training rows' latents span."""
        ...

    @property
    def latent_mean(self) -> Tensor:
        """Mean of z ~ q(z|X) over the training rows, (latent.dim,)."""
        ...

    @property
    def latent_std(self) -> Tensor:
        """Standard deviation of z ~ q(z|X) over the training rows."""
        ...

    def encode(self, observed: Observed) -> Any:
        """q(z|X), a diagonal Gaussian."""
        ...

    def expert(
        self, name: str, x: Tensor, covariates: Mapping[str, Tensor] | None = None
    ) -> Distribution:
        """q(z|x_j) of one modality, whose encoder may see covariates."""
        ...

    def condition(self, name: str, x: Tensor) -> Tensor:
        """What posteriors see of a modality: x_j or its projection."""
        ...

    def condition_encoder(
        self, name: str, hidden: Sequence[int], out_features: int, *, data: bool = False
    ) -> nn.Module:
        """An untrained network from what posteriors see of a modality to features.

        With `data` it is one from the data themselves. It is called by `mvflow.nn.encode_rows`.
        """
        ...

    def posterior_stage(
        self,
        name: str,
        module: nn.Module,
        settings: Any,
        reads: Mapping[str, Any],
        loss: Any,
        *,
        keep_data: bool = False,
    ) -> StageSpec:
        """A stage that trains posteriors on draws of the frozen q(z|X) (Eq. 8).

        `loss` maps (z, observed), with what posteriors see of each modality as `observed.x`, to
        `Losses`. With `keep_data`, `observed.x` are the data, and what posteriors see of them is
        `observed.cached["projections/NAME"]`.
        """
        ...


class SubsetRule(Part):
    """Makes q(z|x_S) for subsets of the modalities."""

    group: ClassVar[str] = "subsets"
    uses_experts: ClassVar[bool] = True
    """Whether it is made of the posteriors of single modalities, which are trained for it."""

    @property
    def within_ball(self) -> bool:
        """Whether draws are kept within the ball that training rows' latents span."""
        return True

    @abstractmethod
    def combine(
        self, system: Experts, module: nn.Module | None, observed: Observed
    ) -> Distribution | Target:
        """q(z|x_S) of one or more observed modalities: batch shape (rows,)."""

    def words(self) -> str:
        """What it is, in a few words, for reports and tables."""
        return self.kind

    def prior(self, system: Experts, module: nn.Module | None) -> LearnedPrior | None:
        """What the module has learned of z where nothing is observed, if anything."""
        return None

    def build(self, system: Experts) -> nn.Module | None:
        """Module of its own that is trained, or None."""
        return None

    def stages(self, system: Experts, module: nn.Module | None) -> Sequence[StageSpec]:
        """How that module is trained."""
        return ()
