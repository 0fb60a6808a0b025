"""What was trained on what, and the commands that make it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mvflow.report.context import Context
from mvflow.report.entry import Entry
from mvflow.report.reproduce import commands
from mvflow.report.tables import MAX_NAMES, Cell, Table

__all__ = ["facts", "reproduce"]


def facts(context: Context) -> dict[str, Any]:
    """A row a fact, a column a model; equal facts are said once."""
    own = dict.fromkeys(key for entry in context.entries for key in entry.facts)
    sources: dict[str, Callable[[Entry], str]] = {
        **{key: lambda e, key=key: e.facts.get(key, "") for key in own},  # type: ignore[misc]
        **FACTS,
    }
    rows: list[list[Cell | str]] = []
    for label, read in sources.items():
        values = [read(entry) for entry in context.entries]
        if not any(values):
            continue
        if len(set(values)) == 1:
            rows.append([label, Cell(values[0], span=len(values))])
        else:
            rows.append([label, *(value or "–" for value in values)])
    return {"table": Table("Everything that defines each model.", ["", *context.names], rows)}


def reproduce(context: Context) -> dict[str, Any]:
    """Commands, data and versions of each model."""
    return {
        "models": [
            (entry.name, "\n".join(commands(entry)), " ".join(filter(None, _origins(entry))))
            for entry in context.entries
        ]
    }


def _origins(entry: Entry) -> list[str]:
    builder, versions = entry.store.get("builder") or {}, entry.manifest.get("versions", {})
    settings = ", ".join(f"{k}={v}" for k, v in builder.get("parameters", {}).items())
    made = f"Data built by {builder.get('name')}({settings}) with seed {builder.get('seed', '?')}."
    listed = ", ".join(f"{k} {v}" for k, v in versions.items())
    fingerprint = entry.store.get("fingerprint")
    return [
        made if "name" in builder else "",
        f"Trained with {listed}." if versions else "",
        f"Fingerprint of the data: {str(fingerprint)[:16]}." if fingerprint else "",
    ]


def _data(entry: Entry) -> str:
    name, note = entry.store.get("name", ""), entry.store.get("note", "")
    return f"{name}: {note}" if name and note else f"{name}{note}"


def _rows(entry: Entry) -> str:
    trained = [s.get("rows") for s in entry.manifest.get("stages", {}).values() if s.get("rows")]
    train = f"{max(trained):,} trained on, " if trained else ""
    return f"{train}{len(entry.test):,} for testing"


def _modalities(entry: Entry) -> str:
    lines = []
    for m in entry.modalities[:MAX_NAMES]:
        settings = m.likelihood_part.model_dump().items()
        listed = ", ".join(f"{key} {value}" for key, value in settings)
        shape = " × ".join(map(str, m.shape))
        lines.append(f"{m.name}: {shape}, {m.kind}" + (f" ({listed})" if listed else ""))
    more = len(entry.names) - len(lines)
    return "\n".join([*lines, *([f"and {more} more"] if more else [])])


def _seconds(entry: Entry) -> str:
    stages = entry.manifest.get("stages", {})
    names = entry.estimator.stage_names
    order = [*(s for s in names if s in stages), *(s for s in stages if s not in names)]
    return "\n".join(
        f"{s}: {_duration(stages[s]['seconds'])}, {stages[s].get('epochs', '?')} epochs"
        for s in order
        if "seconds" in stages[s]
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _device(entry: Entry) -> str:
    stages = entry.manifest.get("stages", {}).values()
    return ", ".join(sorted({str(s["device"]) for s in stages if "device" in s}))


def _versions(entry: Entry) -> str:
    versions = dict(entry.manifest.get("versions", {}))
    if "python" in entry.manifest:
        versions["python"] = entry.manifest["python"]
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _measured(entry: Entry) -> str:
    present = None if entry.metrics is None else entry.metrics.presence
    return "" if present is None else present.sentence


FACTS: dict[str, Callable[[Entry], str]] = {
    "recipe": lambda e: e.estimator.config.recipe,
    "data": _data,
    "rows": _rows,
    "rows measured": _measured,
    "modalities": _modalities,
    "latent dimension": lambda e: str(e.estimator.latent_dim),
    "seed": lambda e: str(e.estimator.config.seed),
    "device": _device,
    "training time": _seconds,
    "versions": _versions,
}
