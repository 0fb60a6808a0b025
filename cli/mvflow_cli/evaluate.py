"""`mvflow evaluate`: everything the paper measures of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table

from mvflow_cli.distributed import ClusterOptions, joined
from mvflow_cli.measuring import measure
from mvflow_cli.opening import open_store, open_trained
from mvflow_cli.options import (
    Device,
    Devices,
    Json,
    Nodes,
    RunPath,
    Seed,
    StorePath,
    SubsetKind,
    Threads,
    Timeout,
)
from mvflow_cli.output import say, show, show_json
from mvflow_cli.progress import Progress

__all__ = ["evaluate"]

SHOWN = 12
"""Directions beyond which the table shows means; the file always has all."""


def evaluate(
    run: RunPath,
    subset: SubsetKind = None,
    seed: Seed = 0,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate on [test].", show_default=False)
    ] = None,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    devices: Devices = None,
    nodes: Nodes = 1,
    timeout: Timeout = 300.0,
    json: Json = False,
) -> None:
    """Measure coherence, Fréchet distances, likelihoods, diversity and the sampler of a run.

    Example: mvflow evaluate runs/toy --json
    """
    with joined(ClusterOptions(devices, nodes, timeout=timeout), device, threads) as processes:
        place = device if processes is None else str(processes.device)
        opened, model = open_trained(run, place, subset)
        with (
            open_store(opened, model.config, store) as data,
            Progress(model.config, err=json) as progress,
        ):
            result = measure(
                opened,
                model,
                data,
                seed=seed,
                split=split,
                device=place,
                listener=progress,
                processes=processes,
            )
    if processes is not None and not processes.is_main_process:
        return
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
        if "joint_fitted" in coherence:
            yield "coherence", "joint, fitted prior", f"{coherence['joint_fitted']:.3f}"
        for of, value in _by_direction(coherence, result):
            yield "coherence", of, f"{value:.3f}"
        for name, value in coherence["reconstruction"].items():
            yield "class survives reconstruction", name, f"{value:.3f}"
        for name, value in result["classifiers"].items():
            yield "classifier accuracy", name, f"{value:.3f}"
    for network, distances in result.get("frechet", {}).items():
        yield from _frechet_lines(network, distances, result)
    for title, key in (
        ("squared error of reconstruction", "reconstruction"),
        ("log-likelihood (nats)", "log_likelihood"),
        ("posterior log-density (nats)", "posterior_log_density"),
    ):
        for of, found in _short(result[key], SHOWN):
            yield title, of, _mean_and_error(found, 4 if key == "reconstruction" else 2)
    for space, found in result["diversity"].items():
        title = "diversity of values" if space == "data" else f"diversity ({space} features)"
        for of, spread in _short(found["conditional"], SHOWN):
            real = found["real"][of.split("->")[1]]["mean"]
            yield title, of, f"{_mean_and_error(spread, 3)} (real rows {real:.3f})"
    sampler = result["sampler"]
    for key in ("acceptance", "rhat_worst", "divergences", "ess_median", "ball_contacts"):
        if key in sampler:
            value = sampler[key]
            yield f"sampler {sampler['name']}", key, "-" if value is None else f"{value:.4g}"


def _frechet_lines(
    network: str, distances: dict[str, Any], result: dict[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Distances in the features of one network; the mean over modalities is the paper's MFD."""
    title = "FID" if network == "inception-v3" else f"Fréchet distance ({network} features)"
    for name, value in distances["joint"].items():
        yield title, f"joint: {name}", f"{value:.3f}"
    for name, value in distances.get("joint_fitted", {}).items():
        yield title, f"joint, fitted prior: {name}", f"{value:.3f}"
    for of, value in _by_direction(distances, result):
        yield title, of, f"{value:.3f}"
    for size, value in distances.get("real_by_observed", {}).items():
        rows = result["rows_by_observed"][size]
        yield title, f"as many real rows ({rows:,})", f"{value:.3f}"
    if network == "autoencoder":
        for of, value in distances["mean"].items():
            shown = "-" if value is None else f"{value:.3f}"
            yield "MFD (mean over modalities)", of.replace("_fitted", ", fitted prior"), shown


def _by_direction(found: dict[str, Any], result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Every direction, or where there are many, their means by number of observed modalities."""
    if len(found["conditional"]) <= SHOWN:
        yield from found["conditional"].items()
        return
    for size, value in found["conditional_by_observed"].items():
        yield f"{size} observed ({result['rows_by_observed'][size]:,} rows)", value


def _short(found: dict[str, Any], most: int) -> Iterator[tuple[str, Any]]:
    """All entries, or of too many directions none."""
    directions = [of for of in found if "->" in of]
    for of, value in found.items():
        if of not in directions or len(directions) <= most:
            yield of, value


def _mean_and_error(found: dict[str, Any], digits: int) -> str:
    numbers = [
        "-" if found.get(k) is None else f"{found[k]:.{digits}f}"
        for k in ("mean", "standard_error")
    ]
    return " ± ".join(numbers)
