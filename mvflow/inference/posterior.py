"""q(z|x_S) for any subset S of the modalities: what each case is, and draws from it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution
from zuko.distributions import DiagNormal

from mvflow.config import SamplerConfig
from mvflow.core import Modality, UsageError
from mvflow.inference.chains import IndependentChains, MarkovChains
from mvflow.inference.diagnostics import exact
from mvflow.inference.product import (
    Aggregate,
    Draws,
    Prior,
    ProductOfExperts,
    ProductSampler,
    into_ball,
)
from mvflow.plugins import find

__all__ = ["Model", "build_sampler", "draw", "subset_posterior"]

ROUNDS = 50
"""How often draws outside the ball are drawn again before they are moved to its surface."""


@runtime_checkable
class Joint(Protocol):
    """The generative part of a model."""

    radius: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def posterior(self, x: Mapping[str, Tensor]) -> Distribution:
        """q(z|X) of all modalities."""
        ...

    def decode(self, z: Tensor, names: Collection[str] | None = None) -> dict[str, Distribution]:
        """p(x_j|z) of each modality, or of the named ones."""
        ...


@runtime_checkable
class Model(Protocol):
    """What generation, metrics and reports need of any system."""

    @property
    def joint(self) -> Joint:
        """The generative part."""
        ...

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Specifications, sorted by name."""
        ...

    @property
    def latent_dim(self) -> int:
        """Dimension of z."""
        ...

    def unimodal(self, name: str, x: Tensor) -> Distribution:
        """q(z|x_j)."""
        ...

    def amortised_posterior(self, x: Mapping[str, Tensor]) -> Distribution:
        """q(z|x_S), where one distribution is trained for all subsets."""
        ...


def subset_posterior(
    model: Model,
    given: Mapping[str, Tensor],
    *,
    product: bool = False,
    subset: Literal["product", "amortised"] = "product",
    divide_by: Literal["aggregate", "prior"] = "aggregate",
) -> Distribution | ProductOfExperts:
    """q(z|x_S): the prior for no modality, the flow for one, q(z|X) for all, else Eq. 12.

    Amortised: the one flow for all subsets takes the place of the single ones and of Eq. 12.

    Args:
        model: a trained model.
        given: observed modalities, name -> (rows, *shape), as network inputs.
        product: for all modalities too, do not use q(z|X) but what stands for other subsets.
        subset: what stands for them, the product of experts or the amortised posterior.
        divide_by: what the experts of a product share: the aggregated posterior, at which they
            are trained, or the prior (Eq. 12 to the letter), improper if experts are wider.

    Returns:
        A distribution with batch shape (rows,); for no modality a single row.
    """
    names = [m.name for m in model.modalities]
    if not given:
        device = model.joint.radius.device
        zero = torch.zeros(1, model.latent_dim, device=device)
        return DiagNormal(zero, torch.ones_like(zero))
    if len(given) == len(names) and not product and len(names) > 1:
        return model.joint.posterior(given)
    if subset == "amortised":
        return model.amortised_posterior(given)
    experts = [model.unimodal(name, given[name]) for name in names if name in given]
    if len(experts) == 1:
        return experts[0]
    joint = model.joint
    prior = divide_by == "prior"
    shared = Prior() if prior else Aggregate(joint.latent_mean, joint.latent_std)
    return ProductOfExperts(experts, joint.radius, shared)


@torch.no_grad()
def draw(
    posterior: Distribution | ProductOfExperts,
    n: int,
    sampler: SamplerConfig,
    radius: Tensor | float = math.inf,
) -> Draws:
    """Draw `n` values of z per row, (n, rows, latent_dim), none outside the ball.

    Distributions that can be sampled are; those of their draws that fall outside the ball are
    drawn again, and the share that did is reported.

    Raises:
        UsageError: if `n` is not positive or the sampler is unknown.
    """
    if n < 1:
        msg = f"n={n}: expected at least one draw"
        raise UsageError(msg)
    if isinstance(posterior, ProductOfExperts):
        return build_sampler(sampler).sample(posterior, n)
    z = posterior.sample((n,))
    outside = _outside(z, radius)
    contacts = outside.double().mean(0)
    for _ in range(ROUNDS):
        if not outside.any():
            break
        z = torch.where(outside[..., None], posterior.sample((n,)), z)
        outside = _outside(z, radius)
    if outside.any():
        z = into_ball(z, radius)
    return Draws(z, exact(contacts))


def build_sampler(settings: SamplerConfig) -> ProductSampler:
    """The sampler that is registered under the configured name, with the configured settings.

    What is registered is a class: a kernel (`mvflow.samplers.SamplingAlgorithm`), which is run
    as `MarkovChains` or `IndependentChains`, or a `ProductSampler` of its own. It is made by its
    class method `from_settings(settings)`, or without one by `cls(num_steps=...)`.

    Raises:
        UsageError: if there is none; the message lists those there are.
    """
    kind = find("samplers", settings.name)
    if hasattr(kind, "from_settings"):
        made = kind.from_settings(settings)
    else:
        made = kind(num_steps=settings.num_steps)
    if isinstance(made, ProductSampler):
        return made
    if settings.independent:
        return IndependentChains(made, steps=settings.draws, warmup=settings.warmup)
    return MarkovChains(
        made,
        chains=settings.chains,
        warmup=settings.warmup,
        draws=settings.draws,
        candidates=settings.candidates,
    )


def _outside(z: Tensor, radius: Tensor | float) -> Tensor:
    return ~(z.norm(dim=-1) <= radius)
