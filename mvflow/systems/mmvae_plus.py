"""MMVAE+ (Palumbo et al. 2023): a mixture of experts over what is shared, private latents beside.

z is u, which all modalities share, and a private w_j of each. Given x_S, u follows an equal
mixture of q(u|x_j), w_j is q(w_j|x_j) where x_j is observed and its prior elsewhere. In training,
decoders of other modalities than an expert's own get w from auxiliary priors with learned scales,
so that what is shared cannot hide in the private parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.distributions as td
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from mvflow.config import Config
from mvflow.core import ConfigError, LatentPart, LatentSpace, Observed, rescale_weights
from mvflow.functional import importance_log_likelihood, log_sum_exp
from mvflow.stages import Losses, StageSpec
from mvflow.systems.annealing import BetaTraining
from mvflow.systems.decoders import build_decoders, build_encoders
from mvflow.systems.experts import (
    FAMILIES,
    ExpertSystem,
    equal_mixture,
    mean_over_present,
    usable,
)
from mvflow.systems.sampling import check_samples

__all__ = ["MMVAEPlus"]


class Joint(BetaTraining):
    """Bound of `samples` weighted draws of each expert, by plain gradients; beta as in MMVAE."""

    samples: PositiveInt = 10


class MMVAEPlus(ExpertSystem):
    """Mixture-of-experts VAE with shared and private latents."""

    class Settings(Config):
        """`latent_dim` is the dimension of u, `private_dim` of each w_j: by default the same."""

        system: str = "mmvae-plus"
        private_dim: PositiveInt | None = None
        family: Literal["laplace", "normal"] = "laplace"
        joint: Joint = Joint()

    settings: MMVAEPlus.Settings

    def __init__(self, settings: MMVAEPlus.Settings) -> None:
        width = settings.private_dim or settings.latent_dim
        if width > settings.latent_dim:
            msg = (
                f"private_dim {width} is wider than latent_dim {settings.latent_dim}, which all "
                "modalities share: what is shared would hide in the private parts; choose at most "
                "latent_dim"
            )
            raise ConfigError(msg)
        private = [LatentPart(f"w_{m.name}", width, m.name) for m in settings.specifications()]
        latent = LatentSpace((LatentPart("u", settings.latent_dim), *private))
        reads = {"private_dim": width, "family": settings.family}
        super().__init__(settings, latent, SharedPrivateVAE(settings, latent, width), reads)
        self.family = settings.family

    def posterior(self, observed: Observed) -> Distribution:
        """q(z|x_S), a mixture whose components differ in u alone."""
        joint = self.joint
        (u, present), (w, _) = joint.shared(observed), joint.private(observed)
        u, w = (torch.where(present[..., None], each, 0.0) for each in (u, w))
        parts = {"u": u, **{f"w_{name}": torch.zeros_like(w) for name in joint.decoders}}
        parts |= {
            f"w_{name}": own.expand_as(w) for name, own in zip(sorted(observed.x), w, strict=True)
        }
        both = ({n: f.chunk(2, -1)[i] for n, f in parts.items()} for i in (0, 1))
        features = torch.cat([self.latent.join(half) for half in both], -1).transpose(0, 1)
        return equal_mixture(joint.distribution(features), present)

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the looser importance-weighted bound, averaged over the experts that are present.

        Terms are means over draws, unweighted.
        """
        settings, joint, names = self.settings.joint, self.joint, sorted(observed.x)
        beta = settings.beta_at(progress)
        (u_features, present), (w_features, _) = joint.shared(observed), joint.private(observed)
        q_u, q_w = joint.distribution(u_features), joint.distribution(w_features)
        size = torch.Size([settings.samples])
        u, w = q_u.rsample(size), q_w.rsample(size)  # (samples, experts, rows, width)
        parts = {"u": u, **joint.private_parts(w, names)}
        fits = joint.decoders.log_prob(self.latent.join(parts), observed)
        z = torch.cat([u, w], -1)
        log_prior = joint.distribution(torch.zeros_like(torch.cat([z, z], -1))).log_prob(z)
        each = q_u.log_prob(u[:, :, None])  # (samples, experts drawn from, experts, rows)
        summed = log_sum_exp(torch.where(usable(present), each, -torch.inf), 2)
        log_q = summed - usable(present).sum(0).to(summed).log()
        log_ratio = log_prior - log_q - q_w.log_prob(w)
        log_weights = beta * log_ratio + sum(joint.weights[n] * fit for n, fit in fits.items())
        bound = importance_log_likelihood(log_weights, axis=0)
        terms = {"kl": -mean_over_present(log_ratio.mean(0), present)}
        terms |= {name: mean_over_present(fit.mean(0), present) for name, fit in fits.items()}
        terms["elbo"] = sum(terms[name] for name in names) - terms["kl"]
        return Losses(-mean_over_present(bound, present), terms)

    def stages(self) -> Sequence[StageSpec]:
        """One stage, which is refused where its draws cannot fit into memory."""
        decoders = self.joint.decoders
        return [check_samples(spec, decoders, len(decoders)) for spec in super().stages()]

    def facts(self) -> Mapping[str, str]:
        """Its name and its latent space."""
        parts = ", ".join(f"{p.name} {p.dim}" for p in self.latent.parts)
        return {"system": "MMVAE+", "latents": parts}


class SharedPrivateVAE(nn.Module):
    """Encoders of u and of w_j, decoders and auxiliary priors."""

    def __init__(self, settings: MMVAEPlus.Settings, latent: LatentSpace, width: int) -> None:
        super().__init__()
        self.family = FAMILIES[settings.family]
        self.shared = build_encoders(settings, 2 * settings.latent_dim)
        self.private = build_encoders(settings, 2 * width)
        self.decoders = build_decoders(settings, latent)
        self.weights = rescale_weights(settings.specifications())
        self.log_scales = nn.Parameter(torch.zeros(len(self.decoders), width))

    def distribution(self, features: Tensor) -> Distribution:
        """Of locations and bounded log-scales (..., 2 * width); zeros give the prior."""
        loc, log_scale = features.chunk(2, -1)
        return td.Independent(self.family(loc, (7 * torch.tanh(log_scale / 7)).exp()), 1)

    def private_parts(self, w: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """w_j for each expert: its own draw, of other modalities one of the auxiliary prior."""
        parts = {}
        for name, log_scale in zip(self.decoders, self.log_scales, strict=True):
            auxiliary = self.distribution(torch.cat([torch.zeros_like(log_scale), log_scale]))
            drawn = list(auxiliary.rsample(w.shape[:-1]).unbind(1))
            if name in names:
                drawn[names.index(name)] = w[:, names.index(name)]
            parts[f"w_{name}"] = torch.stack(drawn, 1)
        return parts
