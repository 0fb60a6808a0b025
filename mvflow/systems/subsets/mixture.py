"""Mixture of experts, as in MMVAE (Shi et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from mvflow.core import Observed
from mvflow.functional import mixture_log_prob
from mvflow.systems.subsets.base import Experts, SubsetRule

__all__ = ["EqualMixture", "MixtureOfExperts"]


class MixtureOfExperts(SubsetRule):
    """An equal mixture of the experts: drawn from without a chain, but never sharper than one."""

    def combine(
        self, system: Experts, module: nn.Module | None, observed: Observed
    ) -> Distribution:
        """The expert of a single modality, or the mixture."""
        experts = [
            system.expert(name, x, observed.covariates) for name, x in sorted(observed.x.items())
        ]
        return experts[0] if len(experts) == 1 else EqualMixture(experts)


class EqualMixture(Distribution):
    """Equal mixture of distributions of any families, all of one batch and event shape.

    Args:
        components: with batch shape (rows,) and event shape (latent_dim,).

    Examples:
        >>> from zuko.distributions import DiagNormal
        >>> apart = [DiagNormal(torch.full((1, 1), at), torch.ones(1, 1)) for at in (-2.0, 2.0)]
        >>> EqualMixture(apart).log_prob(torch.zeros(1, 1))
        tensor([-2.9189])
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, components: Sequence[Distribution]) -> None:
        self.components = tuple(components)
        first = self.components[0]
        super().__init__(first.batch_shape, first.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log of the mean density of the components."""
        return mixture_log_prob(torch.stack([q.log_prob(value) for q in self.components]))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Each draw of a component chosen at random."""
        each = torch.stack([q.sample(sample_shape) for q in self.components])
        chosen = torch.randint(len(each), each.shape[1:-1], device=each.device)
        return torch.gather(each, 0, chosen[None, ..., None].expand(1, *each.shape[1:]))[0]
