"""Fill `cli.md` with the help of every command, `data.md` with the data cards, and lines
`kinds: GROUP` with the modules of all kinds of a registry; turn formulas into MathML.
"""

import html
import json
import re
from pathlib import Path

import click
import typer
from latex2mathml.converter import convert


def on_page_content(content: str, page, config, files) -> str:
    """Formulas as MathML, which browsers draw themselves: no script, nothing downloaded."""

    def inline(found: re.Match[str]) -> str:
        return convert(html.unescape(found[1]))

    def display(found: re.Match[str]) -> str:
        return convert(html.unescape(found[1]), display="block")

    content = re.sub(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', display, content, flags=re.S)
    return re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', inline, content, flags=re.S)


def on_page_markdown(markdown: str, page, config, files) -> str:
    if page.file.src_uri == "data.md":
        return markdown + "\n" + _cards()
    if page.file.src_uri != "cli.md":
        return re.sub(r"^kinds: (\w+)$", lambda found: _kinds(found[1]), markdown, flags=re.M)
    from mvflow_cli.main import app

    return markdown + "\n" + _commands(typer.main.get_command(app), "mvflow", 2)


def _kinds(group: str) -> str:
    from mvflow.core import registry

    kinds = [registry(group).load(name) for name in registry(group).names()]
    modules = dict.fromkeys(kind.__module__ for kind in kinds)
    return "\n\n".join(f"::: {name}" for name in modules if name.startswith("mvflow."))


def _commands(command: click.Command, name: str, level: int) -> str:
    context = click.Context(command, info_name=name)
    parts = [f"{'#' * level} `{name}`\n"]
    if command.help:
        parts.append(_prose(command.help))
    rows = [p.get_help_record(context) for p in command.get_params(context)]
    rows = [r for r in rows if r and r[0] != "--help"]
    if rows:
        parts.append("| option | meaning |\n| --- | --- |")
        parts.append("\n".join(f"| `{_cell(a)}` | {_cell(b)} |" for a, b in rows) + "\n")
    for sub in sorted(getattr(command, "commands", {})):
        parts.append(_commands(command.commands[sub], f"{name} {sub}", level + 1))
    return "\n".join(parts)


def _prose(text: str) -> str:
    """Help text as Markdown; an example is a block of code."""
    blocks = [block.strip() for block in text.replace("\x0c", "").replace("\b", "").split("\n\n")]
    out = []
    for block in blocks:
        example = block.removeprefix("Example:").strip()
        out.append(f"```\n{example}\n```" if example != block else block)
    return "\n\n".join(out) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _cards() -> str:
    """A card of every data set: what its builder says, and what is known of a built store."""
    from mvflow_datasets import find_builder, known_builders

    known = json.loads((Path(__file__).parent / "data" / "cards.json").read_text())
    builders = [find_builder(name) for name in known_builders()]
    return "\n".join(_card(b, known.get(b.name, {})) for b in builders)


def _card(builder, known: dict) -> str:
    parts = [f"## {builder.name}\n", _sentence(builder.summary), builder.about]
    if known.get("picture"):
        parts.append(
            f"![Rows of {builder.name}](images/data/{known['picture']})"
            '{ style="image-rendering: pixelated; width: 100%" }'
        )
    parts += [_modalities(known), _counts(known)]
    if builder.parameters:
        rows = [(f"`--{p.name.replace('_', '-')}`", p.default, p.help) for p in builder.parameters]
        parts.append(_table(("parameter", "default", "meaning"), rows))
    parts += [_sources(builder, known.get("sources", {}))]
    if builder.licence:
        parts.append(f"Licence: {builder.licence}.")
    source = " --source FOLDER" if builder.needs_source else ""
    if any(f.download for form in builder.forms for f in form):
        source += " --download"
    parts.append(f"```\nmvflow data build {builder.name} {builder.name}.h5{source}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def _modalities(known: dict) -> str:
    rows = [
        (
            f"`{m['name']}`",
            " × ".join(map(str, m["shape"])),
            m["likelihood"] + ("" if m["likelihood"] == "bernoulli" else f", scale {m['scale']}"),
            "by size" if m["weight"] is None else f"{m['weight']:.4g}",
            ", ".join(
                f"{split['arrays'][m['name']]['distinct']:,} {name}"
                for name, split in known["splits"].items()
            ),
            next(iter(known["splits"].values()))["arrays"][m["name"]]["dtype"].lstrip("<|"),
        )
        for m in known.get("modalities", ())
    ]
    return _table(("modality", "shape", "likelihood", "weight", "distinct", "stored as"), rows)


def _counts(known: dict) -> str:
    rows = []
    for name, split in known.get("splits", {}).items():
        counts = sorted(split["labels"].values())
        each = " to ".join(f"{n:,}" for n in dict.fromkeys([*counts[:1], *counts[-1:]]))
        factors = ", ".join(split["factors"])
        rows.append((name, f"{split['rows']:,}", len(counts) or "", each, factors))
    table = _table(("split", "rows", "classes", "rows of a class", "factors"), rows)
    if not rows:
        return ""
    size = f"Seed {known['seed']}, {known['bytes'] / 1e6:,.0f} MB."
    return f"{table}\n\n{size}" + (f" {_sentence(known['note'])}" if known["note"] else "")


def _sources(builder, checksums: dict) -> str:
    parts = []
    for form in builder.forms:
        rows = [(f"`{f.name}`", f.where_published) for f in form]
        parts.append(_table(("or else" if parts else "source", "where it is published"), rows))
    fetched = dict.fromkeys(f.download for form in builder.forms for f in form if f.download)
    rows = [
        (f"`{d.name}`", _link(d), f"{d.size:,}" if d.size else "", d.checksum) for d in fetched
    ]
    parts.append(_table(("`--download` fetches", "from", "bytes", "checksum"), rows))
    if checksums:
        lines = "\n".join(f"{digest}  {name}" for name, digest in checksums.items())
        parts.append(
            f"SHA-256 (of a folder, that of what `sha256sum` lists):\n\n```\n{lines}\n```"
        )
    return "\n\n".join(part for part in parts if part)


def _link(download) -> str:
    return f"[{download.host}]({download.url})"


def _table(head: tuple[str, ...], rows: list) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *([_cell(str(v)) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".") + "."
