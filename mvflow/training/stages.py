"""Training stages from the stage specifications of systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from mvflow.core import DataError, Observed
from mvflow.nn import GapsEncoder, ModalityDict
from mvflow.stages import Losses, StageSpec
from mvflow.systems import Decoders, measure_inputs, present_values
from mvflow.training.caching import ColumnCache, with_cached_columns
from mvflow.training.stage import Stage
from mvflow.training.table import Table

__all__ = ["build_stage", "check_rows"]


def check_rows(spec: StageSpec, rows: Table, validation: Table | None = None) -> None:
    """Refuse rows that a stage cannot be trained on.

    Raises:
        DataError: if there are too few, or they lack what the stage learns from.
        StageError: if a step would not fit into memory.
    """
    for what, table in (("training", rows), ("validation", validation)):
        if table is not None and len(table) < spec.min_rows:
            msg = (
                f"{len(table)} {what} rows are too few for stage {spec.name!r}: at least "
                f"{spec.min_rows} are needed"
            )
            raise DataError(msg)
    if spec.check is not None:
        spec.check(rows)


def build_stage(
    spec: StageSpec,
    system: nn.Module,
    rows: Table,
    validation: Table | None = None,
    cache: ColumnCache | None = None,
) -> Stage:
    """The stage on given rows, ready for `run_stage`: frozen outputs computed, data seen once.

    Args:
        spec: of the stage.
        system: what its module is a part of; the other parts are frozen.
        rows: training rows.
        validation: held-out rows.
        cache: where to keep frozen outputs that are too large for memory.

    Raises:
        DataError: if there are too few rows, or the cache cannot be written.
    """
    check_rows(spec, rows, validation)
    tables = [rows] if validation is None else [rows, validation]
    seen: Sequence[Table] = with_cached_columns(spec.columns, tables, cache)
    for part in spec.module.modules():
        if isinstance(part, Decoders):
            part.measure(seen[0])
        elif isinstance(part, ModalityDict):
            measure_inputs(part, seen[0])
        if isinstance(part, GapsEncoder):
            part.measure(partial(present_values, seen[0], part.modality))
    if spec.start is not None:
        spec.start(seen[0])
    loss_of = spec.loss
    assert loss_of is not None
    assert spec.settings is not None

    def loss(batch: Mapping[str, Tensor], progress: float) -> Losses:
        return loss_of(Observed.from_columns(batch), progress)

    validation = seen[1] if validation is not None else None
    stage = Stage(spec.name, spec.module, loss, spec.settings, seen[0], validation)
    return replace(stage, model=system, resident_tables=tuple(tables))
