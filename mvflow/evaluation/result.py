"""The result of an evaluation: typed values, written as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from mvflow.evaluation.predictions import Prediction, PredictionMeans
from mvflow.evaluation.values import Direction, Result, Values, Verdict
from mvflow.metrics import Distance, Estimate

__all__ = [
    "COLLAPSED",
    "Coherence",
    "Diversity",
    "Evaluation",
    "ExcessDivergence",
    "Frechet",
    "FrechetMeans",
    "ImportanceCheck",
    "InferenceGaps",
    "Latent",
    "MeasureByWay",
    "MeasureMeans",
    "MeasuredRows",
    "Method",
    "OneToMany",
    "Projections",
    "SamplerCheck",
    "SamplerSummary",
    "SubsetSampler",
]


class OneToMany(Values):
    """Whether several targets generated from one modality agree on their class.

    What the given modality tells of the class, targets that are drawn separately share too. So
    they are the control: what is above them is agreement on what the given modality leaves open.

    Args:
        rows: number of rows.
        together: given modality -> share of draws whose targets all have one class.
        apart: the same where each target comes from a draw of its own.
        chance: the same where targets are of different rows.
        together_mean: mean over given modalities.
        apart_mean: the same of targets from draws of their own.
        chance_mean: mean over given modalities.
        shared: share of what separate draws leave open that targets of one draw agree on,
            (together - apart) / (1 - apart): 0 if targets are as good as drawn separately, 1 if
            they always agree; None where separate draws always agree.
    """

    rows: int
    together: dict[str, Estimate]
    apart: dict[str, Estimate]
    chance: dict[str, float]
    together_mean: Estimate
    apart_mean: Estimate
    chance_mean: float
    shared: Estimate | None = None


class Coherence(Values):
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
        joint_chance: share of joint draws that would agree if modalities were drawn apart, each
            with its classes as frequent as in those draws; 1 where all are of one class.
        joint_fitted_chance: the same of draws from the fitted prior.
        conditional_chance: share that a model has which always makes the most frequent class.
        conditional_balanced: mean over classes of the mean over subsets; chance is 1 / classes.
        one_to_many: whether targets of one given modality agree with each other; None where
            there is but one target.
        unsound: subsets whose chains did not agree, so that their coherences are in doubt.
    """

    joint: Estimate
    joint_fitted: Estimate | None = None
    conditional: dict[Direction, Estimate]
    conditional_by_observed: dict[int, Estimate]
    conditional_by_class: dict[int, Estimate]
    conditional_mean: Estimate | None = None
    reconstruction: dict[str, Estimate]
    joint_chance: float | None = None
    joint_fitted_chance: float | None = None
    conditional_chance: float | None = None
    conditional_balanced: Estimate | None = None
    one_to_many: OneToMany | None = None
    unsound: list[str] = []


class FrechetMeans(Values):
    """Means over modalities, or over subsets; those of autoencoder features are the MFD."""

    joint: Distance
    joint_fitted: Distance | None = None
    conditional: Distance | None = None
    real: Distance | None = None


class MeasureMeans(Values):
    """Means of a measure over modalities, or over subsets."""

    joint: Estimate
    joint_fitted: Estimate | None = None
    conditional: Estimate | None = None
    real: Estimate | None = None


class MeasureByWay(Values):
    """A measure of generated rows, by way of generating; keys as of `Frechet`."""

    joint: dict[str, Estimate]
    joint_fitted: dict[str, Estimate] | None = None
    conditional: dict[Direction, Estimate]
    conditional_by_observed: dict[int, Estimate]
    mean: MeasureMeans
    real: dict[str, Estimate] = {}


class Frechet(Values):
    """Fréchet distances of generated from real rows, in the features of one network.

    Args:
        features: number of features.
        reference_rows: number of real rows that generated ones are compared with.
        reference_full: modality -> how many of these have all of its values, and so have features;
            without those that all rows have.
        rows: number of generated rows in each distance but the joint ones.
        joint: modality -> distance of draws from the model's prior.
        joint_fitted: the same of draws from the fitted prior; None if there is none.
        conditional: direction -> distance.
        conditional_by_observed: number of observed modalities -> mean over its subsets.
        mean: over modalities or subsets.
        real: modality -> distance of `rows` other real rows from the reference, which is what few
            rows alone make of it; by halves of the reference where there are no such rows, and
            without modalities that have too few items for that.
        limit: the distance for infinitely many rows of both sets, by a line through those of
            half, three quarters and all rows; None where it was not asked for, or rows are fewer
            than four for each feature.
        precision: share of generated rows that lie among real ones (Kynkäänniemi et al. 2019).
        recall: share of real rows that lie among generated ones.
        manifold_rows: of how many rows, real and generated, precision and recall are.
        reference_is_apart: whether no generated row is conditioned on a row of the reference.
    """

    features: int
    reference_rows: int
    reference_full: dict[str, int] = {}
    rows: int
    joint: dict[str, Distance]
    joint_fitted: dict[str, Distance] | None = None
    conditional: dict[Direction, Distance]
    conditional_by_observed: dict[int, Distance]
    mean: FrechetMeans
    real: dict[str, Distance] = {}
    limit: MeasureByWay | None = None
    precision: MeasureByWay | None = None
    recall: MeasureByWay | None = None
    manifold_rows: int = 0
    reference_is_apart: bool | None = None


class Diversity(Values):
    """Distances between draws given the same row, by direction; between real rows alike."""

    conditional: dict[Direction, Estimate]
    real: dict[str, Estimate]


class SamplerSummary(Values):
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


class SubsetSampler(SamplerSummary):
    """Diagnostics of the draws given one subset, with a verdict where a sampler was used."""

    rows_above_1_2: float | None = None
    verdict: Verdict = "good"
    advice: str = ""


class SamplerCheck(SamplerSummary):
    """How the sampler fares on the rule for subsets with all modalities given, on some rows."""

    name: str
    given: str
    rows: int
    largest_norm: float


class Latent(Values):
    """Where draws given one modality lie.

    Args:
        radius: of the ball within which z is drawn; None where there is none.
        redrawn: modality -> share of draws outside it, which were drawn again.
        largest_norm: of all draws.
    """

    radius: float | None = None
    redrawn: dict[str, float]
    largest_norm: float


class Projections(Values):
    """What projections of single modalities hold.

    Args:
        correlations: "a~b" -> canonical correlations of two modalities' projections.
        factors_r2: modality -> factor -> share of the factor's variance that a linear function
            of the projection explains.
    """

    correlations: dict[str, list[float]]
    factors_r2: dict[str, dict[str, float]]


class ImportanceCheck(Values):
    """Whether importance-sampled likelihoods are to be trusted, over rows.

    Args:
        draws: of each row; None in results of older versions.
        ess_median: effective number of draws in the typical row.
        ess_worst: the smallest.
        khat_worst: largest shape of the Pareto tail of the weights (Vehtari et al. 2024).
        rows_khat_above_0_7: share of rows whose average of weights is not to be trusted.
        verdict: what to think of the likelihood.
        advice: what to do.
    """

    draws: int | None = None
    ess_median: float
    ess_worst: float
    khat_worst: float
    rows_khat_above_0_7: float
    verdict: Verdict
    advice: str


class ExcessDivergence(Values):
    """Bounds on a divergence from an average posterior, in nats per row.

    Args:
        at_least: its average leaves out the row's own q(z|X).
        at_most: its average has it too.
        partners: rows that are averaged over.
    """

    at_least: Estimate
    at_most: Estimate
    partners: int


COLLAPSED = 0.1
"""Nats per row of KL(q(z|X) || p(z)), over all of z, below which latents say nothing of a row."""


class InferenceGaps(Values):
    """How far approximate posteriors are from what they approximate, in nats per row.

    Args:
        gap: KL(q(z|X) || p(z|X)) = log p(X) - ELBO (paper, Eq. 4), whose mean over rows is the
            averaged gap of Eq. 6. Where the likelihood is not to be trusted, it is too small.
        elbo: the evidence lower bound, without weights and beta.
        divergences: modality -> KL(q(z|X) || q(z|x_j)) (C.3), of posteriors with a density.
        excess: modality -> KL(q_avg(z|x_j) || q(z|x_j)), what is left of its divergence beyond the
            average posterior q_avg(z|x_j) = E q(z|X) given x_j, at which training aims (C.11);
            where items of a modality recur with different partners.
        from_prior: KL(q(z|X) || p(z)), what the latents tell of a row; None in results of older
            versions.
        variation_of_information: of two modalities, the bound -ELBO + sum of the divergences
            (C.14): the smaller, the more each tells of the other.
    """

    gap: Estimate
    elbo: Estimate
    divergences: dict[str, Estimate] = {}
    variation_of_information: Estimate | None = None
    excess: dict[str, ExcessDivergence] = {}
    from_prior: Estimate | None = None

    @property
    def is_collapsed(self) -> bool:
        """Whether the latents say nothing of the rows, so that all gaps are trivially small."""
        return self.from_prior is not None and self.from_prior.mean < COLLAPSED


class Method(Values):
    """How numbers were drawn.

    Args:
        subset: rule for several observed modalities; empty where the system has none to choose.
        divisor: what a product of experts is divided by; empty where there is no product.
        ball: whether z is kept within the ball that training rows' latents span.
        sampler: of unnormalised posteriors, with settings that are not its defaults; empty where
            all posteriors were drawn exactly.
        prior: what is drawn from where nothing is observed, besides the model's p(z).
        protocol: name of the protocol; empty for the run's own settings.
    """

    subset: str = ""
    divisor: str = ""
    ball: bool = False
    sampler: str = ""
    prior: str = ""
    protocol: str = ""


class MeasuredRows(Values):
    """Which test rows were measured, where some lack modalities, values or their class.

    Args:
        rows: of the split.
        complete: rows that have all modalities.
        labelled: rows whose class is known; None without classes.
        has: modality -> rows that have it.
        full: modality -> rows that have all of its values.
        given: subset -> rows conditioned on.
    """

    rows: int
    complete: int
    labelled: int | None = None
    has: dict[str, int]
    full: dict[str, int]
    given: dict[str, int]

    @property
    def sentence(self) -> str:
        """In words."""
        lacking = [f"{name} {n:,}" for name, n in self.has.items() if n < self.rows]
        parts = []
        if self.complete < self.rows:
            parts.append(
                f"of {self.rows:,} test rows {self.complete:,} have all modalities "
                f"({', '.join(lacking)})"
            )
        gaps = [f"{n} in {self.has[n] - k:,}" for n, k in self.full.items() if k < self.has[n]]
        if gaps:
            parts.append(f"values are missing ({', '.join(gaps)} rows)")
        few = [n for n, k in self.full.items() if k < 2 <= self.has[n]]
        if few:
            none = f"hardly any row has all values of {', '.join(few)}"
            parts.append(f"{none}, so that no distance between features is measured there")
        if self.labelled is not None and self.labelled < self.rows:
            parts.append(f"the class is known of {self.labelled:,} of {self.rows:,} rows")
        told = "; ".join(parts)
        rule = (
            "what is given is taken from rows that have it, predictions are scored on the values "
            "that are there, coherence on rows whose class is known, and what needs all "
            "modalities is measured on "
        )
        last = "rows that have them all" if self.complete else "what each row has"
        return f"{told[:1].upper()}{told[1:]}: {rule}{last}."


class Evaluation(Result):
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
        predictions: direction -> how well tables are predicted, beside ridge regression and
            nearest neighbours; empty where no modality is a table.
        predictions_by_observed: number of observed modalities -> means over its directions.
        prediction_sentence: who predicts best, in one sentence; empty where nothing is predicted.
        subsets_skipped: number of observed modalities -> subsets that were not measured.
        sampler_by_subset: subset of two modalities or more -> diagnostics of its draws.
        likelihood_checks: "joint" and directions -> whether likelihoods are to be trusted.
        gaps: how far posteriors are from what they approximate; None where that is not known.
        data: name of the data set; empty where it is not known.
        note: what its store says that a reader must know.
        distinct: modality -> different items among the rows; the rest are repeats.
        method: how numbers were drawn; None of an evaluation of an older version.
        networks: feature network -> whose weights it has, with a hash; those that mvflow trained
            itself are not named.
        presence: which test rows were measured; None if they lack nothing.
        key: hash of all that it depends on; empty of an evaluation of an older version.
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
    predictions: dict[Direction, Prediction] = {}
    predictions_by_observed: dict[int, PredictionMeans] = {}
    prediction_sentence: str = ""
    subsets_skipped: dict[int, int] = {}
    sampler_by_subset: dict[str, SubsetSampler] = {}
    likelihood_checks: dict[str, ImportanceCheck] = {}
    gaps: InferenceGaps | None = None
    data: str = ""
    note: str = ""
    distinct: dict[str, int] = {}
    method: Method | None = None
    networks: dict[str, str] = {}
    presence: MeasuredRows | None = None
    key: str = ""

    def __repr__(self) -> str:
        """The main numbers with their standard errors, a line each; `to_dict` has all."""
        from mvflow.evaluation.compare import main_numbers

        numbers = main_numbers(self)
        width = max((len(measure.title) for measure, _ in numbers), default=0)
        lines = [
            f"  {measure.title:<{width}}  {value.mean:.{measure.digits}f}"
            f" ± {value.standard_error:.{measure.digits}f}"
            for measure, value in numbers
        ]
        title = f"Evaluation of {self.rows:,} rows: {self.facts.get('system', self.split)}"
        return "\n".join([title, *lines])

    __str__ = __repr__
