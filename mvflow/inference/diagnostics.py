"""Is a set of draws to be trusted? Numbers from arviz, gathered per row."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Diagnostics", "diagnose", "exact"]

MOST_ROWS = 256
"""R-hat and effective sample sizes are computed for this many rows at most."""


class Diagnostics(NamedTuple):
    """Quality of draws, one number per row; empty arrays where a draw was exact."""

    method: str
    """"exact" for draws from a density that can be sampled directly, else "mcmc"."""
    acceptance: NDArray[np.float64]
    """Mean acceptance probability of proposals."""
    divergences: NDArray[np.int64]
    """Proposals that ran away numerically; rejected and counted."""
    contacts: NDArray[np.float64]
    """Share of proposals (mcmc) or draws (exact) that fell outside the ball."""
    rhat: NDArray[np.float64]
    """Largest rank-normalised split R-hat over dimensions (first rows only)."""
    ess: NDArray[np.float64]
    """Smallest bulk effective sample size over dimensions, of all kept steps."""
    start_ess: NDArray[np.float64]
    """Effective share of the importance-weighted draws of the experts at the start."""

    def summary(self) -> dict[str, float | int | str]:
        """Worst and typical values, for files and reports; R-hat is shown as 1000 at most."""
        out: dict[str, float | int | str] = {"method": self.method}
        if self.contacts.size:
            out["ball_contacts"] = float(self.contacts.mean())
        if self.method == "mcmc":
            out |= {
                "acceptance": float(self.acceptance.mean()),
                "acceptance_worst": float(self.acceptance.min()),
                "divergences": int(self.divergences.sum()),
                "rhat_worst": min(float(np.max(self.rhat)), 1e3),
                "rhat_median": min(float(np.median(self.rhat)), 1e3),
                "rows_above_1.05": float(np.mean(self.rhat > 1.05)),
                "ess_worst": float(np.min(self.ess)),
                "ess_median": float(np.median(self.ess)),
                "start_ess_median": float(np.median(self.start_ess)),
            }
        return out


def exact(contacts: Tensor | None = None) -> Diagnostics:
    """Diagnostics of draws that need no Markov chain."""
    none = np.zeros(0)
    shares = none if contacts is None else contacts.double().cpu().numpy()
    return Diagnostics("exact", none, np.zeros(0, np.int64), shares, none, none, none)


def diagnose(
    positions: Tensor,
    *,
    acceptance: Tensor,
    divergences: Tensor,
    contacts: Tensor,
    start_ess: Tensor,
) -> Diagnostics:
    """Diagnostics of chains (draws, chains, rows, latent_dim)."""
    from arviz_stats.base.array import array_stats

    chains = positions[:, :, :MOST_ROWS].double().cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant chains divide zero by zero: R-hat is then inf
        rhat = array_stats.rhat(chains, chain_axis=1, draw_axis=0)
        ess = array_stats.ess(chains, chain_axis=1, draw_axis=0)
    return Diagnostics(
        "mcmc",
        acceptance.double().cpu().numpy(),
        divergences.cpu().numpy().astype(np.int64),
        contacts.double().cpu().numpy(),
        np.nan_to_num(rhat, nan=np.inf).max(-1),
        np.nan_to_num(ess, nan=1.0).min(-1),
        start_ess.double().cpu().numpy(),
    )
