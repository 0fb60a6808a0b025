"""The head of the page: the reading in plain words, and what was trained on what."""

from __future__ import annotations

from collections.abc import Callable

from mvflow.report.entry import Entry
from mvflow.report.markup import HTML, join, section, table, tag
from mvflow.report.sections.context import Context
from mvflow.report.verdicts import checks
from mvflow.report.words import readings

__all__ = ["facts", "reading"]

LOW_ACCURACY = 0.9
"""Below this, a classifier is too weak to judge generated rows by."""


def reading(context: Context) -> HTML:
    """The numbers that matter, in sentences, one card a model."""
    cards = [_card(entry) for entry in context.entries]
    parts = [tag("div", *cards, class_="cards"), *_comparison(context), *_warnings(context)]
    return section("reading", "In short", *parts)


def _card(entry: Entry) -> HTML:
    items = [
        tag("li", tag("b", number), tag("span", sentence)) for number, sentence in readings(entry)
    ]
    what = f"{entry.model}, {entry.family}"
    if entry.projector:
        what += f", {entry.projector}"
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
    sampler = entry.estimator.config.sampler
    found = checks(entry.metrics, sampler.chains, sampler.draws)
    label = "Sampler of products: "
    if len(entry.names) < 3:  # it is never needed there
        found, label = found[-1:], "Draws given one modality: "
    order = ("good", "look closer", "do not trust")
    worst = max((c.verdict for c in found), key=order.index, default="good")
    pill = tag("span", worst, class_=f"pill {worst.replace(' ', '-')}")
    return tag("p", label, pill, " ", tag("a", "details", href="#sampler"))


def _comparison(context: Context) -> list[HTML]:
    """Which model has the best conditional coherence, if the difference is more than chance."""
    means = {
        e.name: e.metrics["coherence"]["conditional_by_observed"]["1"]
        for e in context.entries
        if e.metrics is not None and "1" in _by_observed(e)
    }
    if len(means) < 2:
        return []
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    rows = min(e.metrics["rows"] for e in context.entries if e.metrics is not None)
    middle = (means[best] + means[worst]) / 2
    noise = 2 * (2 * middle * (1 - middle) / rows) ** 0.5
    text = (
        f"Generating one modality from another, {best} keeps the class most often "
        f"({100 * means[best]:.1f} %) and {worst} least often ({100 * means[worst]:.1f} %), mean "
        f"over directions. Differences below {100 * noise:.1f} points may be chance, and another "
        "training seed can move all of these numbers more than that: compare several seeds."
    )
    return [tag("p", text)]


def _by_observed(entry: Entry) -> dict[str, float]:
    found: dict[str, float] = (
        (entry.metrics or {}).get("coherence", {}).get("conditional_by_observed", {})
    )
    return found


def _warnings(context: Context) -> list[HTML]:
    weak = {
        name: accuracy
        for entry in context.entries
        for name, accuracy in (entry.metrics or {}).get("classifiers", {}).items()
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
    for label, find in FACTS.items():
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
        scale = f" (scale {m.scale:g})" if m.likelihood in ("normal", "laplace") else ""
        shape = " × ".join(map(str, m.shape))
        lines.append(tag("div", f"{m.name}: {shape}, {m.likelihood}{scale}"))
    return join(lines)


def _beta(entry: Entry) -> str:
    joint = entry.estimator.config.joint
    if joint.beta_start is None or joint.beta_start == joint.beta:
        return f"{joint.beta:g}"
    share = f"over the first {100 * joint.anneal:.0f} % of the joint stage"
    return f"{joint.beta:g}, from {joint.beta_start:g} {share}"


def _posterior(entry: Entry) -> str:
    flows = entry.estimator.config.flows
    if flows.posterior == "gaussian":
        return "Gaussian"
    return f"{entry.family}, {flows.transforms} transforms"


def _projector(entry: Entry) -> str:
    if not entry.is_shared:
        return ""
    return f"{entry.projector}, dimension {entry.estimator.config.projectors.dim}"


def _seconds(entry: Entry) -> HTML:
    stages = entry.manifest.get("stages", {})
    order = [s for s in ("projectors", "joint", "flows") if s in stages]
    order += [s for s in stages if s not in order]
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
    "model": lambda e: e.model,
    "recipe": lambda e: e.estimator.config.recipe,
    "data": _data,
    "rows": _rows,
    "modalities": _modalities,
    "latent dimension": lambda e: str(e.estimator.config.latent_dim),
    "beta": _beta,
    "posteriors": _posterior,
    "projectors": _projector,
    "seed": lambda e: str(e.estimator.config.seed),
    "device": _device,
    "training time": _seconds,
    "versions": _versions,
}
