"""Runs of a sweep trained stage by stage, those that are alike as one stack."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from mvflow.core import MvflowError, Source, fingerprint
from mvflow.estimators import load
from mvflow.estimators.fitting import close_stage, held_out, open_stage
from mvflow.runs import Inputs, Plan, RunDirectory
from mvflow.stacking.stack import Variant, run_stack
from mvflow.systems import build_system, stages_of
from mvflow.training import Compile, EpochRecord, Table, check_compile, free_memory

__all__ = ["train_stacked"]

_log = logging.getLogger(__name__)


def train_stacked(
    runs: Iterable[str | Path], source: Source, *, device: str = "cpu", compile: str = "auto"
) -> dict[Path, MvflowError]:
    """Train all stages of all runs that are not done; runs that are alike share one program.

    Alike are runs that differ in their seeds, or in how earlier stages were optimised. A stage
    that cannot be stacked is trained in turn, by the estimator, which is logged. Equal stages
    are trained once. What `run_stack` says of noise holds, so weights are others than those of
    an ordinary training with the same seed. Finished stages are kept in the run directories; a
    stack that is interrupted begins its stage again.

    Args:
        runs: run directories.
        source: training rows of all.
        device: of all.
        compile: as in `Estimator.fit`.

    Returns:
        Directory of each run that failed, and why; if another process trains it, a
        `LockedError`.
    """
    compile_mode, inputs = check_compile(compile), Inputs(fingerprint(source))
    each = [_Run(RunDirectory.open(path), inputs) for path in runs]
    failed: dict[str, MvflowError] = {}  # key of a stage -> why
    while True:
        waiting: dict[str, dict[str, _Run]] = {}  # kind of a stage -> its key -> one that has it
        for one in each:
            try:
                one.adopt_from(each)
            except MvflowError as error:
                one.error = error
            name, key = next(iter(one.missing().items()), ("", ""))
            one.error = one.error or failed.get(key)
            if name and not one.error:
                waiting.setdefault(one.kind(name), {}).setdefault(key, one)
        if not waiting:
            return {one.run.path: one.error for one in each if one.error}
        # Those with the least done come first, so that later stages find the most alike.
        group = min(waiting.values(), key=lambda g: min(one.done() for one in g.values()))
        _train(list(group.values()), source, device, compile_mode)
        failed |= {key: one.error for key, one in group.items() if one.error}


class _Run:
    """A run directory, what its stages are, and why it failed."""

    def __init__(self, run: RunDirectory, inputs: Inputs) -> None:
        self.run, self.inputs, self.config = run, inputs, run.config()
        self.system = build_system(self.config)
        self.plan = Plan(self.config, stages_of(self.system))
        self.keys = self.plan.keys(inputs)
        self.error: MvflowError | None = None

    def missing(self) -> dict[str, str]:
        """Keys of the stages that are not done, in order."""
        statuses = {n: self.run.status(n, self.plan, self.inputs) for n in self.plan.names}
        return {name: self.keys[name] for name, status in statuses.items() if status != "done"}

    def done(self) -> int:
        """Number of stages that are done."""
        return len(self.plan.names) - len(self.missing())

    def adopt_from(self, others: Sequence[_Run]) -> None:
        """Copy finished stages from runs in which they are the same."""
        if not (missing := self.missing()):
            return
        with self.run.lock():
            for other in others:
                if other is not self and not missing.items().isdisjoint(other.keys.items()):
                    self.run.adopt(other.run, self.plan, self.inputs)
                    missing = self.missing()

    def append(self, record: EpochRecord) -> None:
        """Keep a line of the history."""
        self.run.append_history(record._asdict())

    @cached_property
    def _shapes(self) -> list[tuple[str, list[int]]]:
        return [(name, list(t.shape)) for name, t in self.system.state_dict().items()]

    def kind(self, name: str) -> str:
        """What is the same for all runs of which this stage can be stacked."""
        spec, before = self.plan.spec(name), self.plan.names[: self.plan.names.index(name)]
        is_begun = self.run.newest_checkpoint(name, self.keys[name]) is not None
        parts = {
            "alone": str(self.run.path) if spec.loss is None or is_begun else "",
            "stage": [self.config.system, name, type(spec.module).__qualname__, spec.version],
            "settings": None if spec.settings is None else spec.settings.model_dump(mode="json"),
            "reads": [self.plan.spec(n).reads for n in (*before, name)],
            "data": self.config.data.validation,
            "shapes": self._shapes,
        }
        return json.dumps(parts, sort_keys=True)


def _train(group: Sequence[_Run], source: Source, device: str, compile: Compile) -> None:
    """Train the next stage of these runs: as a stack if they are several and fit, else in turn."""
    name = next(iter(group[0].missing()))
    if len(group) > 1:
        try:
            _stack(group, name, source, device, compile)
            return
        except Exception as error:  # whatever it is, each alone will do or raise the same
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            _log.info("%s: %d runs are trained in turn: %s", name, len(group), reason)
    for one in (one for one in group if name in one.missing()):
        try:
            load(one.run.path).fit(
                source, stages=[name], run=one.run, device=device, compile=compile
            )
        except MvflowError as error:
            one.error = error


def _stack(
    group: Sequence[_Run], name: str, source: Source, device: str, compile: Compile
) -> None:
    began, budget = time.perf_counter(), free_memory(device)
    table = Table.of(source, device, budget)
    with ExitStack() as locks:
        opened = []
        for one in group:
            locks.enter_context(one.run.lock())
            model = load(one.run.path, device)
            spec = model.plan_.spec(name)
            rows, validation = held_out(one.plan, table, None)
            stage = open_stage(
                *(spec, model.system_, rows, validation),
                inputs=one.inputs,
                trained=model.records_,
                run=one.run,
                budget=budget // len(group),
            )
            one.run.rewind_history(name, 0)
            variant = Variant(stage, one.config.seed, one.append)
            opened.append((one, model.records_, spec, rows, variant))
        _log.info("%s: %d runs as one program", name, len(group))
        run_stack([variant for *_, variant in opened], compile=compile)
        seconds = time.perf_counter() - began
        for one, records, spec, rows, variant in opened:
            if variant.error is not None:
                one.error = variant.error
                continue
            close_stage(
                *(spec, one.plan, rows),
                inputs=one.inputs,
                trained=records,
                run=one.run,
                seconds=seconds,
                epochs=variant.epochs,
            )
