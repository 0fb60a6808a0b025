"""`history.jsonl` of a run: one line of JSON for each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvflow.core import DataError
from mvflow.core.files import check_shape, open_regular, parse_json, reading

__all__ = ["HISTORY", "read_history"]

HISTORY = "history.jsonl"
"""Name of the file in a run directory."""

RECORD = {
    "stage": str,
    "epoch": int,
    "loss": float,
    "terms": {str: float},
    "validation": ({str: float}, type(None)),
    "seconds": float,
}
"""Required fields of a line, with their types."""


def read_history(path: Path) -> list[dict[str, Any]]:
    """Records of all epochs, oldest first; a line cut off by a crash is left out.

    Raises:
        DataError: if the file cannot be read, or a line is JSON of another shape.
    """
    if not path.is_file():
        return []
    records = []
    with open_regular(path) as file, reading(path):
        for number, line in enumerate(file, 1):
            what = f"line {number} of {path}"
            try:
                record = parse_json(line, what, object)
            except DataError:
                continue
            check_shape(record, RECORD, what)
            records.append(record)
    return records
