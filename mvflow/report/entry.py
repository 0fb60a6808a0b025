"""What a report shows of one trained model, and the names it goes by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mvflow.core import (
    COVARIATES,
    PRESENT,
    complete_rows,
    covariate_columns,
    without_full_masks,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mvflow.core import Modality, Source, Units
    from mvflow.estimators import Estimator
    from mvflow.evaluation import Calibration, Evaluation
    from mvflow.evaluation.learning import StageCurve
    from mvflow.evaluation.verdicts import Judgement

__all__ = ["Entry", "directions", "titles"]

MAX_DIRECTIONS = 12
"""That are shown as samples; beyond it, only those from all other modalities."""


@dataclass(frozen=True)
class Entry:
    """One trained model, its test rows, and what is known of both.

    Args:
        name: what the report calls it, usually the run directory's name.
        estimator: the model.
        test: rows that it was not trained on; of those that lack modalities only complete ones
            are shown, if there are any.
        history: records of all epochs (`RunDirectory.history`).
        manifest: versions and stages (`RunDirectory.manifest`).
        store: what the data set says of itself (`Store.info`).
        metrics: what `mvflow.evaluation.evaluate` returned; None before an evaluation.
        calibration: what `mvflow.evaluation.check_calibration` returned; None before it.
        image_shapes: modality -> (height, width), for flat rows that are images, where not as
            the units of the test rows have it.
    """

    name: str
    estimator: Estimator
    test: Source
    history: list[dict[str, Any]]
    manifest: dict[str, Any]
    store: dict[str, Any]
    metrics: Evaluation | None
    calibration: Calibration | None = None
    image_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        units: Mapping[str, Units] = getattr(self.test, "units", {})
        known = {name: of.image_shape for name, of in units.items() if of.image_shape}
        object.__setattr__(self, "image_shapes", {**known, **self.image_shapes})
        object.__setattr__(self, "test", complete_rows(self.test))

    @cached_property
    def facts(self) -> dict[str, str]:
        """What the model is, a short line each."""
        return self.estimator.facts()

    @property
    def model(self) -> str:
        """Name of the system."""
        return self.facts.get("system", "model")

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Specifications in the order of the data, which is the paper's x_1, x_2..."""
        known = {m.name: m for m in self.estimator.modalities}
        return tuple(known[m.name] for m in self.test.modalities if m.name in known)

    @property
    def names(self) -> list[str]:
        """Names of the modalities, in the order of the data."""
        return [m.name for m in self.modalities]

    def take(self, rows: Any) -> dict[str, NDArray[Any]]:
        """Arrays of some test rows: modalities, and those covariates that the model has."""
        taken, known = self.test.take(rows), self.estimator.config.covariates
        wanted = {*self.names, *(f"{COVARIATES}{name}" for name in known)}
        wanted |= {f"{PRESENT}{name}" for name in self.names}
        kept = {name: x for name, x in taken.items() if name in wanted}
        return without_full_masks(kept)

    def observed(self, x: Mapping[str, Any], given: Iterable[str]) -> dict[str, Any]:
        """What a model sees of rows of which some modalities are given."""
        names = {key for name in given for key in (name, PRESENT + name)}
        return {**{k: v for k, v in x.items() if k in names}, **covariate_columns(x)}

    @property
    def curves(self) -> list[StageCurve]:
        """Loss curves of the stages."""
        from mvflow.evaluation.learning import stage_curves

        return stage_curves(self.history, self.estimator.config)

    @property
    def judgement(self) -> Judgement:
        """What all that is known of it comes to."""
        from mvflow.evaluation.verdicts import judge

        return judge(self.estimator.config, self.metrics, self.calibration, self.curves)


def titles(entries: Sequence[Entry]) -> list[str]:
    """Short titles by the facts in which the models differ; made different by name."""
    shared = [key for key in entries[0].facts if all(key in e.facts for e in entries)]
    differing = [key for key in shared if len({e.facts[key] for e in entries}) > 1]
    names = [", ".join(e.facts[key] for key in differing) or e.model for e in entries]
    return [
        title if names.count(title) == 1 else f"{title}: {entry.name}"
        for title, entry in zip(names, entries, strict=True)
    ]


def directions(names: Iterable[str]) -> list[tuple[tuple[str, ...], str]]:
    """Directions that are shown: each modality to each other, then all others to each.

    Of many modalities, the first of the latter.

    Examples:
        >>> directions(["a", "b"])
        [(('a',), 'b'), (('b',), 'a')]
        >>> directions("abc")[-1]
        (('a', 'b'), 'c')
        >>> len(directions("abcdefghijklmnop"))
        12
    """
    every = list(names)
    single: list[tuple[tuple[str, ...], str]] = [
        ((given,), target) for given in every for target in every if given != target
    ]
    if len(every) < 3:
        return single
    rest = [(tuple(name for name in every if name != target), target) for target in every]
    both = single + rest
    return both if len(both) <= MAX_DIRECTIONS else rest[:MAX_DIRECTIONS]
