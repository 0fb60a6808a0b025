"""`mvflow evaluate`: everything the paper measures of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table

from mvflow_cli.measuring import measure
from mvflow_cli.opening import open_store, open_trained, set_up
from mvflow_cli.options import Device, Json, RunPath, Seed, StorePath, Threads
from mvflow_cli.output import say, show, show_json
from mvflow_cli.progress import Progress

__all__ = ["evaluate"]


def evaluate(
    run: RunPath,
    seed: Seed = 0,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate on [test].", show_default=False)
    ] = None,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Measure coherence, likelihoods and the sampler's diagnostics of a trained run.

    Example: mvflow evaluate runs/toy --json
    """
    set_up(device, threads)
    opened, model = open_trained(run, device)
    with (
        open_store(opened, model.config, store) as data,
        Progress(model.config, err=json) as progress,
    ):
        result = measure(
            opened, model, data, seed=seed, split=split, device=device, listener=progress
        )
    if json:
        show_json(result)
        return
    if "coherence" not in result:
        say("the store has no labels: evaluated without coherence")
    show(_table(str(run), result))


def _table(run: str, result: dict[str, Any]) -> Table:
    table = Table(
        title=f"{run}: {result['rows']} rows of {result['split']!r}", title_justify="left"
    )
    table.add_column("measure")
    table.add_column("of")
    table.add_column("value", justify="right")
    for measure_name, of, value in _lines(result):
        table.add_row(measure_name, of, value)
    return table


def _lines(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    if "coherence" in result:
        coherence = result["coherence"]
        yield "coherence", "joint", f"{coherence['joint']:.3f}"
        for direction, value in coherence["conditional"].items():
            yield "coherence", direction, f"{value:.3f}"
        for name, value in coherence["reconstruction"].items():
            yield "class survives reconstruction", name, f"{value:.3f}"
        for name, value in result["classifiers"].items():
            yield "classifier accuracy", name, f"{value:.3f}"
    for title, key in (
        ("log-likelihood (nats)", "log_likelihood"),
        ("posterior log-density (nats)", "posterior_log_density"),
    ):
        for of, found in result[key].items():
            yield title, of, _mean_and_error(found)
    sampler = result["sampler"]
    for key in ("acceptance", "rhat_worst", "divergences", "ess_median", "ball_contacts"):
        if key in sampler:
            value = sampler[key]
            yield f"sampler {sampler['name']}", key, "-" if value is None else f"{value:.4g}"


def _mean_and_error(found: dict[str, Any]) -> str:
    numbers = [
        "-" if found.get(k) is None else f"{found[k]:.2f}" for k in ("mean", "standard_error")
    ]
    return " ± ".join(numbers)
