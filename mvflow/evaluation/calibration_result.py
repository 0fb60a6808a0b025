"""Results of a calibration check: typed values, written as plain JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mvflow.evaluation.result import SubsetSampler
from mvflow.evaluation.values import Result, Values, Verdict

__all__ = [
    "Calibration",
    "CoverageCurve",
    "RankECDF",
    "RankHistogram",
    "RankPValues",
    "SubsetCalibration",
]


class RankPValues(Values):
    """Of two tests that ranks are uniform, by coordinate of z."""

    chi_square: list[float]
    ks: list[float]


class RankHistogram(Values):
    """Ranks of true values among draws, by coordinate of z, and what is expected."""

    expected: list[float]
    counts: list[list[int]]


class CoverageCurve(Values):
    """Share of true values in central intervals of each level, over coordinates of z."""

    levels: list[float]
    mean: list[float]
    lowest: list[float]
    highest: list[float]


class RankECDF(Values):
    """Distribution function of ranks less the uniform one, and its 95 % band."""

    band: float
    difference: list[float]


class SubsetCalibration(Values):
    """How true latents rank among posterior draws given one subset; lists are by coordinate of z.

    Args:
        given: observed modalities.
        draws: posterior draws per row.
        p_value: smallest of all tests, Bonferroni-corrected.
        verdict: what to think of it.
        kind: "calibrated", "too narrow", "too wide" or "shifted".
        advice: what to do.
        worst: coordinate of z with the smallest p-value.
        failing: number of coordinates that fail.
        coverage: level -> share of true values in central intervals of that level.
        mean_rank: as a probability; 0.5 if all is well.
        p_values: of each test.
        histogram: of the ranks.
        curve: coverage against level, over coordinates.
        ecdf: distribution function of the worst coordinate's ranks less the uniform one.
        sampler: diagnostics of the draws.
    """

    given: list[str]
    draws: int
    p_value: float
    verdict: Verdict
    kind: str
    advice: str
    worst: int
    failing: int
    coverage: dict[str, list[float]]
    mean_rank: list[float]
    p_values: RankPValues
    histogram: RankHistogram
    curve: CoverageCurve
    ecdf: RankECDF
    sampler: SubsetSampler


class Calibration(Result):
    """Simulation-based calibration of the posteriors of a model.

    Args:
        against: "model" (simulated rows) or "data" (real rows).
        meaning: in a sentence, what a failure says.
        rows: latents ranked.
        draws: posterior draws for each.
        seed: of all that was drawn.
        latent_dim: dimension of z.
        tests: number of tests that p-values are corrected for.
        alpha: probability that a calibrated model fails any of them.
        outside_ball: share of true values outside the ball within which z is drawn.
        verdict: the worst of all.
        failed: subsets that are not calibrated.
        subsets: name -> what was found.
        from_prior: KL(q(z|X) || p(z)) in nats, mean over the rows; None where q(z|X) has no
            density, and in results of older versions.
    """

    against: Literal["model", "data"]
    meaning: str
    rows: int
    draws: int
    seed: int
    latent_dim: int
    tests: int
    alpha: float
    outside_ball: float
    verdict: Verdict
    failed: list[str]
    subsets: dict[str, SubsetCalibration] = Field(min_length=1)
    from_prior: float | None = None
