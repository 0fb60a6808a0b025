"""Parts of an evaluation: computed one by one, kept, and put together at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from pydantic import ConfigDict, ValidationError

from mvflow.evaluation.predictions import Prediction
from mvflow.evaluation.result import Diversity, ImportanceCheck, SubsetSampler
from mvflow.evaluation.values import Values
from mvflow.metrics import Estimate, Jackknife

__all__ = [
    "Blocks",
    "GapPart",
    "DiversityPart",
    "EvaluationPlan",
    "EstimatesPart",
    "JointPart",
    "LikelihoodPart",
    "Likeness",
    "OneToManyPart",
    "Part",
    "PartStore",
    "RebuiltPart",
    "SubsetPart",
    "compute_parts",
    "estimated_seconds",
]

PILOT_SHARES = (16, 4)
"""Shares of its rows, one in so many, with which the time of a part is measured beforehand."""
MIN_BUSY = 0.02
"""Share of the time in which the processor works, below which the clock alone counts."""
OTHER_WORK = 1.1
"""All time by that of the parts whose time is measured."""


class _Part(Values):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Blocks(_Part):
    """A distance with what it is without each block of rows (`mvflow.metrics.Jackknife`)."""

    value: float
    left_out: list[float]
    sizes: list[int]

    @classmethod
    def of(cls, found: Jackknife) -> Blocks:
        """From what was computed."""
        return cls(value=found.full, left_out=found.left_out.tolist(), sizes=found.sizes.tolist())

    def jackknife(self) -> Jackknife:
        """As it was computed."""
        return Jackknife(self.value, np.array(self.left_out), np.array(self.sizes))


class Likeness(_Part):
    """How generated rows resemble real ones in the features of one network."""

    distance: Blocks
    limit: Blocks | None = None
    precision: Blocks | None = None
    recall: Blocks | None = None

    def scaled(self, factor: float) -> Likeness:
        """The distance alone, times a factor."""
        of = self.distance
        left_out = [factor * value for value in of.left_out]
        return Likeness(
            distance=Blocks(value=factor * of.value, left_out=left_out, sizes=of.sizes)
        )


class SubsetPart(_Part):
    """What was generated from one subset of modalities; all by target.

    Args:
        given: observed modalities.
        rows: number of rows.
        hits: whether each generated row is of the right class.
        likeness: by network.
        contacts: share of draws outside the ball; None of several modalities.
        norm: largest |z|.
        sampler: diagnostics of the draws.
        predictions: of tables.
        margins: (levels, columns) by which their intervals are widened, in stored units.
        at: which rows of the source `hits` are of; empty: the first of those chosen.
    """

    given: tuple[str, ...]
    rows: int
    hits: dict[str, list[bool]]
    likeness: dict[str, dict[str, Likeness]]
    contacts: float | None
    norm: float
    sampler: SubsetSampler
    predictions: dict[str, Prediction] = {}
    margins: dict[str, list[list[float]]] = {}
    at: list[int] = []


class JointPart(_Part):
    """What was generated from a prior: classes (modalities, draws), likeness by modality."""

    classes: list[list[int]]
    likeness: dict[str, dict[str, Likeness]]


class RebuiltPart(_Part):
    """Rows encoded and decoded: whether they keep their class, and their squared error."""

    kept: dict[str, Estimate]
    errors: dict[str, Estimate]


class OneToManyPart(_Part):
    """Targets generated from one modality: whether all are of one class; all by given modality.

    Args:
        together: whether those of one draw agree, by row.
        apart: the same of targets from a draw of their own each.
        chance: share that would agree if they were of different rows.
    """

    together: dict[str, list[bool]]
    apart: dict[str, list[bool]]
    chance: dict[str, float]


class DiversityPart(_Part):
    """Diversity in each space."""

    spaces: dict[str, Diversity]


class LikelihoodPart(_Part):
    """An importance-sampled likelihood, by row, and whether it is to be trusted."""

    value: Estimate
    rows: list[float]
    check: ImportanceCheck


class GapPart(_Part):
    """Evidence lower bounds by row, and by modality and row what posteriors miss."""

    rows: list[float] = []
    """Bounds; empty where they are not what was computed, or q(z|X) has no density."""
    divergences: dict[str, list[float]] = {}
    """KL(q(z|X) || q(z|x_j))."""
    excess: dict[str, tuple[list[float], list[float], list[int]]] = {}
    """Lower and upper bounds of KL(q_avg(z|x_j) || q(z|x_j)), and the numbers of their rows."""
    partners: int = 0
    """Rows that q_avg is averaged over."""
    from_prior: list[float] = []
    """KL(q(z|X) || p(z))."""


class EstimatesPart(_Part):
    """Numbers by name."""

    values: dict[str, Estimate]


T = TypeVar("T", bound=Values)


class Part(NamedTuple):
    """One part of an evaluation.

    Args:
        name: by which it is kept.
        shape: of its result.
        compute: makes it.
        kind: the time of parts of one kind is a linear function of their size.
        size: number of observed modalities.
        pilot: does the same with so many rows, to measure how long it takes; None where it takes
            next to nothing.
        rows: that it takes.
    """

    name: str
    shape: type[Values]
    compute: Callable[[], Values]
    kind: str = ""
    size: int = 1
    pilot: Callable[[int], Any] | None = None
    rows: int = 0


class PartStore(Protocol):
    """Keeps finished parts, so that an evaluation that was interrupted goes on."""

    def get(self, name: str) -> str | None:
        """JSON of a part, None if there is none."""
        ...

    def put(self, name: str, text: str) -> None:
        """Keep a part."""
        ...


class EvaluationPlan(Values):
    """What an evaluation will do, said before it starts.

    Args:
        subsets: number of observed modalities -> subsets measured.
        skipped: the same -> subsets that are left out.
        rows: number of rows conditioned on.
        rows_by_observed: the same, by number of observed modalities.
        draws: predictive draws per row; 0 where nothing is predicted.
        likelihood_draws: draws per row of likelihoods of one modality given another, where they
            are fewer than configured, since densities are solved for.
        parts: how many there are.
        finished: of them, those that were kept.
        seconds: about how long the others take.
    """

    subsets: dict[int, int]
    skipped: dict[int, int]
    rows: int
    rows_by_observed: dict[int, int]
    draws: int
    likelihood_draws: int | None
    parts: int
    finished: int
    seconds: float


def kept_parts(parts: Iterable[Part], store: PartStore | None) -> dict[str, Values]:
    """Those parts that a store has whole; what it has in another shape counts as nothing."""
    found: dict[str, Values] = {}
    for part in parts if store is not None else ():
        text = store.get(part.name) if store is not None else None
        if text is None:
            continue
        try:
            found[part.name] = part.shape.model_validate_json(text)
        except ValidationError:
            continue
    return found


def estimated_seconds(parts: Sequence[Part]) -> dict[str, float]:
    """About how many seconds each part takes, from short measurements of a few of them.

    Of each kind the smallest and the largest part are measured, with two numbers of rows each: in
    time of the processor, which a busy machine does not disturb, times what a second of that
    takes by the clock here and now.
    """
    timed = [part for part in parts if part.pilot is not None]
    if timed:
        _spent(timed[0], 1)  # what is made once for all parts does not count
    clock, cost = 0.0, {}
    for kind in dict.fromkeys(part.kind for part in timed):
        of_kind = sorted((p for p in timed if p.kind == kind), key=lambda p: p.size)
        for part in dict.fromkeys((of_kind[0], of_kind[-1])):
            for share in PILOT_SHARES:
                rows = max(1, part.rows // share)
                cost[kind, part.size, rows] = spent = _spent(part, rows)
                clock += spent.clock
    busy = sum(spent.processor for spent in cost.values())
    is_idle = busy < MIN_BUSY * clock  # it waits for a device, so that the clock alone counts
    pace = 1.0 if is_idle or not busy else clock / busy
    seconds: dict[str, float] = {}
    for part in timed:
        ends = {}
        for size in sorted({size for kind, size, _ in cost if kind == part.kind}):
            points = sorted(
                (rows, spent.clock if is_idle else spent.processor)
                for (kind, of_size, rows), spent in cost.items()
                if (kind, of_size) == (part.kind, size)
            )
            ends[size] = _line(points, part.rows)
        seconds[part.name] = pace * float(np.interp(part.size, [*ends], [*ends.values()]))
    return seconds


class _Spent(NamedTuple):
    """Seconds of a measurement."""

    clock: float
    processor: float


def _spent(part: Part, rows: int) -> _Spent:
    clock, processor = time.perf_counter(), time.process_time()
    if part.pilot is not None:
        part.pilot(rows)
    return _Spent(time.perf_counter() - clock, time.process_time() - processor)


def _line(points: Sequence[tuple[int, float]], rows: int) -> float:
    """Seconds of so many rows, on the line through the first and the last measurement."""
    (few, first), (more, second) = points[0], points[-1]
    slope = max(second - first, 0.0) / max(more - few, 1)
    return first + slope * (rows - few)


def compute_parts(
    parts: Sequence[Part],
    kept: dict[str, Values],
    store: PartStore | None,
    expected: dict[str, float],
    progress: Callable[[int, int, str, float], None] | None,
) -> dict[str, Values]:
    """All parts, those that are kept as they are.

    Args:
        parts: in order.
        kept: name -> finished part.
        store: keeps each part as soon as it is finished.
        expected: name -> about how many seconds it takes.
        progress: called before each part with how many are done, how many there are, the name of
            the next, and about how many seconds are left.
    """
    found, spent, promised = dict(kept), 0.0, 0.0
    for part in parts:
        if part.name in found:
            continue
        rest = [p for p in parts if p.name not in found]
        left = sum(expected.get(p.name, 0.0) for p in rest)
        if progress is not None:
            pace = spent / promised if promised > 0 and spent > 5 else OTHER_WORK
            progress(len(found), len(parts), part.name, left * pace)
        start = time.perf_counter()
        found[part.name] = part.compute()
        spent, promised = (
            spent + time.perf_counter() - start,
            promised + expected.get(part.name, 0),
        )
        if store is not None:
            store.put(part.name, found[part.name].model_dump_json())
    return found
