"""Printing the one result of a command, on terminals and into pipes of any kind.

Names, paths and notes come from files and people: they are shown as they are, never taken for
markup, and characters that would steer a terminal are spelt out.
"""

from __future__ import annotations

import io
import json
import logging
import math
import re
import sys
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

if TYPE_CHECKING:
    from mvflow.config import Config

__all__ = [
    "LogLines",
    "console",
    "console_width",
    "finite",
    "plain",
    "say",
    "show",
    "show_json",
    "tolerate_encodings",
    "warn_idle",
]

_TOLERANT = {"replace", "backslashreplace", "namereplace", "xmlcharrefreplace", "ignore"}
_STEERING = {"Cc", "Cf", "Cs", "Co", "Cn"}  # controls, marks of direction, what is no character


def say(line: str, *, err: bool = False) -> None:
    """Print one line as it is: no wrapping, no markup, no control characters."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:  # as it is where there is no terminal at all
        with _writable():
            print(plain(_with_plugins(line)).replace("\n", "\\n"), file=stream, flush=True)


def _with_plugins(line: str) -> str:
    """The line with this command's plugins in the commands that it quotes."""
    registry = sys.modules.get("mvflow.core.registry")  # not imported: there are no plugins
    options = "".join(f"--plugin {module} " for module in (registry.trusted() if registry else ()))
    return re.sub(r"'mvflow (?!-)", lambda _: f"'mvflow {options}", line) if options else line


def warn_idle(config: Config, keys: Collection[str] = ()) -> None:
    """Say on standard error which settings of a configuration never act, a line each.

    Args:
        config: to look at.
        keys: of the settings that were given by hand.
    """
    from mvflow.config import idle_settings

    for words in idle_settings(config, keys):
        say(f"mvflow: warning: {words}", err=True)


class LogLines(logging.Handler):
    """Shows what the library logs, as it shows all else.

    Args:
        level: of the least that is shown.
        err: show it on stderr.
    """

    def __init__(self, level: int, *, err: bool = True) -> None:
        super().__init__(level)
        self._err = err

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        say(record.getMessage(), err=self._err)


def show(content: RenderableType) -> None:
    """Print a table. Texts in it are no markup: a coloured cell is a `rich.text.Text`."""
    with _writable():
        console().print(content)


def console_width() -> int:
    """Number of characters in a line of what `show` prints."""
    return console().width


def show_json(value: Mapping[str, Any]) -> None:
    """Print the one JSON object of a command."""
    with _writable():
        typer.echo(json.dumps(finite(value), indent=2, allow_nan=False))


def console(*, err: bool = False) -> Console:
    """A terminal, or what stands in for it, that takes texts as they are."""
    return _PlainConsole(stderr=err, markup=False, emoji=False, highlight=False)


def plain(text: str) -> str:
    r"""The text with what would steer a terminal spelt out.

    Examples:
        >>> plain("[b]ä[/b]" + chr(27) + "[31m")
        '[b]ä[/b]\\x1b[31m'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if c not in "\n\t" and unicodedata.category(c) in _STEERING
        else c
        for c in text
    )


def tolerate_encodings() -> None:
    """Let stdout and stderr show a question mark for what their encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors not in _TOLERANT:
            stream.reconfigure(errors="replace")


def finite(value: Any) -> Any:
    """The value with null in place of NaN and infinity, which JSON does not have.

    Examples:
        >>> finite({"rhat": float("inf"), "rows": [1, 2.5]})
        {'rhat': None, 'rows': [1, 2.5]}
    """
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _writable() -> Iterator[None]:
    """Within this block, an output that takes no more is a sentence."""
    try:
        yield
    except BrokenPipeError:  # whoever reads has seen enough
        raise
    except OSError as error:
        from mvflow.core.errors import DataError  # here, for the sake of --help

        sys.stdout = None  # else Python tries once more at its end
        msg = f"cannot write the result: {(error.strerror or str(error)).lower()}"
        raise DataError(msg) from error


class _PlainConsole(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text), **options)
