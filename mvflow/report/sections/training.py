"""Loss curves of every stage."""

from __future__ import annotations

from typing import Any

from mvflow.report.figures.canvas import INK
from mvflow.report.figures.charts import Curve, colour, loss_curves
from mvflow.report.markup import HTML, section, tag
from mvflow.report.sections.context import Context, columns, figures

__all__ = ["training"]

INTRO = (
    "Loss by epoch: thin on training rows, thick on held-out rows. The axis leaves out the first "
    "few percent of the steps. Held-out loss that rises while training loss falls is overfitting; "
    "both still falling at the end means that more epochs would help. Where a weight such as beta "
    "is annealed, training loss follows it; held-out loss always uses the final value."
)


def training(context: Context) -> HTML:
    """A chart for each stage."""
    stages = columns([{r["stage"]: None for r in e.history} for e in context.entries])
    shown = [_chart(context, stage) for stage in stages]
    if not shown:
        return section("training", "Training", tag("p", "No history was kept of the training."))
    return section("training", "Training", tag("p", INTRO), figures(*shown))


def _chart(context: Context, stage: str) -> HTML:
    curves = _curves(context, stage)
    last = "; ".join(f"{c.label}: {c.train[-1]:.4g} after {len(c.epochs)} epochs" for c in curves)
    alt = f"Loss curves of the stage {stage}. {last}."
    speed = [
        r["samples_per_second"]
        for e in context.entries
        for r in e.history
        if r["stage"] == stage and r.get("samples_per_second")
    ]
    shared = [c.label for c in curves if ", " in c.label]
    said = [f"The same for {label}." for label in shared]
    if speed:
        said.append(f"At best {max(speed):,.0f} rows per second.")
    caption = " ".join(said) or None
    return context.figures.show(
        loss_curves(stage, curves), f"loss-{stage}", alt, caption, vector=True
    )


def _curves(context: Context, stage: str) -> list[Curve]:
    """One curve for each model; models that took the stage from one another share theirs."""
    curves: list[Curve] = []
    for i, entry in enumerate(context.entries):
        records = [r for r in entry.history if r["stage"] == stage]
        if not records:
            continue
        curve = Curve(
            entry.name,
            colour(i),
            [r["epoch"] for r in records],
            [r["loss"] for r in records],
            [_validation(r) for r in records],
        )
        same = [k for k, c in enumerate(curves) if c[2:] == curve[2:]]
        if same:
            known = curves[same[0]]
            curves[same[0]] = known._replace(label=f"{known.label}, {entry.name}", colour=INK)
        else:
            curves.append(curve)
    return curves


def _validation(record: dict[str, Any]) -> float | None:
    found = (record.get("validation") or {}).get("loss")
    return None if found is None else float(found)
