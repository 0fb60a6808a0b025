"""HTML out of parts. What is not HTML already is escaped, so no name can break a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["HTML", "join", "section", "table", "tag", "text"]


class HTML(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> HTML:
    """A value as HTML; plain text is escaped.

    Examples:
        >>> text("a < b"), text(HTML("<b>a</b>"))
        ('a &lt; b', '<b>a</b>')
    """
    return value if isinstance(value, HTML) else HTML(escape(str(value)))


def join(parts: Iterable[object]) -> HTML:
    """Parts one after the other."""
    return HTML("".join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> HTML:
    """An element; `class_` gives `class`, `aria_label` gives `aria-label`, None gives nothing.

    Examples:
        >>> tag("p", "a < b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    listed = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("img", "meta", "br"):
        return HTML(f"<{name}{listed}>")
    return HTML(f"<{name}{listed}>{join(children)}</{name}>")


def section(anchor: str, title: str, *children: object) -> HTML:
    """A part of the page under its own heading."""
    return HTML(tag("section", tag("h2", title), *children, id=anchor) + "\n")


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], caption: str, kind: str = ""
) -> HTML:
    """A table whose first column holds row headings; a cell may be a whole `<td>` already.

    Args:
        header: headings of the columns.
        rows: cells.
        caption: printed above.
        kind: "words" stacks the cells of a row on narrow screens.
    """
    head = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in header)))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(_cell(cell) for cell in row[1:]))
        for row in rows
    ]
    inner = tag("table", head, tag("tbody", *body), aria_label=caption)
    return tag("div", tag("p", caption, class_="caption"), inner, class_=f"table {kind}".strip())


def _cell(value: object) -> HTML:
    if isinstance(value, HTML) and value.startswith("<td"):
        return value
    return tag("td", value)
