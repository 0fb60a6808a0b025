"""`mvflow new`: a run directory from a recipe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvflow_cli.options import Json, PriorKind, Settings, SubsetKind
from mvflow_cli.output import say, show_json, warn_idle

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow.runs import Plan, RunDirectory
    from mvflow.tuning import Trial

__all__ = ["configure", "create", "new", "settled"]

MIN_ROWS = 2
"""Of the splits to train and to test on."""


def new(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory to make.", show_default=False)
    ],
    store: Annotated[Path, typer.Option(help="Store with the data (.h5).", show_default=False)],
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe to begin with, such as toy or mnist-svhn; 'auto' chooses by the store."
        ),
    ] = "auto",
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            "--model",
            help="One of 'mvflow list systems'; by default the recipe's.",
            show_default=False,
        ),
    ] = None,
    projector: Annotated[
        str | None,
        typer.Option(help="One of 'mvflow list projectors', or none.", show_default=False),
    ] = None,
    posterior: Annotated[
        str | None,
        typer.Option(help="One of 'mvflow list posteriors'.", show_default=False),
    ] = None,
    subset: SubsetKind = None,
    prior: PriorKind = None,
    settings: Settings = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of training.", show_default=False)
    ] = None,
    adopt: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Take the finished stages of another run that would be the same here.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Of recipe auto: leave out the search for settings.")
    ] = False,
    budget: Annotated[
        float, typer.Option(min=0, help="Of recipe auto: seconds that the search may take.")
    ] = 600,
    json: Json = False,
) -> None:
    """Make a run directory; its config.toml may be edited before training.

    Example: mvflow new runs/toy --recipe toy --store toy.h5 --posterior maf --set joint.epochs=30
    """
    choices = {
        "system": system,
        "projector": projector,
        "posterior": posterior,
        "subset": subset,
        "prior": prior,
    }
    config = configure(recipe, store, choices, settings or [], seed)
    searched_file = run.with_name(f"{run.name}.search.json")
    if recipe == "auto" and not quick:
        from mvflow.runs import RunDirectory

        RunDirectory.check_free(run)
        config = searched(config, searched_file, budget, fixed=bool(settings), err=json)
    keys = [*(k for k, v in choices.items() if v is not None), *map(_key, settings or [])]
    made, taken = create(run, config, adopt, keys)
    if searched_file.is_file():
        searched_file.replace(made.path / "search.json")
    if json:
        show_json(
            {"run": str(made.path), "config": config.model_dump(mode="json"), "adopted": taken}
        )
        return
    from mvflow.systems import build_system, stages_of
    from mvflow_cli.training import stage_length

    stages = ", ".join(map(stage_length, stages_of(build_system(config))))
    say(
        f"made {run}: system {config.system}, recipe {recipe}, {stages}; "
        f"train it with 'mvflow train {run}'"
    )
    if adopt is not None:
        none = f"took nothing from {adopt}: no finished stage has the same data and settings"
        say(f"took {', '.join(taken)} from {adopt}" if taken else none)


def _key(assignment: str) -> str:
    return assignment.partition("=")[0].strip()


def searched(config: Config, path: Path, budget: float, *, fixed: bool, err: bool) -> Config:
    """The configuration with the settings that impute held-out rows best, within a budget.

    Args:
        config: to begin with.
        path: file that keeps trials, so that an interrupted search goes on.
        budget: seconds.
        fixed: whether settings were given by hand: they are not searched over.
        err: whether lines go to standard error.
    """
    from mvflow.config import assign, config_from_dict
    from mvflow.tuning import alternatives, tune
    from mvflow_datasets import Store

    count = sum(map(len, alternatives(config)))
    if not count:
        return config
    if fixed:
        say("settings are given by --set: they are taken as they are, without a search", err=err)
        return config
    say(
        f"searching: up to {count + 1} settings, each trained on a part of the rows and measured "
        f"by what it imputes of others; at most {budget:g} s ('--quick' leaves it out)",
        err=err,
    )
    first: Trial | None = None

    def told(trial: Trial, left: float) -> None:
        nonlocal first
        first = trial if first is None else first
        gain = trial.gain(first)
        by = f" ({gain.mean:+.4f} ± {gain.standard_error:.4f})" if trial.changes else ""
        shown = ", ".join(_short(trial.changes)) or "the recipe's own settings"
        say(
            f"R2 {trial.score:.4f}{by}: {shown}; {trial.seconds:.0f} s, "
            f"at most {max(0, left):.0f} s left",
            err=err,
        )

    try:
        with Store.open(config.data.store) as store:
            rows = store[config.data.train]
            chosen, trials = tune(config, rows, seconds=budget, path=path, callback=told)
    except KeyboardInterrupt:
        say(f"mvflow: interrupted; trials are kept in {path}: the same command goes on", err=True)
        raise typer.Exit(1) from None
    if chosen == config:
        say(
            f"kept the recipe's own settings: none of {len(trials) - 1} others gained more than "
            "noise would",
            err=err,
        )
    else:
        raw = config.to_dict()
        taken = next(t for t in trials if config_from_dict(assign(raw, t.changes)) == chosen)
        say(f"took {', '.join(_short(taken.changes))}", err=err)
    return chosen


def _short(changes: Sequence[str]) -> Iterator[str]:
    """Each changed setting once, whatever number of networks it is changed in."""
    parts = (change.partition("=") for change in changes)
    yield from dict.fromkeys(f"{key.rpartition('.')[2]} {value}" for key, _, value in parts)


def configure(
    recipe: str,
    store: Path,
    choices: Mapping[str, str | None],
    settings: Sequence[str],
    seed: int | None,
) -> Config:
    """The configuration of a recipe with changes.

    Args:
        recipe: its name.
        store: where the data are.
        choices: key -> chosen name, or None to leave what the recipe has.
        settings: `section.key=value` assignments; they have the last word.
        seed: of training; None leaves the recipe's.

    Raises:
        ConfigError: if a name, a key or a value is wrong, or the choices contradict each other.
    """
    from mvflow.config import config_from_dict, no_part, settings_of
    from mvflow.core import ConfigError
    from mvflow.estimators import config_for
    from mvflow.systems import build_system, stages_of
    from mvflow_datasets import Store

    chosen = {key: value for key, value in choices.items() if value is not None}
    _check_not_of_the_paper(chosen)
    if seed is not None:
        chosen["seed"] = str(seed)
    raw = settled(recipe, store, [*(f"{k}={v}" for k, v in chosen.items()), *settings])
    raw["data"] = {**raw.get("data", {}), "store": str(store.resolve())}
    if store.is_file():
        with Store.open(store) as opened:
            known = {name: c.to_dict() for name, c in opened.covariates.items()}
        raw["covariates"] = {**known, **raw.get("covariates", {})}
    for key in chosen:
        if key not in settings_of(raw["system"]).model_fields:
            raise ConfigError(no_part(raw["system"], key))
    config = config_from_dict(raw, where="--set")
    if store.is_file():
        with Store.open(store) as opened:
            config = config_for(config, opened[config.data.train])
    stages_of(build_system(config))  # refuses what cannot be built or trained
    return config


def _check_not_of_the_paper(chosen: Mapping[str, str]) -> None:
    """Refuse what the paper calls otherwise than mvflow does.

    Raises:
        UsageError: with the options that make it.
    """
    from mvflow.core import REGISTRIES, UsageError, registry

    for key, name in chosen.items():
        group = f"{key}s"
        if group not in REGISTRIES or name in registry(group).names() or ":" in name:
            continue
        from mvflow.evaluation.reproductions import paper_assignments

        pairs = [word.partition("=") for word in paper_assignments(key, name)]
        if pairs and [value for *_, value in pairs] != [name.lower()]:
            words = " ".join(f"--{k.removesuffix('.kind')} {v}" for k, _, v in pairs)
            msg = f"unknown {registry(group).noun} {name!r}: that of the paper is {words}"
            raise UsageError(msg)


def settled(recipe: str, store: Path, assignments: Sequence[str]) -> dict[str, Any]:
    """A recipe, or for `auto` what fits the store, with the assignments carried out."""
    from mvflow.config import assign, recipe_names, resolved
    from mvflow.config import recipe as find_recipe
    from mvflow.config.auto import AUTO, auto_config
    from mvflow.core import ConfigError, unknown_name
    from mvflow_datasets import Store

    if recipe in recipe_names():
        return find_recipe(recipe, assignments)
    if recipe != AUTO:
        raise ConfigError(unknown_name("recipe", recipe, [*recipe_names(), AUTO]))
    with Store.open(store) as opened:
        names: dict[str, Any] = {m.name: {} for m in opened.modalities}
        data = assign({"modalities": names}, assignments).get("data", {})
        train = opened[data.get("train", "train")]
        arrays = train.info()["arrays"]
        bytes_only = {name for name, array in arrays.items() if array["dtype"] == "uint8"}
        raw = auto_config(
            train.modalities, len(train), bytes_only, covariates=bool(opened.covariates)
        )
        return resolved(raw, assignments)


def create(
    path: Path, config: Config, adopt: Path | None = None, keys: Sequence[str] = ()
) -> tuple[RunDirectory, list[str]]:
    """Make a run directory, if the store fits, and take finished stages from another run.

    Args:
        path: of the directory.
        config: of the run.
        adopt: directory of the other run.
        keys: of the settings that were given by hand: those that never act are said.

    Returns:
        The run directory and the names of the stages taken.
    """
    from mvflow.config import Training
    from mvflow.core import DataError, fingerprint
    from mvflow.estimators import check_fits
    from mvflow.runs import Inputs, Plan, RunDirectory
    from mvflow.systems import build_system, stages_of
    from mvflow_datasets import Store

    other = None if adopt is None else RunDirectory.open(adopt)
    with Store.open(config.data.store) as store:
        train = store[config.data.train]
        for name in dict.fromkeys((config.data.train, config.data.test)):
            split = store[name]
            if len(split) < MIN_ROWS:
                msg = (
                    f"split {name!r} of {store.path} has {len(split)} rows, and needs {MIN_ROWS} "
                    "or more: import with other shares, such as --split 0.75,0.25"
                )
                raise DataError(msg)
            check_fits(split, config.specifications())
        plan = Plan(config, stages_of(build_system(config)))
        check_rows(plan, len(train))
        run = RunDirectory.create(path, config)
        run.write_units(store.units)
        # What the section of a trained part lacks was taken from another stage's: that has acted.
        sections = {key: getattr(config, key.partition(".")[0], None) for key in keys}
        warn_idle(config, [k for k, value in sections.items() if not isinstance(value, Training)])
        if other is None:
            return run, []
        try:
            return run, run.adopt(other, plan, Inputs(fingerprint(train)))
        except BaseException:  # so that the same command can be given again
            shutil.rmtree(path, ignore_errors=True)
            raise


def check_rows(plan: Plan, rows: int) -> None:
    """Refuse a store of too few rows before anything is trained.

    Raises:
        DataError: naming the stage, how many rows it has and needs, and what to do.
    """
    from mvflow.core import DataError

    share = plan.config.data.validation
    held = max(1, round(share * rows)) if share else 0
    sizes = {"training": rows - held, **({"validation": held} if held else {})}
    for spec in plan.stages:
        for what, size in sizes.items():
            if size < spec.min_rows:
                msg = (
                    f"stage {spec.name!r} needs {spec.min_rows} {what} rows, but {size} of the "
                    f"store's {rows} are for {what} (data.validation={share:g}): change the "
                    f"share, the settings of {spec.name!r}, or import more rows"
                )
                raise DataError(msg)
