"""One amortised posterior for all subsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from mvflow.config import Training
from mvflow.core import Observed
from mvflow.core.parts import Kind, create
from mvflow.nn import MLP, seeded
from mvflow.posteriors import AmortisedPosterior, build_posterior
from mvflow.stages import Losses, StageSpec
from mvflow.systems.masking import presence
from mvflow.systems.subsets.base import Experts, SubsetRule

__all__ = ["Amortised"]


class Amortised(SubsetRule, Training):
    """q(z|x_S) of all 2^M subsets by one conditional flow over embeddings; no chain, no division.

    Its settings as a `Training` are those of its stage.
    """

    uses_experts: ClassVar[bool] = False

    posterior: Annotated[Any, Kind("posteriors")] = Field(
        default_factory=lambda: create("posteriors", {"kind": "conditional-maf", "context": 32})
    )
    """Family of the flow."""
    embedding: PositiveInt = 64
    """Width of each modality's embedding."""
    summary_hidden: tuple[PositiveInt, ...] = (512, 512)
    """Widths of the layers that merge the embeddings."""

    def combine(
        self, system: Experts, module: nn.Module | None, observed: Observed
    ) -> Distribution:
        """The flow given what is observed."""
        assert module is not None
        conditions = {n: system.condition(n, observed.encodable(n)) for n in observed.x}
        seen = presence(observed, [m.name for m in system.modalities]).T
        posterior: Distribution = module(conditions, seen, observed.covariates)
        return posterior

    def build(self, system: Experts) -> AmortisedPosterior:
        """Encoders of all modalities, and the flow."""
        names = [m.name for m in system.modalities]
        merged = len(names) * (self.embedding + 1)
        with seeded(system.settings.seed, "weights", "amortised"):
            return AmortisedPosterior(
                {
                    n: system.condition_encoder(n, self.summary_hidden, self.embedding)
                    for n in names
                },
                build_posterior(
                    self.posterior,
                    system.latent.dim,
                    lambda n: MLP(merged, *self.summary_hidden, n),
                ),
                self.embedding,
            )

    def stages(self, system: Experts, module: nn.Module | None) -> Sequence[StageSpec]:
        """One stage, in which each row sees a random subset of the modalities it has (Eq. 8)."""
        assert isinstance(module, AmortisedPosterior)
        names = [m.name for m in system.modalities]

        def loss(z: Tensor, observed: Observed) -> Losses:
            seen = torch.rand(len(z), len(names), device=z.device) < 0.5
            if observed.present:
                seen = seen & presence(observed, names).T
            x = {n: observed.encodable(n) for n in observed.x}
            fit = module(x, seen, observed.covariates).log_prob(z).mean()
            return Losses(-fit, {"log_density": fit})

        return [system.posterior_stage("amortised", module, self, {}, loss)]
