"""Systems around a joint VAE: q(z|X) of a joint encoder, and a rule for all other subsets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.distributions import DiagNormal

from mvflow.config import Later, Training
from mvflow.core import LatentSpace, Observed
from mvflow.inference import Target
from mvflow.stages import CachedColumn, Losses, Rows, StageSpec
from mvflow.systems.annealing import BetaTraining
from mvflow.systems.base import LearnedPrior, System, require_all_present
from mvflow.systems.decoders import build_decoders, build_encoder, network_settings
from mvflow.systems.factors import check_linear, start_at_factors
from mvflow.systems.joint_vae import JointVAE, head_width

__all__ = ["JointEncoderSystem", "JointTraining", "build_joint_vae"]

Merge = tuple[PositiveInt, ...] | Literal["concat", "sum"]
"""How the heads of q(z|X) are merged: hidden layers of an MLP, each gives its part of z, or they
are added."""


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


def build_joint_vae(settings: Any) -> JointVAE:
    """The joint VAE of settings whose section `joint` has a `merge`."""
    specs, dim, merge = settings.specifications(), settings.latent_dim, settings.joint.merge
    width = head_width(dim, len(specs), merge)
    heads = {m.name: build_encoder(settings, m, width) for m in specs}
    decoders = build_decoders(settings, LatentSpace.flat(dim))
    return JointVAE(specs, heads, decoders, dim, merge)


class JointEncoderSystem(System):
    """System with a joint VAE, posteriors of single modalities, and a rule that combines them.

    Args:
        settings: with a section `joint` and a part `subset`.
        joint: the joint VAE.
    """

    encoder_stages: tuple[str, ...] = ("joint",)

    def __init__(self, settings: Any, joint: JointVAE) -> None:
        super().__init__()
        self.settings = settings
        self.modalities = joint.modalities
        self.latent = LatentSpace.flat(joint.latent_dim)
        self.joint = joint
        self.rule = settings.subset

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
        """q(z|X) of the joint encoder."""
        require_all_present(self, observed)
        return self.joint.posterior(observed.x, observed.covariates)

    def combine(self, observed: Observed) -> Distribution | Target:
        """q(z|x_S) by the subset rule."""
        require_all_present(self, observed)
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
        """q(z|X) given all modalities, else the posterior of each alone."""
        if len(observed.x) == len(self.modalities):
            return [self.encode(observed)]
        experts = [self.combine(observed.only((name,))) for name in sorted(observed.x)]
        return [q for q in experts if isinstance(q, Distribution)]

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
        """The stage that trains the joint VAE, or a module that it is a part of."""
        reads = network_settings(self.settings)

        def loss(observed: Observed, progress: float | Tensor) -> Losses:
            require_all_present(self, observed)
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
