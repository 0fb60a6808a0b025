"""Printing the one result of a command."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console, RenderableType

__all__ = ["console_width", "finite", "say", "show", "show_json"]


def say(line: str, *, err: bool = False) -> None:
    """Print one line as it is: no wrapping, no markup."""
    typer.echo(line, err=err)


def show(content: RenderableType) -> None:
    """Print a table."""
    Console().print(content)


def console_width() -> int:
    """Number of characters in a line of what `show` prints."""
    return Console().width


def show_json(value: Mapping[str, Any]) -> None:
    """Print the one JSON object of a command."""
    typer.echo(json.dumps(finite(value), indent=2, allow_nan=False))


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
