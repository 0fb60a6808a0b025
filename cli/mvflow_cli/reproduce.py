"""`mvflow reproduce`: a table or figure of the paper, from runs to numbers, by one command."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from mvflow_cli.compare import evaluated, write_comparison
from mvflow_cli.estimating import stage_seconds
from mvflow_cli.jobs import Job, run_jobs
from mvflow_cli.judge_files import JudgeFiles
from mvflow_cli.making import make_runs
from mvflow_cli.opening import set_up
from mvflow_cli.options import (
    AutoencoderFiles,
    ClassifierFiles,
    Device,
    InceptionWeights,
    Json,
    Protocol,
    Threads,
)
from mvflow_cli.output import say, show_json
from mvflow_cli.variants import parse_betas, parse_seeds

if TYPE_CHECKING:
    from mvflow.evaluation.reproductions import GridSpec, Reproduction, RunSpec

__all__ = ["reproduce"]


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="What to make, such as table1, table-d3, figure3; 'list' shows all.",
            show_default=False,
        ),
    ],
    store: Annotated[
        Path | None, typer.Option(help="Store with the data (.h5).", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs and results; by default NAME.", show_default=False),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="SEED,...", help="Seeds of training.")] = "0,1,2,3",
    system: Annotated[
        list[str] | None,
        typer.Option(
            "--system",  # typer 0.27 takes a metavar that is the name in capitals for the name
            metavar="SYSTEM",
            help="A system as the paper calls it, such as 'JNF-Shared (CL)'; 'mvflow reproduce "
            "list' shows those of each table and figure. May be repeated; by default all.",
            show_default=False,
        ),
    ] = None,
    betas: Annotated[
        str | None,
        typer.Option(
            metavar="BETA,...|paper",
            help="Values of joint.beta; 'paper': of each system the one that the paper chose. By "
            "default all that the paper tries.",
            show_default=False,
        ),
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="Recipes that take minutes of one CPU core a run.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Another recipe for these data, such as mnist-svhn; by default the paper's own.",
            show_default=False,
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY",
            help="What the samples of a figure are given, in place of the paper's choice; may be "
            "repeated. All other modalities are generated.",
            show_default=False,
        ),
    ] = None,
    protocol: Protocol = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of all runs that have it, as in joint.epochs=30; may be "
            "repeated.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs trained at the same time.")] = 1,
    inception: InceptionWeights = None,
    classifiers: ClassifierFiles = None,
    autoencoders: AutoencoderFiles = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and about how long.")
    ] = False,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Make a table or figure of the paper: train, evaluate, choose beta, write it.

    Stages that runs share are trained once. What is done is kept: the same command goes on.
    The runs are in OUT/runs and read by all other commands.

    Example: mvflow reproduce table1 --store mnist-svhn.h5 --small --seeds 0,1 --jobs 2
    """
    from mvflow.config import config_from_dict
    from mvflow.config import recipe as read_recipe
    from mvflow.core import UsageError, separated
    from mvflow.evaluation.reproductions import reproduction, variants
    from mvflow.systems.subsets import with_protocol

    if name == "list":
        _list()
        return
    wanted = reproduction(name)
    if store is None:
        msg = f"name the data: mvflow reproduce {name} --store {wanted.data[0]}.h5"
        raise UsageError(msg)
    data = _data(store)
    own = wanted.recipe(data, small=small)
    if small and recipe is not None:
        msg = f"--small is recipe {own}: leave it out, or --recipe {recipe}"
        raise UsageError(msg)
    specs = wanted.runs(
        data,
        [int(seed) for seed in parse_seeds(seeds)],
        system,
        "paper" if betas == "paper" else None if betas is None else parse_betas(betas),
    )
    words = variants(specs, settings or [])
    grids = wanted.shown([*read_recipe(recipe or own)["modalities"]], given)
    if protocol is not None:
        for assignments in words.values():
            with_protocol(config_from_dict(read_recipe(recipe or own, assignments)), protocol)
    set_up(device, threads)
    judges = JudgeFiles(inception, classifiers or (), autoencoders or ())
    place = Path(name) if out is None else out
    if system is None and (absent := [s for s in wanted.systems if s not in wanted.available()]):
        say(f"left out, since they are not installed: {separated(absent)}", err=json)
    with ExitStack() as stack:
        if dry_run and not (place / "runs").exists():  # leave nothing behind
            place = Path(stack.enter_context(TemporaryDirectory(prefix="mvflow-")))
        make_runs(words, place / "runs", store, recipe or own, judges)
        todo = [Job(spec.name, place / "runs" / spec.name, evaluate=True) for spec in specs]
        _announce(wanted, todo, specs, store, device, jobs, err=json)
    if dry_run:
        return
    try:
        more = [*judges.options(), *([] if protocol is None else ["--protocol", protocol])]
        run_jobs(todo, jobs, device, threads, measure=more, err=json)
    except KeyboardInterrupt:
        say("mvflow: interrupted; what is done is kept: the same command goes on", err=True)
        raise typer.Exit(1) from None
    if failed := [job for job in todo if job.error]:
        for job in failed:
            say(f"mvflow: {job.name} failed: {job.error}", err=True)
        raise typer.Exit(1)
    written = _write(wanted, specs, grids, place, protocol, device, err=json)
    if json:
        show_json({"name": name, "runs": [str(job.path) for job in todo], "written": written})
    else:
        say(f"wrote {', '.join(written)}")


def _list() -> None:
    from mvflow.evaluation.reproductions import reproduction, reproductions

    for name in reproductions():
        about = reproduction(name)
        systems = ", ".join(map(repr, about.systems))
        say(f"{name}: {about.title}; store of {' or '.join(about.data)}; systems {systems}")


def _data(store: Path) -> str:
    """Name of the data set in a store."""
    from mvflow_datasets import Store

    with Store.open(store) as opened:
        return str(opened.info()["name"])


def _announce(
    wanted: Reproduction,
    jobs: Sequence[Job],
    specs: Sequence[RunSpec],
    store: Path,
    device: str,
    count: int,
    *,
    err: bool,
) -> None:
    """Say how many runs and stages there are, and how long the missing ones will train."""
    from mvflow.core import separated
    from mvflow_datasets import Store

    missing = {
        key: (spec.system, stage)
        for job, spec in zip(jobs, specs, strict=True)
        for stage, key in job.missing().items()
    }
    stages = {key for job in jobs for key in job.keys.values()}
    done = {key for job in jobs for key in {*job.keys.values()} - {*job.missing().values()}}
    missing = {key: about for key, about in missing.items() if key not in done}
    systems = list(dict.fromkeys(spec.system for spec in specs))
    before = f" ({len(done)} of {len(stages)} done before)" if done else ""
    say(
        f"{wanted.title}: {len(jobs)} runs of {separated(systems)}; "
        f"{len(missing)} stages are to be trained, those in common once{before}",
        err=err,
    )
    if not missing:
        return
    todo = {system for system, _ in missing.values()}
    with Store.open(store) as opened:
        seconds = {
            spec.system: stage_seconds(job, opened[job.config.data.train], device)
            for job, spec in {s.system: (j, s) for j, s in zip(jobs, specs, strict=True)}.values()
            if spec.system in todo
        }
    total = sum(seconds[system].get(stage, 0.0) for system, stage in missing.values())
    total /= min(count, os.cpu_count() or 1) if device == "cpu" else 1  # a GPU is shared
    say(
        f"training takes at most about {_duration(total)} with {count} at once "
        f"(from {len(seconds)} short trainings); evaluation comes on top",
        err=err,
    )


def _duration(seconds: float) -> str:
    """In words.

    Examples:
        >>> _duration(40), _duration(5000), _duration(100000)
        ('1 min', '83 min', '27.8 hours')
    """
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} hours"


def _write(
    wanted: Reproduction,
    specs: Sequence[RunSpec],
    grids: Sequence[GridSpec],
    out: Path,
    protocol: str | None,
    device: str,
    *,
    err: bool,
) -> list[str]:
    """Write the table or the picture of the runs, beta chosen where the paper chooses it."""
    from mvflow.evaluation.compare import compare
    from mvflow.evaluation.reproductions import select_beta

    runs = {  # notes name runs as they are called within the folder, wherever it lies
        spec: evaluated(out / "runs" / spec.name, protocol)._replace(name=spec.name)
        for spec in specs
    }
    if wanted.select:
        best = select_beta(wanted.select, [(spec, run.metrics) for spec, run in runs.items()])
        say("beta chosen: " + ", ".join(f"{s} {b:g}" for s, b in best.items() if b), err=err)
        runs = {spec: run for spec, run in runs.items() if best[spec.system] == spec.beta}
    name = wanted.name if protocol is None else f"{wanted.name}-protocol-{protocol}"
    written = write_comparison(
        compare(list(runs.values()), paper=_is_published(wanted)), out / name
    )
    if grids:
        first = {spec.system: out / "runs" / spec.name for spec in reversed(list(runs))}
        shown = dict(reversed(first.items()))
        written += _write_pictures(wanted, grids, name, shown, out, protocol, device)
    return written


def _is_published(wanted: Reproduction) -> bool:
    """Whether the paper prints numbers of it."""
    return wanted.output == "table"


def _write_pictures(
    wanted: Reproduction,
    grids: Sequence[GridSpec],
    name: str,
    runs: dict[str, Path],
    out: Path,
    protocol: str | None,
    device: str,
) -> list[str]:
    """Write pictures of posteriors in the plane and of grids, of each system's first seed."""
    from functools import partial

    from mvflow.report import Entry, posteriors_in_plane
    from mvflow.report.figures.canvas import as_png, style
    from mvflow.report.figures.systems import systems_grid
    from mvflow.runs import write_atomically
    from mvflow_cli.measuring import kept_classifiers
    from mvflow_cli.opening import open_store, open_trained

    opened = {system: open_trained(path, device) for system, path in runs.items()}
    models = {
        system: model if protocol is None else model.with_protocol(protocol)
        for system, (_, model) in opened.items()
    }
    run, model = next(iter(opened.values()))
    pictures = {}
    with open_store(run, model.config) as store, style():
        test = store[model.config.data.test]
        if wanted.posteriors:
            entries = [Entry(n, m, test, [], {}, store.info(), None) for n, m in models.items()]
            classifiers = kept_classifiers(run, model, store, device=device)
            figure = posteriors_in_plane(entries, classifiers=classifiers)
            pictures[out / f"{name}-posteriors.png"] = as_png(figure)
        for grid in grids:
            given, names = grid.given or (), [m.name for m in test.modalities]
            shown = grid.target or "+".join(name for name in names if name not in given)
            path = out / f"{name}-{'+'.join(given) or 'prior'}-to-{shown}.png"
            pictures[path] = as_png(systems_grid(models, test, given, grid.target))
    for path, png in pictures.items():
        write_atomically(path, partial(Path.write_bytes, data=png))
    return list(map(str, pictures))
