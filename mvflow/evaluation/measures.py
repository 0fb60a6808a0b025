"""What evaluated systems are compared by: all numbers of an evaluation, and columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mvflow.evaluation.predictions import measure_of_kind
from mvflow.evaluation.result import Coherence, Evaluation, Frechet, MeasureByWay
from mvflow.evaluation.scoring import MEASURES
from mvflow.metrics import Estimate

if TYPE_CHECKING:
    from mvflow.evaluation.compare import ComparedSystem

__all__ = ["TABLE_MEASURES", "Measure", "measure_by_key", "numbers_by_key", "table_measures"]

MAX_DIRECTIONS = 2
"""Directions up to which each is a column; of more, means by number of observed modalities."""
NETWORK_ORDER = ("inception-v3", "classifier", "autoencoder")
"""Of feature networks in the table; others come last."""
CHIEF_NETWORKS = ("inception-v3", "autoencoder", "classifier")
"""Of which the first that is there shows precision and recall in the table."""
WAYS = ("joint", "conditional")
TABLE_MEASURES = ("r2", "accuracy")
"""Of tables of one kind of columns; of mixed ones each kind has its own."""
INTERVAL = 0.9
"""Level of the intervals whose coverage is in the files of the table."""


class Measure(NamedTuple):
    """A column of the table."""

    key: str
    title: str
    lower_is_better: bool
    digits: int


def numbers_by_key(
    metrics: Evaluation, with_distances: bool, others: Sequence[str]
) -> dict[str, Estimate | None]:
    """All numbers of an evaluation that systems can be compared by, by key.

    Args:
        metrics: of one run.
        with_distances: whether what depends on the number of rows compares.
        others: feature networks that have other weights in other runs.
    """
    found: dict[str, Estimate | None] = {}
    if metrics.coherence is not None:
        found |= _spread("coherence", metrics.coherence, metrics.coherence)
        found["coherence/conditional"] = metrics.coherence.conditional_mean
        if (many := metrics.coherence.one_to_many) is not None:
            found["one-to-many/together"] = many.together_mean
            found["one-to-many/apart"] = many.apart_mean
            found["one-to-many/shared"] = many.shared
    for network, distances in metrics.frechet.items() if with_distances else ():
        path = f"frechet/{network}"
        found |= _spread(path, distances, distances.mean)
        found |= {f"{path}/{key}": value for key, value in _from_one(distances).items()}
        found[f"{path}/conditional"] = distances.mean.conditional
        for kind in ("precision", "recall"):
            if (of := getattr(distances, kind)) is not None:
                found |= _spread(f"{kind}/{network}", of, of.mean)
                found[f"{kind}/{network}/conditional"] = of.mean.conditional
    for network, distances in metrics.frechet.items():
        if network not in others and (of := distances.limit) is not None:
            found |= _spread(f"frechet-infinity/{network}", of, of.mean)
            found[f"frechet-infinity/{network}/conditional"] = of.mean.conditional
    for kind in ("log_likelihood", "posterior_log_density", "reconstruction"):
        for key, value in getattr(metrics, kind).items():
            found[f"{kind}/{key}"] = value
    if metrics.gaps is not None:
        found["gap"] = metrics.gaps.gap
        if metrics.gaps.variation_of_information is not None:
            found["information"] = metrics.gaps.variation_of_information
        for key, value in metrics.gaps.divergences.items():
            found[f"divergence/{key}"] = value
        for key, bounds in metrics.gaps.excess.items():
            found[f"excess/{key}/at_least"] = bounds.at_least
            found[f"excess/{key}/at_most"] = bounds.at_most
    for size, means in metrics.predictions_by_observed.items():
        for kind in TABLE_MEASURES:
            if "model" in getattr(means, kind):
                found[f"prediction/{kind}/{size}"] = getattr(means, kind)["model"]
        for kind, of_kind in means.by_kind.items():
            if "model" in of_kind:
                found[f"prediction/{kind}/{size}"] = of_kind["model"]
        for name, levels in (("raw", means.coverage), ("calibrated", means.calibrated_coverage)):
            if INTERVAL in levels:
                found[f"coverage/{name}/{size}"] = levels[INTERVAL]
    for space, of in metrics.diversity.items():
        for key, value in of.conditional.items():
            found[f"diversity/{space}/{key}"] = value
    return found


def _spread(
    path: str, found: Coherence | Frechet | MeasureByWay, joint: Any
) -> dict[str, Estimate | None]:
    out: dict[str, Estimate | None] = {f"{path}/joint": joint.joint}
    if joint.joint_fitted is not None:
        out[f"{path}/joint_fitted"] = joint.joint_fitted
    out |= {f"{path}/{key}": value for key, value in found.conditional.items()}
    sizes = found.conditional_by_observed.items()
    return out | {f"{path}/observed/{size}": value for size, value in sizes}


def _from_one(distances: Frechet) -> dict[str, Estimate]:
    """Mean distance of each modality generated from one other; errors as if all were one."""
    found: dict[str, list[Estimate]] = {}
    for key, value in distances.conditional.items():
        given, target = key.split("->")
        if "+" not in given:
            found.setdefault(f"one->{target}", []).append(value)
    return {
        key: Estimate(
            float(np.mean([v.mean for v in values])),
            float(np.mean([v.standard_error for v in values])),
        )
        for key, values in found.items()
    }


def table_measures(systems: Sequence[ComparedSystem], metrics: Evaluation) -> list[Measure]:
    """Columns of the table: joint, conditional, likelihood; what is in none is left out."""
    directions = [k for k in metrics.log_likelihood if "->" in k]
    sizes = sorted({k.split("/")[-1] for s in systems for k in s.values if "/observed/" in k})
    few = len(directions) <= MAX_DIRECTIONS
    found = dict.fromkeys(k for s in systems for k in s.values if k.startswith("frechet"))
    networks = dict.fromkeys(k.split("/")[1] for k in found)
    known = {name: i for i, name in enumerate(NETWORK_ORDER)}
    order = sorted(networks, key=lambda n: (known.get(n, len(known)), n))
    kinds = ["coherence", *(f"frechet/{network}" for network in order)]
    keys = []
    for kind in kinds:
        keys += [f"{kind}/joint", f"{kind}/joint_fitted"]
        keys += [f"{kind}/{d}" for d in directions] if few else [f"{kind}/conditional"]
        if not few and kind == "coherence":
            keys += [f"{kind}/observed/{size}" for size in sizes]
        if few and kind == "frechet/autoencoder":
            keys += [f"{kind}/conditional"]
        if kind == "coherence":
            keys += ["one-to-many/together", "one-to-many/apart"]
        else:
            keys += [f"frechet-infinity/{kind.split('/')[1]}/{w}" for w in WAYS]
    chief = next((name for name in CHIEF_NETWORKS if name in networks), next(iter(order), ""))
    keys += [f"{kind}/{chief}/{way}" for kind in ("precision", "recall") for way in WAYS]
    predicted = dict.fromkeys(k for s in systems for k in s.values if k.startswith("prediction/"))
    excess = dict.fromkeys(k for s in systems for k in s.values if k.endswith("/at_most"))
    keys = [*predicted, *keys, "log_likelihood/joint", "gap", "information"]
    keys += excess if len(excess) <= MAX_DIRECTIONS else ()
    return [measure_by_key(key) for key in keys if any(s.known(key) for s in systems)]


def measure_by_key(key: str) -> Measure:
    """The column of a number of `numbers_by_key`."""
    kind, *rest = key.split("/")
    if kind == "coherence":
        return Measure(key, f"coherence, {_of(rest)}", False, 3)
    if kind == "frechet":
        network, *of = rest
        name = "FID" if network == "inception-v3" else f"Fréchet ({network})"
        if network == "autoencoder" and of in (["joint"], ["conditional"]):
            name = "MFD"
        return Measure(key, f"{name}, {_of(of)}", True, 2)
    if kind in ("precision", "recall"):
        return Measure(key, f"{kind} ({rest[0]}), {_of(rest[1:])}", False, 3)
    if kind == "frechet-infinity":
        name = "FID∞" if rest[0] == "inception-v3" else f"Fréchet∞ ({rest[0]})"
        return Measure(key, f"{name}, {_of(rest[1:])}", True, 2)
    if kind == "one-to-many":
        how = {"together": "one draw", "apart": "separate draws", "shared": "of what is open"}
        return Measure(key, f"1 → N agreement, {how[rest[0]]}", False, 3)
    if kind == "prediction":
        what = "tables" if rest[0] in TABLE_MEASURES else rest[0]
        name = MEASURES[rest[0] if rest[0] in TABLE_MEASURES else measure_of_kind(rest[0])]
        return Measure(key, f"{name} of {what}, {rest[1]} observed", False, 3)
    if kind == "gap":
        return Measure(key, "inference gap, nats", True, 1)
    if kind == "information":
        return Measure(key, "bound on variation of information, nats", True, 1)
    if kind == "excess":
        return Measure(key, f"KL from the average posterior given {rest[0]} (at most)", True, 1)
    return Measure(key, "log p(X), nats", False, 1)


def _of(words: Sequence[str]) -> str:
    if words[0] == "observed":
        return f"{words[1]} observed"
    if words[0] == "joint_fitted":
        return "joint (fitted prior)"
    return words[0].replace("->", " → ").replace("+", " + ")
