"""Importance-sampled log-likelihoods of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from mvflow.functional import log_mean_exp, mixture_log_prob
from mvflow.inference import Model, ProductOfExperts
from mvflow.nn import seeded

__all__ = ["log_likelihood"]

MOST_VALUES = 2**24
"""Decoded values held at once."""

Posterior = Callable[[Mapping[str, Tensor]], Distribution | ProductOfExperts]

Part = Callable[[int], dict[str, NDArray[Any]]]
"""Does one piece of work, by its number."""

Divided = Callable[[Part, int], list[dict[str, NDArray[Any]]]]
"""The results of so many pieces of work."""


def log_likelihood(
    model: Model,
    posterior: Posterior,
    x: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    *,
    n: int,
    seed: int,
    divided: Divided,
) -> NDArray[np.float64]:
    r"""Log p(x | given) = log E_{q(z|given)} prod_j p(x_j|z) of each row (paper C.2).

    z is drawn from an equal mixture of q(z|given) and of posteriors that have seen x, so that
    no weight exceeds the number of its parts (balance heuristic). Without `given`, q(z|given)
    is the prior and the value is log p(x).

    Args:
        model: the model.
        posterior: observed modalities -> q(z|x_S).
        x: what is scored.
        given: what it is conditioned on.
        n: draws per row.
        seed: of the draws.
        divided: calls a function with 0, 1, ... and gives the results of all.
    """
    largest = max(m.size for m in model.modalities)
    size = max(1, MOST_VALUES // (n * largest))
    rows = len(next(iter(x.values())))

    def part(i: int) -> dict[str, NDArray[Any]]:
        at = slice(i * size, (i + 1) * size)
        some, seen = ({k: v[at] for k, v in each.items()} for each in (x, given))
        with torch.no_grad(), seeded(seed, "likelihood", i, device=next(iter(x.values())).device):
            return {"": _chunk(model, posterior, some, seen, n).double().cpu().numpy()}

    return np.concatenate([p[""] for p in divided(part, -(-rows // size))])


def _chunk(
    model: Model,
    posterior: Posterior,
    x: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    n: int,
) -> Tensor:
    rows = len(next(iter(x.values())))
    target = posterior(given)
    seen = {**given, **x}
    proposals: list[Distribution] = []
    if len(seen) == len(model.modalities):
        proposals.append(model.joint.posterior(seen))
    else:
        proposals += [_proposal(posterior, name, value) for name, value in seen.items()]
    if isinstance(target, ProductOfExperts):
        proposals += target.experts
    else:
        proposals.append(target if given else target.expand(torch.Size([rows])))
    share = -(-n // len(proposals))
    z = torch.cat([q.sample((share,)) for q in proposals])
    log_proposal = mixture_log_prob(torch.stack([q.log_prob(z) for q in proposals]))
    log_target = target.log_prob(z) - log_proposal
    decoded = model.joint.decode(z, x.keys())
    log_joint = log_target + sum(decoded[name].log_prob(value) for name, value in x.items())
    value: Tensor = log_mean_exp(log_joint.double(), axis=0)
    if isinstance(target, ProductOfExperts):  # its constant, from the same draws
        value = value - log_mean_exp(log_target.double(), axis=0)
    return value


def _proposal(posterior: Posterior, name: str, x: Tensor) -> Distribution:
    """q(z|x_j) of one modality, which no kind of posterior makes a product."""
    made = posterior({name: x})
    assert not isinstance(made, ProductOfExperts)
    return made
