"""What there is to measure on a GPU, the most important first, in the minutes that there are.

    python -m benchmarks.gpu --minutes 15 --out DIR --store mnist-svhn.h5
    python -m benchmarks.gpu --minutes 5 --out DIR --parts tests draws
    python -m benchmarks.gpu --minutes 5 --out DIR --device cpu --quick

tests: those marked `gpu`: steps recorded as CUDA graphs and eager ones agree, resuming is exact.
draws: 1,000 draws of a product by 100 steps of 10 leapfrogs (`benchmarks.sample`).
race: seconds to the held-out ELBO at which MultiVae's trainer ends (`benchmarks.race`), for each
    --store of mnist-svhn, where MultiVae is installed.
tables: Table 1 or Table 2 of all systems by `mvflow reproduce`, for each --store; what is not
    done in time goes on when the same command is run again.
train-RECIPE-WAY: samples per second of each stage, eager, recorded as CUDA graph and with losses
    compiled by torch (`benchmarks.train r`).

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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.common import Rows, about, device_name, markdown
from mvflow.runs import write_json
from mvflow_datasets import Store

RECIPES = ("mnist-svhn", "polymnist", "mhd", "translated-polymnist", "pendigits-speech", "toy")
WAYS = {"eager": "no", "recorded": "graph", "compiled": "torch"}
GRACE = 20.0
"""Seconds that a process has to write a checkpoint before it is killed."""
GPU_TESTS = (
    "tests/training/test_captured.py",
    "tests/stacking/test_stack.py",
    "tests/nn/test_cuda_graphs.py",
    "tests/inference/test_chains.py",
)
TABLES = {"mnist-svhn": "table1", "mhd": "table2", "pendigits-speech": "table2"}
"""Data set -> the paper's table of it."""

Command = Sequence[str | Path]


def main() -> None:
    arguments = _arguments()
    end = time.monotonic() + 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"about": about(device=device_name(arguments.device)), "parts": []}
    for name, command in parts(arguments):
        if not name.startswith(tuple(arguments.parts)):
            continue
        summary["parts"].append(measured(name, command, arguments.out, end))
        write_json(arguments.out / "summary.json", summary)
        print({k: v for k, v in summary["parts"][-1].items() if k != "command"}, flush=True)
    rows: Rows = [{k: part[k] for k in ("part", "state", "seconds")} for part in summary["parts"]]
    print(markdown(rows))
    if any(part["state"] == "failed" for part in summary["parts"]):
        raise SystemExit("a part has failed: see its .log")


def parts(arguments: argparse.Namespace) -> Iterator[tuple[str, Command]]:
    """Name and command of each part, the most important first."""
    out, device = arguments.out, ("--device", arguments.device)
    quick = ("--quick",) if arguments.quick else ()
    yield "tests", ("-m", "pytest", "-q", "-rs", "-m", "gpu", "-p", "no:cacheprovider", *GPU_TESTS)
    part = "a" if arguments.device == "cpu" else "e"
    words: Command = (part, *device, *quick, "--out", out / "draws.json")
    yield "draws", ("-m", "benchmarks.sample", *words)
    data = {}
    for store in arguments.store:
        with Store.open(store) as opened:
            data[store] = opened.name
    for store in [s for s, d in data.items() if d == "mnist-svhn" and find_spec("multivae")]:
        words = ("--store", store, *device, *quick, "--out", out / "race.json")
        yield "race", ("-m", "benchmarks.race", *words)
    for store, name in ((s, TABLES[d]) for s, d in data.items()):
        jobs = ("--jobs", str(arguments.jobs), "--out", out / name)
        words = ("reproduce", name, "--store", store, *jobs, *device, *arguments.reproduce.split())
        yield f"tables-{name}", ("-m", "mvflow_cli.main", *words)
    for recipe in RECIPES[-1:] if arguments.quick else RECIPES:
        for way, compile in WAYS.items():
            name = f"train-{recipe}-{way}"
            chosen = ("--recipes", recipe, "--precisions", "float32", "bfloat16", "--turns", "3")
            words = ("r", *chosen, "--compile", compile, *device, *quick)
            yield name, ("-m", "benchmarks.train", *words, "--out", out / f"{name}.json")


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
    parser.add_argument("--parts", nargs="+", default=[""], help="only these; names may be cut")
    parser.add_argument("--store", type=Path, nargs="+", default=[], help="for tables")
    parser.add_argument("--jobs", type=int, default=4, help="runs of a table at once")
    parser.add_argument("--reproduce", default="", help="further words of 'mvflow reproduce'")
    parser.add_argument("--quick", action="store_true", help="a smoke test: no figure counts")
    arguments = parser.parse_args()
    try:
        device_name(arguments.device)
    except (RuntimeError, AssertionError):
        parser.error(f"--device {arguments.device}: torch sees no such device here")
    return arguments


if __name__ == "__main__":
    main()
