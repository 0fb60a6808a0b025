"""Verdicts on draws and on weights of importance sampling, from their diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mvflow.evaluation.result import SubsetSampler
from mvflow.evaluation.values import Verdict
from mvflow.inference import Diagnostics

__all__ = ["VERDICTS", "check_sampler"]

VERDICTS: tuple[Verdict, ...] = ("good", "look closer", "do not trust")
"""From the best on."""


def check_sampler(diagnostics: Diagnostics, rows: int, used: int) -> SubsetSampler:
    """Summary of the draws given one subset; where a sampler made them, its worst diagnostic."""
    summary: dict[str, Any] = diagnostics.summary()
    if diagnostics.method == "exact":
        return SubsetSampler.of(summary)
    if diagnostics.rhat.size:
        summary["rows_above_1.2"] = float(np.mean(diagnostics.rhat > 1.2))
    return SubsetSampler.of({**summary, **_sampler_verdict(summary, rows, used)})


def _sampler_verdict(found: Mapping[str, Any], rows: int, used: int) -> dict[str, str]:
    """A verdict on a sampler's draws given one subset, from its worst diagnostic."""
    high, bad = found.get("rows_above_1.05", 0.0), found.get("rows_khat_above_0.7", 0.0)
    apart = high > 0.05 and found["rows_above_1.2"] > 0.05
    diverged = found.get("divergences", 0) / rows
    checks = [
        (
            (found.get("acceptance_worst", 1) < 0.4) + (found.get("acceptance_worst", 1) < 0.2),
            "Proposals are seldom accepted in some rows: use a longer warm-up (sampler.warmup).",
        ),
        (
            (diverged > 0) + (diverged > 1),
            "Steps ran away and were rejected: use a longer warm-up (sampler.warmup).",
        ),
        (
            (high > 0.05) + apart,  # short chains that are sound pass 1.05 in a few rows by chance
            f"Chains disagree (R-hat above 1.05) in {100 * high:.0f} % of rows: draw longer "
            "(sampler.draws), and use more chains (sampler.chains).",
        ),
        (
            2 * (found.get("rows_improper", 0) > 0),
            f"The product is improper in {found.get('rows_improper', 0)} of {rows} rows: divide "
            "by the aggregated posterior in place of the prior.",
        ),
        (
            (bad > 0) + (bad > 0.05),
            f"Few candidates carry all weight in {100 * bad:.0f} % of rows: use more of them "
            "(sampler.candidates), or Markov chains (sampler.kind=hmc).",
        ),
        (
            int(found.get("ess_median", used) < used),
            f"The typical row has fewer than {used} independent draws, which alone makes "
            "posteriors look too narrow: draw longer (sampler.draws).",
        ),
    ]
    level, advice = max(checks, key=lambda check: check[0])
    if level == 0:
        return {"verdict": "good", "advice": "Nothing to do: the sampler's draws are sound here."}
    return {"verdict": VERDICTS[level], "advice": advice}
