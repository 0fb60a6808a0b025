"""`mvflow sample`: generate modalities from observed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mvflow_cli.distributed import ClusterOptions, joined
from mvflow_cli.observed import Observed, read_observed
from mvflow_cli.opening import open_trained
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
from mvflow_cli.output import say, show_json
from mvflow_cli.samples import check_replaceable, draw_samples, write_samples

__all__ = ["sample"]


def sample(
    run: RunPath,
    given: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=FILE.npy]",
            help="An observed modality: rows of the store, or an array; may be repeated. "
            "Without it, samples come from the prior.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT:START:STOP",
            help="Which rows of the store are given; by default the first 64 for testing.",
            show_default=False,
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What to generate; by default all that is not given. May be repeated.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Samples per row.")] = 8,
    sampler: Annotated[
        str | None,
        typer.Option(help="Sampler for several given modalities.", show_default=False),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Sampler settings of the paper: 100 steps of 10 leapfrogs, fixed step size, one "
            "chain a sample.",
        ),
    ] = False,
    subset: SubsetKind = None,
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="standard|mixture",
            help="What is drawn without --given: N(0, I), or the mixture of 'mvflow fit-prior'; "
            "by default as in config.toml.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="HDF5 file to write [RUN/samples/GIVEN.h5].", show_default=False),
    ] = None,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    devices: Devices = None,
    nodes: Nodes = 1,
    timeout: Timeout = 300.0,
    json: Json = False,
) -> None:
    """Generate modalities given others, or from the prior, into an HDF5 file.

    Example: mvflow sample runs/toy --given square --rows test:0:16 --n 4 --out circles.h5
    """
    from mvflow.config import stage_names
    from mvflow.core import UsageError, unknown_name
    from mvflow.plugins import known

    if sampler is not None and sampler not in known("samplers"):
        raise UsageError(unknown_name("sampler", sampler, known("samplers")))
    machines = ClusterOptions(devices, nodes, timeout=timeout)
    with joined(machines, device, threads) as processes:
        opened, model = open_trained(
            run, device if processes is None else str(processes.device), subset, prior
        )
        model.across(processes)
        seen = read_observed(opened, model.config, given or [], rows, store)
        path = out or opened.path / "samples" / f"{'+'.join(sorted(seen.batch)) or 'prior'}.h5"
        check_replaceable(path)
        wanted = [name for text in targets or [] for name in text.split(",")]
        changes = _changes(sampler, paper)
        samples = draw_samples(model, seen, n, targets=wanted or None, seed=seed, sampler=changes)
    if processes is not None and not processes.is_main_process:
        return
    stages = opened.manifest()["stages"]
    about = {
        "run": str(opened.path.resolve()),
        "stages": {name: stages[name]["key"] for name in stage_names(model.config)},
        "seed": seed,
        "n": n,
        "rows": seen.rows,
        "given": seen.origin,
        "subset": model.config.subset,
        "prior": model.config.prior.kind,
    }
    write_samples(path, samples, seen, about)
    summary = samples.diagnostics
    if json:
        sizes = {name: list(x.shape) for name, x in samples.generated.items()}
        show_json({**about, "out": str(path), "samples": sizes, "diagnostics": summary})
        return
    shapes = ", ".join(f"{name} {x.shape}" for name, x in samples.generated.items())
    say(f"wrote {path}: {shapes} from {_source(seen)}, seed {seed}")
    if summary["method"] == "mcmc":
        say(
            f"sampler: acceptance {summary['acceptance']:.2f}, worst R-hat "
            f"{summary['rhat_worst']:.2f}, divergences {summary['divergences']}"
        )
    if summary.get("rows_improper"):
        say(
            f"the product of {_source(seen)} is improper in {summary['rows_improper']} rows: its "
            "experts are wider than the prior that it is divided by, and only the ball holds "
            "these draws; divide by the aggregated posterior (sampler.divide_by) instead"
        )
    if summary["method"] == "sir":
        say(
            f"sampler: {summary['ess_median']:.0f} effective candidates in the median row, "
            f"{summary['ess_worst']:.0f} in the worst; one has most of the weight in "
            f"{summary['rows_dominated']} rows"
        )


def _changes(sampler: str | None, paper: bool) -> dict[str, Any]:
    from mvflow.inference import PAPER

    return {**(PAPER if paper else {}), **({} if sampler is None else {"name": sampler})}


def _source(seen: Observed) -> str:
    return "+".join(sorted(seen.batch)) if seen.batch else "the prior"
