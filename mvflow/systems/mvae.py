"""MVAE (Wu and Goodman 2018): the posterior of any subset is a product of Gaussian experts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Self

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.distributions import DiagNormal

from mvflow.config import Config, Share, Training
from mvflow.core import LatentSpace, Observed, rescale_weights
from mvflow.functional import normal_kl_standard, normal_product
from mvflow.nn import seeded
from mvflow.stages import Losses, StageSpec
from mvflow.systems.annealing import annealed
from mvflow.systems.base import System
from mvflow.systems.decoders import build_decoders, build_encoders, network_settings

__all__ = ["MVAE"]


class Joint(Training):
    """Sub-sampled ELBO: of all modalities, of each alone, of `random_subsets` others per row.

    beta falls from `beta_start` to `beta` over the share `anneal`.
    """

    beta: PositiveFloat = 1.0
    beta_start: PositiveFloat | None = None
    anneal: Share = 0.5
    random_subsets: NonNegativeInt = 1


class MVAE(System):
    """Product-of-experts VAE: q(z|x_S) is p(z) times a Gaussian expert of each modality in S."""

    class Settings(Config):
        """Settings of MVAE."""

        system: str = "mvae"
        joint: Joint = Joint()

    settings: MVAE.Settings

    def __init__(self, settings: MVAE.Settings) -> None:
        super().__init__()
        self.settings = settings
        self.modalities = settings.specifications()
        self.latent = LatentSpace.flat(settings.latent_dim)
        self.joint = ProductVAE(settings, self.latent)

    @classmethod
    def build(cls, settings: Config) -> Self:
        """Assemble the networks; initial weights follow from the seed."""
        assert isinstance(settings, MVAE.Settings)
        with seeded(settings.seed, "weights", "joint"):
            return cls(settings)

    def prior(self) -> DiagNormal:
        """N(0, I)."""
        zero = torch.zeros(1, self.latent.dim, device=self.device, dtype=self.dtype)
        return DiagNormal(zero, torch.ones_like(zero))

    def posterior(self, observed: Observed) -> DiagNormal:
        """q(z|x_S): in a row, the product of the prior and of the experts that are present."""
        return DiagNormal(*_product(*self.joint.experts(observed)))

    def decode(
        self,
        z: Tensor,
        names: Collection[str] | None = None,
        covariates: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Distribution]:
        """p(x_j|z)."""
        return self.joint.decoders.decode(z, names, covariates)

    def stages(self) -> Sequence[StageSpec]:
        """One stage."""
        joint, reads = self.joint, network_settings(self.settings)
        return [StageSpec("joint", joint, self.settings.joint, joint.losses, reads=reads)]

    def facts(self) -> Mapping[str, str]:
        """Its name."""
        return {"system": "MVAE"}


class ProductVAE(nn.Module):
    """Encoders, decoders and the loss."""

    def __init__(self, settings: MVAE.Settings, latent: LatentSpace) -> None:
        super().__init__()
        self.settings = settings.joint
        self.encoders = build_encoders(settings, 2 * latent.dim)
        self.decoders = build_decoders(settings, latent)
        self.weights = rescale_weights(settings.specifications())

    def experts(self, observed: Observed) -> tuple[Tensor, Tensor, Tensor]:
        """Means and precisions (experts, rows, latent), and which are present (experts, rows)."""
        features, present = self.encoders(observed)
        loc, log_scale = features.chunk(2, -1)
        return loc, (-14 * torch.tanh(log_scale / 7)).exp(), present

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the sum of the ELBOs of the subsets, each from one draw of z per row.

        What is absent adds nothing to any of them. Terms are those of all modalities, unweighted.
        """
        settings, names = self.settings, sorted(observed.x)
        beta = annealed(settings.beta_start, settings.beta, settings.anneal, progress)
        locs, precisions, present = self.experts(observed)
        subsets = _subsets(present, settings.random_subsets)
        loc, scale = _product(locs[:, None], precisions[:, None], subsets)
        z = loc + scale * torch.randn_like(loc)
        kl = normal_kl_standard(loc, scale)  # (subsets, rows)
        elbos, terms = list(-beta * kl), {"kl": kl[0].mean()}
        for j, name in enumerate(names):  # decoded only where it may be in the subset
            having = [s for s in range(len(elbos)) if s in (0, 1 + j) or s > len(names)]
            at = torch.stack([z[s] for s in having])
            fits = self.decoders.log_prob(at, observed.only([name]))[name]
            for s, fit in zip(having, fits, strict=True):
                elbos[s] = elbos[s] + self.weights[name] * torch.where(subsets[j, s], fit, 0.0)
            terms[name] = fits[0].mean()
        terms["elbo"] = sum(terms[name] for name in names) - terms["kl"]
        return Losses(-torch.stack(elbos).mean(1).sum(), terms)


def _product(locs: Tensor, precisions: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of N(0, I) times the experts that are present."""
    precisions = torch.where(present[..., None], precisions, 0.0)
    prior = torch.zeros_like(precisions[:1])
    locs = torch.cat([prior, locs.expand_as(precisions)])
    return normal_product(locs, torch.cat([prior + 1, precisions]))


def _subsets(present: Tensor, count: int) -> Tensor:
    """Modalities of each subset, (modalities, subsets, rows): all, each alone, random ones.

    The random ones have two modalities or more, but not all, any number as likely as any other.
    """
    many, rows, device = *present.shape, present.device
    alone = torch.eye(many, dtype=torch.bool, device=device)[..., None].expand(-1, -1, rows)
    subsets = [torch.ones_like(alone[:, :1]), alone[:, : many if many > 1 else 0]]
    if many > 2 and count:
        order = torch.rand(many, count, rows, device=device).argsort(0).argsort(0)
        subsets.append(order < torch.randint(2, many, (count, rows), device=device))
    return torch.cat(subsets, 1) & present[:, None]
