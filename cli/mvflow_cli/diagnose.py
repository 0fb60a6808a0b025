"""`mvflow diagnose`: whether a run's posteriors and its sampler can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mvflow_cli.opening import open_store, open_trained, set_up
from mvflow_cli.options import Device, Json, RunPath, Seed, StorePath, Threads
from mvflow_cli.output import finite, say, show, show_json

if TYPE_CHECKING:
    from mvflow.estimators import Estimator
    from mvflow.runs import RunDirectory

__all__ = ["diagnose", "kept_diagnosis"]

REFERENCES = ("model", "data")
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
    from mvflow.evaluation import diagnose as measure
    from mvflow.runs import write_json

    if against not in REFERENCES:
        raise UsageError(unknown_name("reference", against, REFERENCES))
    set_up(device, threads)
    opened, model = open_trained(run, device)
    options: dict[str, Any] = {"rows": rows, "draws": draws, "seed": seed}
    if against == "model":
        found = measure(model, **options)
    else:
        with open_store(opened, model.config, store) as data:
            found = measure(model, data[model.config.data.test], **options)
    result = finite({**found, **_inputs(opened, model)})
    write_json(_path(opened), result)
    if json:
        show_json(result)
        return
    show(_table(str(run), result))
    for line in _words(result):
        say(line)


def kept_diagnosis(run: RunDirectory, model: Estimator) -> dict[str, Any] | None:
    """The diagnosis that a run has, or None if there is none of these weights and settings."""
    from mvflow.runs import read_json

    path = _path(run)
    if not path.is_file():
        return None
    found = read_json(path)
    inputs = _inputs(run, model)
    return found if {k: found.get(k) for k in inputs} == inputs else None


def _path(run: RunDirectory) -> Path:
    return run.path / "metrics" / "diagnose.json"


def _inputs(run: RunDirectory, model: Estimator) -> Mapping[str, Any]:
    """What tells whether a diagnosis is still that of a run: its weights, its sampler."""
    from mvflow.config import stage_names

    stages = run.manifest()["stages"]
    return {
        "stages": {name: stages[name]["key"] for name in stage_names(model.config)},
        "settings": {"sampler": model.config.sampler.model_dump(mode="json")},
    }


def _table(run: str, result: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{run}: {result['rows']} rows against the {result['against']}, seed "
        f"{result['seed']}",
        title_justify="left",
    )
    for name in ("given", "50 %", "80 %", "95 %", "p", "R-hat > 1.05", "ESS", "accepted", "div."):
        table.add_column(name, justify="left" if name == "given" else "right")
    table.add_column("posterior")
    table.add_column("sampler")
    for name, found in result["subsets"].items():
        table.add_row(name, *_cells(found))
    return table


def _cells(found: Mapping[str, Any]) -> Iterator[str]:
    for shares in found["coverage"].values():
        yield f"{100 * sum(shares) / len(shares):.0f} %"
    yield f"{found['p_value']:.2g}"
    sampler = found["sampler"]
    above, ess = sampler.get("rows_above_1.05"), sampler.get("ess_median")
    yield "-" if above is None else f"{100 * above:.0f} % of rows"
    yield "-" if ess is None else f"{ess:.0f}"
    yield "-" if sampler.get("acceptance") is None else f"{sampler['acceptance']:.2f}"
    yield str(sampler.get("divergences", "-"))
    yield _coloured(found["verdict"])
    yield _coloured(sampler["verdict"]) if "verdict" in sampler else "exact"


def _coloured(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/]"


def _words(result: Mapping[str, Any]) -> Iterator[str]:
    """What to do, a line for each subset that needs it."""
    yield result["meaning"]
    for name, found in result["subsets"].items():
        if found["verdict"] != "good":
            yield f"{name}: {found['advice']}"
        if found["sampler"].get("verdict", "good") != "good":
            yield f"{name}, sampler: {found['sampler']['advice']}"
    if result["verdict"] == "good":
        yield "All is well: true values lie among the draws as they should."
