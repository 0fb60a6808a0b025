"""One flow-matching network for all subsets, the empty one too."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from mvflow.config import Later, Training
from mvflow.core import DataError, Observed
from mvflow.nn import seeded
from mvflow.posteriors import MatchingPosterior
from mvflow.stages import Losses, Rows, StageSpec
from mvflow.systems.base import LearnedPrior
from mvflow.systems.masking import presence
from mvflow.systems.pairs import present_rows
from mvflow.systems.sampling import bytes_of_draw, check_draws
from mvflow.systems.subsets.base import Experts, SubsetRule

__all__ = ["Matching", "random_subsets_by_size"]

STAGE = "matching"

CHECKED_ROWS = 256
"""Training rows on which the solver is checked."""


class Matching(SubsetRule, Training):
    """q(z|x_S) of all 2^M subsets by conditional flow matching; no chain, no division.

    Given nothing it is a prior, from which is drawn unless another one is fitted. Its settings as
    a `Training` are those of its stage.
    """

    uses_experts: ClassVar[bool] = False

    embedding: PositiveInt = 64
    """Width of each modality's embedding."""
    sees: Literal["projections", "data", "both"] = "projections"
    """What is embedded of a model with projectors: their outputs, the data, or each by a network
    of its own. Without projectors it is the data."""
    summary_hidden: tuple[PositiveInt, ...] = Field(default=(512, 512), min_length=1)
    """Widths of the layers that merge the embeddings."""
    width: PositiveInt = 512
    """Of the velocity's two hidden layers."""
    average: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """What one step leaves of the averages of the weights, with which is drawn."""
    draws: PositiveInt = 4
    """Subsets, times and noises of each row in a step, for one pass of its encoders."""
    distillation: Annotated[float, Field(ge=0, le=1), Later()] = 0.0
    """Weight of a teacher's velocity in what is fitted: that of the averaged weights, which sees
    all that the row has at the same noisy state, where the network sees less (as MUNITE, 2026)."""
    learn_from: Annotated[Literal["all", "complete"], Later()] = "all"
    """The rows whose z it learns. That of a row which lacks modalities is drawn from a Gaussian
    q(z|x_S), which can be far from the posterior where what is absent leaves much open."""
    tolerance: PositiveFloat = 0.02
    """Steps of the solver are doubled until that changes log-densities by less, in nats."""
    guidance: NonNegativeFloat = 0.0
    """w in v + w (v - v_0), v_0 the velocity given nothing: draws keep closer to what is observed
    and vary less than those of the posterior. No training depends on it."""

    def dependencies(self) -> dict[str, Any]:
        """The settings that trained weights depend on."""
        return {k: v for k, v in super().dependencies().items() if k != "guidance"}

    def words(self) -> str:
        """The kind, with the guidance of its draws."""
        return f"{self.kind}, guidance {self.guidance:g}" if self.guidance else self.kind

    def combine(
        self, system: Experts, module: nn.Module | None, observed: Observed
    ) -> Distribution:
        """The flow given what is observed, without guidance."""
        assert isinstance(module, MatchingPosterior)
        seen = None
        if observed.present:
            seen = presence(observed, [m.name for m in system.modalities]).T
        data = {n: observed.encodable(n) for n in observed.x}
        x = {n: system.condition(n, x) for n, x in data.items()}
        posterior: Distribution = module(x, seen, observed.covariates, data)
        return posterior

    def prior(self, system: Experts, module: nn.Module | None) -> LearnedPrior:
        """The flow given nothing."""
        assert isinstance(module, MatchingPosterior)
        title = "the latents as one network for all subsets has learned them"
        return LearnedPrior(self.kind, title, STAGE, partial(module, {}))

    def build(self, system: Experts) -> MatchingPosterior:
        """Encoders of all modalities, and the velocity."""
        names, settings = [m.name for m in system.modalities], system.settings
        sees = self.sees if getattr(settings, "projector", None) is not None else "projections"

        def encoders(data: bool) -> dict[str, nn.Module]:
            hidden, out = self.summary_hidden, self.embedding
            return {n: system.condition_encoder(n, hidden, out, data=data) for n in names}

        with seeded(settings.seed, "weights", STAGE):
            return MatchingPosterior(
                None if sees == "data" else encoders(data=False),
                system.latent.dim,
                self.embedding,
                data_encoders=None if sees == "projections" else encoders(data=True),
                hidden=self.summary_hidden,
                width=self.width,
                decay=self.average,
            )

    def stages(self, system: Experts, module: nn.Module | None) -> Sequence[StageSpec]:
        """One stage, in which each row sees a random subset of its modalities."""
        assert isinstance(module, MatchingPosterior)
        count, keep_data = len(system.modalities), module.data_encoders is not None

        def loss(z: Tensor, observed: Observed) -> Losses:
            seen = random_subsets_by_size(self.draws * len(z), count, z.device)
            data = x = {n: observed.encodable(n) for n in observed.x}
            if keep_data:
                x = {n: observed.cached[f"projections/{n}"] for n in x}

            def condition(seen: Tensor) -> Tensor:
                embedded, has = module.embed(x, observed.covariates, data)
                embedded, has = embedded.repeat(self.draws, 1, 1, 1), has.repeat(self.draws, 1)
                return module.merged(embedded, seen & has)

            if module.training:
                module.update_averages()
            has = torch.ones_like(seen)
            if observed.present:
                rows = presence(observed, [m.name for m in system.modalities]).T
                has = rows.repeat(self.draws, 1)
            seen = seen & has
            t, at, target = module.states(z.repeat(self.draws, 1))
            if module.training and self.distillation:
                with torch.no_grad(), module.averaged():
                    teacher = module.velocity.residual(t, at, condition(has))
                mixed = torch.lerp(target, teacher, self.distillation)
                target = torch.where((seen != has).any(1, keepdim=True), mixed, target)
            with nullcontext() if module.training else module.averaged():
                error = module.loss((t, at, target), condition(seen))
            if self.learn_from == "complete":
                complete = has.all(1)
                error = torch.where(complete, error, 0.0) / complete.float().mean().clamp(min=1e-6)
            return Losses(error.mean(), {})

        @torch.no_grad()
        def finish(rows: Rows) -> None:
            module.use_averages()
            observed = Observed.from_columns(next(iter(rows.batches(CHECKED_ROWS))))
            with seeded(system.settings.seed, STAGE, "solver", device=module.shift.device):
                z = system.encode(observed).sample()
                seen = random_subsets_by_size(len(z), count, z.device)
            if observed.present:
                seen = seen & presence(observed, [m.name for m in system.modalities]).T
            data = {n: observed.encodable(n) for n in observed.x}
            x = {n: system.condition(n, x) for n, x in data.items()}
            flow = module(x, seen, observed.covariates, data)
            module.choose_steps(z, flow, self.tolerance)

        spec = system.posterior_stage(STAGE, module, self, {}, loss, keep_data=keep_data)

        def check(rows: Rows) -> None:
            if self.learn_from == "complete":
                masks = present_rows([m.name for m in system.modalities], rows)
                if masks and not torch.stack([*masks.values()]).all(0).any():
                    msg = "no row has all modalities: set subset.learn_from='all'"
                    raise DataError(msg)
            if self.draws > 1:
                one = bytes_of_draw(partial(_step, module, count))
                check_draws("subset.draws", self.draws, self, rows, one, module)

        return [replace(spec, check=check, finish=finish)]


def _step(module: MatchingPosterior, modalities: int, draws: int) -> Tensor:
    """What a step computes of each draw of a row."""
    views = 2 - (module.encoders is None) - (module.data_encoders is None)
    embedded = module.shift.new_zeros(draws, views, modalities, module.embedding)
    seen = embedded.new_ones(draws, modalities, dtype=torch.bool)
    z = module.shift.expand(draws, -1)
    return module.loss((z[:, 0], z, z), module.merged(embedded, seen))


def random_subsets_by_size(
    rows: int, modalities: int, device: torch.device | str = "cpu"
) -> Tensor:
    """A subset for each row, (rows, modalities) of bool: all sizes, 0 too, are equally likely.

    Examples:
        >>> seen = random_subsets_by_size(4000, 3)
        >>> [bool(900 < int((seen.sum(1) == size).sum()) < 1100) for size in range(4)]
        [True, True, True, True]
    """
    order = torch.rand(rows, modalities, device=device).argsort(1).argsort(1)
    size = (torch.rand(rows, 1, device=device) * (modalities + 1)).long()
    return order < size
