"""The page as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from mvflow.core import UsageError
from mvflow.report.entry import Entry
from mvflow.report.markup import HTML, tag

if TYPE_CHECKING:
    from mvflow.evaluation import ModalityClassifiers
    from mvflow.report.sections.context import Context

__all__ = ["write_report"]


def write_report(
    path: Path,
    entries: Sequence[Entry],
    *,
    title: str = "mvflow report",
    figures: Path | None = None,
    seed: int = 0,
    classifiers: ModalityClassifiers | None = None,
) -> Path:
    """Write one HTML file that needs nothing else: numbers, samples, and what they mean.

    Args:
        path: where it goes; a file that was there is replaced when the new one is complete.
        entries: models to show side by side, trained on the same modalities.
        title: of the page.
        figures: a folder for all figures as PNG and SVG; None keeps none.
        seed: of rows and draws shown.
        classifiers: they frame draws of a wrong class in red.

    Returns:
        The path of the page.

    Raises:
        UsageError: if there are no entries, or two of the same name.
        DataError: if the file cannot be written.
    """
    names = [entry.name for entry in entries]
    if not names or len(set(names)) < len(names):
        msg = f"a report needs entries of different names, but got: {', '.join(names) or 'none'}"
        raise UsageError(msg)
    from mvflow.report.figure_store import FigureStore
    from mvflow.report.figures.canvas import style
    from mvflow.report.sections.context import Context
    from mvflow.runs import write_atomically

    context = Context(tuple(entries), FigureStore(figures), seed, classifiers)
    with style():
        page = _page(title, context)
    write_atomically(Path(path), lambda p: p.write_text(page, "utf-8"))
    return Path(path)


def _sections() -> dict[str, Callable[[Context], HTML]]:
    from mvflow.report.sections import (
        calibration,
        footer,
        header,
        latent,
        sampler,
        samples,
        scores,
        shared,
        training,
    )

    return {
        "In short": header.reading,
        "Coherence": scores.coherence,
        "Samples": samples.samples,
        "Latent space": latent.latent_space,
        "Likeness": scores.likeness,
        "Likelihood": scores.likelihood,
        "Trust": sampler.sampler,
        "Calibration": calibration.calibration,
        "Shared": shared.shared,
        "Training": training.training,
        "Facts": header.facts,
        "Again": footer.footer,
    }


def _page(title: str, context: Context) -> str:
    parts = {label: make(context) for label, make in _sections().items()}
    links = [
        tag("a", label, href=f"#{_anchor(part)}") for label, part in parts.items() if str(part)
    ]
    css = (resources.files("mvflow.report") / "page.css").read_text("utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", HTML(css)),
    )
    top = tag("header", tag("h1", title), tag("p", _subtitle(context)), tag("nav", *links))
    body = tag("body", top, tag("main", *parts.values()))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _anchor(part: HTML) -> str:
    return part.split('id="', 1)[1].split('"', 1)[0]


def _subtitle(context: Context) -> str:
    entry = context.entries[0]
    data = entry.store.get("name") or "data"
    note = entry.store.get("note")
    models = ", ".join(dict.fromkeys(e.model for e in context.entries))
    words = f"{models} on {data}" + (f", {note}" if note else "")
    *some, last = entry.names
    listed = f"{', '.join(some)} and {last}" if some else last
    words += f": {listed}." if len(entry.names) < 6 else f": {len(entry.names)} modalities."
    if len(context.entries) > 1:
        words += f" {len(context.entries)} models side by side."
    return words
