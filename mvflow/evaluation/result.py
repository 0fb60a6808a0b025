"""Results of an evaluation and of a calibration check: typed values, written as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mvflow.core import DataError
from mvflow.metrics import Distance, Estimate

__all__ = [
    "Calibration",
    "Coherence",
    "CoverageCurve",
    "Diversity",
    "Evaluation",
    "Frechet",
    "FrechetMeans",
    "Latent",
    "Projections",
    "RankECDF",
    "RankHistogram",
    "RankPValues",
    "SamplerCheck",
    "SamplerSummary",
    "SubsetCalibration",
    "SubsetSampler",
    "Verdict",
]

Verdict = Literal["good", "look closer", "do not trust"]

Direction = Annotated[str, Field(pattern="^[^>]+->[^>]+$")]
"""Given modalities and target, as in `a+b->c`."""


class _Values(BaseModel):
    """Immutable values with known names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Result(_Values):
    """A result with the state of the run that it belongs to.

    Args:
        stages: name -> key of the weights that were measured.
        settings: sections of the configuration that the result depends on.
    """

    stages: dict[str, str] = {}
    settings: dict[str, Any] = {}

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON: absent values are left out, NaN and infinity are null."""
        out: dict[str, Any] = _plain(self)
        return {**out, "settings": self.settings}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "result") -> Self:
        """The result that `to_dict` wrote.

        Args:
            raw: its plain values.
            where: what to call them in a message, such as the path of their file.

        Raises:
            DataError: naming the first key that is missing, unknown or of another type.
        """
        values = {k: v if k == "settings" else _with_nan(v) for k, v in raw.items()}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            words = f"is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
            known = {"missing": "is missing", "extra_forbidden": "is not known"}
            words = known.get(first["type"], words)
            msg = f"{where} does not hold what this mvflow writes: {key!r} {words}; make it anew"
            raise DataError(msg) from None


class Coherence(_Values):
    """Shares of generated rows of the right class.

    Args:
        joint: of draws from the model's prior, those on whose class all modalities agree.
        joint_fitted: the same of draws from the fitted prior; None if there is none.
        conditional: by direction, those of the class of the row conditioned on.
        conditional_by_observed: number of observed modalities -> mean over its subsets.
        conditional_by_class: label -> mean over subsets, of rows of that class.
        conditional_mean: mean over all subsets, of each the mean over its targets; None where
            there is but one modality.
        reconstruction: by modality, encoded and decoded rows that keep their class.
    """

    joint: Estimate
    joint_fitted: Estimate | None = None
    conditional: dict[Direction, Estimate]
    conditional_by_observed: dict[int, Estimate]
    conditional_by_class: dict[int, Estimate]
    conditional_mean: Estimate | None = None
    reconstruction: dict[str, Estimate]


class FrechetMeans(_Values):
    """Means over modalities, or over subsets; those of autoencoder features are the MFD."""

    joint: Distance
    joint_fitted: Distance | None = None
    conditional: Distance | None = None
    real: Distance | None = None


class Frechet(_Values):
    """Fréchet distances of generated from real rows, in the features of one network.

    Args:
        features: number of features.
        reference_rows: number of real rows that generated ones are compared with.
        rows: number of generated rows in each distance but the joint ones.
        joint: modality -> distance of draws from the model's prior.
        joint_fitted: the same of draws from the fitted prior; None if there is none.
        conditional: direction -> distance.
        conditional_by_observed: number of observed modalities -> mean over its subsets.
        mean: over modalities or subsets.
        real: modality -> distance of `rows` other real rows from the reference, which is what few
            rows alone make of it; empty where there are not enough.
    """

    features: int
    reference_rows: int
    rows: int
    joint: dict[str, Distance]
    joint_fitted: dict[str, Distance] | None = None
    conditional: dict[Direction, Distance]
    conditional_by_observed: dict[int, Distance]
    mean: FrechetMeans
    real: dict[str, Distance] = {}


class Diversity(_Values):
    """Distances between draws given the same row, by direction; between real rows alike."""

    conditional: dict[Direction, Estimate]
    real: dict[str, Estimate]


class SamplerSummary(_Values):
    """Quality of draws over rows, as `mvflow.inference.Diagnostics` summarises it.

    What a method does not have is None.
    """

    method: str
    ball_contacts: float | None = None
    rows_improper: int | None = None
    rows_moved: int | None = None
    acceptance: float | None = None
    acceptance_worst: float | None = None
    divergences: int | None = None
    rhat_worst: float | None = None
    rhat_median: float | None = None
    rows_above_1_05: float | None = None
    ess_worst: float | None = None
    ess_median: float | None = None
    ess_share_worst: float | None = None
    ess_share_median: float | None = None
    start_ess_median: float | None = None
    khat_worst: float | None = None
    rows_khat_above_0_7: float | None = None
    rows_dominated: int | None = None

    @classmethod
    def of(cls, summary: Mapping[str, Any], **more: Any) -> Self:
        """From the summary of diagnostics, and what else there is to say."""
        return cls(**{key.replace(".", "_"): value for key, value in summary.items()}, **more)


class SamplerCheck(SamplerSummary):
    """How the sampler fares on the rule for subsets with all modalities given, on some rows."""

    name: str
    given: str
    rows: int
    largest_norm: float


class Latent(_Values):
    """Where draws given one modality lie.

    Args:
        radius: of the ball within which z is drawn; None where there is none.
        redrawn: modality -> share of draws outside it, which were drawn again.
        largest_norm: of all draws.
    """

    radius: float | None = None
    redrawn: dict[str, float]
    largest_norm: float


class Projections(_Values):
    """What projections of single modalities hold.

    Args:
        correlations: "a~b" -> canonical correlations of two modalities' projections.
        factors_r2: modality -> factor -> share of the factor's variance that a linear function
            of the projection explains.
    """

    correlations: dict[str, list[float]]
    factors_r2: dict[str, dict[str, float]]


class Evaluation(_Result):
    """Everything that is measured of a trained model on test rows.

    Args:
        facts: what the model is, a short line each.
        recipe: name of the recipe, if any.
        rows: number of rows conditioned on.
        rows_by_observed: the same, by number of observed modalities.
        seed: of rows and draws.
        trained_with_seed: seed of the training.
        split: name of the split of the store.
        coherence: None where rows have no classes.
        frechet: network -> distances.
        reconstruction: modality -> squared error per value.
        diversity: space ("data" or a network) -> distances between draws.
        classifiers: modality -> accuracy on real test rows.
        log_likelihood: "joint" and directions -> nats per row.
        posterior_log_density: modality -> log q(z|x_j) at z ~ q(z|X), in nats per row.
        sampler: diagnostics of the sampler.
        latent: where draws lie.
        shared: what projections hold; None if the model has none.
    """

    facts: dict[str, str]
    recipe: str = ""
    rows: int
    rows_by_observed: dict[int, int]
    seed: int
    trained_with_seed: int
    split: str = "test"
    coherence: Coherence | None = None
    frechet: dict[str, Frechet] = {}
    reconstruction: dict[str, Estimate]
    diversity: dict[str, Diversity]
    classifiers: dict[str, float] = {}
    log_likelihood: dict[str, Estimate]
    posterior_log_density: dict[str, Estimate]
    sampler: SamplerCheck
    latent: Latent
    shared: Projections | None = None


class SubsetSampler(SamplerSummary):
    """Diagnostics of the draws given one subset, with a verdict where a sampler was used."""

    rows_above_1_2: float | None = None
    verdict: Verdict = "good"
    advice: str = ""


class RankPValues(_Values):
    """Of two tests that ranks are uniform, by coordinate of z."""

    chi_square: list[float]
    ks: list[float]


class RankHistogram(_Values):
    """Ranks of true values among draws, by coordinate of z, and what is expected."""

    expected: list[float]
    counts: list[list[int]]


class CoverageCurve(_Values):
    """Share of true values in central intervals of each level, over coordinates of z."""

    levels: list[float]
    mean: list[float]
    lowest: list[float]
    highest: list[float]


class RankECDF(_Values):
    """Distribution function of ranks less the uniform one, and its 95 % band."""

    band: float
    difference: list[float]


class SubsetCalibration(_Values):
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


class Calibration(_Result):
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


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {key: _plain(v) for key, v in value if v is not None}
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    """Null as NaN: what is absent is not written at all."""
    if isinstance(value, Mapping):
        return {key: _with_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_with_nan(v) for v in value]
    return math.nan if value is None else value
