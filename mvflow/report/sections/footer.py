"""The foot of the page: how to make all this again."""

from __future__ import annotations

from mvflow.report.entry import Entry
from mvflow.report.markup import HTML, section, tag
from mvflow.report.reproduce import commands
from mvflow.report.sections.context import Context

__all__ = ["footer"]


def footer(context: Context) -> HTML:
    """Commands, data and versions of each model."""
    parts = [part for entry in context.entries for part in _entry(entry)]
    return section("reproduce", "Do it again", *parts)


def _entry(entry: Entry) -> list[HTML]:
    lines = "\n".join(commands(entry))
    facts = [_builder(entry), _versions(entry), _fingerprint(entry)]
    return [
        tag("h3", entry.name),
        tag("pre", lines),
        tag("p", " ".join(fact for fact in facts if fact), class_="note"),
    ]


def _builder(entry: Entry) -> str:
    builder = entry.store.get("builder") or {}
    if "name" not in builder:
        return ""
    settings = ", ".join(f"{k}={v}" for k, v in builder.get("parameters", {}).items())
    return f"Data built by {builder['name']}({settings}) with seed {builder.get('seed', '?')}."


def _versions(entry: Entry) -> str:
    found = entry.manifest.get("versions", {})
    return "Trained with " + ", ".join(f"{k} {v}" for k, v in found.items()) + "." if found else ""


def _fingerprint(entry: Entry) -> str:
    found = entry.store.get("fingerprint")
    return f"Fingerprint of the data: {str(found)[:16]}." if found else ""
