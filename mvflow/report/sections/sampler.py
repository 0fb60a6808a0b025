"""Can the draws be trusted? Diagnostics in words."""

from __future__ import annotations

from mvflow.evaluation.checks import Check
from mvflow.evaluation.verdicts import evaluation_checks
from mvflow.report.entry import Entry
from mvflow.report.markup import HTML, join, section, table, tag, text
from mvflow.report.sections.context import Context

__all__ = ["sampler"]

MEANINGS = {
    "Importance weights": "how many draws of the experts truly count",
    "Acceptance": "share of the sampler's proposals that were taken; it aims at 0.8",
    "Divergences": "steps that ran away numerically",
    "R-hat": "whether chains started apart end alike; 1 is perfect",
    "Effective sample size": "how many independent draws a row's steps are worth",
    "Proper target": "whether the product can be a density at all, without the ball",
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
    measured = [e.metrics for e in context.entries if e.metrics is not None]
    if measured and all(m.sampler.method == "exact" for m in measured):
        return text("All draws are exact: no sampler is needed.")
    two = all(len(e.names) <= 2 for e in context.entries)
    first = (
        "Draws given a single modality, and draws given all of them, are exact: no chain is run. "
    )
    if two:
        return join([
            first,
            tag("strong", "With two modalities the sampler is therefore never needed. "),
            "It is checked here only on the rule for subsets with all modalities given, a "
            "stand-in for what happens with three or more; a poor verdict on it says nothing "
            "against the samples above. ",
            WIDE,
        ])  # fmt: skip
    return join([
        first,
        "Draws given several, but not all, come from a sampler. The numbers below are of the rule "
        "for subsets with all modalities given, for some test rows. ",
        WIDE,
    ])  # fmt: skip


def _verdicts(entry: Entry) -> HTML:
    assert entry.metrics is not None
    found, settings = entry.metrics.sampler, entry.estimator.config.sampler
    rows = [_row(check) for check in evaluation_checks(entry.metrics, entry.estimator.config)]
    if not rows:
        return tag("p", "Exact draws, none of which are redrawn: there is nothing to check.")
    caption = "Exact draws."
    if found.method != "exact":
        words = [f"{k.replace('_', ' ')} {v}".lower() for k, v in settings.to_dict().items()]
        caption = f"{found.name}, {found.rows} rows; {', '.join(words)}."
    return table(["check", "value", "verdict", "what to do"], rows, caption, "words")


def _row(check: Check) -> list[object]:
    pill = tag("span", check.verdict, class_=f"pill {check.verdict.replace(' ', '-')}")
    name = join([check.name, tag("small", MEANINGS[check.name])])
    return [name, check.value, pill, check.advice]
