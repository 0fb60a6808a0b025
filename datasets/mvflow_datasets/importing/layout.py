"""Layout of a text table: separator, header and row names; guessed and said, or given."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

from mvflow.core import DataError, UsageError, unknown_name
from mvflow_datasets.importing.references import ReadOptions

__all__ = [
    "TableLayout",
    "guess_layout",
    "is_number",
    "open_text",
    "ragged",
    "readable",
    "record_at",
]

SEPARATORS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'", " ": "blanks"}
SAMPLE_ROWS = 50
MAX_LINE = 1 << 26
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_WHOLE = re.compile(r"\s*\d+\s*")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")


@dataclass(frozen=True, slots=True)
class TableLayout:
    """How a text table is laid out.

    Args:
        separator: of the cells.
        decimal: point or comma.
        columns: all names in order, that of the row names included.
        row_names: the column that names the rows, if any.
        skip: physical lines up to and with the header.
        guesses: a sentence for each guess.
        warnings: a sentence for what the user should look at.
    """

    separator: str
    decimal: str
    columns: tuple[str, ...]
    row_names: str | None
    skip: int
    guesses: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def is_number(text: str) -> bool:
    """Whether a text is a decimal number; underscores and words are none.

    Examples:
        >>> is_number("-1.5e3"), is_number("1_1"), is_number("nan")
        (True, False, False)
    """
    return _NUMBER.fullmatch(text) is not None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Within this block, what can go wrong while text is read becomes one sentence."""
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        msg = f"{path} cannot be read as a table: {reason}"
        raise DataError(msg) from error


def open_text(path: Path) -> IO[str]:
    """The file as UTF-8 text with its line ends left alone."""
    return path.open(encoding="utf-8-sig", newline="")


def guess_layout(path: Path, options: ReadOptions) -> TableLayout:
    """Find out the layout of a text table from its first rows.

    Raises:
        DataError: if there is no row, or a row has another number of cells than the first.
        UsageError: if an option does not fit the file.
    """
    skipped = max(0, (options.header or 0) - 1)
    lines = _sample(path, skipped)
    is_tsv = path.suffix.lower() == ".tsv"
    separator = options.separator or _guess_separator(lines, "\t" if is_tsv else ",")
    with readable(path):
        records = list(_records(lines, separator))
    first, body = records[0][1], [cells for _, cells in records[1:]]
    reason = _header_reason(first, body) if options.header is None else ""
    has_header = options.header != 0 if options.header is not None else bool(reason)
    rows = records[1:] if has_header else records
    width = len(rows[0][1]) if rows else len(first)
    names = [cell.strip() for cell in first] if has_header else [str(i) for i in range(width)]
    if len(names) == width - 1 and all(len(cells) == width for _, cells in rows):
        names = ["", *names]  # R's write.table leaves the name of the row names out
    for line, cells in rows:
        if len(cells) != len(names):
            raise ragged(path, skipped + line, len(cells), len(names))
    warnings = []
    if len(set(names)) < len(names):
        repeated = [name for i, name in enumerate(names) if name in names[:i]]
        names = _numbered(names)
        second = f"{repeated[0]}.1"
        warnings.append(
            f"{path} has two columns named {repeated[0]!r}: the second is called {second!r}"
        )
    guesses = []
    if options.separator is None:
        guesses.append(f"{path}: cells are separated by {SEPARATORS[separator]} (--separator)")
    if options.header is None:
        named = [name for name in names if name]
        shown = ", ".join(named[:4]) + ("..." if len(named) > 4 else "")
        said = f"names the columns ({shown}): {reason}" if reason else "is data: it has no header"
        guesses.append(f"{path}: line {records[0][0]} {said} (--header)")
    row_names = _row_names(path, names, options)
    if row_names is not None and options.index is None:
        which = f"column {row_names!r}" if row_names == options.usual_index else "its first column"
        guesses.append(f"{path}: {which} names the rows (--index)")
    has_commas = separator != "," and _has_decimal_commas([cells for _, cells in rows])
    if has_commas:
        guesses.append(f"{path}: numbers have decimal commas")
    return TableLayout(
        separator,
        "," if has_commas else ".",
        tuple(names),
        row_names,
        skipped + (records[0][0] if has_header else 0),
        tuple(guesses),
        tuple(warnings),
    )


def record_at(path: Path, layout: TableLayout, row: int) -> tuple[int, list[str]]:
    """Line in the file, from 1, and cells of a row of values, from 0."""
    with open_text(path) as file, readable(path):
        for _ in range(layout.skip):
            file.readline()
        for i, (line, cells) in enumerate(_records(file, layout.separator)):
            if i == row:
                if len(cells) != len(layout.columns):
                    raise ragged(path, layout.skip + line, len(cells), len(layout.columns))
                return layout.skip + line, cells
    raise AssertionError(row)


def _sample(path: Path, skipped: int) -> list[str]:
    with open_text(path) as file, readable(path):
        for _ in range(skipped):
            file.readline(MAX_LINE)
        lines: list[str] = []
        while len(lines) < SAMPLE_ROWS and (line := file.readline(MAX_LINE)):
            lines.append(line)
        is_cut = bool(file.read(1))
    if not any(line.strip() for line in lines):
        what = f"has no line {skipped + 1}" if skipped else "is empty"
        msg = f"{path} {what}: expected a line of column names, then rows"
        raise DataError(msg)
    return lines[:-1] if is_cut and len(lines) > 2 and "".join(lines).count('"') % 2 else lines


def _records(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line, from 1, in which each row that is not blank ends, and its cells."""
    is_blank = separator == " "
    reader = csv.reader(
        (line.strip(" ") for line in lines) if is_blank else lines,
        delimiter=separator,
        skipinitialspace=is_blank,
    )
    for cells in reader:
        if len(cells) > 1 or any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _guess_separator(lines: Sequence[str], usual: str) -> str:
    """The separator that gives all rows equally many cells, and most of these numbers."""
    scores = {}
    for separator in SEPARATORS:
        try:
            rows = [cells for _, cells in _records(lines, separator)]
        except csv.Error:
            continue
        widths = {len(cells) for cells in rows[1:]} or {len(rows[0])}
        width = max(widths)
        if width < 2:
            continue
        cells = [cell for row in rows[1:] or rows for cell in row]
        numbers = sum(is_number(c) or bool(_DECIMAL_COMMA.fullmatch(c)) for c in cells)
        is_even = len(widths) == 1 and len(rows[0]) in {width, width - 1}
        if separator == " " and not (is_even and numbers >= len(cells) / 2):
            continue
        scores[separator] = (is_even, numbers / len(cells), separator == usual, width)
    return max(scores, key=lambda s: scores[s]) if scores else usual


def _header_reason(first: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Why the first row is a header; empty if it is not."""
    if not all(is_number(cell) for cell in first):
        return "not all are numbers"
    if not body or not all(_WHOLE.fullmatch(cell) for cell in first):
        return ""
    cells = [cell for row in body for cell in row]
    if sum(_WHOLE.fullmatch(cell) is None for cell in cells) > len(cells) / 4:
        return "whole numbers over fractions"
    if len(first) >= 4 and _is_rising(first) and sum(map(_is_rising, body)) < len(body) / 4:
        return "rising whole numbers over others"
    return ""


def _is_rising(cells: Sequence[str]) -> bool:
    """Whether whole numbers rise along a row, but for one place (a label at the end, say)."""
    if not all(_WHOLE.fullmatch(cell) for cell in cells):
        return False
    values = [int(cell) for cell in cells]
    return sum(b <= a for a, b in pairwise(values)) <= (1 if len(values) > 5 else 0)


def _row_names(path: Path, names: Sequence[str], options: ReadOptions) -> str | None:
    index = options.index_of(names)
    if index is None:
        return names[0] if re.fullmatch(r"|Unnamed: 0", names[0]) else None
    if index == "none":
        return None
    if index not in names:
        raise UsageError(f"--index: {path}: {unknown_name('column', index, names)}")
    return index


def _numbered(names: Sequence[str]) -> list[str]:
    """Names of which repeated ones are told apart, as pandas does: a, a.1, a.2.

    Examples:
        >>> _numbered(["a", "a", "b", "a"])
        ['a', 'a.1', 'b', 'a.2']
    """
    counts: Counter[str] = Counter()
    out: list[str] = []
    for name in names:
        candidate = name
        while candidate in out or (candidate != name and candidate in names):
            counts[name] += 1
            candidate = f"{name}.{counts[name]}"
        out.append(candidate)
    return out


def _has_decimal_commas(rows: Sequence[Sequence[str]]) -> bool:
    cells = [cell for row in rows for cell in row]
    commas = sum(_DECIMAL_COMMA.fullmatch(cell) is not None for cell in cells)
    return commas > 0 and not any(is_number(cell) and "." in cell for cell in cells)


def ragged(path: Path, line: int, cells: int, expected: int) -> DataError:
    """The error of a row that has more or fewer cells than the first."""
    return DataError(
        f"{path}, line {line} has {cells} cells: expected {expected}, as in the first line "
        "(--separator and --header say how a table is laid out)"
    )
