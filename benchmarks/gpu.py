"""What there is to measure on a GPU, the most important first, in the minutes that there are.

    python -m benchmarks.gpu --minutes 15 --out DIR --store mnist-svhn.h5
    python -m benchmarks.gpu --minutes 5 --out DIR --device cpu --quick

tests: those marked `gpu`: steps recorded as CUDA graphs and eager ones agree, resuming is exact.
train-RECIPE-WAY: samples per second of each stage, eager and recorded (`benchmarks.train r`).
draws: 1,000 draws of a product by 100 steps of 10 leapfrogs (`benchmarks.sample`).
table1: the JNF rows of the paper's Table 1 by `mvflow sweep`, if there is a --store; what is not
    done in time goes on when the same command is run again.

Each part is a process, which is ended when the time is up. DIR has what it wrote, its output in
NAME.log, and summary.json: for each part its state, seconds and command, new after each part.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Rows, about, device_name, markdown
from mvflow.runs import write_json

RECIPES = ("mnist-svhn", "polymnist", "mhd", "translated-polymnist", "pendigits-speech", "toy")
WAYS = {"eager": "no", "recorded": "graph"}
GRACE = 20.0
"""Seconds that a process has to write a checkpoint before it is killed."""
GPU_TESTS = ("tests/training/test_captured.py",)
TABLE1 = (
    *("--recipe", "mnist-svhn", "--seeds", "0,1,2,3", "--set", "joint.beta=0.5,1,2.5"),
    *("--variant", "system=jnf"),
    *("--variant", "system=jnf-shared,projector.kind=contrastive"),
    *("--variant", "system=jnf-shared,projector.kind=dcca"),
)

Command = Sequence[str | Path]


def main() -> None:
    arguments = _arguments()
    end = time.monotonic() + 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"about": about(device=device_name(arguments.device)), "parts": []}
    for name, command in parts(arguments):
        found["parts"].append(measured(name, command, arguments.out, end))
        write_json(arguments.out / "summary.json", found)
        print({k: v for k, v in found["parts"][-1].items() if k != "command"}, flush=True)
    rows: Rows = [{k: part[k] for k in ("part", "state", "seconds")} for part in found["parts"]]
    print(markdown(rows))
    if any(part["state"] == "failed" for part in found["parts"]):
        raise SystemExit("a part has failed: see its .log")


def parts(arguments: argparse.Namespace) -> Iterator[tuple[str, Command]]:
    """Name and command of each part, the most important first."""
    out, device = arguments.out, ("--device", arguments.device)
    quick = ("--quick",) if arguments.quick else ()
    yield "tests", ("-m", "pytest", "-q", "-rs", "-m", "gpu", *GPU_TESTS)
    for recipe in RECIPES[-1:] if arguments.quick else RECIPES:
        for way, compile in WAYS.items():
            name = f"train-{recipe}-{way}"
            chosen = ("--recipes", recipe, "--precisions", "float32", "bfloat16", "--turns", "3")
            words = ("r", *chosen, "--compile", compile, *device, *quick)
            yield name, ("-m", "benchmarks.train", *words, "--out", out / f"{name}.json")
    part = "a" if arguments.device == "cpu" else "e"
    words = (part, *device, *quick, "--out", out / "draws.json")
    yield "draws", ("-m", "benchmarks.sample", *words)
    if arguments.store is not None:
        jobs = ("--jobs", str(arguments.jobs), "--evaluate")
        sweep = ("sweep", arguments.store, *TABLE1, "--out", out / "table1", *device, *jobs)
        yield "table1", ("-m", "mvflow_cli.main", *sweep)


def measured(name: str, command: Command, out: Path, end: float) -> dict[str, Any]:
    """Run one part, until it is done or the time is up."""
    words, began = [sys.executable, *map(str, command)], time.monotonic()
    state = "left out: the time is up"
    if end - began > 2 * GRACE:
        state = _run(words, out / f"{name}.log", end - began - GRACE)
    seconds = round(time.monotonic() - began, 1)
    return {"part": name, "state": state, "seconds": seconds, "command": shlex.join(words[1:])}


def _run(words: Sequence[str], log: Path, seconds: float) -> str:
    with log.open("w") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return "failed" if process.wait(seconds) else "done"
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return "ended: the time was up"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, required=True, help="in all")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--store", type=Path, help="of MNIST-SVHN, for table1")
    parser.add_argument("--jobs", type=int, default=4, help="runs of table1 at once")
    parser.add_argument("--quick", action="store_true", help="a smoke test: no figure counts")
    arguments = parser.parse_args()
    try:
        device_name(arguments.device)
    except (RuntimeError, AssertionError):
        parser.error(f"--device {arguments.device}: torch sees no such device here")
    return arguments


if __name__ == "__main__":
    main()
