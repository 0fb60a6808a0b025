"""A small greedy search for settings, on held-out imputation, within a budget of seconds."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from mvflow.config import Config, assign, config_from_dict
from mvflow.core import (
    PRESENT,
    Modality,
    Source,
    covariate_columns,
    fingerprint,
    generator,
    intensities,
    row_presence,
)
from mvflow.core.files import check_shape, read_json, write_json
from mvflow.core.selected import SelectedRows, TakenRows
from mvflow.estimators import Estimator, estimator_class
from mvflow.metrics import Estimate, mean_and_error
from mvflow.nn import GapsNetwork

__all__ = ["Trial", "alternatives", "imputation_scores", "tune"]

ROWS, SCORED_ROWS = 4000, 400
"""Most rows that a trial is trained on, and that its imputation is measured on."""
DRAWS = 20
SHAPE = {"key": str, "trials": [{"changes": [str], "rows": [float], "seconds": float}]}
CHANCE = 0.05
"""How often a search may replace the settings that it began with where no setting gains."""
REPEATS = 3
"""Further seeds of the settings that a search begins with, which say how much training varies."""
EPOCHS = "joint.epochs="
SHARE_OF_EPOCHS = 3
"""Trials train for one in so many of the epochs."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings that were tried."""

    changes: tuple[str, ...]
    """Assignments `section.key=value` to the configuration that the search began with."""
    rows: tuple[float, ...]
    """R² of each modality from all others, the part of each held-out row: see `score`."""
    seconds: float

    @property
    def score(self) -> float:
        """Mean R² of each modality from all others, on held-out rows."""
        return float(np.mean(self.rows))

    def gain(self, base: Trial) -> Estimate:
        """How much better this is than another on the same rows, with its standard error."""
        return mean_and_error(np.subtract(self.rows, base.rows))


def replaces(trial: Trial, base: Trial, comparisons: int, repeats: Sequence[Trial] = ()) -> bool:
    """Whether a trial gains more than noise would in any of so many comparisons.

    A one-sided t-test at the level `CHANCE` / `comparisons` (Bonferroni): where no setting gains
    anything, all comparisons together replace the settings they began with at most in the share
    `CHANCE` of searches. Noise is that of held-out rows, which are paired, and that of training
    once more; the degrees of freedom are Welch's.

    Args:
        trial: what may replace the other.
        base: what it would replace, on the same rows.
        comparisons: how many may be made.
        repeats: trials of one configuration with several seeds; without them training is taken to
            have no noise.

    Examples:
        >>> base = Trial((), (0.0, 0.1, 0.2), 1.0)
        >>> better = Trial(("latent_dim=4",), (0.5, 0.6, 0.71), 1.0)
        >>> replaces(better, base, 10), replaces(Trial((), (0.5, 0.0, 0.2), 1.0), base, 10)
        (True, False)
        >>> replaces(better, base, 10, [base, better, base])  # a seed matters as much
        False
    """
    gain = trial.gain(base)
    of_rows, of_training = gain.standard_error**2, 0.0
    per_freedom = 0.0
    if len(repeats) > 1:
        of_training = 2 * float(np.var([t.score for t in repeats], ddof=1))
        per_freedom = of_training**2 / (len(repeats) - 1)
    total = of_rows + of_training
    per_freedom += of_rows**2 / max(1, len(base.rows) - 1)
    freedom = total**2 / per_freedom if per_freedom > 0 else np.inf
    return gain.mean > float(student_t.isf(CHANCE / comparisons, freedom)) * total**0.5


def alternatives(config: Config) -> list[list[list[str]]]:
    """Groups of assignments to try, one group after another; none where nothing is to be chosen.

    They are for networks with dropout and a joint stage, as the recipe `auto` has for tables.

    Examples:
        >>> raw = {"system": "jnf", "latent_dim": 2, "modalities": {"a": {"shape": [3]}}}
        >>> alternatives(config_from_dict(raw))  # one modality: nothing to impute it from
        []
    """
    parts = []
    for name, m in config.modalities.items():
        for part in ("encoder", "decoder"):
            network, at = getattr(m, part), f"modalities.{name}.{part}"
            if isinstance(network, GapsNetwork):  # the settings are those of the one within
                network, at = network.network, f"{at}.network"
            parts += [at] if hasattr(network, "dropout") else []
    if len(parts) < 2 * len(config.modalities) or len(config.modalities) < 2:
        return []
    columns = sum(m.size for m in config.specifications())
    latents = {config.latent_dim // 2, min(2 * config.latent_dim, columns)} - {0}
    groups = [
        [[f"{part}.dropout={share}" for part in parts] for share in (0.1, 0.5)],
        [[f"latent_dim={n}"] for n in sorted(latents - {config.latent_dim})],
        [[f"joint.weight_decay={decay}"] for decay in (0.01, 1.0)],
        [[f"{part}.hidden=[{width}, {width}]" for part in parts] for width in (64, 512)],
    ]
    if hasattr(config, "subset"):
        widths = [["subset.kind=kernel", f"subset.width={width}"] for width in (0.1, 1.0)]
        groups.insert(0, widths)
        groups.append([["subset.kind=amortised", 'subset.posterior={kind = "gaussian"}']])
    return groups


def tune(
    config: Config,
    source: Source,
    *,
    seconds: float = 600.0,
    path: Path | None = None,
    callback: Callable[[Trial, float], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Config, list[Trial]]:
    """The settings, of those tried within the budget, that impute held-out rows best.

    A greedy search: of each group of `alternatives` the best is kept, if it gains more than
    noise would, of held-out rows and of training with another seed. Trials train on a share of
    the rows, for a part of the epochs; the first is the configuration itself, which is tried
    with other seeds as soon as something seems better. What is best in the end must gain as
    much in all of the epochs, if there is time for that.

    Args:
        config: to begin with.
        source: training rows; some are held out.
        seconds: no trial begins that would end later, by the longest so far.
        path: file that keeps trials; with the same rows and configuration they are not repeated.
        callback: told of each trial, and of the seconds that are left.
        clock: what seconds are read from; with `time.process_time` they are those of the CPU.

    Returns:
        The best configuration, and all trials in order; none if nothing is to be chosen.
    """
    groups = alternatives(config)
    if not groups:
        return config, []
    rng = generator(config.seed, "tuning")
    order = rng.permutation(len(source))
    complete = order[np.logical_and.reduce(list(row_presence(source).values()))[order]]
    if not len(complete):
        return config, []
    scored = complete[: max(2, min(SCORED_ROWS, len(complete) // 5))]
    held = _with_all_modalities(source.take(np.sort(scored)), [m.name for m in source.modalities])
    rows = TakenRows([SelectedRows(source, np.sort(order[~np.isin(order, scored)][:ROWS]))])
    search = _Search(
        config, rows, held, _Memory.of(path, config, source), seconds, callback, clock
    )
    best = search.run(())
    assert best is not None  # the first is always tried
    for group in groups:
        base = best
        for changes in group:
            trial = search.run(
                (*base.changes, *changes), 1 + (2 * SHARE_OF_EPOCHS if base.changes else 0)
            )
            if trial is None:
                break
            if trial.score > best.score and search.replaces(trial, base):
                best = trial
    holds = not best.changes or search.holds_in_full(best)
    return search.configured(best.changes if holds else ()), search.trials


class _Search:
    def __init__(
        self,
        config: Config,
        rows: Source,
        held: Mapping[str, NDArray[Any]],
        memory: _Memory,
        seconds: float,
        callback: Callable[[Trial, float], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.config, self.rows, self.held, self.memory = config, rows, held, memory
        self.clock, self.began, self.seconds, self.callback = clock, clock(), seconds, callback
        self.comparisons = sum(map(len, alternatives(config)))
        self.trials: list[Trial] = []
        self.repeats: list[Trial] = []
        self.model: Estimator | None = None

    def configured(self, changes: tuple[str, ...]) -> Config:
        return config_from_dict(assign(self.config.to_dict(), changes))

    def replaces(self, trial: Trial, base: Trial) -> bool:
        """Whether it gains more than noise, of rows and of seeds, for which there must be time."""
        if not replaces(trial, base, self.comparisons):
            return False
        self.repeats = self.repeats or [self.trials[0]]
        for seed in range(self.config.seed + len(self.repeats), self.config.seed + 1 + REPEATS):
            again = self.run((f"seed={seed}",), anew=True)
            if again is None:
                return False
            self.repeats.append(again)
        return replaces(trial, base, self.comparisons, self.repeats)

    def holds_in_full(self, best: Trial) -> bool:
        """Whether it gains more than noise in all of the epochs, too; true if time is out."""
        pair: list[Trial] = []
        for changes in ((), best.changes):
            full = (*changes, f"{EPOCHS}{self.config.to_dict()['joint']['epochs']}")
            trial = self.run(full, SHARE_OF_EPOCHS * (2 - len(pair)), anew=True)
            if trial is None:
                return True
            pair.append(trial)
        return replaces(pair[1], pair[0], self.comparisons, self.repeats)

    def run(self, changes: tuple[str, ...], ahead: int = 1, *, anew: bool = False) -> Trial | None:
        """Try settings, or None if there is no time for as many trials as are ahead.

        With `anew` no stage of the trial before is taken over.
        """
        trial = self.memory.trial(changes)
        if trial is None:
            longest = max((t.seconds for t in self.trials), default=0.0)
            if self.trials and self.clock() - self.began + ahead * longest > self.seconds:
                return None
            began, before = self.clock(), self.model
            self.model = None if anew else before
            scores = self.scores(self.shortened(changes)).round(5).tolist()
            self.model = before if anew else self.model
            trial = Trial(changes, tuple(scores), round(self.clock() - began, 2))
            self.memory.keep(trial)
        self.trials.append(trial)
        if self.callback is not None:
            self.callback(trial, self.seconds - (self.clock() - self.began))
        return trial

    def shortened(self, changes: tuple[str, ...]) -> Config:
        """With a part of the epochs, unless they are told."""
        config = self.configured(changes)
        if any(change.startswith(EPOCHS) for change in changes):
            return config
        raw = config.to_dict()
        epochs = max(10, raw["joint"]["epochs"] // SHARE_OF_EPOCHS)
        return config_from_dict(assign(raw, [f"{EPOCHS}{epochs}"]))

    def scores(self, config: Config) -> NDArray[np.float64]:
        model = estimator_class(config.system).from_config(config)
        if self.model is not None:  # stages that are the same stay trained
            model = self.model.with_settings(**{name: getattr(config, name) for name, _ in config})
        todo = [name for name in model.stage_names if name not in model.trained_]
        self.model = model.fit(self.rows, stages=todo) if todo else model
        return imputation_scores(self.model, self.held)


def imputation_scores(model: Estimator, rows: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """What each row adds to the mean R² over columns and modalities, each from all others.

    The mean over rows is that R², where no column counts for less than -1. Counts enter as
    log(1 + x), as they do wherever models are compared. Of classes, 1 - the share of wrong ones /
    that of the most frequent class takes the place of R². Absent values, where `present/NAME` is
    false, are neither given nor scored: a row counts by the columns that it has.
    """
    specs = {m.name: m for m in model.modalities}
    others = covariate_columns(rows)
    masks = {n: rows[PRESENT + n] for n in specs if PRESENT + n in rows}
    scores = []
    for name, modality in specs.items():
        given = {n: rows[n] for n in specs if n != name} | others
        given |= {PRESENT + n: mask for n, mask in masks.items() if n != name}
        drawn = model.generate(given, DRAWS, targets=[name], noise=False)[name]
        x = np.asarray(intensities(rows[name]), np.float64).reshape(len(rows[name]), -1)
        mean = drawn.mean(0, dtype=np.float64).reshape(x.shape)
        if "library" in type(modality.likelihood_part).model_fields:
            x, mean = np.log1p(x), np.log1p(mean)
        has = np.broadcast_to(masks[name].reshape(len(x), -1) if name in masks else True, x.shape)
        error, spread = (x - mean) ** 2, np.ma.masked_array(x, ~has).var(0).filled(0.0)
        for i in np.flatnonzero(_are_classes(modality)):
            votes = drawn.reshape(len(drawn), *x.shape)[:, :, i]
            error[:, i] = _are_wrong(votes, x[:, i])
            known = x[has[:, i], i]
            spread[i] = _are_wrong(known[:, None], known).mean() if len(known) else 0.0
        varies = spread > 0
        parts = np.ma.masked_array(1 - error[:, varies] / spread[varies], ~has[:, varies])
        scores.append(np.ma.where(parts.mean(0) > -1, parts, -1).mean(1))
    by_row = np.ma.stack(scores).mean(0)
    return np.asarray(by_row.filled(by_row.mean()), np.float64)


def _with_all_modalities(
    rows: Mapping[str, NDArray[Any]], names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """The rows that have a value of each modality."""
    masks = [np.asarray(rows[PRESENT + n]) for n in names if PRESENT + n in rows]
    has = [mask.reshape(len(mask), -1).any(1) for mask in masks]
    return {k: x[np.logical_and.reduce(has)] if has else x for k, x in rows.items()}


def _are_classes(modality: Modality) -> NDArray[np.bool_]:
    """Which columns are numbers of classes without order."""
    likelihood, shape = modality.likelihood_part, modality.shape
    if likelihood.row_shape(shape) == ():
        return np.ones(1, bool)
    columns = likelihood.columns(shape) if len(shape) == 1 else ()
    return np.array([not column.is_ordered for column in columns], bool)


def _are_wrong(votes: NDArray[Any], true: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows' class is not the most frequent among the votes (votes, rows or 1)."""
    kinds = np.union1d(votes, true)
    counts = (votes[..., None] == kinds).sum(0)
    return np.asarray(kinds[counts.argmax(-1)] != true)


@dataclass
class _Memory:
    """Trials that a file keeps."""

    path: Path | None
    key: str
    trials: dict[tuple[str, ...], Trial]

    @classmethod
    def of(cls, path: Path | None, config: Config, source: Source) -> _Memory:
        parts = [config.to_dict(), fingerprint(source), "rows"]  # older files have only means
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        trials: list[Trial] = []
        if path is not None and path.exists():
            raw = read_json(path, {"key": str})
            if raw["key"] == key:
                check_shape(raw, SHAPE, str(path))
                trials = [
                    Trial(tuple(t["changes"]), tuple(t["rows"]), t["seconds"])
                    for t in raw["trials"]
                ]
        return cls(path, key, {t.changes: t for t in trials})

    def trial(self, changes: tuple[str, ...]) -> Trial | None:
        return self.trials.get(changes)

    def keep(self, trial: Trial) -> None:
        self.trials[trial.changes] = trial
        if self.path is not None:
            trials = [
                {"changes": list(t.changes), "rows": list(t.rows), "seconds": t.seconds}
                for t in self.trials.values()
            ]
            write_json(self.path, {"key": self.key, "trials": trials})
