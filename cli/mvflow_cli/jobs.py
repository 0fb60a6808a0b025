"""Runs trained side by side, each by `mvflow train` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from mvflow_cli.output import say
from mvflow_cli.progress import LINE_INTERVAL
from mvflow_cli.subprocesses import LOCKED, MVFLOW

__all__ = ["Job", "run_jobs"]

POLL_INTERVAL = 0.2
"""Seconds between two looks at the processes."""

START_INTERVAL = 2.0
"""Seconds between two tries to start runs, where no process of this command has ended."""

AWAITED = "waiting for another process, which is at work there"
"""State of a run that another command trains or evaluates."""


class Job:
    """Training of one run by `mvflow train`, then if asked for `mvflow evaluate`.

    Attributes:
        state: "waiting", "checking", "training", "trained", "evaluating", "evaluated",
            "done before", "failed" or `AWAITED`.
        error: why it failed.
        stages: what `mvflow train --json` reports of each stage.
        evaluation: what `mvflow evaluate --json` reports.
        stacked: stages that were trained before by this process.
    """

    def __init__(self, name: str, path: Path, evaluate: bool) -> None:
        from mvflow.runs import Inputs, Plan, RunDirectory
        from mvflow.systems import build_system, stages_of
        from mvflow_cli.opening import store_path

        self.name, self.path, self.run = name, path, RunDirectory.open(path)
        self.config = self.run.config()
        self.store = store_path(self.run, self.config)
        self.inputs = Inputs(_fingerprint(self.store, self.config.data.train))
        self.plan = Plan(self.config, stages_of(build_system(self.config)))
        self.keys = self.plan.keys(self.inputs)
        self.todo = ["train", "evaluate"] if evaluate else ["train"]
        self.state = "waiting"
        self.error: str | None = None
        self.stages: dict[str, dict[str, Any]] = {}
        self.evaluation: dict[str, Any] | None = None
        self.stacked: set[str] = set()
        self._adopted: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def missing(self) -> dict[str, str]:
        """Keys of the stages that are not done."""
        return {
            stage: key
            for stage, key in self.keys.items()
            if self.run.status(stage, self.plan, self.inputs) != "done"
        }

    def missing_if_intact(self) -> dict[str, str]:
        """`missing`, but nothing where the run is damaged, which is said when its turn comes."""
        from mvflow.core import DataError

        try:
            return self.missing()
        except DataError:
            return {}

    def adopt(self, others: Sequence[Job]) -> None:
        """Copy finished stages from other runs in which they are the same and intact."""
        from mvflow.core import DataError

        missing = self.missing()
        for other in others:
            if other is not self and not missing.items().isdisjoint(other.keys.items()):
                with self.run.lock(), suppress(DataError):
                    self._adopted += self.run.adopt(other.run, self.plan, self.inputs)
                missing = self.missing()

    def how(self, stage: str) -> str:
        """How a stage came about: "trained", "shared" with another run, or "done" before."""
        is_trained = self.stages[stage]["trained"] or stage in self.stacked
        return "trained" if is_trained else "shared" if stage in self._adopted else "done"

    def epoch(self) -> dict[str, Any] | None:
        """The last line of the run's history; None if there is none that can be read."""
        from mvflow.core import DataError

        with suppress(DataError):  # the run's own process says so
            return next(reversed(self.run.history()), None)
        return None

    def is_elsewhere(self) -> bool:
        """Whether another process does what is to do next."""
        from mvflow.runs import is_locked

        return is_locked(self.path if self.todo[0] == "train" else self.path / "metrics")

    def has_judges(self) -> bool:
        """Whether networks that measure are kept: autoencoders, the last to be trained."""
        from mvflow.evaluation import ModalityAutoencoders
        from mvflow_cli.measuring import network_path

        return network_path(self.store, ModalityAutoencoders, self.path).is_file()

    # The process

    def start(self, options: Sequence[str]) -> None:
        """Start the next command."""
        from mvflow.core import trusted

        self._evaluations = self._evaluation_times()
        doing = {"train": "training", "evaluate": "evaluating"}[self.todo[0]]
        is_done = not self.missing_if_intact() if doing == "training" else self._evaluations
        self.state = "checking" if is_done and self.stages_are_old() else doing
        plugins = [word for module in trusted() for word in ("--plugin", module)]
        command = [*plugins, self.todo[0], str(self.path), *options, "--json"]
        self._out: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*MVFLOW, *command],
            stdout=self._out,
            stderr=subprocess.PIPE,  # a pipe, so that it ends with this process, however that ends
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which passes it on
        )
        self._lines: deque[str] = deque(maxlen=50)
        self._reader = threading.Thread(target=self._read, args=[self._process.stderr])
        self._reader.start()

    def _read(self, lines: IO[str]) -> None:
        with lines:
            self._lines.extend(lines)

    def is_running(self) -> bool:
        """Whether the process runs; where it has ended, its result is taken."""
        if self._process is None:
            return False
        code = self._process.poll()
        if code is None:
            return True
        self.wait()
        self._process = None
        with self._out as out:
            out.seek(0)
            text = out.read()
        if code == LOCKED:
            self.state = AWAITED
        elif code:
            said = [line for line in self._lines if line.startswith("mvflow: ")]
            self.fail(said[-1][8:].strip() if said else f"its process ended with code {code}")
        elif self.todo.pop(0) == "train":
            self.stages = json.loads(text)["stages"]
            is_new = any(self.how(stage) != "done" for stage in self.stages)
            self.state = "trained" if is_new else "done before"
        else:
            is_kept = bool(before := self._evaluations) and self._evaluation_times() == before
            self.evaluation = json.loads(text)
            self.state = "done before" if is_kept else "evaluated"
        return False

    def stages_are_old(self) -> bool:
        """Whether no stage, as far as is known, was trained or taken over by this process."""
        return not self._adopted and all(self.how(stage) == "done" for stage in self.stages)

    def _evaluation_times(self) -> dict[Path, int]:
        """When each evaluation of the run was written, in ns."""
        paths = (self.path / "metrics").glob("evaluation*.json")
        return {path: path.stat().st_mtime_ns for path in paths}

    def fail(self, error: str) -> None:
        """Give up this run."""
        self.todo, self.state, self.error = [], "failed", error

    def stop(self) -> None:
        """Ask the process to end; it keeps a checkpoint first."""
        if self._process is not None:
            self._process.terminate()

    def wait(self) -> None:
        """Wait for the end of the process."""
        if self._process is not None:
            self._process.wait()
            self._reader.join()


def run_jobs(
    jobs: Sequence[Job],
    count: int,
    device: str,
    threads: int | None,
    *,
    measure: Sequence[str] = (),
    err: bool = False,
) -> None:
    """Train all runs, `count` at once; a stage that several have in common is trained once.

    What another process is training or evaluating is waited for, while there is other work.

    Args:
        jobs: the runs; their results are kept there.
        count: how many processes may run.
        device: of all.
        threads: of each; by default the CPU's cores are divided among them.
        measure: more options of `mvflow evaluate`.
        err: show progress on stderr.
    """
    if threads is None and count > 1:
        threads = max(1, (os.cpu_count() or 1) // count)
    options = ["--device", device, *([] if threads is None else ["--threads", str(threads)])]
    running: list[Job] = []
    with _progress(jobs, err=err) as show:
        try:
            tried = -START_INTERVAL
            while running or any(job.todo for job in jobs):
                still = [job for job in running if job.is_running()]
                has_ended = len(still) < len(running)
                running = still
                if has_ended or time.monotonic() - tried >= START_INTERVAL:
                    for job in _startable(jobs, running, count):
                        more = ["--keep", *measure] if job.todo[0] == "evaluate" else []
                        job.start([*options, *more])
                        running.append(job)
                    tried = time.monotonic()
                show()
                time.sleep(POLL_INTERVAL)
        except BaseException:
            for job in running:
                job.stop()
            for job in running:
                job.wait()
            raise


def _startable(jobs: Sequence[Job], running: Sequence[Job], count: int) -> Iterator[Job]:
    """Runs to start now; each is in `running` before the next is looked for."""
    if len(running) >= count:
        return
    elsewhere = [j for j in jobs if j.todo and j not in running and j.is_elsewhere()]
    for job in jobs:
        if job.todo and job not in running and len(running) < count:
            if job in elsewhere:
                job.state = AWAITED
                continue
            _prepare(job, jobs)
            if job.todo and _is_free(job, [*running, *elsewhere], jobs):
                yield job


def _prepare(job: Job, jobs: Sequence[Job]) -> None:
    """Take over what other runs have trained; fail if one of them has failed at it."""
    from mvflow.core import LockedError, MvflowError

    if job.todo[0] != "train":
        return
    try:
        job.adopt(jobs)
    except LockedError:
        return  # the process that has just come is met again by the run's own
    except MvflowError as error:
        job.fail(str(error))
        return
    missing = job.missing()
    for other in jobs:
        if other.error and other is not job:
            stage, key = next(iter(other.missing_if_intact().items()), ("", ""))
            if missing.get(stage) == key:
                job.fail(f"shares stage {stage!r} with {other.name}, which has failed")
                return


def _is_free(job: Job, busy: Sequence[Job], jobs: Sequence[Job]) -> bool:
    """Whether no other run, `busy` here or elsewhere, is making what this one could take over."""
    if job.todo[0] == "train":
        making = {key for other in busy for key in other.missing_if_intact().values()}
        return making.isdisjoint(job.missing().values())
    # The first evaluation trains the networks that measure, which all others use too.
    is_first = not any(other.evaluation for other in jobs) and not job.has_judges()
    return not (is_first and any(other.state in ("evaluating", "checking") for other in busy))


@contextmanager
def _progress(jobs: Sequence[Job], *, err: bool) -> Iterator[Any]:
    """A function that shows where all runs are: a table on a terminal, else lines."""
    console = Console(stderr=err)
    if console.is_terminal:
        with Live(_table(jobs), console=console, auto_refresh=False, transient=True) as live:
            yield lambda: live.update(_table(jobs), refresh=True)
        return
    states = {job.name: job.state for job in jobs}
    epochs: dict[str, str] = {}
    told = time.monotonic()

    def show() -> None:
        nonlocal told
        is_due = time.monotonic() - told > LINE_INTERVAL
        for job in jobs:
            if job.state != states[job.name]:
                say(f"{job.name}: {job.state}{f': {job.error}' if job.error else ''}", err=err)
            elif is_due and job.state == "training" and epochs.get(job.name) != _epoch(job):
                epochs[job.name] = _epoch(job)
                say(f"{job.name}: {epochs[job.name]}", err=err)
            states[job.name] = job.state
        told = time.monotonic() if is_due else told

    yield show


def _table(jobs: Sequence[Job]) -> Table:
    table = Table(Column("run", overflow="fold"), "state", "progress")
    for job in jobs:
        is_training = job.state == "training"
        table.add_row(job.name, job.state, _epoch(job) if is_training else job.error or "")
    return table


def _epoch(job: Job) -> str:
    last = job.epoch()
    if last is None:
        return "first epoch"
    return f"{last['stage']} epoch {last['epoch'] + 1}, loss {last['loss']:.4g}"


@cache
def _fingerprint(store: Path, split: str) -> str:
    from mvflow.core import fingerprint
    from mvflow_datasets import Store

    with Store.open(store) as opened:
        return fingerprint(opened[split])
