"""MMVAE+ (Palumbo et al. 2023): a mixture of experts over what is shared, private latents beside.

z is u, which all modalities share, and a private w_j of each. Given x_S, u follows an equal
mixture of q(u|x_j), w_j is q(w_j|x_j) where x_j is observed and its prior elsewhere. In training,
decoders of other modalities than an expert's own get w from auxiliary priors with learned scales,
so that what is shared cannot hide in the private parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Self

import torch
import torch.distributions as td
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from mvflow.config import Config, Share, Training
from mvflow.core import LatentPart, LatentSpace, Observed, rescale_weights
from mvflow.functional import importance_log_likelihood, log_sum_exp
from mvflow.nn import seeded
from mvflow.stages import Losses, StageSpec
from mvflow.systems.annealing import annealed
from mvflow.systems.base import System
from mvflow.systems.decoders import build_decoders, build_encoders, network_settings

__all__ = ["MMVAEPlus"]

FAMILIES: Mapping[str, Any] = {"laplace": td.Laplace, "normal": td.Normal}


class Joint(Training):
    """Bound of `samples` importance-weighted draws of each expert.

    beta, the factor of log q - log p, falls from `beta_start` to `beta` over the share `anneal`.
    """

    beta: PositiveFloat = 1.0
    beta_start: PositiveFloat | None = None
    anneal: Share = 0.5
    samples: PositiveInt = 10


class MMVAEPlus(System):
    """Mixture-of-experts VAE with shared and private latents."""

    class Settings(Config):
        """`latent_dim` is the dimension of u, `private_dim` of each w_j: by default the same."""

        system: str = "mmvae-plus"
        private_dim: PositiveInt | None = None
        family: Literal["laplace", "normal"] = "laplace"
        joint: Joint = Joint()

    settings: MMVAEPlus.Settings

    def __init__(self, settings: MMVAEPlus.Settings) -> None:
        super().__init__()
        self.settings = settings
        self.modalities = settings.specifications()
        width = settings.private_dim or settings.latent_dim
        private = [LatentPart(f"w_{m.name}", width, m.name) for m in self.modalities]
        self.latent = LatentSpace((LatentPart("u", settings.latent_dim), *private))
        self.joint = SharedPrivateVAE(settings, self.latent, width)

    @classmethod
    def build(cls, settings: Config) -> Self:
        """Assemble the networks; initial weights follow from the seed."""
        assert isinstance(settings, MMVAEPlus.Settings)
        with seeded(settings.seed, "weights", "joint"):
            return cls(settings)

    def prior(self) -> Distribution:
        """Standard Laplace or normal."""
        return self.joint.distribution(self.joint.log_scales.new_zeros(1, 2 * self.latent.dim))

    def posterior(self, observed: Observed) -> Distribution:
        """q(z|x_S), a mixture whose components differ in u alone."""
        return self.joint.posterior(observed)

    def decode(
        self,
        z: Tensor,
        names: Collection[str] | None = None,
        covariates: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Distribution]:
        """p(x_j|u, w_j)."""
        return self.joint.decoders.decode(z, names, covariates)

    def stages(self) -> Sequence[StageSpec]:
        """One stage."""
        joint, width = self.joint, self.latent.parts[-1].dim
        own = {"private_dim": width, "family": self.settings.family}
        reads = {**network_settings(self.settings), **own}
        return [StageSpec("joint", joint, self.settings.joint, joint.losses, reads=reads)]

    def facts(self) -> Mapping[str, str]:
        """Its name and its latent space."""
        return {
            "system": "MMVAE+",
            "latents": ", ".join(f"{p.name} {p.dim}" for p in self.latent.parts),
        }


class SharedPrivateVAE(nn.Module):
    """Encoders of u and of w_j, decoders, auxiliary priors and the loss."""

    def __init__(self, settings: MMVAEPlus.Settings, latent: LatentSpace, width: int) -> None:
        super().__init__()
        self.settings, self.latent, self.family = settings.joint, latent, FAMILIES[settings.family]
        self.shared = build_encoders(settings, 2 * settings.latent_dim)
        self.private = build_encoders(settings, 2 * width)
        self.decoders = build_decoders(settings, latent)
        self.weights = rescale_weights(settings.specifications())
        self.log_scales = nn.Parameter(torch.zeros(len(self.decoders), width))

    def distribution(self, features: Tensor) -> Distribution:
        """Of locations and bounded log-scales (..., 2 * width); zeros give the prior."""
        loc, log_scale = features.chunk(2, -1)
        return td.Independent(self.family(loc, (7 * torch.tanh(log_scale / 7)).exp()), 1)

    def posterior(self, observed: Observed) -> Distribution:
        """q(z|x_S)."""
        (u, present), (w, _) = self.shared(observed), self.private(observed)
        u, w = (torch.where(present[..., None], each, 0.0) for each in (u, w))
        parts = {"u": u, **{f"w_{name}": torch.zeros_like(w) for name in self.decoders}}
        parts |= {
            f"w_{name}": own.expand_as(w) for name, own in zip(sorted(observed.x), w, strict=True)
        }
        both = ({n: f.chunk(2, -1)[i] for n, f in parts.items()} for i in (0, 1))
        features = torch.cat([self.latent.join(half) for half in both], -1).transpose(0, 1)
        logits = torch.zeros_like(present, dtype=u.dtype).masked_fill(
            ~_usable(present), -torch.inf
        )
        return td.MixtureSameFamily(td.Categorical(logits=logits.T), self.distribution(features))

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the looser importance-weighted bound, averaged over the experts that are present.

        Terms are means over draws, unweighted.
        """
        settings, names = self.settings, sorted(observed.x)
        beta = annealed(settings.beta_start, settings.beta, settings.anneal, progress)
        (u_features, present), (w_features, _) = self.shared(observed), self.private(observed)
        q_u, q_w = self.distribution(u_features), self.distribution(w_features)
        size = torch.Size([settings.samples])
        u, w = q_u.rsample(size), q_w.rsample(size)  # (samples, experts, rows, width)
        parts = {"u": u}
        for name, log_scale in zip(self.decoders, self.log_scales, strict=True):
            auxiliary = self.distribution(torch.cat([torch.zeros_like(log_scale), log_scale]))
            drawn = list(auxiliary.rsample(w.shape[:-1]).unbind(1))
            if name in names:
                drawn[names.index(name)] = w[:, names.index(name)]
            parts[f"w_{name}"] = torch.stack(drawn, 1)
        fits = self.decoders.log_prob(self.latent.join(parts), observed)
        z = torch.cat([u, w], -1)
        log_prior = self.distribution(torch.zeros_like(torch.cat([z, z], -1))).log_prob(z)
        each = q_u.log_prob(u[:, :, None])  # (samples, experts drawn from, experts, rows)
        summed = log_sum_exp(torch.where(_usable(present), each, -torch.inf), 2)
        log_ratio = (
            log_prior - (summed - _usable(present).sum(0).to(summed).log()) - q_w.log_prob(w)
        )
        log_weights = beta * log_ratio + sum(self.weights[n] * fit for n, fit in fits.items())
        bound = importance_log_likelihood(log_weights, axis=0)
        terms = {"kl": -_average(log_ratio.mean(0), present)}
        terms |= {name: _average(fit.mean(0), present) for name, fit in fits.items()}
        terms["elbo"] = sum(terms[name] for name in names) - terms["kl"]
        return Losses(-_average(bound, present), terms)


def _usable(present: Tensor) -> Tensor:
    """Experts that make up the mixture: those present, or all in a row without any."""
    return present | ~present.any(0)


def _average(values: Tensor, present: Tensor) -> Tensor:
    """Mean over rows of the mean over present experts; a row without any counts as zero."""
    total = torch.where(present, values, 0.0).sum(0)
    return (total / present.sum(0).clamp_min(1)).mean()
