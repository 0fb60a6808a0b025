"""The page as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvflow.core import UsageError
from mvflow.report.entry import Entry

if TYPE_CHECKING:
    from jinja2 import Environment

    from mvflow.evaluation import ModalityClassifiers
    from mvflow.report.context import Context

__all__ = ["write_report"]

LABELS = {
    "reading": "In short",
    "predictions": "Predictions",
    "coherence": "Coherence",
    "samples": "Samples",
    "latent": "Latent space",
    "likeness": "Likeness",
    "likelihood": "Likelihood",
    "sampler": "Trust",
    "calibration": "Calibration",
    "shared": "Shared",
    "training": "Training",
    "facts": "Facts",
    "reproduce": "Again",
}
"""Section, which is the name of its template and its anchor -> its link."""


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
    from mvflow.report.context import Context
    from mvflow.report.figure_store import FigureStore
    from mvflow.report.figures.canvas import style
    from mvflow.runs import write_atomically

    context = Context(tuple(entries), FigureStore(figures), seed, classifiers)
    with style():
        page = _page(title, context)
    write_atomically(Path(path), lambda p: p.write_text(page, "utf-8"))
    return Path(path)


def _sections() -> dict[str, Callable[[Context], dict[str, Any] | None]]:
    from mvflow.report.sections.about import facts, reproduce
    from mvflow.report.sections.latent import latent_space
    from mvflow.report.sections.predictions import predictions
    from mvflow.report.sections.reading import reading
    from mvflow.report.sections.samples import samples
    from mvflow.report.sections.scores import coherence, likelihood, likeness
    from mvflow.report.sections.training import shared, training
    from mvflow.report.sections.trust import calibration, sampler

    makers = (
        *(reading, predictions, coherence, samples, latent_space, likeness, likelihood, sampler),
        *(calibration, shared, training, facts, reproduce),
    )
    return dict(zip(LABELS, makers, strict=True))


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("mvflow.report")
    return Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def _page(title: str, context: Context) -> str:
    values = {anchor: make(context) for anchor, make in _sections().items()}
    parts = [(anchor, LABELS[anchor], v) for anchor, v in values.items() if v is not None]
    template = _environment().get_template("page.html")
    return template.render(title=title, subtitle=_subtitle(context), parts=parts) + "\n"


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
