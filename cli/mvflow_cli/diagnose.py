"""`mvflow diagnose`: whether a run's posteriors and its sampler can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mvflow_cli.opening import open_store, open_trained, set_up
from mvflow_cli.options import Device, Json, RunPath, Seed, StorePath, SubsetKind, Threads
from mvflow_cli.output import finite, say, show, show_json
from mvflow_cli.progress import counting

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
    subset: SubsetKind = None,
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
    opened, model = open_trained(run, device, subset)
    options: dict[str, Any] = {"rows": rows, "draws": draws, "seed": seed}
    with counting("subsets", err=json) as heard:
        options["heard"] = heard
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
    for table in _tables(str(run), result):
        show(table)
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


def _tables(run: str, result: Mapping[str, Any]) -> Iterator[Table]:
    """How well true values lie among the draws; how the sampler fared, where there is one."""
    subsets = result["subsets"]
    title = f"{run}: {result['rows']} rows against the {result['against']}"
    levels = [f"in {100 * float(c):g} %" for c in next(iter(subsets.values()))["coverage"]]
    yield _table(
        title, ["given", *levels, "p"], {k: [k, *_covered(v)] for k, v in subsets.items()}, result
    )
    chains = {k: v["sampler"] for k, v in subsets.items() if "verdict" in v["sampler"]}
    if chains:
        header = ["given", "rows with R-hat > 1.05", "typical ESS", "accepted", "divergences"]
        rows = {k: [k, *_sampled(v)] for k, v in chains.items()}
        yield _table("sampler", header, rows, {"subsets": chains})


def _table(
    title: str, header: list[str], rows: Mapping[str, list[str]], result: Mapping[str, Any]
) -> Table:
    """A table with the verdicts of the subsets in its last column."""
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name == "given" else "right", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for name, cells in rows.items():
        verdict = result["subsets"][name]["verdict"]
        table.add_row(*cells, Text(verdict, COLOURS[verdict]))
    return table


def _covered(found: Mapping[str, Any]) -> Iterator[str]:
    for shares in found["coverage"].values():
        yield f"{100 * sum(shares) / len(shares):.0f} %"
    yield f"{found['p_value']:.2g}"


def _sampled(sampler: Mapping[str, Any]) -> Iterator[str]:
    for key, form in (
        ("rows_above_1.05", "{:.0%}"),
        ("ess_median", "{:.0f}"),
        ("acceptance", "{:.2f}"),
        ("divergences", "{}"),
    ):
        value = sampler.get(key)
        yield "-" if value is None else form.format(value)


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
