"""`mvflow report`: one HTML page on one or several runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvflow_cli.diagnose import load_calibration
from mvflow_cli.measuring import load_classifiers, load_evaluation, measure
from mvflow_cli.opening import open_store, open_trained, set_up
from mvflow_cli.options import Device, Json, Seed, StorePath, Threads
from mvflow_cli.output import say, show_json
from mvflow_cli.progress import TrainingProgress, say_plan, time_left

if TYPE_CHECKING:
    from mvflow.core import Modality

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
    image_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=HEIGHTxWIDTH",
            help="Show flat rows of a modality as images, as in pix=16x15; may be repeated.",
            show_default=False,
        ),
    ] = None,
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
    shapes = dict(_image_shape(text) for text in image_shape or ())
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
    from mvflow.report import Entry, write_report

    entries, evaluated, classifiers = [], [], None
    names = [run.resolve().name for run in runs]
    with ExitStack() as stack:
        for run, name in zip(runs, names, strict=True):
            opened, model = open_trained(run, device)
            shapes = _known_shapes(image_shapes or {}, model.modalities)
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
                    shapes,
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


def _image_shape(text: str) -> tuple[str, tuple[int, int]]:
    """Modality and (height, width) out of `pix=16x15`."""
    match = re.fullmatch(r"([^=]+)=([1-9][0-9]*)x([1-9][0-9]*)", text)
    if match is None:
        msg = f"--image-shape {text!r} cannot be read: expected NAME=HEIGHTxWIDTH, as in pix=16x15"
        raise typer.BadParameter(msg)
    return match[1], (int(match[2]), int(match[3]))


def _known_shapes(
    shapes: Mapping[str, tuple[int, int]], modalities: Iterable[Modality]
) -> dict[str, tuple[int, int]]:
    """The shapes of a model's modalities.

    Raises:
        UsageError: if there is no such modality, or an image of that shape has other values.
    """
    from mvflow.core import UsageError, unknown_name

    sizes = {m.name: m.size for m in modalities}
    for name, (height, width) in shapes.items():
        if name not in sizes:
            raise UsageError(unknown_name("modality", name, sizes))
        if height * width != sizes[name]:
            msg = (
                f"--image-shape {name}={height}x{width} has {height * width} values, but "
                f"modality {name!r} has {sizes[name]}"
            )
            raise UsageError(msg)
    return dict(shapes)
