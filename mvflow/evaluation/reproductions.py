"""The paper's tables and figures as sets of runs, and its choice of beta among them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np

from mvflow.config import has_setting, recipe_names
from mvflow.core import UsageError, bare_name, registry, separated, unknown_name
from mvflow.evaluation.published import published
from mvflow.evaluation.result import Evaluation

__all__ = [
    "GridSpec",
    "Reproduction",
    "RunSpec",
    "paper_assignments",
    "reproduction",
    "reproductions",
    "select_beta",
    "variants",
]

BETA = "joint.beta"


class GridSpec(NamedTuple):
    """Draws that a figure shows."""

    given: tuple[str, ...] | None
    """Modalities that are conditioned on; (): draws from the prior; None: all but the target."""
    target: str | None
    """What is shown of them; None: all modalities that are not given."""


class RunSpec(NamedTuple):
    """One run of a reproduction."""

    system: str
    """As the paper calls it."""
    beta: float | None
    """None: as the recipe has it."""
    seed: int
    assignments: tuple[str, ...]
    """`section.key=value` changes of the recipe."""

    @property
    def kind(self) -> str:
        """Its system as mvflow calls it."""
        return next(w.partition("=")[2] for w in self.assignments if w.startswith("system="))

    @property
    def name(self) -> str:
        """Name of its directory.

        Examples:
            >>> RunSpec("JNF-Shared (CL)", 0.5, 3, ()).name
            'jnf-shared-cl-beta-0.5-seed-3'
        """
        words = "".join(c if c.isalnum() or c in "+." else " " for c in self.system.lower())
        beta = [] if self.beta is None else ["beta", f"{self.beta:g}"]
        return "-".join([*words.replace("+", "-plus").split(), *beta, "seed", str(self.seed)])


@dataclass(frozen=True)
class Reproduction:
    """A table or figure of the paper.

    Args:
        name: such as "table1".
        title: what it shows.
        data: data sets that can make it, the paper's own first.
        output: "table", "curves" or "grids".
        systems: the paper's names of its systems -> assignments that make them.
        betas: values that are tried; none: the one that the paper chose.
        select: coherences by whose mean beta is chosen; none: all are shown.
        grids: what a figure of samples shows.
        posteriors: whether posteriors are drawn in the plane of the latents, too.
    """

    name: str
    title: str
    data: tuple[str, ...]
    output: Literal["table", "curves", "grids"]
    systems: Mapping[str, tuple[str, ...]]
    betas: tuple[float, ...] = ()
    select: tuple[str, ...] = ()
    grids: tuple[GridSpec, ...] = ()
    posteriors: bool = False

    def available(self) -> tuple[str, ...]:
        """Its systems that are installed here."""
        names = registry("systems").names()
        return tuple(
            name
            for name, words in self.systems.items()
            if all(w.partition("=")[2] in names for w in words if w.startswith("system="))
        )

    def recipe(self, data: str, *, small: bool = False) -> str:
        """The paper's recipe for a data set, or its small variant.

        Raises:
            UsageError: if it cannot be made of these data.
        """
        if data not in self.data:
            msg = (
                f"{self.name} needs a store of {' or '.join(self.data)}, but this one holds "
                f"{data!r}: build one with 'mvflow data build {self.data[0]}'"
            )
            raise UsageError(msg)
        if small:
            return data if data == "toy" else f"{data}-small"
        faithful = f"{data}-paper"
        return faithful if faithful in recipe_names() else data

    def shown(
        self, modalities: Sequence[str], given: Sequence[str] | None = None
    ) -> list[GridSpec]:
        """Its grids for the modalities of a store.

        Args:
            modalities: that the store has.
            given: what is conditioned on in place of the paper's choice; all others are generated.

        Raises:
            UsageError: if it shows no samples, a modality is unknown or named twice, or none is
                left to generate.

        Examples:
            >>> reproduction("figure-d9").shown(["m0", "m1", "m2"], ["m2"])
            [GridSpec(given=('m2',), target=None)]
            >>> reproduction("figure-d10").shown(["m0", "m1", "m2"])
            [GridSpec(given=('m1', 'm2'), target='m0')]
        """
        grids = self.grids
        if given is not None:
            self._check(given, modalities)
            grids = (GridSpec(tuple(given), None),)
        return [
            grid._replace(given=tuple(name for name in modalities if name != grid.target))
            if grid.given is None
            else grid
            for grid in grids
        ]

    def _check(self, given: Sequence[str], modalities: Sequence[str]) -> None:
        """Whether samples given these modalities can be shown; `shown` says what is raised."""
        if not self.grids:
            figures = [name for name in reproductions() if reproduction(name).grids]
            msg = f"{self.name} shows no samples: --given is for {', '.join(figures)}"
            raise UsageError(msg)
        for i, name in enumerate(given):
            if name not in modalities:
                raise UsageError(unknown_name("modality", name, modalities))
            if name in given[:i]:
                msg = f"--given names {name!r} twice"
                raise UsageError(msg)
        if len(given) == len(modalities):
            msg = "--given names all modalities, so that none is left to generate: leave one out"
            raise UsageError(msg)

    def runs(
        self,
        data: str,
        seeds: Sequence[int],
        systems: Sequence[str] | None = None,
        betas: Sequence[float] | Literal["paper"] | None = None,
    ) -> list[RunSpec]:
        """All runs, seed by seed, so that whole tables come first and errors later.

        Args:
            data: name of the data set.
            seeds: of the runs.
            systems: some of its systems, as the paper calls them; by default all installed ones.
            betas: of all systems; "paper": of each the one that the paper chose.

        Raises:
            UsageError: if there is no such system in it, it is not installed, or named twice.
        """
        wanted = self.available() if systems is None else tuple(systems)
        for i, name in enumerate(wanted):
            if name in wanted[:i]:
                msg = f"--system names {name!r} twice"
                raise UsageError(msg)
            if name not in self.systems:
                raise UsageError(unknown_name(f"system of {self.name}", name, self.systems))
            if name not in self.available():
                msg = f"{name!r} is not installed: {self.name} has {separated(self.available())}"
                raise UsageError(msg)
        every = () if betas == "paper" else betas or self.betas
        return [
            RunSpec(name, beta, seed, (*self.systems[name], *_beta(beta), f"seed={seed}"))
            for seed in seeds
            for name in wanted
            for beta in (every or (_chosen(data, name),))
        ]


def _beta(beta: float | None) -> tuple[str, ...]:
    return () if beta is None else (f"{BETA}={beta:g}",)


def _chosen(data: str, system: str) -> float | None:
    """The beta that the paper chose for a system; None where it names none."""
    try:
        report = published(data)
    except UsageError:
        return None
    figures = report.chosen.get(system)
    betas = [
        beta for (name, beta, _), row in report.systems.items() if (name, row) == (system, figures)
    ]
    return betas[0] if betas and betas[0] > 0 else None


def variants(runs: Sequence[RunSpec], settings: Sequence[str]) -> dict[str, list[str]]:
    """Name of each run -> all its assignments.

    Args:
        runs: of one or several systems.
        settings: `section.key=value` changes of all runs; one that only some of their systems have
            changes these alone.

    Raises:
        UsageError: if a setting is one by which the runs differ, as their seed.

    Examples:
        >>> runs = reproduction("figure3").runs("mnist-svhn", [0], ["MoPoE", "JNF"], [1])
        >>> variants(runs, ["flows.epochs=3"])["jnf-beta-1-seed-0"]
        ['flows.epochs=3', 'system=jnf', 'joint.beta=1', 'seed=0']
        >>> variants(runs, ["flows.epochs=3"])["mopoe-beta-1-seed-0"]
        ['system=mopoe', 'joint.beta=1', 'seed=0']
    """
    keys = {text: text.partition("=")[0].strip() for text in settings}
    own = {word.partition("=")[0] for run in runs for word in run.assignments}
    for text, key in keys.items():
        if key in own:
            msg = f"--set {text}: the runs differ by {key}; use --seeds, --betas or --system"
            raise UsageError(msg)
    kinds = {run.kind for run in runs}
    having = {
        text: {kind for kind in kinds if has_setting(kind, key)} or kinds  # none: said when made
        for text, key in keys.items()
    }
    return {
        run.name: [*(text for text in settings if run.kind in having[text]), *run.assignments]
        for run in runs
    }


def reproductions() -> tuple[str, ...]:
    """Names of all tables and figures.

    Examples:
        >>> reproductions()[:2]
        ('table1', 'table-d3')
    """
    return tuple(name for name in _read() if name != "systems")


def reproduction(name: str) -> Reproduction:
    """A table or figure by name.

    Raises:
        UsageError: if there is none of that name.

    Examples:
        >>> reproduction("table1").recipe("mnist-svhn", small=True)
        'mnist-svhn-small'
    """
    raw = _read()
    if name not in reproductions():
        raise UsageError(unknown_name("table or figure", name, reproductions()))
    about = raw[name]
    return Reproduction(
        name,
        about["title"],
        tuple(about["data"]),
        about["output"],
        {system: tuple(raw["systems"][system]) for system in about["systems"]},
        tuple(about.get("betas", ())),
        tuple(about.get("select", ())),
        tuple(
            GridSpec(tuple(g["given"]) if "given" in g else None, g.get("target"))
            for g in about.get("grids", ())
        ),
        about.get("posteriors", False),
    )


def paper_assignments(key: str, name: str) -> tuple[str, ...]:
    """Assignments that make what the paper calls by a name; none if it calls nothing so.

    Args:
        key: "system", or a part in which systems of the paper differ.
        name: in any case.

    Examples:
        >>> paper_assignments("system", "jnf-shared (cl)")
        ('system=jnf-shared', 'projector.kind=contrastive')
        >>> paper_assignments("projector", "CL")
        ('projector.kind=contrastive',)
    """
    for paper, words in _read()["systems"].items():
        detail = paper.partition("(")[2] or paper.partition(",")[2]
        if bare_name(paper if key == "system" else detail) == bare_name(name) != "":
            return tuple(w for w in words if key == "system" or w.startswith(f"{key}."))
    return ()


def _read() -> dict[str, Any]:
    text = (resources.files("mvflow.evaluation") / "reproductions.toml").read_text("utf-8")
    return tomllib.loads(text)


def select_beta(
    select: Sequence[str], evaluations: Sequence[tuple[RunSpec, Evaluation]]
) -> dict[str, float | None]:
    """Beta of each system with the highest mean coherence over seeds (paper, Appendix E).

    Args:
        select: "joint", "conditional" or both, whose mean is taken.
        evaluations: runs with what was measured of them.

    Returns:
        System -> beta; the smaller one of two that are equally good.

    Raises:
        UsageError: if a run has no coherence.
    """
    scores: dict[tuple[str, float | None], list[float]] = {}
    for run, metrics in evaluations:
        coherence = metrics.coherence
        if coherence is None or coherence.conditional_mean is None:
            msg = f"{run.name} has no coherence to choose beta by: its data have no labels"
            raise UsageError(msg)
        values = {
            "joint": coherence.joint.mean,
            "conditional": coherence.conditional_mean.mean,
        }
        score = float(np.mean([values[name] for name in select]))
        scores.setdefault((run.system, run.beta), []).append(score)
    best: dict[str, float | None] = {}
    for system in dict.fromkeys(name for name, _ in scores):
        betas = sorted((b for s, b in scores if s == system), key=lambda b: b or 0.0)
        best[system] = max(betas, key=lambda b: float(np.mean(scores[system, b])))
    return best
