"""Evaluated runs side by side: systems against measures, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mvflow.config import Config
from mvflow.core import DataError, UsageError
from mvflow.evaluation.baselines import NEIGHBOURS, RIDGE
from mvflow.evaluation.caveats import beta_factor, caveats, merge_caveats, paper_config
from mvflow.evaluation.labels import labels, leaves, system_settings
from mvflow.evaluation.measures import Measure, measure_by_key, numbers_by_key, table_measures
from mvflow.evaluation.predictions import PredictionMeans, measure_of_kind
from mvflow.evaluation.published import Figure, Published, published
from mvflow.evaluation.result import Evaluation
from mvflow.evaluation.scoring import MEASURES
from mvflow.evaluation.summaries import distance_rows
from mvflow.metrics import Estimate

__all__ = ["ComparedSystem", "Comparison", "EvaluatedRun", "compare", "main_numbers"]

BASELINES = {RIDGE: "ridge regression", NEIGHBOURS: "nearest neighbours"}
GAPS = ("gap", "excess/")
"""Measures that are 0 where latents say nothing of the rows."""
ERRORS_APART = 2.0
"""Standard errors of a difference from which on two means are told apart."""


class EvaluatedRun(NamedTuple):
    """What is compared: a run's name, its settings, what was measured of it."""

    name: str
    config: Config
    metrics: Evaluation
    data: str
    """Fingerprint of the rows it was trained on; empty if it is not known."""
    verdict: str = ""
    """What all that is known of it comes to (`mvflow.evaluation.verdicts`)."""


@dataclass(frozen=True)
class ComparedSystem:
    """Runs that differ by their seed alone, or a system that only the paper reports.

    Args:
        label: name in the table.
        seeds: of the runs, in order; empty for a system of the paper.
        values: measure -> value of each run with its standard error; None where a run lacks it.
        paper: measure -> what the paper reports of it.
        caveats: what a reader of the values must know: data, recipe, how they were drawn.
        is_collapsed: whether the latents of any run say nothing of the rows.
    """

    label: str
    seeds: tuple[int, ...]
    values: dict[str, list[Estimate | None]] = field(default_factory=dict)
    paper: dict[str, Figure] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    is_collapsed: bool = False

    def known(self, key: str) -> list[float]:
        """Values of a measure that are there; what is not finite is not left out."""
        return [v.mean for v in self.values.get(key, []) if v is not None]

    def mean(self, key: str) -> float | None:
        """Mean over seeds; None where there is none, or one of them is not finite."""
        mean = float(np.mean(self.known(key) or np.nan))
        return mean if np.isfinite(mean) else None

    def deviation(self, key: str) -> float | None:
        """Standard deviation over seeds (divided by one less than their number); None of one."""
        known = self.known(key)
        has_none = len(known) < 2 or self.mean(key) is None
        return None if has_none else float(np.std(known, ddof=1))

    def error(self, key: str) -> float:
        """Standard error of the mean: what test rows or, of several runs, seeds leave open.

        NaN of one run of which the error is not known.
        """
        errors = [v.standard_error for v in self.values.get(key, []) if v is not None]
        deviation = self.deviation(key)
        if deviation is None and not np.isfinite(errors).any():
            return float("nan")
        measured = float(np.sqrt(np.nansum(np.square(errors)))) / len(errors)
        return max(measured, (deviation or 0.0) / len(errors) ** 0.5)


@dataclass(frozen=True)
class Comparison:
    """Systems against measures.

    Args:
        systems: rows of the table.
        measures: its columns.
        paper: place in the paper that its figures are from; empty without them.
        notes: what a reader must know.
    """

    systems: tuple[ComparedSystem, ...]
    measures: tuple[Measure, ...]
    paper: str
    notes: tuple[str, ...]

    @property
    def measured(self) -> tuple[ComparedSystem, ...]:
        """The systems that were run here."""
        return tuple(s for s in self.systems if s.seeds)

    def mark(self, measure: Measure, system: ComparedSystem) -> str:
        """Whether a system is "best" or "second" beyond noise, "tied" with the best, or not.

        Gaps of collapsed latents are small whatever the posteriors: they have no place.
        """
        is_gap = measure.key.startswith(GAPS)
        left = [
            s
            for s in self.measured
            if s.mean(measure.key) is not None and not (is_gap and s.is_collapsed)
        ]
        for place in ("best", "second"):
            if system not in left or len(left) < 2:
                return ""
            sign = 1 if measure.lower_is_better else -1
            first = min(left, key=lambda s: sign * (s.mean(measure.key) or 0.0))
            like = [s for s in left if _are_tied(measure, first, s)]
            if system in like:
                return place if len(like) == 1 else "tied" if place == "best" else ""
            if len(like) > 1:
                return ""
            left.remove(first)
        return ""


def _are_tied(measure: Measure, a: ComparedSystem, b: ComparedSystem) -> bool:
    """Whether two means differ by no more than noise or rounding gives; so if noise is unknown."""
    apart = abs((a.mean(measure.key) or 0.0) - (b.mean(measure.key) or 0.0))
    noise = ERRORS_APART * float(np.hypot(a.error(measure.key), b.error(measure.key)))
    return np.isnan(noise) or apart <= max(noise, 0.5 * 10.0**-measure.digits)


def compare(runs: Sequence[EvaluatedRun], *, paper: bool = False) -> Comparison:
    """Group runs that differ by their seed alone, and set the groups side by side.

    Args:
        runs: evaluated on the same data.
        paper: add the paper's figures of the same benchmark.

    Raises:
        DataError: if runs are of different data.
        UsageError: if two runs have the same settings and seed, or the paper has no figures.
    """
    _check_same(runs)
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        groups.setdefault(repr(sorted(system_settings(run.config).items())), []).append(run)
    for group in groups.values():
        _check_seeds(group)
    members = [sorted(group, key=lambda r: r.config.seed) for group in groups.values()]
    titles = [group[0].metrics.facts.get("system", "model") for group in members]
    names = labels(titles, [group[0].config for group in members])
    report = published(runs[0].config.recipe) if paper else None
    with_distances, others = _distances_compare(runs), _other_networks(runs)
    systems, reported = [], set()
    for label, group in zip(names, members, strict=True):
        flat = [numbers_by_key(run.metrics, with_distances, others) for run in group]
        name, figures = _published(group[0].config, report)
        reported.add(name if figures else "")
        values = {key: [f.get(key) for f in flat] for f in flat for key in f}
        seeds = tuple(r.config.seed for r in group)
        known = dict.fromkeys(c for r in group for c in caveats(r.config, r.metrics, report))
        collapsed = any((g := r.metrics.gaps) is not None and g.is_collapsed for r in group)
        systems.append(
            ComparedSystem(label, seeds, values, dict(figures), tuple(known), collapsed)
        )
    measures = table_measures(systems, runs[0].metrics)
    notes = _notes(runs, with_distances) + merge_caveats({s.label: s.caveats for s in systems})
    if idle := [s.label for s in systems if s.is_collapsed]:
        who = " and ".join(idle)
        notes.append(
            f"{who}: latents have collapsed, gaps are 0 whatever the posteriors, not marked"
        )
    needed = [m.key for m in measures if not m.key.endswith("/joint_fitted")]
    if any(len(s.known(key)) < len(s.seeds) for s in systems for key in needed):
        notes.append("some runs lack some measures: evaluate them again for all")
    if report is not None:
        systems += [
            ComparedSystem(f"{label} (paper)" if label in names else label, (), {}, figures)
            for label, figures in report.chosen.items()
            if label not in reported
        ]
        there = {m.key for m in measures}
        measures += [measure_by_key(key) for key in report.measures if key not in there]
        notes.append(f"paper: {report.place}; {report.note}")
    place = "" if report is None else report.place
    return Comparison(tuple(systems), tuple(measures), place, tuple(notes))


def _published(config: Config, report: Published | None) -> tuple[str, dict[str, Figure]]:
    """The paper's name of a system, and its figures where they are of the same settings."""
    if report is None:
        return "", {}
    paper = paper_config(config, report)
    factor = 1.0 if paper is None else beta_factor(config, paper)
    return report.find(leaves(config), factor)


def _check_same(runs: Sequence[EvaluatedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.data and first.data and run.data != first.data:
            msg = (
                f"{first.name} and {run.name} were trained on different data: "
                "compare runs of one store"
            )
            raise DataError(msg)
        splits = [r.metrics.split for r in (first, run)]
        if splits[0] != splits[1]:
            msg = (
                f"{first.name} was evaluated on split {splits[0]!r} and {run.name} on "
                f"{splits[1]!r}: evaluate both on one with 'mvflow evaluate RUN --split'"
            )
            raise DataError(msg)


def _check_seeds(group: Sequence[EvaluatedRun]) -> None:
    seen: dict[int, str] = {}
    for run in group:
        other = seen.setdefault(run.config.seed, run.name)
        if other != run.name or sum(r.name == run.name for r in group) > 1:
            msg = (
                f"{other} and {run.name} have the same settings and seed {run.config.seed}: "
                "name only one of them"
            )
            raise UsageError(msg)


# Measures


def _distances_compare(runs: Sequence[EvaluatedRun]) -> bool:
    """Whether distances of all runs are of equal numbers of rows and by the same networks."""
    sizes = {
        (
            name,
            run.config.evaluation.prior_draws,
            found.rows,
            found.reference_rows,
            tuple(sorted(found.reference_full.items())),
            found.manifold_rows,
        )
        for run in runs
        for name, found in run.metrics.frechet.items()
    }
    return len(sizes) == len({name for name, *_ in sizes}) and not _other_networks(runs)


def _other_networks(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Names of feature networks that have other weights in some runs."""
    weights = {(n, r.metrics.networks.get(n)) for r in runs for n in r.metrics.frechet}
    names = [name for name, _ in weights]
    return sorted({name for name in names if names.count(name) > 1})


def main_numbers(metrics: Evaluation) -> list[tuple[Measure, Estimate]]:
    """What a table of systems shows of one evaluation, and what it is called there."""
    values = {
        k: value for k, value in numbers_by_key(metrics, True, ()).items() if value is not None
    }
    system = ComparedSystem("", (), {key: [value] for key, value in values.items()})
    return [(measure, values[measure.key]) for measure in table_measures([system], metrics)]


def _baselines(means: PredictionMeans) -> str:
    """What baselines reach, in words."""
    told = [
        f"{BASELINES[name]} {measure} {value.mean:.3f}"
        for measure, values in (
            ("R²", means.r2),
            ("accuracy", means.accuracy),
            *((f"{MEASURES[measure_of_kind(k)]} of {k}", of) for k, of in means.by_kind.items()),
        )
        for name, value in values.items()
        if name in BASELINES
    ]
    return ", ".join(told)


def _notes(runs: Sequence[EvaluatedRun], with_distances: bool) -> list[str]:
    first = runs[0].metrics
    rows = sorted({r.metrics.rows for r in runs})
    notes = [f"test rows: {' or '.join(f'{n:,}' for n in rows)}"]
    if len(first.rows_by_observed) > 1:
        notes[0] += f"; {first.rows_by_observed[2]:,} where several modalities are observed"
    measured: dict[str, list[str]] = {}
    for run in runs:
        if run.metrics.presence is not None:
            measured.setdefault(run.metrics.presence.sentence, []).append(run.name)
    for sentence, names in measured.items():
        who = "" if len(names) == len(runs) else f"{', '.join(names)}: "
        notes.append(who + sentence.rstrip("."))
    notes += [
        f"of tables, {size} observed: {_baselines(means)}"
        for size, means in first.predictions_by_observed.items()
        if len(means.r2) > 1 or len(means.accuracy) > 1
    ]
    if any(r.metrics.predictions.keys() != first.predictions.keys() for r in runs):
        notes.append(
            "runs were measured on different subsets of modalities: means over subsets do not "
            "compare; evaluate all with one --seed and --subsets"
        )
    doubtful = [
        r.name
        for r in runs
        if any(check.verdict == "do not trust" for check in r.metrics.likelihood_checks.values())
    ]
    if doubtful:
        notes.append(f"likelihoods not to be trusted (Pareto k): {', '.join(doubtful)}")
    unsound = [r.name for r in runs if r.metrics.coherence and r.metrics.coherence.unsound]
    if unsound:
        notes.append(f"chains of some subsets did not agree (R-hat): {', '.join(unsound)}")
    if not with_distances:
        notes.append(
            "Fréchet distances are left out: they were measured on different numbers of rows, "
            "and fewer rows make them larger, or by different networks"
        )
    floors = {n: d.mean.real for n, d in first.frechet.items() if with_distances}
    shown = [f"{n} {floor.mean:.2f}" for n, floor in floors.items() if floor is not None]
    if shown:
        few = next(iter(first.frechet.values())).rows
        notes.append(f"distance that {few:,} real rows have from others: {', '.join(shown)}")
    for name, about in first.networks.items() if with_distances else ():
        notes.append(f"features of {name}: {about}")
    if with_distances:
        told = (distance_rows(run.metrics, run.config.evaluation) for run in runs)
        notes += filter(None, dict.fromkeys(told))
    accuracies = [r.metrics.classifiers for r in runs]
    if accuracies[0]:
        listed = ", ".join(f"{m} {a:.3f}" for m, a in sorted(accuracies[0].items()))
        notes.append(f"accuracy of the classifiers on real test rows: {listed}")
    if any(a != accuracies[0] for a in accuracies):
        notes.append("runs were measured by different classifiers: coherences do not compare")
    verdicts: dict[str, list[str]] = {}
    for run in runs:
        verdicts.setdefault(run.verdict.rstrip("."), []).append(run.name)
    for verdict, names in verdicts.items():
        who = "all runs" if len(names) == len(runs) > 1 else ", ".join(names)
        notes += [f"{who}: {verdict}"] if verdict else []
    return notes
