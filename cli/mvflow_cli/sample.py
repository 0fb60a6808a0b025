"""`mvflow sample`: generate modalities from observed ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvflow_cli.distributed import ClusterOptions, process_group
from mvflow_cli.observed import OBS, GivenRows, read_observed
from mvflow_cli.opening import open_trained
from mvflow_cli.options import (
    Device,
    Devices,
    Guidance,
    Json,
    Nodes,
    PriorKind,
    Protocol,
    RunPath,
    Seed,
    StorePath,
    SubsetKind,
    Threads,
    Timeout,
)
from mvflow_cli.output import say, show_json
from mvflow_cli.samples import check_replaceable, draw_samples, write_samples

if TYPE_CHECKING:
    from mvflow.config import Config

__all__ = ["named_values", "sample"]


def sample(
    run: RunPath,
    given: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=FILE[:PART]]",
            help="An observed modality: rows of the store, or a file that 'mvflow data import' "
            "reads, in the units of such files; may be repeated. "
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
    noise: Annotated[
        bool | None,
        typer.Option(
            "--noise/--mean",
            help="Draws with the likelihood's noise, or means of the decoder; by default draws "
            "for tables, means for images and classes.",
            show_default=False,
        ),
    ] = None,
    covariate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE|FILE:COLUMN",
            help="A covariate of all rows, or one value a row from a column of a file "
            "(obs:COLUMN: of the first that is given), where the store does not say it. May be "
            "repeated.",
            show_default=False,
        ),
    ] = None,
    hold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A covariate at which all is generated, whatever the rows' own: its effect is "
            "taken out. May be repeated.",
            show_default=False,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="Sampler for several given modalities.", show_default=False),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="The same as --protocol paper."),
    ] = False,
    protocol: Protocol = None,
    subset: SubsetKind = None,
    guidance: Guidance = None,
    prior: PriorKind = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="HDF5 file to write; by default RUN/samples/GIVEN.h5.", show_default=False
        ),
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
    from mvflow.core import UsageError, registry

    if sampler is not None:
        registry("samplers").load(sampler)
    if paper:
        if protocol not in (None, "paper"):
            msg = f"--paper is --protocol paper: leave it out, or --protocol {protocol}"
            raise UsageError(msg)
        protocol = "paper"
    machines = ClusterOptions(devices, nodes, timeout=timeout)
    with process_group(machines, device, threads) as processes:
        opened, model = open_trained(
            run,
            device if processes is None else str(processes.device),
            subset=subset,
            guidance=guidance,
            prior=prior,
        )
        if protocol is not None:
            model = model.with_protocol(protocol)
        model.distribute(processes)
        said = named_values("--covariate", covariate, model.config, by_row=True)
        seen = read_observed(opened, model.config, given or [], rows, store, said)
        path = out or opened.path / "samples" / f"{'+'.join(sorted(seen.batch)) or 'prior'}.h5"
        check_replaceable(path)
        wanted = [name for text in targets or [] for name in text.split(",")]
        samples = draw_samples(
            model,
            seen,
            n,
            targets=wanted or None,
            seed=seed,
            sampler=sampler,
            noise=noise,
            hold=named_values("--hold", hold, model.config),
        )
    if processes is not None and not processes.is_main_process:
        return
    records = opened.records()
    about = {
        "run": str(opened.path.resolve()),
        "stages": {name: records[name].key for name in model.stage_names},
        "seed": seed,
        "n": n,
        "rows": seen.rows,
        "given": seen.origin,
        "system": model.config.system,
        "prior": model.priors()[-1],
        "protocol": protocol or "",
        **{k: v for k, v in model.facts().items() if k == "subset"},
    }
    write_samples(path, samples, seen, about)
    summary = samples.diagnostics
    if json:
        sizes = {name: list(x.shape) for name, x in samples.generated.items()}
        what = {"samples": sizes, "noise": samples.noise, "diagnostics": summary}
        show_json({**about, "out": str(path), **what})
        return
    shapes = ", ".join(
        f"{name} {x.shape} ({'draws with noise' if samples.noise[name] else 'means'})"
        for name, x in samples.generated.items()
    )
    for note in seen.notes:
        say(note)
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
            "these draws; divide by the aggregated posterior (subset.divisor=aggregate) instead"
        )
    if summary["method"] == "sir":
        say(
            f"sampler: {summary['ess_median']:.0f} effective candidates in the median row, "
            f"{summary['ess_worst']:.0f} in the worst; one has most of the weight in "
            f"{summary['rows_dominated']} rows"
        )


def named_values(
    option: str, texts: list[str] | None, config: Config, *, by_row: bool = False
) -> dict[str, Any]:
    """Values of covariates that an option says.

    Args:
        option: its name.
        texts: `NAME=VALUE` each.
        config: of the model.
        by_row: whether a value may be a column of a file, `FILE:COLUMN`, or `obs:COLUMN` of the
            first one that is given.
    """
    from mvflow.core import UsageError, unknown_name
    from mvflow_datasets.importing import Reference

    known = {c.name: c for c in config.covariate_specs()}
    values: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not value:
            more = ", or NAME=FILE:COLUMN for one value a row" if by_row else ""
            msg = f"cannot read {option} {text!r}: expected NAME=VALUE, as in batch=A{more}"
            raise UsageError(msg)
        if name not in known:
            raise UsageError(unknown_name("covariate", name, known))
        column = Reference.parse(value)
        is_column = bool(column.part) and column.path.is_file()
        levels = known[name].levels
        if by_row and value.startswith(f"{OBS}:"):
            values[name] = Reference(Path(OBS), value.removeprefix(f"{OBS}:"))
        elif by_row and is_column and (levels is None or value not in levels):
            values[name] = column
        else:
            try:
                values[name] = value if levels is not None else float(value)
            except ValueError:
                more = ", or a column of a file, FILE:COLUMN" if by_row else ""
                msg = f"{option} {text!r}: {name!r} is a number{more}"
                raise UsageError(msg) from None
    return values


def _source(seen: GivenRows) -> str:
    return "+".join(sorted(seen.batch)) if seen.batch else "the prior"
