"""Can the draws be trusted? Diagnostics in words, and the shared information."""

from __future__ import annotations

from mvflow.report.entry import Entry
from mvflow.report.figures.charts import colour, correlation_dots
from mvflow.report.markup import HTML, join, section, table, tag
from mvflow.report.sections.context import Context, figures
from mvflow.report.verdicts import Check, checks

__all__ = ["sampler", "shared"]

MEANINGS = {
    "Acceptance": "share of the sampler's proposals that were taken; it aims at 0.8",
    "Divergences": "steps that ran away numerically",
    "R-hat": "whether chains started apart end alike; 1 is perfect",
    "Effective sample size": "how many independent draws a row's steps are worth",
    "Ball contacts": "how often the sampler left the region that training saw",
    "Share redrawn": "draws given one modality that fell outside that region",
}
WIDE = (
    "The chains start where the experts already agree, so a good R-hat here is a necessary sign, "
    "not a proof."
)


def sampler(context: Context) -> HTML:
    """A verdict on each diagnostic, and what to do about it."""
    parts = [tag("p", _scope(context))]
    for entry in context.entries:
        if entry.metrics is not None:
            parts += [tag("h3", entry.name), _verdicts(entry)]
    if all(e.metrics is None for e in context.entries):
        parts.append(tag("p", "No evaluation was run, so nothing is known of the sampler."))
    return section("sampler", "Can the draws be trusted?", *parts)


def _scope(context: Context) -> HTML:
    two = all(len(e.names) <= 2 for e in context.entries)
    first = (
        "Draws given a single modality, and draws given all of them, are exact: no chain is run. "
    )
    if two:
        return join([
            first,
            tag("strong", "With two modalities the sampler is therefore never needed. "),
            "It is checked here only on the product of all modalities, a stand-in for what happens "
            "with three or more; a poor verdict on it says nothing against the samples above. ",
            WIDE,
        ])  # fmt: skip
    return join([
        first,
        "Draws given several, but not all, come from a Markov chain on the product of the experts. "
        "The numbers below are of the product of all modalities, for some test rows. ",
        WIDE,
    ])  # fmt: skip


def _verdicts(entry: Entry) -> HTML:
    assert entry.metrics is not None
    settings = entry.estimator.config.sampler
    rows = [_row(check) for check in checks(entry.metrics, settings.chains, settings.draws)]
    found = entry.metrics.get("sampler", {})
    caption = (
        f"{found.get('name', settings.name)}, {found.get('rows', 0)} rows, "
        f"{settings.chains} chains of {settings.draws} steps after {settings.warmup} of warm-up."
    )
    return table(["check", "value", "verdict", "what to do"], rows, caption)


def _row(check: Check) -> list[object]:
    pill = tag("span", check.verdict, class_=f"pill {check.verdict.replace(' ', '-')}")
    name = join([check.name, tag("small", MEANINGS[check.name])])
    return [name, check.value, pill, check.advice]


def shared(context: Context) -> HTML:
    """Canonical correlations of the shared information; nothing if no model has any."""
    found = {
        (entry.name, pair): (i, values)
        for i, entry in enumerate(context.entries)
        for pair, values in ((entry.metrics or {}).get("shared") or {}).items()
    }
    if not found:
        return join([])
    intro = (
        "What the projectors of two modalities have in common on test rows: canonical "
        "correlations, from 1 (the same information) to 0 (none). Dimensions near 0 carry nothing "
        "that is shared: projectors.dim could be smaller."
    )
    rows = [
        [entry, pair.replace("~", " and "), ", ".join(f"{v:.3f}" for v in values)]
        for (entry, pair), (_, values) in found.items()
    ]
    parts: list[object] = [tag("p", intro)]
    if max(len(values) for _, values in found.values()) > 3:
        lines = {f"{e}: {p.replace('~', ', ')}": v for (e, p), (_, v) in found.items()}
        shades = [
            colour(k if len(context.entries) == 1 else i)
            for k, (i, _) in enumerate(found.values())
        ]
        figure = correlation_dots(lines, shades)
        alt = "Canonical correlations by dimension. " + "; ".join(
            f"{k}: {v[0]:.2f} to {v[-1]:.2f}" for k, v in lines.items()
        )
        parts.append(figures(context.album.show(figure, "shared", alt + ".", vector=True)))
    parts.append(
        table(["model", "modalities", "correlations, largest first"], rows, "Shared information.")
    )
    return section("shared", "Shared information", *parts)
