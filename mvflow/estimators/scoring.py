"""Importance-sampled log-likelihoods of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from mvflow.core import Observed
from mvflow.functional import log_mean_exp, mixture_log_prob
from mvflow.nn import seeded
from mvflow.systems import System

__all__ = ["Chunk", "MapChunks", "log_likelihood"]

MAX_DECODED_VALUES = 2**24
"""Decoded values held at once."""

Chunk = Callable[[int], dict[str, NDArray[Any]]]
"""Computes the chunk with a given number."""

MapChunks = Callable[[Chunk, int], list[dict[str, NDArray[Any]]]]
"""The results of so many chunks, in order."""


def log_likelihood(
    system: System,
    x: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    *,
    n: int,
    seed: int,
    map_chunks: MapChunks,
) -> NDArray[np.float64]:
    r"""Log p(x | given) = log E_{q(z|given)} prod_j p(x_j|z) of each row (paper C.2).

    z is drawn from an equal mixture of q(z|given) and of posteriors that have seen x, so that
    no weight exceeds the number of its parts (balance heuristic). Without `given`, q(z|given)
    is the prior and the value is log p(x).

    Args:
        system: the model.
        x: what is scored.
        given: what it is conditioned on.
        n: draws per row.
        seed: of the draws.
        map_chunks: calls a function with 0, 1, ... and gives the results of all.
    """
    largest = max(m.size for m in system.modalities)
    size = max(1, MAX_DECODED_VALUES // (n * largest))
    rows, device = len(next(iter(x.values()))), next(iter(x.values())).device

    def chunk(i: int) -> dict[str, NDArray[Any]]:
        at = slice(i * size, (i + 1) * size)
        scored, seen = (Observed({k: v[at] for k, v in each.items()}) for each in (x, given))
        with torch.no_grad(), seeded(seed, "likelihood", i, device=device):
            return {"": _log_likelihood(system, scored, seen, n).double().cpu().numpy()}

    return np.concatenate([p[""] for p in map_chunks(chunk, -(-rows // size))])


def _log_likelihood(system: System, x: Observed, given: Observed, n: int) -> Tensor:
    target = system.posterior(given) if given.x else system.prior()
    proposals = list(system.proposals(Observed({**given.x, **x.x})))
    if not isinstance(target, Distribution):
        proposals += target.experts
    else:
        proposals.append(target if given.x else target.expand(torch.Size([x.rows])))
    share = -(-n // len(proposals))
    z = torch.cat([q.sample((share,)) for q in proposals])
    log_proposal = mixture_log_prob(torch.stack([q.log_prob(z) for q in proposals]))
    log_target = target.log_prob(z) - log_proposal
    decoded = system.decode(z, x.x.keys())
    log_joint = log_target + sum(decoded[name].log_prob(value) for name, value in x.x.items())
    value: Tensor = log_mean_exp(log_joint.double(), axis=0)
    if not isinstance(target, Distribution):  # its constant, from the same draws
        value = value - log_mean_exp(log_target.double(), axis=0)
    return value
