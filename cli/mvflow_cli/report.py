"""`mvflow report`: one HTML page on one or several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mvflow_cli.diagnose import load_calibration
from mvflow_cli.measuring import load_classifiers, load_evaluation, measure
from mvflow_cli.opening import open_store, open_trained, set_up
from mvflow_cli.options import (
    Device,
    ImageShapes,
    Json,
    Seed,
    StorePath,
    Threads,
    parsed_image_shapes,
)
from mvflow_cli.output import say, show_json
from mvflow_cli.progress import TrainingProgress, say_plan, time_left

__all__ = ["make_report", "report"]


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write; by default report.html in the first run.",
            show_default=False,
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Folder in which to keep the figures as files.", show_default=False),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title.", show_default=False)] = None,
    image_shape: ImageShapes = None,
    seed: Seed = 0,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Write a report; runs that have not been evaluated, or not as they are now, are evaluated.

    Example: mvflow report runs/jnf runs/jnf-shared --out comparison.html
    """
    set_up(device, threads)
    path = out or runs[0] / "report.html"
    shapes = parsed_image_shapes(image_shape)
    options: dict[str, Any] = {"title": title, "figures": figures, "image_shapes": shapes}
    evaluated = make_report(runs, path, seed=seed, store=store, device=device, err=json, **options)
    if json:
        names = [str(run) for run in runs]
        show_json({"out": str(path), "runs": names, "evaluated": evaluated})
        return
    say(f"wrote {path}")


def make_report(
    runs: Sequence[Path],
    path: Path,
    *,
    title: str | None = None,
    figures: Path | None = None,
    seed: int = 0,
    store: Path | None = None,
    device: str = "cpu",
    err: bool = False,
    image_shapes: Mapping[str, tuple[int, int]] | None = None,
) -> list[str]:
    """Evaluate the runs that need it and write one page on all of them.

    Returns:
        Names of the runs that were evaluated for it.
    """
    from mvflow.core import check_image_shapes
    from mvflow.report import Entry, write_report

    entries, evaluated, classifiers = [], [], None
    names = [run.resolve().name for run in runs]
    with ExitStack() as stack:
        for run, name in zip(runs, names, strict=True):
            opened, model = open_trained(run, device)
            check_image_shapes(image_shapes or {}, model.modalities)
            data = stack.enter_context(open_store(opened, model.config, store))
            metrics = load_evaluation(opened, model)
            if metrics is None:
                say(f"{run}: evaluating", err=err)
                with TrainingProgress(err=err) as training, time_left(err=err) as progress:
                    metrics = measure(
                        opened,
                        model,
                        data,
                        seed=seed,
                        device=device,
                        callback=training,
                        on_plan=partial(say_plan, err=err),
                        progress=progress,
                    )
                evaluated.append(str(run))
            classifiers = classifiers or load_classifiers(opened, model, data, device=device)
            entries.append(
                Entry(
                    name if names.count(name) == 1 else str(run),
                    model,
                    data[model.config.data.test],
                    opened.history(),
                    opened.manifest(),
                    data.info(),
                    metrics,
                    load_calibration(opened, model),
                    dict(image_shapes or {}),
                )
            )
        write_report(
            path,
            entries,
            title=title or ", ".join(names),
            figures=figures,
            classifiers=classifiers,
        )
    return evaluated
