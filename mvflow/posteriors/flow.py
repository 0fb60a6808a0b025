"""Posterior families by name, all made of one module: encoder, flow, standardisation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.flows import MAF, NSF
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.lazy import Flow, LazyComposedTransform, LazyDistribution, LazyTransform
from zuko.transforms import ComposedTransform, DependentTransform

from mvflow.config import Flows
from mvflow.nn import widened
from mvflow.posteriors.frozen import FrozenFlow
from mvflow.posteriors.inverse import OrderedInverse

__all__ = ["FAMILIES", "FlowPosterior", "build_posterior"]

LOG_SCALE_BOUND = 7.0
"""Standard deviations of the base stay within exp(-7)...exp(7) of the standardised latent."""


class FlowPosterior(LazyDistribution):
    r"""q(z|x): a diagonal Gaussian that depends on x, pushed through a flow (JNF, Eq. 10).

    Calling it with the data of one modality encodes them once and returns a distribution with
    `log_prob` and `sample`; a sampler holds that distribution over all its steps.

    zuko's transforms go from z to the base variable: they are the inverse of f in the paper,
    so the log-determinant is added where Eq. 10 subtracts that of f.

    z is standardised first with the moments of the aggregated joint posterior (`standardise`):
    spline transforms act only on [-5, 5], and all families then start near the truth. For affine
    transforms this is a reparametrisation, so `maf` remains the paper's family.

    Args:
        encoder: x -> (rows, 2 * latent + context).
        latent: dimension of z.
        transform: flow over standardised z, or None for a Gaussian.
        context: number of features of x that also condition the transforms (0 in the paper).

    Examples:
        >>> q = FlowPosterior(nn.Linear(3, 4), latent=2)
        >>> q(torch.zeros(5, 3)).log_prob(torch.zeros(7, 5, 2)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent: int,
        transform: LazyTransform | None = None,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.transform = transform
        self.context = context
        self.shift: Tensor
        self.spread: Tensor
        self.register_buffer("shift", torch.zeros(latent))
        self.register_buffer("spread", torch.ones(latent))

    def standardise(self, loc: Tensor, scale: Tensor) -> None:
        """Fix the mean and standard deviation (latent,) of z that the flow sees as 0 and 1."""
        self.shift.copy_(loc)
        self.spread.copy_(scale)

    def forward(self, x: Tensor) -> NormalizingFlow:
        """The posterior of each row of `x`: batch shape (rows,), event shape (latent,)."""
        latent = len(self.shift)
        features = widened(self.encoder(x))
        loc, log_scale, context = features.split([latent, latent, self.context], dim=-1)
        log_scale = LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND)
        standardise = AffineTransform(-self.shift / self.spread, 1 / self.spread)
        transforms, given = [DependentTransform(standardise, 1)], context if self.context else None
        if self.transform is not None:
            transforms.append(self.transform(given))
        flow = NormalizingFlow(ComposedTransform(*transforms), DiagNormal(loc, log_scale.exp()))
        if context.requires_grad or not _is_frozen_affine(self.transform):
            return flow
        return FrozenFlow(flow, transforms[-1].transforms, self.shift, self.spread)


def _is_frozen_affine(transform: LazyTransform | None) -> bool:
    """Whether it is a chain of affine transforms with frozen weights, as `FrozenFlow` needs."""
    return isinstance(transform, LazyComposedTransform) and all(
        isinstance(part, OrderedInverse) and part.is_frozen and part.is_affine
        for part in transform.transforms
    )


def _gaussian(latent: int, settings: Flows) -> tuple[LazyTransform | None, int]:
    return None, 0


def _maf(latent: int, settings: Flows) -> tuple[LazyTransform | None, int]:
    return _composed(MAF, latent, 0, settings), 0


def _conditional_maf(latent: int, settings: Flows) -> tuple[LazyTransform | None, int]:
    return _composed(MAF, latent, settings.context, settings), settings.context


def _nsf(latent: int, settings: Flows) -> tuple[LazyTransform | None, int]:
    flow = partial(NSF, bins=settings.bins)
    return _composed(flow, latent, settings.context, settings), settings.context


def _composed(
    flow: Callable[..., Flow], latent: int, context: int, settings: Flows
) -> LazyTransform:
    """The transforms of a zuko flow, with an inverse that computes each hidden unit once."""
    made = flow(
        latent, context, transforms=settings.transforms, hidden_features=settings.hidden
    ).transform
    parts = made.transforms if isinstance(made, LazyComposedTransform) else [made]
    return LazyComposedTransform(
        *(
            OrderedInverse(t)
            if isinstance(t, MaskedAutoregressiveTransform) and settings.hidden
            else t
            for t in parts
        )
    )


FAMILIES: dict[str, Callable[[int, Flows], tuple[LazyTransform | None, int]]] = {
    "gaussian": _gaussian,
    "maf": _maf,
    "conditional-maf": _conditional_maf,
    "nsf": _nsf,
}
"""Name -> (flow over standardised z, number of context features that condition it)."""


def build_posterior(
    settings: Flows, latent: int, encoder: Callable[[int], nn.Module]
) -> FlowPosterior:
    """A posterior of the configured family over an encoder with as many outputs as it needs.

    Args:
        settings: family, number and width of transforms.
        latent: dimension of z.
        encoder: number of output features -> network that takes the data.
    """
    transform, context = FAMILIES[settings.posterior](latent, settings)
    return FlowPosterior(encoder(2 * latent + context), latent, transform, context)
