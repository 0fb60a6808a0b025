"""TELBO (Vedantam et al. 2018): a joint VAE, then an ELBO of each modality alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mvflow.config import Config
from mvflow.core import Observed
from mvflow.functional import normal_kl_standard
from mvflow.stages import Losses, StageSpec
from mvflow.systems.annealing import BetaTraining
from mvflow.systems.coordinated import CoordinatedSystem, SubsetProduct, product_by_default
from mvflow.systems.decoders import network_settings
from mvflow.systems.joint_system import JointTraining
from mvflow.systems.masking import zero_unless

__all__ = ["TELBO"]


class TELBO(CoordinatedSystem):
    """Triple ELBO; subsets by the product of its experts over the prior.

    As the authors do, decoders are frozen when the experts are trained.
    """

    class Settings(Config):
        """Settings of TELBO: one section for each of its stages."""

        system: str = "telbo"
        joint: JointTraining = JointTraining()
        experts: BetaTraining = BetaTraining()
        subset: SubsetProduct = product_by_default()

    settings: TELBO.Settings

    def stages(self) -> Sequence[StageSpec]:
        """The joint VAE, then the experts under its decoders."""
        settings = self.settings

        def loss(observed: Observed, progress: float | Tensor) -> Losses:
            return self.joint.losses(
                observed, settings.joint.beta_at(progress), settings.joint.independence
            )

        reads = network_settings(settings)
        return [
            self.joint_stage(settings.joint, loss),
            StageSpec("experts", self.experts, settings.experts, self.losses, ("joint",), reads),
        ]

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the sum of the modalities' own ELBOs, one draw of z ~ q(z|x_j) each.

        A row that lacks a modality has none of it.
        """
        beta, elbos, terms = self.settings.experts.beta_at(progress), [], {}
        for name, loc, scale in self.expert_moments(observed):
            z = loc + scale * torch.randn_like(loc)
            fit = self.joint.decoders.log_prob(z, observed.only([name]))[name]
            kl = normal_kl_standard(loc, scale)
            here = observed.is_present(name)
            elbos.append(zero_unless(here, self.joint.weights[name] * fit - beta * kl))
            terms[name] = zero_unless(here, fit - kl).mean()
        return Losses(-torch.stack(elbos).sum(0).mean(), terms)

    def facts(self) -> Mapping[str, str]:
        """Its name, weight and subset rule."""
        beta = self.settings.joint.beta_words()
        return {"system": "TELBO", "beta": beta, "subset": self.rule.kind}
