"""Fill `cli.md` with the help of every command, and turn formulas into MathML."""

import html
import re

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
    if page.file.src_uri != "cli.md":
        return markdown
    from mvflow_cli.main import app

    return markdown + "\n" + _commands(typer.main.get_command(app), "mvflow", 2)


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
