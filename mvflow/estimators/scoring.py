"""Importance-sampled log-likelihoods of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from mvflow.core import Observed, UsageError
from mvflow.functional import effective_sample_size, log_mean_exp, mixture_log_prob
from mvflow.inference import DrawsWithDensity, pareto_k, refuse
from mvflow.likelihoods import present_log_prob
from mvflow.nn import own_generator
from mvflow.systems import Encodes, System

__all__ = ["Chunk", "ImportanceSampled", "MapChunks", "evidence_lower_bound", "log_likelihood"]

MAX_DECODED_VALUES = 2**24
"""Decoded values held at once."""

Chunk = Callable[[int], dict[str, NDArray[Any]]]
"""Computes the chunk with a given number."""

MapChunks = Callable[[Chunk, int], list[dict[str, NDArray[Any]]]]
"""The results of so many chunks, in order."""


class ImportanceSampled(NamedTuple):
    """Log-likelihoods with what tells whether they are to be trusted, each (rows,)."""

    values: NDArray[np.float64]
    """In nats."""
    ess: NDArray[np.float64]
    """Effective number of draws."""
    khat: NDArray[np.float64]
    """Shape of the Pareto tail of the weights: averages over them are unreliable from 0.7 on
    (Vehtari et al. 2024). Infinite where draws are too few to tell."""


def log_likelihood(
    system: System,
    x: Observed,
    given: Observed,
    *,
    n: int,
    seed: int,
    map_chunks: MapChunks,
) -> ImportanceSampled:
    r"""Log p(x | given) = log E_{q(z|given)} prod_j p(x_j|z) of each row (paper C.2).

    z is drawn from an equal mixture of q(z|given) and of posteriors that have seen x, so that
    no weight exceeds the number of its parts (balance heuristic). Without `given`, q(z|given)
    is the prior and the value is log p(x).

    Args:
        system: the model.
        x: what is scored, of rows that all have the same modalities; of values that are absent
            in these, nothing is.
        given: what it is conditioned on.
        n: draws per row.
        seed: of the draws.
        map_chunks: calls a function with 0, 1, ... and gives the results of all.

    Raises:
        NumericsError: if no weight of a row is a number.
    """
    largest = max(m.size for m in system.modalities)
    size = max(1, MAX_DECODED_VALUES // (n * largest))
    rows, device = x.rows, system.device

    def chunk(i: int) -> dict[str, NDArray[Any]]:
        scored, seen = (each.take(i * size, (i + 1) * size) for each in (x, given))
        with torch.no_grad(), own_generator(seed, "likelihood", i, device=device):
            return _log_likelihood(system, scored, seen, n)

    parts = map_chunks(chunk, -(-rows // size))
    return ImportanceSampled(
        *(np.concatenate([p[key] for p in parts]) for key in ImportanceSampled._fields)
    )


def evidence_lower_bound(
    system: System, x: Observed, *, n: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]]:
    """E log p(X|z) + log p(z) - log q(z|X) over draws z ~ q(z|X), of each row (paper, Eq. 3).

    Args:
        system: the model.
        x: rows of all modalities.
        n: draws per row.
        seed: of the draws.

    Returns:
        The bound (rows,); the draws (n, rows, latent_dim), and their log q(z|X), (n, rows).

    Raises:
        UsageError: if q(z|X) has no density.
    """
    q = system.encode(x) if isinstance(system, Encodes) else system.posterior(x)
    if not isinstance(q, Distribution):
        msg = "q(z|X) of this system has no density: there is no bound to compute"
        raise UsageError(msg)
    with torch.no_grad(), own_generator(seed, "bound", device=system.device):
        z = q.sample((n,))
        log_q = q.log_prob(z).double()
        decoded = system.decode(z, x.x.keys(), x.covariates)
        joint = sum(value.double() for value in _log_probs(decoded, x))
        bound = joint + system.prior().log_prob(z).double() - log_q
    refuse(~bound.isfinite().all(0), "the bound is not a finite number")
    return bound.mean(0).cpu().numpy(), z.cpu().numpy(), log_q.cpu().numpy()


def _log_likelihood(
    system: System, x: Observed, given: Observed, n: int
) -> dict[str, NDArray[Any]]:
    target = system.posterior(given) if given.x else system.prior()
    masks = {**(given.present or {}), **(x.present or {})}
    proposals = list(system.proposals(x._replace(x={**given.x, **x.x}, present=masks or None)))
    if not isinstance(target, Distribution):
        proposals += target.experts
    else:
        proposals.append(target if given.x else target.expand(torch.Size([x.rows])))
    z, finite, terms = _proposed(proposals, -(-n // len(proposals)))
    log_target = terms[-1] if isinstance(target, Distribution) else target.log_prob(z)
    # a proposal without a density, as those far from all training rows, proposes nothing
    terms = terms.nan_to_num(-torch.inf, posinf=torch.inf)
    log_target = log_target - mixture_log_prob(terms)
    decoded = system.decode(z, x.x.keys(), x.covariates)
    log_joint = log_target + sum(_log_probs(decoded, x))
    value: Tensor = _log_mean(log_joint, finite, "the weights of a likelihood are not numbers")
    if not isinstance(target, Distribution):  # its constant, from the same draws
        constant = _log_mean(log_target, finite, "the density of what is given is not a number")
        refuse(constant.isneginf(), "no draw has a density under what is given")
        value = value - constant
    weights = log_joint.double().masked_fill(~finite | log_joint.isnan(), -torch.inf).cpu()
    return {
        "values": value.double().cpu().numpy(),
        "ess": effective_sample_size(weights, axis=0).numpy(),
        "khat": np.array([pareto_k(row) for row in weights.T.numpy()]),
    }


def _proposed(proposals: Sequence[Distribution], share: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws (n, rows, latent), which are finite, and all log-densities (proposals, n, rows)."""
    drawn: list[Tensor] = []
    known: list[Tensor | None] = []
    for q in proposals:
        own = None
        if isinstance(q, DrawsWithDensity):
            z, own = q.sample_with_log_prob((share,))
        else:
            z = q.sample((share,))
        drawn.append(z)
        known.append(own)
    z = torch.cat(drawn)
    finite = z.isfinite().all(-1)
    z = torch.where(finite[..., None], z, 0.0)
    log_probs = []
    for i, (q, own) in enumerate(zip(proposals, known, strict=True)):
        if own is None:
            log_probs.append(q.log_prob(z))
            continue
        parts = list(z.split(share))
        others = q.log_prob(torch.cat(parts[:i] + parts[i + 1 :])) if len(parts) > 1 else own[:0]
        log_probs.append(torch.cat([others[: i * share], own, others[i * share :]]))
    return z, finite, torch.stack(log_probs)


def _log_probs(decoded: Mapping[str, Distribution], x: Observed) -> list[Tensor]:
    """Log p(x_j|z) of what is present, by modality."""
    masks = x.present or {}
    return [present_log_prob(decoded[n], value, masks.get(n)) for n, value in x.x.items()]


def _log_mean(log_weights: Tensor, finite: Tensor, what: str) -> Tensor:
    """Log of the mean weight of each row; those that are not numbers count as 0, but not all."""
    bad = ~finite | log_weights.isnan()
    refuse(bad.all(0), what)
    log_mean: Tensor = log_mean_exp(log_weights.masked_fill(bad, -torch.inf).double(), axis=0)
    return log_mean
