"""What frozen parts of a model make of all rows: computed once, in memory or in the run."""

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

from mvflow.config import Config, stage_key
from mvflow.models import JNFModel
from mvflow.runs import RunDirectory
from mvflow.training.table import AnyColumn, MappedColumn, Table, TensorColumn

__all__ = ["LATENTS", "Cache", "conditioned", "latents"]

_log = logging.getLogger(__name__)

CHUNK = 2048
"""Rows encoded at once."""

LATENTS = "q(z|X) "
"""Column with the mean and standard deviation of q(z|X), (2, latent_dim) in each row.

Its name ends in a space, which no modality's name may hold.
"""


@dataclass(frozen=True)
class Cache:
    """Where to keep what is too large for memory.

    Args:
        run: its directory.
        config: with which the frozen parts were trained.
        data: fingerprint of the source that the training rows are of.
        budget: bytes that may be held in memory.
    """

    run: RunDirectory
    config: Config
    data: str
    budget: int


def conditioned(
    model: JNFModel, tables: Sequence[Table], cache: Cache | None = None
) -> list[Table]:
    """Rows with the frozen q(z|X) of each, and the conditions: x_j, or g_j(x_j) computed once.

    All is held in memory if it fits the cache's budget or there is no cache. Otherwise it is in
    files of the run, and streamed. Values are float32 and the same to the bit either way. A file
    is found by the hash of all that its values depend on: the keys of the stages (so data,
    settings, seed), the networks and weights themselves, which rows, the kind of device, and the
    versions of torch and mvflow. So a stale one is not found; one that fits serves every later
    stage.

    Args:
        model: its joint encoder and projectors are evaluated.
        tables: training rows; then, if there are any, those held out.
        cache: where to keep what is large.

    Raises:
        DataError: if a file cannot be written.
    """
    parts = [_latents(model, tables, i, cache) for i in range(len(tables))]
    projected: dict[int, _Part] = {}
    for i, table in enumerate(tables):
        for name in () if model.projectors is None else model.projectors:
            part = _projections(model, tables, i, name, cache)
            projected.setdefault(id(table.columns[name]), part)  # rows held out may share values
    made = _made([*parts, *projected.values()], cache)
    columns = dict(zip(projected, made[len(parts) :], strict=True))
    out = []
    for table, joint in zip(tables, made, strict=False):
        seen = {
            name: replace(columns[id(c)], index=c.index) if id(c) in columns else c
            for name, c in table.columns.items()
        }
        out.append(table.with_columns(seen).joined({LATENTS: joint}))
    return out


def latents(model: JNFModel, rows: Table, cache: Cache | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z|X) of training rows, (rows, latent_dim) each.

    What is too large for memory is written to the cache as in `conditioned`, which then finds it;
    the tensors are memory maps.
    """
    (column,) = _made([_latents(model, [rows], 0, cache)], cache)
    values = column.values if isinstance(column, TensorColumn) else torch.from_numpy(column.stored)
    return values[:, 0], values[:, 1]


@dataclass(frozen=True)
class _Part:
    """One array that is computed from frozen parts."""

    name: str
    depends_on: Callable[[], Mapping[str, Any]]
    rows: int
    width: int
    device: torch.device
    blocks: Callable[[], Iterator[Tensor]]

    @property
    def nbytes(self) -> int:
        return 4 * self.rows * self.width

    @property
    def key(self) -> str:
        products = torch.get_float32_matmul_precision()
        machine = [self.device.type, products, torch.__version__, version("mvflow"), CHUNK]
        text = json.dumps([self.depends_on(), machine], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _made(parts: Sequence[_Part], cache: Cache | None) -> list[AnyColumn]:
    """Columns of all parts, in memory or all in files."""
    size = sum(part.nbytes for part in parts)
    if cache is None or size <= cache.budget:
        return [_held(part) for part in parts]
    about = "what frozen parts give takes %.1f MiB, too much for memory: it is read from %s"
    _log.info(about, size / 2**20, cache.run.arrays)
    return [_filed(part, cache.run) for part in parts]


def _held(part: _Part) -> AnyColumn:
    """In memory, of which all blocks and what they are joined to would take twice as much."""
    blocks = part.blocks()
    first = next(blocks)
    values, at = first.new_empty(part.rows, *first.shape[1:]), 0
    for block in itertools.chain([first], blocks):
        values[at : at + len(block)] = block
        at += len(block)
    return TensorColumn(values, None)


def _filed(part: _Part, run: RunDirectory) -> AnyColumn:
    def blocks() -> Iterator[Any]:
        return (block.cpu().numpy() for block in part.blocks())

    return MappedColumn(run.array(part.name, part.key, part.rows, blocks), None, part.device)


def _latents(model: JNFModel, tables: Sequence[Table], i: int, cache: Cache | None) -> _Part:
    table, joint = tables[i], model.joint

    def depends_on() -> Mapping[str, Any]:
        assert cache is not None
        return {
            "stage": stage_key(cache.config, "joint", cache.data),
            "weights": [_digest(joint.heads), _digest(joint.merge)],
            "values": _values(tables, i, cache),
            "rows": table.selection(),
        }

    width = 2 * model.latent_dim
    blocks = partial(_posterior, model, table)
    return _Part(f"latents{_ENDS[i]}", depends_on, len(table), width, table.device, blocks)


def _projections(
    model: JNFModel, tables: Sequence[Table], i: int, name: str, cache: Cache | None
) -> _Part:
    assert model.projectors is not None
    table, projector = tables[i], model.projectors[name]
    column = table.columns[name]

    def depends_on() -> Mapping[str, Any]:
        assert cache is not None
        return {
            "stage": stage_key(cache.config, "projectors", cache.data),
            "weights": _digest(projector),
            "values": _values(tables, i, cache),
            "modality": name,
        }

    at = [m.name for m in model.modalities].index(name)
    width = 0 if cache is None else cache.config.projectors.dim
    blocks = partial(_mapped, projector, column)
    where = f"projections{at}{_ENDS[i]}"
    return _Part(where, depends_on, column.length, width, table.device, blocks)


_ENDS = ("", ".held")
"""Ends of the names of files for the training rows and for those held out."""


def _values(tables: Sequence[Table], i: int, cache: Cache) -> str:
    """Hash of the stored values of a table; those of the training rows are the source's."""
    first, columns = tables[0].columns, tables[i].columns
    is_same = all(columns[name] is column for name, column in first.items())
    return cache.data if is_same else tables[i].fingerprint()


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256(repr(module).encode())
    for name, value in sorted(module.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def _mapped(module: nn.Module, column: AnyColumn) -> Iterator[Tensor]:
    """What a frozen network makes of each stored value, whatever rows share it."""
    module.eval()
    whole = Table({"x": replace(column, index=None)}, column.length)
    for batch in whole.batches(CHUNK):
        yield module(batch["x"]).float()


@torch.no_grad()
def _posterior(model: JNFModel, rows: Table) -> Iterator[Tensor]:
    """Mean and standard deviation of q(z|X) of every row, (rows, 2, latent_dim), in float32."""
    model.joint.eval()
    for batch in rows.batches(CHUNK):
        q = model.joint.posterior(batch).base_dist
        yield torch.stack([q.loc, q.scale], 1).float()
