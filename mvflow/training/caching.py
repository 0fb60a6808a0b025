"""Outputs of frozen modules for every row: computed once, held in memory or in the run's cache."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from mvflow.core import PRESENT, Observed
from mvflow.runs import RunDirectory, weights_hash
from mvflow.stages import CachedColumn
from mvflow.training.table import AnyColumn, MappedColumn, Table, TensorColumn

__all__ = ["ColumnCache", "with_cached_columns"]

_log = logging.getLogger(__name__)

ENCODED_ROWS = 2048
"""Rows encoded at once."""

_SPLITS = ("", ".validation")
"""Ends of the files' names for the training rows and for the validation rows."""


@dataclass(frozen=True)
class ColumnCache:
    """Where to keep columns that are too large for memory.

    Args:
        run: its directory.
        keys: stage -> key under which it was trained.
        data: fingerprint of the source that the training rows are of.
        budget: bytes that may be held in memory.
    """

    run: RunDirectory
    keys: Mapping[str, str]
    data: str
    budget: int


def with_cached_columns(
    columns: Sequence[CachedColumn], tables: Sequence[Table], cache: ColumnCache | None = None
) -> list[Table]:
    """Tables with the outputs of frozen modules as further columns.

    All are held in memory if they fit the cache's budget or there is no cache. Otherwise they are
    files of the run, and streamed. Values are float32 and the same to the bit either way. A file
    is found by the hash of all that its values depend on: the keys of the stages (so data,
    settings, seed), the modules and weights themselves, which rows, the kind of device, and the
    versions of torch and mvflow. So a stale one is not found; one that fits serves every later
    stage.

    Args:
        columns: what to compute.
        tables: training rows; then, if there are any, validation rows.
        cache: where to keep what is large.

    Raises:
        DataError: if a file cannot be written.
    """
    by_row = [c for c in columns if c.of is None]
    by_value = [c for c in columns if c.of is not None]
    jobs: dict[tuple[str, int], _Job] = {}
    for i, table in enumerate(tables):
        for column in by_row:
            jobs[column.name, i] = _row_job(column, tables, i, cache)
        for column in by_value:
            stored = table.columns[column.of or ""]
            jobs.setdefault((column.name, id(stored)), _value_job(column, tables, i, cache))
    computed = dict(zip(jobs, _materialised(list(jobs.values()), cache), strict=True))
    out = []
    for i, table in enumerate(tables):
        replaced = dict(table.columns)
        for column in by_value:
            stored = table.columns[column.of or ""]
            replaced[column.name] = replace(computed[column.name, id(stored)], index=stored.index)
            if column.name == column.of:
                _mask_rows(replaced, column.name, stored, table.device)
        joined = {f"cached/{c.name}": computed[c.name, i] for c in by_row}
        seen = table.with_columns(replaced)
        out.append(seen.joined(joined) if joined else seen)
    return out


@dataclass(frozen=True)
class _Job:
    """One array that is computed from frozen modules."""

    name: str
    depends_on: Callable[[], Mapping[str, Any]]
    rows: int
    device: torch.device
    blocks: Callable[[], Iterator[Tensor]]

    @property
    def key(self) -> str:
        products = torch.get_float32_matmul_precision()
        machine = [
            self.device.type, products, torch.__version__, version("mvflow"), ENCODED_ROWS
        ]  # fmt: skip
        text = json.dumps([self.depends_on(), machine], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _materialised(jobs: Sequence[_Job], cache: ColumnCache | None) -> list[AnyColumn]:
    """Compute the arrays: all in memory, or all in files of the cache."""
    if cache is None:
        return [_in_memory(job) for job in jobs]
    size = sum(job.rows * next(job.blocks())[0].numel() * 4 for job in jobs if job.rows)
    if size <= cache.budget:
        return [_in_memory(job) for job in jobs]
    about = "outputs of frozen modules take %.1f MiB, too much for memory: read from %s"
    _log.info(about, size / 2**20, cache.run.arrays)
    return [_in_file(job, cache.run) for job in jobs]


def _in_memory(job: _Job) -> AnyColumn:
    """Filled block by block: a list of all blocks, then joined, would take twice as much."""
    blocks = job.blocks()
    first = next(blocks)
    values, at = first.new_empty(job.rows, *first.shape[1:]), 0
    for block in itertools.chain([first], blocks):
        values[at : at + len(block)] = block
        at += len(block)
    return TensorColumn(values, None)


def _in_file(job: _Job, run: RunDirectory) -> AnyColumn:
    def blocks() -> Iterator[Any]:
        return (block.cpu().numpy() for block in job.blocks())

    return MappedColumn(run.array(job.name, job.key, job.rows, blocks), None, job.device)


def _row_job(
    column: CachedColumn, tables: Sequence[Table], i: int, cache: ColumnCache | None
) -> _Job:
    table = tables[i]

    def depends_on() -> Mapping[str, Any]:
        return {**_depends_on(column, tables, i, cache), "rows": table.selection()}

    blocks = partial(_blocks, column, table, None)
    name = f"{column.name}{_SPLITS[i]}"
    return _Job(name, depends_on, len(table), table.device, blocks)


def _value_job(
    column: CachedColumn, tables: Sequence[Table], i: int, cache: ColumnCache | None
) -> _Job:
    table = tables[i]
    stored = table.columns[column.of or ""]

    def depends_on() -> Mapping[str, Any]:
        return {**_depends_on(column, tables, i, cache), "modality": column.of}

    parts = {"x": stored}
    if (mask := table.columns.get(f"{PRESENT}{column.of}")) is not None and _is_of_values(mask):
        parts[f"{PRESENT}x"] = mask
    values = Table({n: replace(c, index=None) for n, c in parts.items()}, stored.length)
    blocks = partial(_blocks, column, values, "x")
    at = sorted(table.columns).index(column.of or "")
    return _Job(f"projections{at}{_SPLITS[i]}", depends_on, stored.length, table.device, blocks)


def _depends_on(
    column: CachedColumn, tables: Sequence[Table], i: int, cache: ColumnCache | None
) -> dict[str, Any]:
    assert cache is not None
    first, stored = tables[0].columns, tables[i].columns
    is_same = all(stored[name] is values for name, values in first.items())
    return {
        "stages": [cache.keys[name] for name in column.stages],
        "weights": [_digest(module) for module in column.modules],
        "values": cache.data if is_same else tables[i].fingerprint(),
    }


def _digest(module: nn.Module) -> str:
    structure = hashlib.sha256(repr(module).encode()).hexdigest()
    return structure + weights_hash(module.state_dict())


@torch.no_grad()
def _blocks(column: CachedColumn, table: Table, only: str | None) -> Iterator[Tensor]:
    for module in column.modules:
        module.eval()
    for batch in table.batches(ENCODED_ROWS):
        seen = batch if only is None else Observed.from_columns(batch).x[only]
        yield column.compute(seen).float()


def _is_of_values(mask: AnyColumn) -> bool:
    """Whether a mask is of the values of rows, not of rows."""
    return (mask.values if isinstance(mask, TensorColumn) else mask.stored).ndim > 1


def _mask_rows(
    columns: dict[str, AnyColumn], name: str, stored: AnyColumn, device: torch.device
) -> None:
    """Make a mask of values one of rows: what is computed of a row's values has no gaps."""
    mask = columns.get(PRESENT + name)
    if mask is None or not _is_of_values(mask):
        return
    del columns[PRESENT + name]
    if stored.index is not None and bool((stored.index < 0).any()):
        there = torch.ones(stored.length, dtype=torch.bool, device=device)
        columns[PRESENT + name] = TensorColumn(there, stored.index)
