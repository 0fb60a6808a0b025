"""Systems around a joint VAE: q(z|X) of a joint encoder, and a rule for all other subsets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.distributions import DiagNormal

from mvflow.config import Config, Later, Share, Training, config_from_dict
from mvflow.core import LatentSpace, Observed
from mvflow.inference import DrawsWithDensity, Target
from mvflow.stages import CachedColumn, Losses, Rows, StageSpec
from mvflow.systems.annealing import BetaTraining
from mvflow.systems.base import LearnedPrior, System, require_all_present
from mvflow.systems.decoders import build_decoders, build_encoder, network_settings
from mvflow.systems.factors import check_linear, start_at_factors
from mvflow.systems.joint_vae import JointVAE
from mvflow.systems.masking import presence, random_subsets, restricted
from mvflow.systems.merging import head_width

__all__ = ["JointEncoderSystem", "JointTraining", "Masking", "Merge", "build_joint_vae"]

Merge = tuple[PositiveInt, ...] | Literal["concat", "sum"]
"""How the heads of q(z|X) are merged: hidden layers of an MLP, each gives its part of z, or they
are added."""


Masking = Annotated[Share | None, Later()]
"""None: q(z|X) of complete rows alone. A share: q(z|x_S) of what a row has, by a network that is
told what is absent; in this share of the rows of a batch it is made to do with fewer modalities
than there are."""

HIDING = 0.5
"""Share for rows that lack modalities, where the configuration names none."""

SET_MASKING = f"train it with joint.masking={HIDING}"


class JointTraining(BetaTraining):
    """Joint VAE (paper 3.1).

    The heads of q(z|X) are merged by an MLP with the hidden layers `merge`; with "concat" each
    gives an equal part of z (Appendix E.3), with "sum" they are added. Networks `linear-mlp` may
    start at a factor analysis of the training rows.
    """

    merge: Merge = (512, 512)
    independence: Annotated[NonNegativeFloat, Later()] = 0.0
    """Factor of the squared correlations of z with the covariates of a batch's rows, which are to
    leave the latents; 0 leaves that to the ELBO alone, which hardly notices small ones."""
    start: Annotated[Literal["random", "factor-analysis"], Later()] = "random"
    masking: Masking = None


def build_joint_vae(settings: Any) -> JointVAE:
    """The joint VAE of settings whose section `joint` has a `merge`."""
    specs, dim, merge = settings.specifications(), settings.latent_dim, settings.joint.merge
    width = head_width(dim, len(specs), merge)
    heads = {m.name: build_encoder(settings, m, width) for m in specs}
    decoders = build_decoders(settings, LatentSpace.flat(dim))
    masked = settings.joint.masking is not None
    return JointVAE(specs, heads, decoders, dim, merge, masked=masked)


class JointEncoderSystem(System):
    """System with a joint VAE, posteriors of single modalities, and a rule that combines them.

    Args:
        settings: with a section `joint` and a part `subset`.
        joint: the joint VAE.
    """

    encoder_stages: tuple[str, ...] = ("joint",)
    accepts_absent: ClassVar[bool] = True

    @property
    def encodes_subsets(self) -> bool:
        """Whether the joint encoder takes rows that lack modalities."""
        return self.joint.is_masked

    def __init__(self, settings: Any, joint: JointVAE) -> None:
        super().__init__()
        self.settings = settings
        self.modalities = joint.modalities
        self.latent = LatentSpace.flat(joint.latent_dim)
        self.joint = joint
        self.rule = settings.subset

    @classmethod
    def for_absence(cls, settings: Config) -> Config:
        """The settings with a masked joint encoder."""
        joint: Any = settings.joint  # type: ignore[attr-defined]
        if joint.masking is not None:
            return settings
        section = {**joint.model_dump(), "masking": HIDING}
        return config_from_dict({**settings.model_dump(), "joint": section})

    subset_module: nn.Module | None
    """What the rule trains, if anything."""

    @abstractmethod
    def expert(
        self, name: str, x: Tensor, covariates: Mapping[str, Tensor] | None = None
    ) -> Distribution:
        """q(z|x_j)."""

    def prior(self) -> DiagNormal:
        """N(0, I)."""
        zero = torch.zeros(1, self.latent.dim, device=self.device, dtype=self.dtype)
        return DiagNormal(zero, torch.ones_like(zero))

    def posterior(self, observed: Observed) -> Distribution | Target:
        """q(z|X) where all of several modalities are observed, else by the subset rule."""
        if len(observed.x) == len(self.modalities) > 1:
            return self.encode(observed)
        return self.combine(observed)

    def encode(self, observed: Observed) -> DiagNormal:
        """q(z|X) of the joint encoder; q(z|x_S) of what each row has, if it is masked."""
        if not self.joint.is_masked:
            require_all_present(self, observed, SET_MASKING)
        return self.joint.posterior(observed)

    def combine(self, observed: Observed) -> Distribution | Target:
        """q(z|x_S) by the subset rule, of rows that all have the same modalities."""
        if not self.joint.is_masked:
            require_all_present(self, observed, SET_MASKING)
        elif observed.present:
            rows = {n: mask for n in observed.x if (mask := observed.is_present(n)) is not None}
            apart = "ask for those that have the same apart"
            require_all_present(self, observed._replace(present=rows), apart)
            observed = observed._replace(x={n: observed.encodable(n) for n in observed.x})
        combined: Distribution | Target = self.rule.combine(self, self.subset_module, observed)
        return combined

    @property
    def guidance(self) -> float | None:
        """That of the subset rule, None if it has none."""
        return getattr(self.rule, "guidance", None)

    @property
    def learned_prior(self) -> LearnedPrior | None:
        """What the subset rule has learned of z where nothing is observed."""
        prior: LearnedPrior | None = self.rule.prior(self, self.subset_module)
        return prior

    def proposals(self, observed: Observed) -> Sequence[Distribution]:
        """q(z|X) given all modalities, else the posterior of each alone.

        A masked joint encoder proposes of any subset. Where densities cost much, the posterior
        of all that is observed stands for those of each alone.
        """
        if len(observed.x) == len(self.modalities):
            return [self.encode(observed)]
        masked = [self.encode(observed)] if self.joint.is_masked else []
        if isinstance(posterior := self.combine(observed), DrawsWithDensity):
            return [*masked, posterior]
        experts = [self.combine(observed.only((name,))) for name in sorted(observed.x)]
        return [*masked, *(q for q in experts if isinstance(q, Distribution))]

    def decode(
        self,
        z: Tensor,
        names: Collection[str] | None = None,
        covariates: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Distribution]:
        """p(x_j|z)."""
        return self.joint.decoders.decode(z, names, covariates)

    @property
    def radius(self) -> Tensor:
        """Of the ball that the training rows' latents span; infinite where it is not to hold."""
        radius = self.joint.radius
        return radius if self.rule.within_ball else torch.full_like(radius, torch.inf)

    @property
    def latent_mean(self) -> Tensor:
        """Mean of z ~ q(z|X) over the training rows."""
        return self.joint.latent_mean

    @property
    def latent_std(self) -> Tensor:
        """Standard deviation of z ~ q(z|X) over the training rows."""
        return self.joint.latent_std

    def joint_stage(
        self,
        settings: Training,
        losses: Callable[[Observed, float | Tensor], Losses],
        module: nn.Module | None = None,
    ) -> StageSpec:
        """The stage that trains the joint VAE, or a module that it is a part of.

        Where it is masked, the loss is of what is left of each row when modalities are hidden at
        random: a bound on log p(x_S) of that.
        """
        reads, names = network_settings(self.settings), [m.name for m in self.modalities]

        def loss(observed: Observed, progress: float | Tensor) -> Losses:
            if self.joint.is_masked:
                seen = random_subsets(presence(observed, names), self.settings.joint.masking)
                observed = restricted(observed, dict(zip(names, seen, strict=True)))
            else:
                require_all_present(self, observed, SET_MASKING)
            return losses(observed, progress)

        @torch.no_grad()
        def finish(rows: Rows) -> None:
            parts = [self.latents.compute(batch).cpu() for batch in rows.batches(2048)]
            self.joint.record_latents(*torch.cat(parts).unbind(1))

        trained = self.joint if module is None else module
        start = None
        if getattr(settings, "start", "random") == "factor-analysis":
            check_linear(self.joint)
            start = partial(start_at_factors, self.joint)
        return StageSpec("joint", trained, settings, loss, reads=reads, start=start, finish=finish)

    @property
    def latents(self) -> CachedColumn:
        """Mean and standard deviation of the frozen q(z|X), (rows, 2, latent_dim)."""

        def compute(batch: Mapping[str, Tensor]) -> Tensor:
            q = self.encode(Observed.from_columns(batch)).base_dist
            return torch.stack([q.loc, q.scale], 1).float()

        joint = self.joint
        return CachedColumn("joint_posterior", compute, (joint.heads, joint.merge), ("joint",))
