"""`mvflow sweep`: one recipe with many seeds and settings, in parallel processes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from mvflow_cli.jobs import Job, run_jobs
from mvflow_cli.judge_files import JudgeFiles
from mvflow_cli.making import make_runs
from mvflow_cli.opening import open_store, set_up
from mvflow_cli.options import (
    AutoencoderFiles,
    ClassifierFiles,
    Device,
    InceptionWeights,
    Json,
    Threads,
)
from mvflow_cli.output import say, show, show_json
from mvflow_cli.training import log_lines
from mvflow_cli.variants import combinations

__all__ = ["sweep"]


def sweep(
    store: Annotated[
        Path,
        typer.Argument(metavar="STORE", help="Store with the data (.h5).", show_default=False),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe to begin with, such as toy or mnist-svhn; 'auto' chooses by the store."
        ),
    ] = "auto",
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEED,...", help="Seeds of training, as in 0,1,2,3.", show_default=False
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE,...",
            help="Values of a setting, as in joint.beta=0.5,1,2.5; a single one holds for all. "
            "May be repeated: all combinations are trained.",
            show_default=False,
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="Settings that belong together, as in system=jnf-shared,projector.kind=dcca. "
            "Each --variant is trained with all seeds and values.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs; by default sweep-RECIPE.", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs trained at the same time.")] = 1,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Evaluate each run once it is trained.")
    ] = False,
    inception: InceptionWeights = None,
    classifiers: ClassifierFiles = None,
    autoencoders: AutoencoderFiles = None,
    stacked: Annotated[
        bool,
        typer.Option(
            "--stacked",
            help="Train runs that are alike as one program, with noise that depends on all of "
            "them; for many small runs on one GPU.",
        ),
    ] = False,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Train one recipe with many seeds and settings, each variant in a run directory of its own.

    Up to --jobs runs are trained at once, each by a process of its own. A stage that runs have in
    common is trained once. What is done is kept: run the same command again to go on.

    Example: mvflow sweep toy.h5 --recipe toy --seeds 0,1,2,3 --set joint.beta=0.5,1,2.5 --jobs 4
    """
    variants = combinations(seeds, settings or [], variant or [])
    place = Path(f"sweep-{recipe}") if out is None else out
    judges = JudgeFiles(inception, classifiers or (), autoencoders or ())
    if any(judges) and not evaluate:
        msg = f"{judges.options()[0]} is for evaluations: say --evaluate too"
        raise typer.BadParameter(msg)
    set_up(device)
    hint = "; what only one system has goes into its --variant"
    make_runs(variants, place, store, recipe, judges, hint)
    say(f"{len(variants)} runs in {place}, {jobs} at once", err=json)
    todo = [Job(name, place / name, evaluate) for name in variants]
    try:
        if stacked:
            _stack(todo, device, err=json)
        run_jobs(todo, jobs, device, threads, measure=judges.options(), err=json)
    except KeyboardInterrupt:
        kept = "finished stages" if stacked else "all full epochs"
        again = f"{kept} are kept: run the same command again to go on"
        say(f"mvflow: interrupted; {again}", err=True)
        raise typer.Exit(1) from None
    if json:
        show_json({"out": str(place), "runs": [_result(job) for job in todo]})
    else:
        _show(todo, place, evaluate)
    if any(job.error for job in todo):
        raise typer.Exit(1)


def _stack(jobs: Sequence[Job], device: str, *, err: bool) -> None:
    """Train what is missing of all runs in this process, alike ones as one program.

    Raises:
        UsageError: if there are several processes, or data sets.
    """
    from mvflow.core import LockedError, UsageError
    from mvflow.stacking import train_stacked

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        msg = "--stacked trains on one device: start one process, without torchrun"
        raise UsageError(msg)
    if len({(job.inputs, job.config.data.train) for job in jobs}) > 1:
        msg = "--stacked needs the same rows for all runs: do not set data, or leave it out"
        raise UsageError(msg)
    before, first = [job.missing() for job in jobs], jobs[0]
    with open_store(first.run, first.config) as store, log_lines("mvflow.stacking", err=err):
        rows = store[first.config.data.train]
        failed = train_stacked([job.path for job in jobs], rows, device=device)
    for job, missing in zip(jobs, before, strict=True):
        job.stacked = set(missing) - set(job.missing())
        error = failed.get(job.path)
        if error is not None and not isinstance(error, LockedError):  # that is waited for
            job.fail(str(error))


def _result(job: Job) -> dict[str, Any]:
    stages = {
        name: {
            "how": job.how(name),
            "epochs": about["epochs"],
            "loss": (about["last"] or {}).get("loss"),
            "validation": ((about["last"] or {}).get("validation") or {}).get("loss"),
        }
        for name, about in job.stages.items()
    }
    result = {"run": str(job.path), "name": job.name, "error": job.error, "stages": stages}
    return result | ({"evaluation": job.evaluation} if job.evaluation else {})


def _show(jobs: Sequence[Job], out: Path, evaluate: bool) -> None:
    """The table of results, and what comes next."""
    rows = [_result(job) for job in jobs]
    names = list(dict.fromkeys(name for row in rows for name in row["stages"]))
    table = Table(Column("run", overflow="fold"))
    for heading in (*(f"{name} loss" for name in names), "state"):
        table.add_column(heading, no_wrap=True)
    for row, job in zip(rows, jobs, strict=True):
        losses = [row["stages"].get(name, {}).get("loss") for name in names]
        table.add_row(row["name"], *("" if x is None else f"{x:.4g}" for x in losses), job.state)
    show(table)
    good = [job for job in jobs if not job.error]
    failed = f"; {len(jobs) - len(good)} failed" if len(good) < len(jobs) else ""
    say(f"{len(good)} of {len(jobs)} runs are trained, in {out}{failed}")
    if good:
        paths = " ".join(shlex.quote(str(job.path)) for job in good)
        word = f"compare {paths}" if evaluate else f"evaluate {shlex.quote(str(good[0].path))}"
        say(f"go on with 'mvflow {word}'")
