"""Product of experts (paper Eq. 12)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch import nn
from torch.distributions import Distribution

from mvflow.core import Observed
from mvflow.inference import AggregateDivisor, PriorDivisor, Target, product_of
from mvflow.systems.subsets.base import Experts, SubsetRule

__all__ = ["PAPER_PROTOCOL", "Product"]


class Product(SubsetRule):
    """prod_j q_j(z|x_j) / s(z)^(|S|-1): one expert alone is sampled directly.

    So are Gaussian experts, in closed form, in each row where their product is proper.
    """

    divisor: Literal["aggregate", "prior"] = "aggregate"
    """s(z), what the experts share: the aggregated posterior, at which they are trained, or the
    prior (Eq. 12 to the letter), improper where experts are wider."""

    def combine(
        self, system: Experts, module: nn.Module | None, observed: Observed
    ) -> Distribution | Target:
        """The expert of a single modality, or the product within the system's ball."""
        experts = [
            system.expert(name, x, observed.covariates) for name, x in sorted(observed.x.items())
        ]
        if len(experts) == 1:
            return experts[0]
        divisor = (
            PriorDivisor()
            if self.divisor == "prior"
            else AggregateDivisor(system.latent_mean, system.latent_std)
        )
        return product_of(experts, system.radius, divisor)


PAPER_PROTOCOL: Mapping[str, Any] = MappingProxyType(
    {
        "subset": {"kind": "product", "divisor": "prior"},
        "sampler": {
            "kind": "hmc",
            "independent": True,
            "warmup": 0,
            "draws": 100,
            "num_steps": 10,
            "step_size": 0.01,
            "adaptive": False,
        },
    }
)
"""Settings of the paper's Appendix F, which says "100 steps per sampling".

It leaves open what a step takes; 10 leapfrogs of size 0.01 and the start at a draw of a random
expert are those of MultiVae, by the paper's first author. One chain a draw, of which the last
state is kept. Ours by default instead: a few chains that start at importance-resampled draws, a
mass from the experts' precisions, a step size that adapts in each row, many states of each kept,
and a product divided by what its experts share in truth (`AggregateDivisor`).
"""
