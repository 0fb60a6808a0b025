"""JMVAE (Suzuki et al. 2016): a joint VAE whose Gaussian experts are trained beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from mvflow.config import Config, Share, Training
from mvflow.core import Observed
from mvflow.functional import jmvae_bound, normal_kl, normal_kl_standard
from mvflow.stages import Losses, StageSpec
from mvflow.systems.annealing import ramped
from mvflow.systems.coordinated import CoordinatedSystem, SubsetProduct, product_by_default
from mvflow.systems.joint_system import Masking, Merge
from mvflow.systems.masking import presence

__all__ = ["JMVAE"]


class Joint(Training):
    """JMVAE-kl: the ELBO less `alpha` times the divergences of q(z|X) from the experts.

    All divergences have a factor that rises from 0 to 1 over the share `warmup` (Appendix E.1).
    `merge` is as in JNF.
    """

    beta: PositiveFloat = 1.0
    alpha: NonNegativeFloat = 0.1
    warmup: Share = 0.5
    merge: Merge = (512, 512)
    masking: Masking = None


class JMVAE(CoordinatedSystem):
    """Joint multimodal VAE; subsets by the product of its experts over the prior (E.2)."""

    class Settings(Config):
        """Settings of JMVAE."""

        system: str = "jmvae"
        joint: Joint = Joint()
        subset: SubsetProduct = product_by_default()

    settings: JMVAE.Settings

    def stages(self) -> Sequence[StageSpec]:
        """One stage, for the joint VAE and the experts."""
        trained = nn.ModuleDict({"joint": self.joint, "experts": self.experts})
        return [self.joint_stage(self.settings.joint, self.losses, trained)]

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the bound, from one draw of z ~ q(z|X) per row."""
        settings, joint = self.settings.joint, self.joint
        q = joint.posterior(observed)
        loc, scale = q.base_dist.loc, q.base_dist.scale
        fits = joint.decoders.log_prob(q.rsample(), observed)
        total = torch.stack([joint.weights[name] * fit for name, fit in fits.items()]).sum(0)
        kl = normal_kl_standard(loc, scale)
        expert_kls = torch.stack(
            [normal_kl(loc, scale, mean, std) for _, mean, std in self.expert_moments(observed)]
        )
        if observed.present:
            expert_kls = torch.where(presence(observed, sorted(observed.x)), expert_kls, 0.0)
        ramp = ramped(settings.warmup, progress)
        elbo = total - ramp * settings.beta * kl
        bound = jmvae_bound(elbo, ramp * expert_kls, settings.alpha)
        terms = {"kl": kl.mean(), "expert_kl": expert_kls.sum(0).mean()}
        terms |= {name: fit.mean() for name, fit in fits.items()}
        terms["elbo"] = sum(terms[name] for name in fits) - terms["kl"]
        return Losses(-bound.mean(), terms)

    def facts(self) -> Mapping[str, str]:
        """Its name, weights and subset rule."""
        joint = self.settings.joint
        return {
            "system": "JMVAE",
            "beta": f"{joint.beta:g}",
            "alpha": f"{joint.alpha:g}",
            "subset": self.rule.kind,
        }
