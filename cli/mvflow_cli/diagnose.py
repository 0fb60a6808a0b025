"""`mvflow diagnose`: whether a run's posteriors and its sampler can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mvflow_cli.judging import judge_run, say_verdict
from mvflow_cli.measuring import load_evaluation, load_result, run_state
from mvflow_cli.opening import open_store, open_trained, set_up
from mvflow_cli.options import (
    Device,
    Guidance,
    Json,
    RunPath,
    Seed,
    StorePath,
    SubsetKind,
    Threads,
)
from mvflow_cli.output import say, show, show_json
from mvflow_cli.progress import counting

if TYPE_CHECKING:
    from mvflow.estimators import Estimator
    from mvflow.evaluation import Calibration
    from mvflow.evaluation.calibration_result import SubsetCalibration
    from mvflow.evaluation.result import SubsetSampler
    from mvflow.runs import RunDirectory

__all__ = ["diagnose", "load_calibration"]

REFERENCES = ("model", "data")
SECTIONS = ("sampler",)
"""Of the configuration, on which a diagnosis depends."""
COLOURS = {"good": "green", "look closer": "yellow", "do not trust": "red"}


def diagnose(
    run: RunPath,
    rows: Annotated[int, typer.Option(help="Latents to rank; more find smaller errors.")] = 200,
    draws: Annotated[int, typer.Option(help="Posterior draws for each.")] = 99,
    against: Annotated[
        str,
        typer.Option(
            help="model: rows are simulated, are posteriors those of the model? "
            "data: real rows, are posteriors what they were trained to be?"
        ),
    ] = "model",
    subset: SubsetKind = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Check by simulation whether posteriors are too narrow, too wide or shifted.

    Example: mvflow diagnose runs/toy --rows 500
    """
    from mvflow.core import UsageError, unknown_name
    from mvflow.evaluation import check_calibration
    from mvflow.runs import write_json

    if against not in REFERENCES:
        raise UsageError(unknown_name("reference", against, REFERENCES))
    set_up(device, threads)
    opened, model = open_trained(run, device, subset=subset, guidance=guidance)
    options: dict[str, Any] = {"rows": rows, "draws": draws, "seed": seed}
    with counting("subsets", err=json) as callback:
        options["callback"] = callback
        if against == "model":
            found = check_calibration(model, **options)
        else:
            with open_store(opened, model.config, store) as data:
                found = check_calibration(model, data[model.config.data.test], **options)
    result = found.model_copy(update=run_state(opened, model, SECTIONS))
    write_json(_path(opened), result.to_dict())
    if json:
        show_json(result.to_dict())
        return
    for table in _tables(str(run), result):
        show(table)
    for line in _words(result):
        say(line)
    say_verdict(judge_run(model, load_evaluation(opened, model), result))


def load_calibration(run: RunDirectory, model: Estimator) -> Calibration | None:
    """The diagnosis that a run has, or None if there is none of these weights and settings."""
    from mvflow.evaluation import Calibration

    return load_result(Calibration, _path(run), run_state(run, model, SECTIONS))


def _path(run: RunDirectory) -> Path:
    return run.path / "metrics" / "diagnose.json"


def _tables(run: str, result: Calibration) -> Iterator[Table]:
    """How well true values lie among the draws; how the sampler fared, where there is one."""
    title = f"{run}: {result.rows} rows against the {result.against}"
    levels = [f"in {100 * float(c):g} %" for c in next(iter(result.subsets.values())).coverage]
    rows = {k: ([k, *_covered(v)], v.verdict) for k, v in result.subsets.items()}
    yield _table(title, ["given", *levels, "p"], rows)
    chains = {k: v.sampler for k, v in result.subsets.items() if v.sampler.advice}
    if chains:
        header = ["given", "rows with R-hat > 1.05", "typical ESS", "accepted", "divergences"]
        rows = {k: ([k, *_sampled(v)], v.verdict) for k, v in chains.items()}
        yield _table("sampler", header, rows)


def _table(title: str, header: list[str], rows: Mapping[str, tuple[list[str], str]]) -> Table:
    """A table with the verdicts of the subsets in its last column."""
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name == "given" else "right", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for cells, verdict in rows.values():
        table.add_row(*cells, Text(verdict, COLOURS[verdict]))
    return table


def _covered(found: SubsetCalibration) -> Iterator[str]:
    for shares in found.coverage.values():
        yield f"{100 * sum(shares) / len(shares):.0f} %"
    yield f"{found.p_value:.2g}"


def _sampled(sampler: SubsetSampler) -> Iterator[str]:
    for value, form in (
        (sampler.rows_above_1_05, "{:.0%}"),
        (sampler.ess_median, "{:.0f}"),
        (sampler.acceptance, "{:.2f}"),
        (sampler.divergences, "{}"),
    ):
        yield "-" if value is None else form.format(value)


def _words(result: Calibration) -> Iterator[str]:
    """What to do, a line for each subset that needs it."""
    yield result.meaning
    for name, found in result.subsets.items():
        if found.verdict != "good":
            yield f"{name}: {found.advice}"
        if found.sampler.verdict != "good":
            yield f"{name}, sampler: {found.sampler.advice}"
