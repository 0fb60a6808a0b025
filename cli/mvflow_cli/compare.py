"""`mvflow compare`: evaluated runs side by side, as tables and plots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from mvflow_cli.measuring import changed, load_result, settings_state
from mvflow_cli.options import Json, Protocol
from mvflow_cli.output import console_width, finite, say, show, show_json

if TYPE_CHECKING:
    from mvflow.evaluation.compare import Comparison, EvaluatedRun

__all__ = ["compare", "evaluated", "write_comparison"]

NUMBER_WIDTH = 15
"""Of a mean with its error, such as 123.45 ± 67.89."""
SUFFIXES = (".md", ".tex", ".csv", ".json", ".png", ".svg")


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Evaluated runs.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write OUT.md, .tex, .csv, .json, and the plot as .png and .svg.",
            show_default=False,
        ),
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Set the paper's own figures beside them.")
    ] = False,
    protocol: Protocol = None,
    json: Json = False,
) -> None:
    """Tabulate evaluated runs: systems against measures, mean and deviation over seeds.

    Runs that differ by their seed alone are one system.

    Example: mvflow compare runs/jnf-* runs/shared-* --out table --paper
    """
    from mvflow.evaluation.compare import compare as compared
    from mvflow.evaluation.tables import as_json

    found = compared([evaluated(path, protocol) for path in runs], paper=paper)
    written = [] if out is None else write_comparison(found, out)
    if json:
        show_json({**as_json(found), "written": written})
        return
    for table in _tables(found, console_width()):
        show(table)
    for note in found.notes:
        say(note)
    others = ", ".join(s.label for s in found.systems if not s.seeds)
    if others:
        say(f"the files of --out also have what the paper reports of {others}")
    if written:
        say(f"wrote {', '.join(written)}")


def evaluated(path: Path, protocol: str | None = None) -> EvaluatedRun:
    """A run with its evaluation, by a protocol if one is named.

    Raises:
        StageError: if it has none, or one of other weights or settings.
    """
    from mvflow.core import StageError
    from mvflow.evaluation import Calibration, Evaluation
    from mvflow.evaluation.compare import EvaluatedRun
    from mvflow.evaluation.learning import stage_curves
    from mvflow.evaluation.verdicts import judge
    from mvflow.runs import Plan, RunDirectory, read_json
    from mvflow.systems import build_system, stages_of
    from mvflow.systems.subsets import with_protocol

    run = RunDirectory.open(path)
    own = run.config()
    config = own if protocol is None else with_protocol(own, protocol)
    name = "evaluation.json" if protocol is None else f"evaluation-{protocol}.json"
    again = f"mvflow evaluate {path}{'' if protocol is None else f' --protocol {protocol}'}"
    file = run.path / "metrics" / name
    if not file.is_file():
        how = "" if protocol is None else f" by protocol {protocol}"
        msg = f"{path} has not been evaluated{how}: run '{again}' first"
        raise StageError(msg)
    metrics, entries = Evaluation.from_dict(read_json(file), str(file)), run.records()
    keys = {name: record.key for name, record in entries.items()}
    if any(keys.get(name) != key for name, key in metrics.stages.items()):
        msg = f"{path} was trained anew since its evaluation: run '{again}' first"
        raise StageError(msg)
    plan = Plan(own, stages_of(build_system(own)))
    for name in plan.names:
        if (record := entries.get(name)) is None or name not in metrics.stages:
            continue
        needs = {n: keys.get(n, "") for n in plan.spec(name).needs}
        if record.key != plan.key(name, record.inputs, needs):
            msg = (
                f"{path}/config.toml was changed since stage {name!r} was trained: "
                f"run 'mvflow train {path}', then '{again}' first"
            )
            raise StageError(msg)
    if differ := changed(metrics, settings_state(config)):
        msg = (
            f"{path}/config.toml was changed since its evaluation ({', '.join(differ)}): "
            f"run '{again}' first"
        )
        raise StageError(msg)
    data = next((e.fingerprint for e in entries.values() if e.fingerprint), "")
    diagnosis = load_result(
        Calibration, run.path / "metrics" / "diagnose.json", {"stages": metrics.stages}
    )
    curves = stage_curves(run.history(), config)
    verdict = judge(config, metrics, diagnosis, curves).headline
    return EvaluatedRun(str(path), config, metrics, data, verdict)


def _tables(found: Comparison, width: int) -> Iterator[Table]:
    """Measures as rows, since a terminal is narrow, and as many systems in a table as it holds.

    Systems that were not run are left out.
    """
    from mvflow.evaluation.tables import cells, headings

    def mark(number: str, place: str) -> str:
        styles = {"best": "bold", "second": "underline", "tied": "italic"}
        return f"[{styles[place]}]{number}[/]" if place else number

    columns = [cells(found, system, mark) for system in found.measured]
    names = headings(found)
    most = max(1, (width - max(map(len, names)) - 4) // (NUMBER_WIDTH + 3))
    for start in range(0, len(columns), most):
        some, table = columns[start : start + most], Table()
        table.add_column("measure", no_wrap=True)
        for column in some:
            table.add_column(Text(column[0]), justify="right")
        for i, heading in enumerate(names[1:], 1):
            table.add_row(Text(heading), *(Text.from_markup(column[i]) for column in some))
        yield table


def write_comparison(found: Comparison, out: Path) -> list[str]:
    """Write all forms of the table and the plot.

    Returns:
        Names of the files.
    """
    from functools import partial

    from mvflow.core.files import json_text
    from mvflow.evaluation.tables import as_csv, as_json, as_latex, as_markdown
    from mvflow.report.figures.canvas import as_png, as_svg, style
    from mvflow.report.figures.comparison import comparison_figure
    from mvflow.runs import write_atomically

    stem = out.with_suffix("") if out.suffix in SUFFIXES else out
    with style():
        figure = comparison_figure(found)
        png, svg = as_png(figure), as_svg(figure)
    texts = {
        ".md": as_markdown(found),
        ".tex": as_latex(found),
        ".csv": as_csv(found),
        ".json": json_text(finite(as_json(found))) + "\n",
    }
    contents = {suffix: text.encode() for suffix, text in texts.items()}
    contents |= {".png": png, ".svg": svg}
    written = []
    for suffix, content in contents.items():
        path = stem.with_name(stem.name + suffix)
        write_atomically(path, partial(Path.write_bytes, data=content))
        written.append(str(path))
    return written
