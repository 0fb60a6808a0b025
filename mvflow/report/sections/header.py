"""The head of the page: the reading in plain words, and what was trained on what."""

from __future__ import annotations

import math
from collections.abc import Callable

from mvflow.evaluation.verdicts import evaluation_checks
from mvflow.report.entry import Entry
from mvflow.report.markup import HTML, join, section, table, tag
from mvflow.report.sections.context import Context
from mvflow.report.words import readings

__all__ = ["facts", "reading"]

LOW_ACCURACY = 0.9
"""Below this, a classifier is too weak to measure generated rows by."""


def reading(context: Context) -> HTML:
    """The numbers that matter, in sentences, one card a model."""
    cards = [_card(entry) for entry in context.entries]
    parts = [tag("div", *cards, class_="cards"), *_comparison(context), *_warnings(context)]
    return section("reading", "In short", *parts)


def _card(entry: Entry) -> HTML:
    items = [
        tag("li", tag("b", number), tag("span", sentence)) for number, sentence in readings(entry)
    ]
    what = ", ".join(entry.facts[k] for k in ("system", "posterior") if k in entry.facts)
    body: list[object] = [tag("h3", entry.name, " ", tag("small", what))]
    if items:
        body.append(tag("ul", *items))
    else:
        body.append(tag("p", "Not evaluated yet: run ", tag("code", "mvflow evaluate"), " first."))
    if entry.metrics is not None:
        body.append(_trust(entry))
    return tag("article", *body)


def _trust(entry: Entry) -> HTML:
    """The worst verdict on the sampler, with a link to the details."""
    assert entry.metrics is not None
    found = evaluation_checks(entry.metrics, entry.estimator.config)
    if not found:
        return tag("p", "All draws are exact.")
    label = "Sampler of subsets: "
    if len(entry.names) < 3:  # it is never needed there
        found, label = found[-1:], "Draws given one modality: "
    order = ("good", "look closer", "do not trust")
    worst = max((c.verdict for c in found), key=order.index, default="good")
    pill = tag("span", worst, class_=f"pill {worst.replace(' ', '-')}")
    return tag("p", label, pill, " ", tag("a", "details", href="#sampler"))


def _comparison(context: Context) -> list[HTML]:
    """Which model has the best conditional coherence, if the difference is more than chance."""
    found = {
        e.name: e.metrics.coherence.conditional_by_observed[1]
        for e in context.entries
        if e.metrics and e.metrics.coherence and e.metrics.coherence.conditional_by_observed
    }
    if len(found) < 2:
        return []
    best = max(found, key=lambda name: found[name].mean)
    worst = min(found, key=lambda name: found[name].mean)
    means = {name: one.mean for name, one in found.items()}
    noise = 2 * math.hypot(found[best].standard_error, found[worst].standard_error)
    text = (
        f"Generating one modality from another, {best} keeps the class most often "
        f"({100 * means[best]:.1f} %) and {worst} least often ({100 * means[worst]:.1f} %), mean "
        f"over directions. Differences below {100 * noise:.1f} points may be chance, and another "
        "training seed can move all of these numbers more than that: compare several seeds."
    )
    return [tag("p", text)]


def _warnings(context: Context) -> list[HTML]:
    weak = {
        name: accuracy
        for entry in context.entries
        for name, accuracy in (entry.metrics.classifiers if entry.metrics else {}).items()
        if accuracy < LOW_ACCURACY
    }
    return [
        tag(
            "p",
            f"The classifier of {name} recognises only {100 * accuracy:.0f} of 100 real rows. "
            f"Coherence towards {name} cannot be expected above that: read it as a lower bound.",
            class_="warning",
        )
        for name, accuracy in weak.items()
    ]


def facts(context: Context) -> HTML:
    """What was trained on what: a row a fact, a column a model; equal facts are said once."""
    rows = []
    own = dict.fromkeys(key for entry in context.entries for key in entry.facts)
    every: list[tuple[str, Callable[[Entry], str]]] = [
        *((key, lambda e, key=key: e.facts.get(key, "")) for key in own),
        *FACTS.items(),
    ]
    for label, find in every:
        found = [find(entry) for entry in context.entries]
        if not any(found):
            continue
        if len(set(found)) == 1 and len(found) > 1:
            rows.append([label, tag("td", found[0], colspan=len(found))])
        else:
            rows.append([label, *(text or "–" for text in found)])
    shown = table(["", *context.names], rows, "Everything that defines each model.")
    return section("facts", "What was trained on what", shown)


def _data(entry: Entry) -> str:
    name, note = entry.store.get("name", ""), entry.store.get("note", "")
    return f"{name}: {note}" if name and note else f"{name}{note}"


def _rows(entry: Entry) -> str:
    trained = [s.get("rows") for s in entry.manifest.get("stages", {}).values() if s.get("rows")]
    train = f"{max(trained):,} trained on, " if trained else ""
    return f"{train}{len(entry.test):,} for testing"


def _modalities(entry: Entry) -> HTML:
    lines = []
    for m in entry.modalities:
        settings = m.likelihood_part.model_dump().items()
        listed = ", ".join(f"{key} {value}" for key, value in settings)
        shape = " × ".join(map(str, m.shape))
        suffix = f" ({listed})" if listed else ""
        lines.append(tag("div", f"{m.name}: {shape}, {m.kind}{suffix}"))
    return join(lines)


def _seconds(entry: Entry) -> HTML:
    stages = entry.manifest.get("stages", {})
    names = entry.estimator.stage_names
    order = [*(s for s in names if s in stages), *(s for s in stages if s not in names)]
    return join(
        tag(
            "div", f"{s}: {_duration(stages[s]['seconds'])}, {stages[s].get('epochs', '?')} epochs"
        )
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
    found = dict(entry.manifest.get("versions", {}))
    if "python" in entry.manifest:
        found["python"] = entry.manifest["python"]
    return ", ".join(f"{name} {version}" for name, version in found.items())


FACTS: dict[str, Callable[[Entry], str]] = {
    "recipe": lambda e: e.estimator.config.recipe,
    "data": _data,
    "rows": _rows,
    "modalities": _modalities,
    "latent dimension": lambda e: str(e.estimator.latent_dim),
    "seed": lambda e: str(e.estimator.config.seed),
    "device": _device,
    "training time": _seconds,
    "versions": _versions,
}
