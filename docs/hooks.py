"""Fill `cli.md` with the help of every command, taken from the program itself."""

import click
import typer


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
    rows = [r for r in rows if r]
    if rows:
        parts.append("| option | meaning |\n| --- | --- |")
        parts.append("\n".join(f"| `{_cell(a)}` | {_cell(b)} |" for a, b in rows) + "\n")
    for sub in sorted(getattr(command, "commands", {})):
        parts.append(_commands(command.commands[sub], f"{name} {sub}", level + 1))
    return "\n".join(parts)


def _prose(text: str) -> str:
    """Help text as Markdown: `\\b` blocks are examples and keep their lines."""
    blocks = text.replace("\x0c", "").split("\n\n")
    out = []
    for block in blocks:
        if "\b" in block or block.lstrip().startswith("$"):
            out.append("```\n" + block.replace("\b\n", "").strip("\n") + "\n```")
        else:
            out.append(block.strip())
    return "\n\n".join(out) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
