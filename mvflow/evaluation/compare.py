"""Evaluated runs side by side: systems against measures, over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mvflow.config import Config
from mvflow.core import DataError, UsageError
from mvflow.evaluation.published import Figure, published

__all__ = ["Comparison", "EvaluatedRun", "Measure", "System", "compare"]

FEW = 2
"""Directions up to which each is a column; of more, means by number of observed modalities."""
ORDER = ("inception-v3", "classifier", "autoencoder")
"""Of feature networks in the table; others come last."""
PROJECTORS = {"contrastive": "CL", "dcca": "DCCA"}


class EvaluatedRun(NamedTuple):
    """What is compared: a run's name, its settings, what was measured of it."""

    name: str
    config: Config
    metrics: Mapping[str, Any]
    data: str
    """Fingerprint of the rows it was trained on; empty if it is not known."""


class Measure(NamedTuple):
    """A column of the table."""

    key: str
    title: str
    lower_is_better: bool
    digits: int


@dataclass(frozen=True)
class System:
    """Runs that differ by their seed alone, or a system that only the paper reports.

    Args:
        label: name in the table.
        seeds: of the runs, in order; empty for a system of the paper.
        values: measure -> value of each run; None where a run lacks it.
        paper: measure -> what the paper reports of it.
    """

    label: str
    seeds: tuple[int, ...]
    values: dict[str, list[float | None]]
    paper: dict[str, Figure]

    def known(self, key: str) -> list[float]:
        """Values of a measure that are there."""
        return [v for v in self.values.get(key, []) if v is not None]

    def mean(self, key: str) -> float | None:
        """Mean over seeds."""
        return float(np.mean(self.known(key))) if self.known(key) else None

    def deviation(self, key: str) -> float | None:
        """Standard deviation over seeds (divided by one less than their number); None of one."""
        known = self.known(key)
        return float(np.std(known, ddof=1)) if len(known) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """Systems against measures.

    Args:
        systems: rows of the table.
        measures: its columns.
        paper: place in the paper that its figures are from; empty without them.
        notes: what a reader must know.
    """

    systems: tuple[System, ...]
    measures: tuple[Measure, ...]
    paper: str
    notes: tuple[str, ...]

    @property
    def measured(self) -> tuple[System, ...]:
        """The systems that were run here."""
        return tuple(s for s in self.systems if s.seeds)

    def mark(self, measure: Measure, system: System) -> str:
        """Whether a system is "best", "second" or neither, as the table rounds."""
        sign = 1 if measure.lower_is_better else -1
        means = {s.label: s.mean(measure.key) for s in self.measured}
        order = sorted({sign * round(m, measure.digits) for m in means.values() if m is not None})
        mine = means.get(system.label)
        if mine is None or len(order) < 2:
            return ""
        place = order.index(sign * round(mine, measure.digits))
        return "best" if place == 0 else "second" if place == 1 and len(order) > 2 else ""


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
        groups.setdefault(repr(sorted(_settings(run.config).items())), []).append(run)
    for group in groups.values():
        _check_seeds(group)
    members = [sorted(group, key=lambda r: r.config.seed) for group in groups.values()]
    labels = _labels([group[0].config for group in members])
    report = published(runs[0].config.recipe) if paper else None
    systems = []
    for label, group in zip(labels, members, strict=True):
        config, flat = group[0].config, [_flat(run.metrics) for run in group]
        figures = {}
        if report is not None and config.flows.posterior == "maf":
            figures = report.find(_title(config), config.joint.beta, config.flows.transforms)
        values = {key: [f.get(key) for f in flat] for f in flat for key in f}
        systems.append(System(label, tuple(r.config.seed for r in group), values, dict(figures)))
    measures, notes = _measures(systems, runs[0].metrics), _notes(runs)
    if any(len(s.known(m.key)) < len(s.seeds) for s in systems for m in measures):
        notes.append("some runs lack some measures: evaluate them again for all")
    if report is not None:
        systems += [
            System(label, (), {}, figures)
            for label, figures in report.chosen.items()
            if label not in {_title(group[0].config) for group in members}
        ]
        known = {m.key for m in measures}
        measures += [_measure(key) for key in report.measures if key not in known]
        notes.append(f"paper: {report.place}; {report.note}")
    place = "" if report is None else report.place
    return Comparison(tuple(systems), tuple(measures), place, tuple(notes))


def _check_same(runs: Sequence[EvaluatedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.data and first.data and run.data != first.data:
            msg = (
                f"{first.name} and {run.name} were trained on different data: "
                "compare runs of one store"
            )
            raise DataError(msg)
        splits = [r.metrics.get("split", "test") for r in (first, run)]
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


# Systems


def _settings(config: Config) -> dict[str, Any]:
    """What makes a system: all settings but the seed, the place of the data, and measuring."""
    raw = config.model_dump(mode="json")
    for section in ("seed", "evaluation", "classifiers", "format", "recipe"):
        raw.pop(section)
    raw["data"].pop("store")
    if config.model == "jnf":
        raw.pop("projectors")
    return dict(_leaves(raw))


def _leaves(raw: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in raw.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _title(config: Config) -> str:
    """A model's name in the paper."""
    if config.model == "jnf":
        return "JNF"
    return f"JNF-Shared ({PROJECTORS.get(config.projectors.kind, config.projectors.kind)})"


def _labels(configs: Sequence[Config]) -> list[str]:
    """Names in the paper, with the settings in which systems of one name differ."""
    titles, settings = [_title(c) for c in configs], [_settings(c) for c in configs]
    labels = []
    for title, mine in zip(titles, settings, strict=True):
        alike = [s for t, s in zip(titles, settings, strict=True) if t == title]
        keys = sorted({key for s in alike for key in s})
        differ = [k for k in keys if any(s.get(k) != alike[0].get(k) for s in alike)]
        suffix = ", ".join(f"{_short(k, differ)} {mine.get(k)}" for k in differ)
        labels.append(f"{title}, {suffix}" if suffix else title)
    return labels


def _short(key: str, among: Sequence[str]) -> str:
    """The last part of a key, if it is not that of another."""
    last = key.split(".")[-1]
    return last if [k.split(".")[-1] for k in among].count(last) == 1 else key


# Measures


def _flat(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """All numbers of an evaluation that systems can be compared by, by key."""
    found: dict[str, float | None] = {}
    coherence = metrics.get("coherence")
    if coherence:
        found |= _spread("coherence", coherence)
        values = list(coherence["conditional"].values())
        found["coherence/conditional"] = float(np.mean(values)) if values else None
    for network, distances in metrics.get("frechet", {}).items():
        path = f"frechet/{network}"
        found |= _spread(path, {**distances, **_joint(distances["mean"])})
        found[f"{path}/conditional"] = distances["mean"]["conditional"]
    for kind in ("log_likelihood", "posterior_log_density", "reconstruction"):
        for key, value in metrics.get(kind, {}).items():
            found[f"{kind}/{key}"] = value["mean"]
    for space, of in metrics.get("diversity", {}).items():
        for key, value in of["conditional"].items():
            found[f"diversity/{space}/{key}"] = value["mean"]
    return found


def _spread(path: str, found: Mapping[str, Any]) -> dict[str, float | None]:
    out = {f"{path}/{prior}": value for prior, value in _joint(found).items()}
    out |= {f"{path}/{key}": value for key, value in found["conditional"].items()}
    sizes = found["conditional_by_observed"].items()
    return out | {f"{path}/observed/{size}": value for size, value in sizes}


def _joint(found: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of draws without an observation, by prior."""
    return {prior: found[prior] for prior in ("joint", "joint_fitted") if prior in found}


def _measures(systems: Sequence[System], metrics: Mapping[str, Any]) -> list[Measure]:
    """Columns of the table: joint, conditional, likelihood; what is in none is left out."""
    directions = [k for k in metrics.get("log_likelihood", {}) if "->" in k]
    sizes = sorted({k.split("/")[-1] for s in systems for k in s.values if "/observed/" in k})
    few = len(directions) <= FEW
    found = dict.fromkeys(k for s in systems for k in s.values if k.startswith("frechet/"))
    networks = dict.fromkeys(k.split("/")[1] for k in found)
    order = sorted(networks, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))
    kinds = ["coherence", *(f"frechet/{network}" for network in order)]
    keys = []
    for kind in kinds:
        keys += [f"{kind}/joint", f"{kind}/joint_fitted"]
        keys += [f"{kind}/{d}" for d in directions] if few else [f"{kind}/conditional"]
        if not few and kind == "coherence":
            keys += [f"{kind}/observed/{size}" for size in sizes]
        if few and kind == "frechet/autoencoder":
            keys += [f"{kind}/conditional"]
    keys.append("log_likelihood/joint")
    return [_measure(key) for key in keys if any(s.known(key) for s in systems)]


def _measure(key: str) -> Measure:
    kind, *rest = key.split("/")
    if kind == "coherence":
        return Measure(key, f"coherence, {_of(rest)}", False, 3)
    if kind == "frechet":
        network, *of = rest
        name = "FID" if network == "inception-v3" else f"Fréchet ({network})"
        if network == "autoencoder" and of in (["joint"], ["conditional"]):
            name = "MFD"
        return Measure(key, f"{name}, {_of(of)}", True, 2)
    return Measure(key, "log p(X), nats", False, 1)


def _of(words: Sequence[str]) -> str:
    if words[0] == "observed":
        return f"{words[1]} observed"
    if words[0] == "joint_fitted":
        return "joint (fitted prior)"
    return words[0].replace("->", " → ").replace("+", " + ")


def _notes(runs: Sequence[EvaluatedRun]) -> list[str]:
    rows = sorted({int(r.metrics["rows"]) for r in runs})
    notes = [f"test rows: {' or '.join(f'{n:,}' for n in rows)}"]
    if len(rows) > 1:
        notes[0] += " (runs differ: Fréchet distances of fewer rows are larger)"
    by_size = runs[0].metrics.get("rows_by_observed", {})
    if len(by_size) > 1:
        notes[0] += f"; {by_size['2']:,} where several modalities are observed"
    accuracies = [r.metrics.get("classifiers", {}) for r in runs]
    if accuracies[0]:
        listed = ", ".join(f"{m} {a:.3f}" for m, a in sorted(accuracies[0].items()))
        notes.append(f"accuracy of the classifiers on real test rows: {listed}")
    if any(a != accuracies[0] for a in accuracies):
        notes.append("runs were judged by different classifiers: coherences do not compare")
    return notes
