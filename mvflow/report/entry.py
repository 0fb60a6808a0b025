"""What a report shows of one trained model, and the names it goes by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvflow.core import Modality, Source
    from mvflow.estimators import Estimator

__all__ = ["Entry", "class_name", "directions", "titles"]

MODELS = {"jnf": "JNF", "jnf-shared": "JNF-Shared"}
FAMILIES = {
    "gaussian": "Gaussian",
    "maf": "MAF",
    "conditional-maf": "conditional MAF",
    "nsf": "spline flow",
}
PROJECTORS = {"dcca": "DCCA", "contrastive": "contrastive"}
CLASSES = {"toy": {0: "empty", 1: "full"}}
"""What the labels of a data set mean, where a number says too little."""


@dataclass(frozen=True)
class Entry:
    """One trained model, its test rows, and what is known of both.

    Args:
        name: what the report calls it, usually the run directory's name.
        estimator: the model.
        test: rows that it was not trained on.
        history: records of all epochs (`RunDirectory.history`).
        manifest: versions and stages (`RunDirectory.manifest`).
        store: what the data set says of itself (`Store.info`).
        metrics: what `mvflow.evaluation.evaluate` returned; None before an evaluation.
    """

    name: str
    estimator: Estimator
    test: Source
    history: list[dict[str, Any]]
    manifest: dict[str, Any]
    store: dict[str, Any]
    metrics: dict[str, Any] | None

    @property
    def model(self) -> str:
        """Name of the system."""
        kind = self.estimator.config.model
        return MODELS.get(kind, kind)

    @property
    def is_shared(self) -> bool:
        """Whether the posteriors see shared information only."""
        return self.estimator.config.model == "jnf-shared"

    @property
    def family(self) -> str:
        """Family of the posteriors of single modalities."""
        name = self.estimator.config.flows.posterior
        return FAMILIES.get(name, name)

    @property
    def projector(self) -> str:
        """How the shared information is found; empty where there is none."""
        kind = self.estimator.config.projectors.kind
        return PROJECTORS.get(kind, kind) if self.is_shared else ""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Specifications in the order of the data, which is the paper's x_1, x_2..."""
        known = {m.name: m for m in self.estimator.modalities}
        return tuple(known[m.name] for m in self.test.modalities if m.name in known)

    @property
    def names(self) -> list[str]:
        """Names of the modalities, in the order of the data."""
        return [m.name for m in self.modalities]


def titles(entries: Sequence[Entry]) -> list[str]:
    """Short titles by posterior family, as in the paper's Figure 2; made different by name."""
    found = [f"shared information ({e.projector})" if e.is_shared else e.family for e in entries]
    return [
        title if found.count(title) == 1 else f"{title}: {entry.name}"
        for title, entry in zip(found, entries, strict=True)
    ]


def directions(names: Iterable[str]) -> list[tuple[tuple[str, ...], str]]:
    """Directions that are shown: each modality to each other, then all others to each.

    Examples:
        >>> directions(["a", "b"])
        [(('a',), 'b'), (('b',), 'a')]
        >>> directions("abc")[-1]
        (('a', 'b'), 'c')
    """
    every = list(names)
    single: list[tuple[tuple[str, ...], str]] = [
        ((given,), target) for given in every for target in every if given != target
    ]
    if len(every) < 3:
        return single
    rest = [(tuple(name for name in every if name != target), target) for target in every]
    return single + rest


def class_name(store: dict[str, Any], label: int) -> str:
    """What a label is called.

    Examples:
        >>> class_name({"name": "toy"}, 1), class_name({}, 1)
        ('full', 'class 1')
    """
    return CLASSES.get(str(store.get("name")), {}).get(label, f"class {label}")
