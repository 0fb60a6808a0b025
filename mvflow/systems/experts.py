"""Systems of one stage in which each modality has an encoder, an expert: what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.distributions as td
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.distributions import DiagNormal

from mvflow.config import Config
from mvflow.core import LatentSpace, Observed, rescale_weights
from mvflow.functional import normal_kl, normal_product
from mvflow.nn import seeded
from mvflow.stages import Losses, StageSpec
from mvflow.systems.base import System
from mvflow.systems.decoders import build_decoders, build_encoders, network_settings

__all__ = [
    "FAMILIES",
    "ExpertSystem",
    "ExpertVAE",
    "Experts",
    "equal_mixture",
    "expert_kl",
    "mean_over_present",
    "product_of_experts",
    "usable",
]

FAMILIES: Mapping[str, Any] = {"laplace": td.Laplace, "normal": td.Normal}
"""Families of experts and priors, each coordinate by itself."""


class Experts(NamedTuple):
    """q(z|x_j) of the observed modalities, sorted by name: (experts, rows, latent) each."""

    loc: Tensor
    log_scale: Tensor
    """As the encoders give it, unbounded."""
    present: Tensor
    """Whether the modality is there, bool (experts, rows)."""

    @property
    def scale(self) -> Tensor:
        """Standard deviations, from exp(-7) to exp(7)."""
        return (7 * torch.tanh(self.log_scale / 7)).exp()

    @property
    def precision(self) -> Tensor:
        """1 / scale^2."""
        return (-14 * torch.tanh(self.log_scale / 7)).exp()


class ExpertVAE(nn.Module):
    """Encoders and decoders of all modalities."""

    def __init__(self, settings: Config, latent: LatentSpace) -> None:
        super().__init__()
        self.encoders = build_encoders(settings, 2 * latent.dim)
        self.decoders = build_decoders(settings, latent)
        self.weights = rescale_weights(settings.specifications())

    def experts(self, observed: Observed) -> Experts:
        """The experts of all observed modalities."""
        features, present = self.encoders(observed)
        loc, log_scale = features.chunk(2, -1)
        return Experts(loc, log_scale, present)

    def log_likelihood(self, z: Tensor, observed: Observed) -> tuple[Tensor, dict[str, Tensor]]:
        """sum_j lambda_j log p(x_j|z) in each row, and log p(x_j|z) by name; absent ones add 0.

        Args:
            z: (..., rows, latent.dim).
            observed: of these rows.
        """
        fits = self.decoders.log_prob(z, observed)
        total = torch.stack([self.weights[name] * fit for name, fit in fits.items()]).sum(0)
        return total, fits


class ExpertSystem(System):
    """System of one stage, `joint`, whose posterior of any subset is made of its experts.

    A subclass says how experts are combined, which bound is maximised, and what it is.

    Args:
        settings: with a section `joint`.
        latent: parts of z; by default one of `latent_dim` that all modalities share.
        networks: what is trained; by default an `ExpertVAE`.
        reads: settings besides those of the networks that the weights depend on.
    """

    family: str = "normal"
    """Of the prior."""
    accepts_absent: ClassVar[bool] = True

    def __init__(
        self,
        settings: Any,
        latent: LatentSpace | None = None,
        networks: nn.Module | None = None,
        reads: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.modalities = settings.specifications()
        self.latent = latent or LatentSpace.flat(settings.latent_dim)
        self.joint: Any = ExpertVAE(settings, self.latent) if networks is None else networks
        self.reads = {**network_settings(settings), **(reads or {})}

    @classmethod
    def build(cls, settings: Config) -> Self:
        """Assemble the networks; initial weights follow from the seed."""
        with seeded(settings.seed, "weights", "joint"):
            return cls(settings)

    @abstractmethod
    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the bound, a mean over rows, from draws of torch's generator."""

    def prior(self) -> Distribution:
        """Standard, of the system's family."""
        zero = torch.zeros(1, self.latent.dim, device=self.device, dtype=self.dtype)
        if self.family == "normal":
            return DiagNormal(zero, torch.ones_like(zero))
        return td.Independent(FAMILIES[self.family](zero, torch.ones_like(zero)), 1)

    def decode(
        self,
        z: Tensor,
        names: Collection[str] | None = None,
        covariates: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Distribution]:
        """p(x_j|z)."""
        decoded: dict[str, Distribution] = self.joint.decoders.decode(z, names, covariates)
        return decoded

    def stages(self) -> Sequence[StageSpec]:
        """One stage."""
        return [StageSpec("joint", self.joint, self.settings.joint, self.losses, reads=self.reads)]


def product_of_experts(
    experts: Experts, members: Tensor | None = None, *, with_prior: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean and scale of the product of Gaussian experts, (..., rows, latent).

    Args:
        experts: of which those are multiplied that are present.
        members: bool (experts, ..., rows), which of the present ones are in each product; None:
            all, in one product.
        with_prior: whether N(0, I) is one of the factors. Where there is no other, it is.
    """
    loc, precision, members = experts.loc, experts.precision, _within(experts.present, members)
    middle = (slice(None), *(None,) * (members.ndim - 2))
    precision = torch.where(members[..., None], precision[middle], 0.0)
    prior = torch.zeros_like(precision[:1])
    if with_prior:
        prior = prior + 1
    else:
        prior = prior + (~members.any(0, keepdim=True)).to(prior)[..., None]
    locs = torch.cat([torch.zeros_like(prior), loc[middle].expand_as(precision)])
    return normal_product(locs, torch.cat([prior, precision]))


def _within(present: Tensor, members: Tensor | None) -> Tensor:
    if members is None:
        return present
    return members & present.reshape(len(present), *(1,) * (members.ndim - 2), -1)


def equal_mixture(components: Distribution, present: Tensor) -> td.MixtureSameFamily:
    """Mixture of those components that are present in a row, all alike.

    Args:
        components: batch shape (rows, components), event shape (latent,).
        present: bool (components, rows).
    """
    logits = torch.zeros(present.shape, device=present.device, dtype=components.mean.dtype)
    logits = logits.masked_fill(~usable(present), -torch.inf)
    return td.MixtureSameFamily(td.Categorical(logits=logits.T), components)


def usable(present: Tensor) -> Tensor:
    """Components that make up a mixture: those present, or all in a row without any."""
    return present | ~present.any(0)


def mean_over_present(values: Tensor, present: Tensor) -> Tensor:
    """Mean over rows of the mean over present experts; a row without any counts as zero."""
    total = torch.where(present, values, 0.0).sum(0)
    return (total / present.sum(0).clamp_min(1)).mean()


def expert_kl(loc: Tensor, scale: Tensor, experts: Experts) -> Tensor:
    """sum_j KL(N(loc, scale^2) || q(z|x_j)) over the experts that are present, (rows,)."""
    each = normal_kl(loc, scale, experts.loc, experts.scale)
    return torch.where(experts.present, each, 0.0).sum(0)
