"""Product of experts (paper Eq. 12)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch import nn
from torch.distributions import Distribution

from mvflow.config import Config
from mvflow.core import Observed, UsageError, unknown_name
from mvflow.core.parts import create
from mvflow.inference import AggregateDivisor, Divisor, PriorDivisor, Target, product_of
from mvflow.systems.subsets.base import Experts, SubsetRule

__all__ = ["PROTOCOLS", "Product", "with_protocol"]


class Product(SubsetRule):
    """prod_j q_j(z|x_j) / s(z)^(|S|-1): one expert alone is sampled directly.

    So are Gaussian experts, in closed form, in each row where their product is proper.
    """

    divisor: Literal["aggregate", "prior", "prior-once"] = "aggregate"
    """s(z), what the experts share: the aggregated posterior, at which they are trained, or the
    prior (Eq. 12 to the letter), improper where experts are wider; "prior-once" divides by the
    prior a single time, however many experts there are (F.3 to the letter)."""
    ball: bool = True
    """Whether z is kept within the ball that training rows' latents span."""

    @property
    def within_ball(self) -> bool:
        """As `ball` says."""
        return self.ball

    def combine(
        self, system: Experts, module: nn.Module | None, observed: Observed
    ) -> Distribution | Target:
        """The expert of a single modality, or the product within the system's ball."""
        experts = [
            system.expert(name, x, observed.covariates) for name, x in sorted(observed.x.items())
        ]
        if len(experts) == 1:
            return experts[0]
        divisor: Divisor = PriorDivisor()
        if self.divisor == "aggregate":
            divisor = AggregateDivisor(system.latent_mean, system.latent_std)
        elif self.divisor == "prior-once":
            divisor = PriorDivisor(1 / (len(experts) - 1))
        return product_of(experts, system.radius, divisor)


_SAMPLER: Mapping[str, Any] = MappingProxyType(
    {
        "kind": "hmc",
        "independent": True,
        "warmup": 0,
        "draws": 100,
        "num_steps": 10,
        "step_size": 0.01,
        "adaptive": False,
    }
)
PROTOCOLS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        name: {
            "subset": {"kind": "product", "divisor": divisor, "ball": False},
            "sampler": _SAMPLER,
        }
        for name, divisor in (("paper", "prior"), ("paper-f3", "prior-once"))
    }
)
"""Settings of the paper's Appendix F, which says "100 steps per sampling", by name.

"paper" divides a product of |S| experts |S|-1 times by the prior (Eq. 12), "paper-f3" once (F.3);
the two are one for |S| = 2. F leaves open what a step takes; 10 leapfrogs of size 0.01 and the
start at a draw of a random expert are those of MultiVae, by the paper's first author. One chain a
draw, of which the last state is kept, and no ball. Ours by default instead: a few chains that
start at importance-resampled draws, a mass from the experts' precisions, a step size that adapts
in each row, many states of each kept, and a product divided by what its experts share in truth
(`AggregateDivisor`), within the ball that training rows' latents span.
"""


def with_protocol(config: Config, name: str) -> Config:
    """The configuration with sampler, divisor and extent of the paper.

    Systems whose posteriors of several modalities have a closed form have none of these: their
    configuration is as it was.

    Args:
        config: of any system.
        name: one of `PROTOCOLS`.

    Raises:
        UsageError: if there is no such protocol, or the subset rule is not a product.

    Examples:
        >>> from mvflow.config import config_from_dict
        >>> raw = {"system": "jnf", "latent_dim": 2, "modalities": {"a": {"shape": [3]}}}
        >>> with_protocol(config_from_dict(raw), "paper-f3").subset
        Product(divisor='prior-once', ball=False)
    """
    if name not in PROTOCOLS:
        raise UsageError(unknown_name("protocol", name, PROTOCOLS))
    rule = getattr(config, "subset", None)
    if rule is None:
        return config
    if not isinstance(rule, Product):
        msg = (
            f"protocol {name!r} is about products of experts, but the subset rule is "
            f'{rule.kind!r}: add --subset product (in Python subset="product")'
        )
        raise UsageError(msg)
    parts = {key: create(f"{key}s", value) for key, value in PROTOCOLS[name].items()}
    return config.model_copy(update=parts)
