"""Is a set of draws to be trusted? Numbers from arviz, gathered per row."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvflow.functional import effective_sample_size

__all__ = ["Diagnostics", "chain_diagnostics", "exact", "merged_rows", "pareto_k", "weighted"]

WORST_RHAT = 1000.0
"""R-hat of chains that never move, where the formula divides by zero."""

MAX_ROWS = 256
"""R-hat, effective sample sizes of chains and Pareto's k are computed for this many rows."""

MAX_CHAINS = 16
"""And from this many chains, at most."""

_NONE = np.zeros(0)


class Diagnostics(NamedTuple):
    """Quality of draws, one number per row; empty arrays for what a method does not have."""

    method: str
    """"exact" (the density can be sampled directly), "mcmc" (chains) or "sir" (resampling)."""
    acceptance: NDArray[np.float64]
    """Mean acceptance probability of proposals."""
    divergences: NDArray[np.int64]
    """Proposals that ran away numerically; rejected and counted."""
    contacts: NDArray[np.float64]
    """Share of proposals (mcmc), draws (exact) or candidates (sir) that fell outside the ball."""
    rhat: NDArray[np.float64]
    """Largest rank-normalised split R-hat over dimensions (first rows only)."""
    ess: NDArray[np.float64]
    """Effective number: of all kept steps, the smallest over dimensions (mcmc, first rows only);
    of the weighted candidates (sir)."""
    start_ess: NDArray[np.float64]
    """Effective share of the importance-weighted draws of the experts, from which chains start
    (mcmc) or draws are resampled (sir)."""
    khat: NDArray[np.float64] = _NONE
    """Shape of the Pareto tail of the weights; averages over them are not to be trusted from 0.7
    on (sir, first rows only; Vehtari et al. 2024)."""
    largest_weight: NDArray[np.float64] = _NONE
    """Share of all weight that one candidate has (sir)."""
    improper: NDArray[np.bool_] = np.zeros(0, np.bool_)
    """Whether the product's mass lies outside the ball, which alone holds its draws (products)."""
    moved: NDArray[np.float64] = _NONE
    """Share of draws that lay outside the ball time and again, and were moved to its surface: what
    was observed is unlike all training rows (exact)."""

    def doubts(self) -> str:
        """Why the draws are not to be trusted, in a few words; empty where nothing is wrong."""
        failed = {
            f"R-hat of chains up to {np.max(self.rhat, initial=0):.2f}, expected at most 1.05": (
                self.rhat > 1.05
            ),
            "Pareto k of weights from 0.7": self.khat > 0.7,
            "mass outside the region of training": self.improper,
        }
        return "; ".join(f"{why} ({int(b.sum())} rows)" for why, b in failed.items() if b.any())

    def summary(self) -> dict[str, float | int | str]:
        """Worst and typical values, for files and reports."""
        out: dict[str, float | int | str] = {"method": self.method}
        if self.contacts.size:
            out["ball_contacts"] = float(self.contacts.mean())
        if self.improper.size:
            out["rows_improper"] = int(self.improper.sum())
        if self.moved.size:
            out["rows_moved"] = int(np.sum(self.moved > 0))
        if self.method == "mcmc":
            out |= {
                "acceptance": float(self.acceptance.mean()),
                "acceptance_worst": float(self.acceptance.min()),
                "divergences": int(self.divergences.sum()),
                "rhat_worst": float(np.max(self.rhat)),
                "rhat_median": float(np.median(self.rhat)),
                "rows_above_1.05": float(np.mean(self.rhat > 1.05)),
                "ess_worst": float(np.min(self.ess)),
                "ess_median": float(np.median(self.ess)),
            }
            if self.start_ess.size:
                out["start_ess_median"] = float(np.median(self.start_ess))
        if self.method == "sir":
            out |= {
                "ess_worst": float(np.min(self.ess)),
                "ess_median": float(np.median(self.ess)),
                "ess_share_worst": float(np.min(self.start_ess)),
                "ess_share_median": float(np.median(self.start_ess)),
                "khat_worst": min(float(np.max(self.khat)), 1e3),
                "rows_khat_above_0.7": float(np.mean(self.khat > 0.7)),
                "rows_dominated": int(np.sum(self.largest_weight > 0.5)),
            }
        return out


def exact(contacts: Tensor | None = None, moved: Tensor | None = None) -> Diagnostics:
    """Diagnostics of draws that need no Markov chain."""
    shares, at_surface = (
        _NONE if each is None else each.double().cpu().numpy() for each in (contacts, moved)
    )
    none = np.zeros(0, np.int64)
    return Diagnostics("exact", _NONE, none, shares, _NONE, _NONE, _NONE, moved=at_surface)


def merged_rows(
    exactly: Diagnostics, sampled: Diagnostics, is_exact: NDArray[np.bool_]
) -> Diagnostics:
    """Diagnostics of draws that are exact in some rows and sampled in the others.

    What is known of the first rows only, R-hat, effective sizes and k, is of the sampled ones.
    """
    count = int((~is_exact).sum())
    ideal = {"acceptance": 1.0, "divergences": 0, "improper": False}
    ideal |= {"start_ess": 1.0, "largest_weight": 0.0}
    by_row: dict[str, Any] = {
        "contacts": np.empty(len(is_exact)),
        "moved": np.zeros(len(is_exact)),
    }
    by_row["contacts"][is_exact] = exactly.contacts
    by_row["contacts"][~is_exact] = sampled.contacts
    by_row["moved"][is_exact] = exactly.moved
    for name, value in ideal.items():
        known = getattr(sampled, name)
        if known.shape == (count,):
            by_row[name] = np.full(len(is_exact), value, known.dtype)
            by_row[name][~is_exact] = known
    return sampled._replace(**by_row)


def chain_diagnostics(
    positions: Tensor,
    *,
    acceptance: Tensor,
    divergences: Tensor,
    contacts: Tensor,
    start_ess: Tensor | None = None,
    improper: Tensor | None = None,
) -> Diagnostics:
    """Diagnostics of chains (draws, chains, rows, latent_dim)."""
    from arviz_stats.base.array import array_stats

    chains = positions[:, :MAX_CHAINS, :MAX_ROWS].double().cpu().numpy()
    examined = chains.shape[1] / positions.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant chains divide zero by zero: R-hat is then inf
        rhat = array_stats.rhat(chains, chain_axis=1, draw_axis=0)
        ess = array_stats.ess(chains, chain_axis=1, draw_axis=0)
    return Diagnostics(
        "mcmc",
        acceptance.double().cpu().numpy(),
        divergences.cpu().numpy().astype(np.int64),
        contacts.double().cpu().numpy(),
        np.minimum(np.nan_to_num(rhat, nan=WORST_RHAT), WORST_RHAT).max(-1),
        np.nan_to_num(ess, nan=1.0).min(-1) / examined,
        _NONE if start_ess is None else start_ess.double().cpu().numpy(),
        improper=_flags(improper),
    )


def weighted(
    log_weights: Tensor, *, contacts: Tensor, improper: Tensor | None = None
) -> Diagnostics:
    """Diagnostics of draws resampled by log weights (candidates, rows)."""
    weights = log_weights.double().cpu()
    ess = effective_sample_size(weights, axis=0).numpy()
    dead = torch.isneginf(weights).all(0)
    share = torch.softmax(weights.masked_fill(dead, 0.0), 0)
    largest = torch.where(dead, 1.0, share.amax(0)).numpy()
    return Diagnostics(
        "sir",
        _NONE,
        np.zeros(0, np.int64),
        contacts.double().cpu().numpy(),
        _NONE,
        ess,
        ess / len(weights),
        np.array([pareto_k(w) for w in weights[:, :MAX_ROWS].T.numpy()]),
        largest,
        _flags(improper),
    )


def _flags(values: Tensor | None) -> NDArray[np.bool_]:
    return np.zeros(0, np.bool_) if values is None else values.cpu().numpy()


def pareto_k(log_weights: NDArray[np.float64]) -> float:
    """Shape of the weights' tail: 0 if they are all equal there, infinite if too few are left."""
    from arviz_stats.base.array import array_stats

    finite = log_weights[np.isfinite(log_weights)]
    if len(finite) < 25:  # the fit takes the largest fifth, of which it needs five
        return np.inf
    scaled = np.maximum(finite - finite.max(), -700.0)  # what underflows cannot be fitted
    tail = int(min(len(scaled) / 5, 3 * len(scaled) ** 0.5))
    if np.ptp(np.sort(scaled)[-tail:]) < 1e-10:
        return 0.0
    with np.errstate(all="ignore"):
        k = float(array_stats.psislw(-scaled)[1])
    return k if np.isfinite(k) else np.inf
