"""Kills training at random moments and shows that nothing is lost; prints Markdown.

    python -m benchmarks.kill --kills 50
    python -m benchmarks.kill --quick

A tiny JNF-Shared run is trained on a toy store with all its stages, flows and then amortised,
in processes that are ended by SIGKILL at random moments and started again until the run is done;
then the next run begins, until there were as many kills as asked for. Every run must end with the
weights of one that was never killed, to the bit, with the same losses in its history and without
a file that does not belong there. Each file is written slowly, in two halves, and checkpoints are
made all the time, so that about half of the kills hit a write.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Rows, about, add_options, markdown, parsed, save, script_parser
from mvflow.config import config_from_dict
from mvflow.estimators import fitting
from mvflow.runs import RunDirectory, directory
from mvflow.training import loop, run_stage
from mvflow_cli.main import run as command
from mvflow_datasets import find_builder

STAGES = ("projectors", "joint", "flows", "amortised")
SETTINGS = (
    "joint.epochs=4",
    "joint.steps_per_epoch=10",
    "joint.patience=4",
    "projectors.epochs=4",
    "projectors.steps_per_epoch=10",
    "flows.epochs=4",
    "flows.steps_per_epoch=10",
    "flows.patience=2",
)
SUBSETS: tuple[dict[str, Any], ...] = (
    {"kind": "product"},
    {"kind": "amortised", "epochs": 4, "steps_per_epoch": 10, "schedule": "one-cycle"},
)
PER_RUN = 12
"""About how often a run is killed; the mean time up to a kill follows from it."""

Phase = Any  # shared bytes: what the process does, readable after its death
CONTEXT = multiprocessing.get_context("fork")


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        kills, runs, seconds = measured(
            Path(scratch), kills=arguments.kills, seed=arguments.seed, delay=arguments.delay
        )
    summary = {
        "kills": len(kills),
        "runs": runs,
        "equal to the bit": runs,
        "seconds of a run that is not killed": round(seconds, 1),
    }
    text = f"{markdown(_table(kills))}\n\n{markdown([summary])}"
    print(text)
    found = {"about": about("safetensors"), "summary": summary, "kills": kills}
    save(arguments.out, found, text)


def measured(scratch: Path, *, kills: int, seed: int, delay: float) -> tuple[Rows, int, float]:
    """Kills, number of runs they fell on, and seconds of a run that is not killed.

    Raises SystemExit if a run that was killed ends with anything else.
    """
    torch.optim.Adam([torch.zeros(1)])  # its first use imports much, here once for all processes
    store = find_builder("toy").build(scratch / "toy.h5", rows=600, test_rows=20)
    whole = _new(scratch / "whole", store)
    begun = time.monotonic()
    _trained(whole, delay, lambda process, *_: process.join())
    seconds = time.monotonic() - begun
    killer, runs = _Killer(random.Random(seed), kills, 2 * seconds / PER_RUN), 0
    while killer.left:
        run = _new(scratch / f"killed-{runs}", store)
        _trained(run, delay, killer)
        _compare(whole, run)
        runs += 1
    return killer.kills, runs, seconds


def _new(path: Path, store: Path) -> RunDirectory:
    words = ["new", path, "--recipe", "toy", "--system", "jnf-shared", "--store", store]
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    if _quietly([*map(str, words), *settings]) != 0:
        raise SystemExit("the run could not be made")
    return RunDirectory.open(path)


def _trained(run: RunDirectory, delay: float, meet: Callable[..., None]) -> None:
    """Train all stages; `meet` gets each process and may kill it."""
    for subset in SUBSETS:
        run.write_config(config_from_dict({**run.config().model_dump(), "subset": subset}))
        code = None
        while code != 0:
            phase = CONTEXT.RawArray("c", 120)
            process = CONTEXT.Process(target=_train, args=(run.path, phase, delay))
            process.start()
            meet(process, run, phase)
            process.join()
            code = process.exitcode
            if code == -signal.SIGKILL and isinstance(meet, _Killer):
                meet.record(run, phase)
            elif code != 0:
                raise SystemExit(f"training failed with exit code {code}")


class _Killer:
    """Kills each process after a random time, each stage equally often."""

    def __init__(self, rng: random.Random, kills: int, longest: float) -> None:
        self.rng, self.left, self.longest = rng, kills, longest
        self.share = math.ceil(kills / len(STAGES))
        self.kills: Rows = []

    def __call__(self, process: Any, run: RunDirectory, phase: Phase) -> None:
        while not phase.value and process.is_alive():  # moments count from its first action
            time.sleep(0.002)
        self.after = 0.0
        while self.left and process.is_alive():
            wait = self.rng.uniform(0, self.longest)
            process.join(wait)
            self.after += wait
            if sum(kill["stage"] == _stage(run) for kill in self.kills) < self.share:
                process.kill()
                return
        process.join()

    def record(self, run: RunDirectory, phase: Phase) -> None:
        self.left -= 1
        stage = _stage(run)
        epochs = sum(record["stage"] == stage for record in run.history())
        self.kills.append(
            {
                "stage": stage,
                "epochs done": epochs,
                "seconds": round(self.after, 3),
                "during": phase.value.decode(),
            }
        )


def _stage(run: RunDirectory) -> str:
    """The first stage without weights."""
    return next((s for s in STAGES if not run.weights(s).is_file()), "all done")


def _table(kills: Rows) -> Rows:
    """Kills by stage and by what the process was doing."""
    counts = Counter((kill["during"].split(" ")[0], kill["stage"]) for kill in kills)
    return [
        {"during": during}
        | {stage: counts[during, stage] for stage in (*STAGES, "all done")}
        | {"together": sum(n for (d, _), n in counts.items() if d == during)}
        for during in sorted({during for during, _ in counts})
    ]


def _compare(whole: RunDirectory, run: RunDirectory) -> None:
    for stage in STAGES:
        if _content(whole.weights(stage)) != _content(run.weights(stage)):
            raise SystemExit(f"the weights of {stage} differ")
    ours, theirs = ([_measured(r) for r in each.history()] for each in (whole, run))
    if ours != theirs:
        raise SystemExit("the histories differ")
    expected, left = (sorted(p.name for p in each.path.rglob("*")) for each in (whole, run))
    if expected != left:
        raise SystemExit(f"files differ: {expected} and {left}")


def _content(path: Path) -> tuple[Any, bytes]:
    """Names, types and shapes of a safetensors file, and its values as bytes."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    return {k: v for k, v in header.items() if k != "__metadata__"}, data[end:]


def _measured(record: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k not in ("seconds", "samples_per_second")}


# In the process that is killed


def _train(path: Path, phase: Phase, delay: float) -> None:
    fitting.CHECKPOINT_SECONDS, fitting.CHECKPOINT_SHARE, loop.REPORT_INTERVAL = (
        3 * delay,
        1.0,
        0.0,
    )
    phase.value = b"opening"
    _slow(phase, delay)
    sys.exit(_quietly(["train", str(path)]))


def _quietly(words: list[str]) -> int:
    """A command without its output; what it says of an error is shown."""
    shown = os.dup(1)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        try:
            return command(words)
        finally:
            sys.stdout.flush()
            os.dup2(shown, 1)
            os.close(shown)


def _slow(phase: Phase, delay: float) -> None:
    """Make each write last, and note in `phase` what is being done."""

    def patient(
        name: str, call: Callable[..., Any], what: Callable[..., Path]
    ) -> Callable[..., Any]:
        def patiently(*args: Any, **options: Any) -> Any:
            before, phase.value = phase.value, f"{name} {_plain(what(*args))}".encode()
            time.sleep(delay)
            done = call(*args, **options)
            time.sleep(delay)
            phase.value = before
            return done

        return patiently

    os.fsync = patient(
        "syncing", os.fsync, lambda handle: Path(f"/proc/self/fd/{handle}").readlink()
    )
    os.replace = patient("renaming", os.replace, lambda old, new: Path(new))
    os.unlink = patient("removing", os.unlink, lambda path: Path(path))

    def halves(path: Path, data: bytes, mode: str) -> int:
        middle = len(data) // 2
        with path.open(mode, buffering=0) as file:
            file.write(data[:middle])
            time.sleep(delay)
            return middle + file.write(data[middle:])

    def write_bytes(path: Path, data: bytes) -> int:
        return halves(path, data, "wb")

    def write_text(path: Path, text: str, *_: Any) -> int:
        return halves(path, text.encode(), "wb")

    def append_line(path: Path, line: str) -> None:
        halves(path, f"{line}\n".encode(), "ab")

    def begun(*args: Any, **options: Any) -> None:
        phase.value = b"training"
        run_stage(*args, **options)
        phase.value = b"finishing"

    def first(path: Path, *_: Any) -> Path:
        return path

    for owner, name, slow in (
        (fitting, "run_stage", begun),
        (Path, "write_bytes", patient("writing", write_bytes, first)),
        (Path, "write_text", patient("writing", write_text, first)),
        (directory, "append_line", patient("appending", append_line, first)),
    ):
        setattr(owner, name, slow)


def _plain(path: Path) -> str:
    """The name of a file without what makes a temporary one unique."""
    return path.name.lstrip(".").rpartition(".")[0] if path.name.startswith(".") else path.name


def _arguments() -> argparse.Namespace:
    parser = script_parser("kill", __doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds, twice in each write")
    add_options(parser, threads=False, device=False)
    return parsed(parser, "kill", {"kills": 3, "delay": 0.004})


if __name__ == "__main__":
    main()
