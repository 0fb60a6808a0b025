"""A normalizing flow fitted to the latents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.distributions import DiagNormal, NormalizingFlow

from mvflow.config import Training
from mvflow.core import ConfigError, Observed
from mvflow.core.parts import Kind, create
from mvflow.posteriors import Family
from mvflow.posteriors.fast import accelerate
from mvflow.priors.base import Prior, latent_draws
from mvflow.stages import Losses, Rows, StageSpec

__all__ = ["Flow", "FlowPrior"]

BLOCKS = 5
"""Blocks of 2048 rows whose latents are standardised."""


class Flow(Prior, Training):
    """A flow whose likelihood of draws of q(z|X) is maximised; the encoder is frozen.

    The settings as a `Training` are those of its stage.
    """

    title: ClassVar[str] = "a flow fitted to the latents"

    epochs: int = Field(default=20, ge=0)
    posterior: Annotated[Any, Kind("posteriors")] = Field(
        default_factory=lambda: create("posteriors", "nsf")
    )
    """Family of its transforms; what would condition them on data is a learned constant."""

    def build(self, system: Any) -> FlowPrior:
        """The flow, at its initial weights."""
        return FlowPrior(self.posterior, system.latent.dim)

    def stages(self, system: Any, module: nn.Module) -> Sequence[StageSpec]:
        """One stage: maximum likelihood of draws of q(z|X), one of each row and step."""
        assert isinstance(module, FlowPrior)

        def start(rows: Rows) -> None:
            module.standardise(torch.cat(list(islice(latent_draws(system, rows), BLOCKS))))

        def loss(observed: Observed, progress: float | Tensor) -> Losses:
            with torch.no_grad():
                q = system.posterior(observed)
            if not isinstance(q, Distribution):
                msg = (
                    f"prior 'flow' needs q(z|X) as a distribution, but system "
                    f"{system.settings.system!r} has an unnormalised density: use prior 'mixture'"
                )
                raise ConfigError(msg)
            fit = module().log_prob(q.sample()).mean()
            return Losses(-fit, {"log_density": fit})

        needs = getattr(system, "encoder_stages", None) or tuple(s.name for s in system.stages())
        return [StageSpec("prior", module, self, loss, needs, start=start)]


class FlowPrior(nn.Module):
    """N(0, I), pushed through transforms of a family and scaled to the latents' moments.

    Args:
        family: of the transforms.
        latent: dimension of z.

    Examples:
        >>> from mvflow.posteriors import MAF
        >>> prior = FlowPrior(MAF(), latent=2)
        >>> prior.standardise(torch.tensor([[0.0, 4.0], [2.0, 8.0]]))
        >>> prior().sample((5,)).shape
        torch.Size([5, 1, 2])
    """

    def __init__(self, family: Family, latent: int) -> None:
        super().__init__()
        self.transform = accelerate(family.transform(latent))
        self.context = nn.Parameter(torch.zeros(family.context_features))
        self.shift: Tensor
        self.spread: Tensor
        self.register_buffer("shift", torch.zeros(latent))
        self.register_buffer("spread", torch.ones(latent))

    def standardise(self, z: Tensor) -> None:
        """Fix the moments of z, (rows, latent), as those that the transforms see as 0 and 1."""
        self.shift.copy_(z.mean(0))
        self.spread.copy_(z.std(0).clamp_min(1e-6))

    def forward(self) -> NormalizingFlow:
        """The distribution of z: batch shape (1,), event shape (latent,)."""
        zero = torch.zeros_like(self.shift)[None]
        base = DiagNormal(zero, torch.ones_like(zero))
        context = self.context[None] if len(self.context) else None
        return self.transform.flow(context, base, shift=self.shift, spread=self.spread)
