"""Speed of training by stage, against MultiVae's trainer; prints Markdown.

    python -m benchmarks.train                # all tables, about ten minutes
    python -m benchmarks.train --quick        # the same tables from next to nothing
    python -m benchmarks.train a --threads 2
    python -m benchmarks.train a r p --device cuda

a: samples per second of each stage with the networks and batch of Table E.6, turn by turn.
b: what a step and an epoch cost with 2, 5 and 10 modalities, and with more rows.
d: what importing the library and asking the program for help cost.
r: each stage of each benchmark recipe: speed, memory, and its share of the roofline.
p: where the time of a step goes.

MultiVae 1.0.3 takes part in a where the interpreter that runs this finds it. Data are random.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.common import (
    Report,
    Rows,
    add_options,
    both_clocks,
    markdown,
    parsed,
    script_parser,
    show_last,
    turn_by_turn,
)
from benchmarks.noise import STAGES, Epochs, noise, stage_on
from benchmarks.profiling import profiled
from benchmarks.rival import their_epoch
from benchmarks.roofline import Cost, Pace, bound, counted, least_seconds
from mvflow.config import Config, config_from_dict, recipe
from mvflow.training import Compile, Stage
from mvflow.training.memory import peak_memory

BATCH = 128
PRECISIONS = ("float32", "bfloat16")
HELP = "from mvflow_cli.main import main; main()"
ROWS = {
    "toy": 200_000,
    "mnist-svhn": 280_340,
    "polymnist": 60_000,
    "translated-polymnist": 60_000,
    "mhd": 50_000,
    "pendigits-speech": 51_300,
}
"""Recipe -> training rows of the published data; of pendigits-speech, of our store."""
PROFILED = (("joint", "jnf"), ("flows", "jnf"), ("flows", "jnf-shared"))
TURN_SECONDS, MOST_STEPS = 0.5, 64
"""A turn of part r is that long, or so many steps, or a single step that takes longer."""
SLOW_STEP = 2.0
"""Seconds of a step of part r from which two turns have to do."""
QUICK = {"turns": 2, "steps": 2, "threads": [1], "many": [2, 5], "recipes": ["toy"]}


def main() -> None:
    arguments = _arguments()
    logging.disable(logging.INFO)  # MultiVae announces every epoch
    title = __doc__.splitlines()[0].removesuffix("; prints Markdown.")
    report = Report(title, arguments, "multivae", "pythae")
    for part in arguments.parts or PARTS:
        began = time.perf_counter()
        torch.set_num_threads(arguments.threads[0])
        report.add(part, f"{part}: {PARTS[part].__doc__}", PARTS[part](arguments), began)


def table_e6(arguments: argparse.Namespace) -> Rows:
    """Table E.6, batch 128: medians over turns in which all take part."""
    out: Rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for name, kind in STAGES:
            made = {f"mvflow, {p}": _stage(name, kind, p, arguments) for p in PRECISIONS}
            cost = {way: counted(stage) for way, stage in made.items()}
            timed: dict[str, Callable[[], Any]] = {
                way: _warm(Epochs(stage, arguments.compile)) for way, stage in made.items()
            }
            if name != "projectors" and find_spec("multivae"):
                source = noise(_config(kind, "float32").specifications(), arguments.steps * BATCH)
                timed["MultiVae"] = their_epoch(name, kind, source, BATCH, arguments.device)
                timed["MultiVae"]()
            case = {"stage": name, "system": kind, "threads": threads}
            out += [case | row for row in _compared(timed, cost, arguments)]
            print(markdown(out[-len(timed) :]), flush=True)
    return out


def _compared(
    timed: Mapping[str, Callable[[], Any]],
    costs: Mapping[str, Cost],
    arguments: argparse.Namespace,
) -> Rows:
    paces = {f"mvflow, {p}": Pace(p, arguments.device) for p in PRECISIONS}

    def before() -> None:
        for pace in paces.values():
            pace()

    seconds = turn_by_turn(timed, arguments.turns, both_clocks, before)
    cpu, wall = ({w: [t[i] for t in each] for w, each in seconds.items()} for i in (0, 1))
    out = []
    for way in timed:
        row: dict[str, Any] = {"trained by": way}
        row["ms/step"] = _ms(wall[way], arguments.steps)
        row["x MultiVae"] = _ratio(wall, way)
        row["CPU ms/step"] = _ms(cpu[way], arguments.steps)
        row["x MultiVae, CPU"] = _ratio(cpu, way)
        row["samples/s"] = round(arguments.steps * BATCH / statistics.median(wall[way]))
        row |= {"GFLOP/step": "-", "MB/step": "-", "of the roofline": "-"}
        if way in costs:
            cost, rates = costs[way], paces[way].rates
            taken = _taken(cpu[way], wall[way], arguments) / arguments.steps
            row["GFLOP/step"] = round(cost.flop / 1e9, 2)
            row["MB/step"] = round(cost.bytes / 1e6)
            row["of the roofline"] = f"{least_seconds(cost, rates) / taken:.0%}"
        out.append(row)
    return out


def _warm(epochs: Epochs) -> Epochs:
    epochs.warm_up()
    return epochs


def _ms(seconds: list[float], steps: int) -> float:
    return round(1e3 * statistics.median(seconds) / steps, 2)


def _ratio(seconds: Mapping[str, list[float]], way: str) -> float | str:
    """Median of the ratios of the turns: what was slow for one was slow for the other."""
    if "MultiVae" not in seconds:
        return "-"
    pairs = zip(seconds["MultiVae"], seconds[way], strict=True)
    return round(statistics.median(theirs / ours for theirs, ours in pairs), 2)


def _taken(cpu: list[float], wall: list[float], arguments: argparse.Namespace) -> float:
    """Median seconds to compare with a roofline: of the CPU, elsewhere on the wall."""
    return statistics.median(cpu if arguments.device == "cpu" else wall)


def _config(kind: str, precision: str, changes: tuple[str, ...] = ()) -> Config:
    sections = [
        f"{section}.{key}={value}"
        for section in ("projectors", "joint", "flows")
        for key, value in (("batch_size", BATCH), ("epochs", 1), ("precision", precision))
    ]
    return config_from_dict(recipe("mnist-svhn", [f"system={kind}", *sections, *changes]))


def _stage(name: str, kind: str, precision: str, arguments: argparse.Namespace) -> Stage:
    config = _config(kind, precision)
    source = noise(config.specifications(), arguments.steps * BATCH)
    return stage_on(source, name, config, arguments.device)


def growth(arguments: argparse.Namespace) -> Rows:
    """Encoder and decoder of MNIST for each modality, float32: ms of the CPU, or on the wall."""
    steps = max(1, arguments.steps // 4)
    cases = [(m, 1) for m in arguments.many] + [(arguments.many[0], k) for k in (2, 4)]
    timed: dict[str, Callable[[], Any]] = {}
    for name in ("joint", "flows"):
        for count, times in cases:
            rows = times * steps * BATCH
            timed[f"{name} {count} {rows}"] = _alike(name, count, rows, arguments.device)
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    seconds = turn_by_turn(timed, arguments.turns, clock)
    out = []
    for way, each in seconds.items():
        name, count, rows = way.split()
        row = {"stage": name, "modalities": int(count), "rows": int(rows)}
        epoch = 1e3 * statistics.median(each)
        per = epoch / int(rows) * BATCH
        row |= {"ms/epoch": round(epoch, 1), "ms/step": round(per, 2)}
        out.append(row | {"ms/step and modality": round(per / int(count), 2)})
    return out


def _alike(name: str, count: int, rows: int, device: str) -> Callable[[], Any]:
    base = _config("jnf", "float32").to_dict()
    mnist = base["modalities"]["mnist"]
    config = config_from_dict({**base, "modalities": {f"m{i}": mnist for i in range(count)}})
    stage = stage_on(noise(config.specifications(), rows), name, config, device)
    return _warm(Epochs(stage))


def imports(arguments: argparse.Namespace) -> Rows:
    """Fresh interpreters, seconds on the wall and CPU seconds, least of the turns."""
    ways = {
        "import torch": ["-c", "import torch"],
        "import mvflow": ["-c", "import mvflow"],
        "from mvflow import JNF": ["-c", "from mvflow import JNF"],
        "mvflow --help": ["-c", "import sys; sys.argv = ['mvflow', '--help']; " + HELP],
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(arguments.turns):
        for way, words in ways.items():
            began, cpu = time.perf_counter(), os.times()
            subprocess.run([sys.executable, *words], check=False, capture_output=True)
            after = os.times()
            used = after.children_user - cpu.children_user
            used += after.children_system - cpu.children_system
            found[way].append((time.perf_counter() - began, used))
    return [
        {
            "what": way,
            "s": round(min(t[0] for t in each), 2),
            "CPU s": round(min(t[1] for t in each), 2),
        }
        for way, each in found.items()
    ]


def recipes(arguments: argparse.Namespace) -> Rows:
    """Benchmark recipes with their own networks and batches, random rows: medians over turns."""
    out: Rows = []
    for name in arguments.recipes:
        for stage, kind in STAGES:
            for precision in arguments.precisions:
                case = {"recipe": name, "stage": stage, "system": kind, "precision": precision}
                out.append(case | _of_recipe(name, stage, kind, precision, arguments))
                show_last(out)
    return out


def _of_recipe(
    name: str, stage: str, kind: str, precision: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    changes = {"epochs": 1, "precision": precision}
    config = config_from_dict(
        recipe(name, [f"system={kind}", *(f"{stage}.{k}={v}" for k, v in changes.items())])
    )
    batch: int = getattr(config, stage).batch_size
    made = stage_on(noise(config.specifications(), 2 * batch), stage, config, arguments.device)
    if made.train.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    cost = counted(made)  # two steps
    one = (time.perf_counter() - began) / 2
    is_slow = one > SLOW_STEP
    steps = min(MOST_STEPS, max(1, round(TURN_SECONDS / one)))
    rows = np.resize(np.arange(len(made.train)), (steps, batch))
    epochs = Epochs(made, arguments.compile, torch.from_numpy(rows))
    if not is_slow:
        epochs.warm_up()
    is_gpu = made.train.device.type == "cuda"
    peak = round(peak_memory(made.train.device) / 2**20) if is_gpu else "-"
    pace = Pace(precision, arguments.device)
    turns = 2 if is_slow else arguments.turns

    def before() -> None:
        for _ in range(5 if is_slow else 1):
            pace()

    (seconds,) = turn_by_turn({"": epochs}, turns, both_clocks, before).values()
    cpu, wall = ([t[i] for t in seconds] for i in (0, 1))
    speed = steps * batch / statistics.median(wall)
    share = least_seconds(cost, pace.rates) * steps / _taken(cpu, wall, arguments)
    return {
        "batch": batch,
        "samples/s": round(speed, 1) if speed < 100 else round(speed),
        "ms/step": round(1e3 * batch / speed, 2),
        "rows": ROWS[name],
        "s/epoch": round(ROWS[name] / speed, 1),
        "peak MiB": peak,
        "GFLOP/step": round(cost.flop / 1e9, 2),
        "MB/step": round(cost.bytes / 1e6),
        "bound by": bound(cost, pace.rates),
        "of the roofline": f"{share:.0%}",
    }


def profile(arguments: argparse.Namespace) -> Rows:
    """Table E.6, batch 128, under torch's profiler: shares of the time of a step."""
    out = []
    for name, kind in PROFILED:
        for precision in PRECISIONS:
            stage = _stage(name, kind, precision, arguments)
            case = {"stage": name, "system": kind, "precision": precision}
            out.append(case | profiled(stage, arguments.compile))
    return out


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "a": table_e6,
    "b": growth,
    "d": imports,
    "r": recipes,
    "p": profile,
}


def _arguments() -> argparse.Namespace:
    parser = script_parser("train", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument(
        "--steps", type=int, help="a turn of a and p, in b a quarter; by default 32, on a GPU 256"
    )
    parser.add_argument(
        "--compile", choices=get_args(Compile), default="auto", help="how steps are computed"
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="each in part a; else the first"
    )
    parser.add_argument("--many", type=int, nargs="+", default=[2, 5, 10], help="in part b")
    parser.add_argument("--recipes", nargs="+", choices=ROWS, default=list(ROWS), help="in part r")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=["float32"], help="in part r"
    )
    add_options(parser, threads=False)
    arguments = parsed(parser, "train", QUICK)
    arguments.steps = arguments.steps or (32 if arguments.device == "cpu" else 256)
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    return arguments


if __name__ == "__main__":
    main()
