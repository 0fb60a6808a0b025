"""Time of n variants trained as one stacked program, against training one of them; Markdown.

    python -m benchmarks.sweep                      # tiny, toy and mnist-svhn networks, n = 12
    python -m benchmarks.sweep --quick
    python -m benchmarks.sweep --device cuda --recipes mnist-svhn tiny

Rows are noise in the shapes of a recipe's modalities: nothing here depends on their values. A
turn is --steps steps of one variant alone, and as many of all variants stacked; the two take
turns. CPU seconds of the process on a CPU, seconds on the wall elsewhere. *times one* is the
stacked time over that of one variant: n would be no gain, 1 all of it. *gain* is n over that. On
a GPU *times one, captured* is the same with the steps of both as CUDA graphs, which are captured
anew in each turn: many --steps make little of that. Medians over the turns, the first of which is
not counted. Gathering, optimiser and clipping are timed, building the stages is not.

`tiny` has networks of eight units and batches of eight rows, so that a step on a CPU costs what
its operations cost to launch, as a step of small networks does on a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.common import (
    Report,
    Rows,
    add_options,
    parsed,
    show_last,
    synchronise,
    turn_by_turn,
)
from benchmarks.noise import noise, stage_on
from mvflow.config import assign, config_from_dict, recipe, recipe_names
from mvflow.training import Compile, Stage, run_stage
from mvflow.training.ensemble import Variant, run_stacked

MODELS = {
    "projectors": "jnf-shared",
    "joint": "jnf",
    "flows": "jnf",
    "flows, shared": "jnf-shared",
}


TINY: dict[str, Any] = {
    "latent_dim": 2,
    "modalities": {
        name: {
            "shape": [4],
            "encoder": {"kind": "mlp", "hidden": [8]},
            "decoder": {"kind": "mlp", "hidden": [8]},
            "projector": {"kind": "mlp", "hidden": [8]},
        }
        for name in ("a", "b")
    },
    "joint": {"batch_size": 8, "merge": [8]},
    "projectors": {"batch_size": 8, "dim": 2},
    "flows": {"batch_size": 8, "transforms": 2, "hidden": [8, 8], "summary_hidden": [8]},
}
TINY_TIMES = 16
"""How many more steps a turn of `tiny` has."""
QUICK = {"recipes": ["tiny"], "variants": [3], "turns": 1, "steps": 2}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    report = Report(__doc__.splitlines()[0].removesuffix("; Markdown."), arguments)
    began = time.perf_counter()
    rows: Rows = []
    for name in arguments.recipes:
        for what in arguments.stages:
            for count in arguments.variants:
                rows.append(_measured(arguments, name, what, count))
                show_last(rows)
    clock = "CPU milliseconds" if arguments.device == "cpu" else "Milliseconds on the wall"
    report.add("sweeps", f"{clock}, medians over turns.", rows, began)


def _measured(arguments: argparse.Namespace, name: str, what: str, count: int) -> dict[str, Any]:
    is_cpu = arguments.device == "cpu"
    steps = TINY_TIMES * arguments.steps if name == "tiny" and is_cpu else arguments.steps
    stages = [_stage(arguments, name, what, seed, steps) for seed in range(count)]
    reasons: list[str] = []
    ways = {
        "one": partial(_train, arguments.device, stages[:1], "no", reasons.append),
        "stacked": partial(_train, arguments.device, stages, "no", reasons.append),
    }
    if not is_cpu:
        ways["captured"] = partial(_train, arguments.device, stages[:1], "graph", reasons.append)
        ways["both"] = partial(_train, arguments.device, stages, "graph", reasons.append)
    found = turn_by_turn(
        ways, arguments.turns + 1, time.process_time if is_cpu else time.perf_counter
    )
    seconds = {way: np.array(each[1:]) for way, each in found.items()}
    times = float(np.median(seconds["stacked"] / seconds["one"]))
    captured = "-" if is_cpu else round(float(np.median(seconds["both"] / seconds["captured"])), 2)
    ms = {way: round(1e3 * float(np.median(each)) / steps, 2) for way, each in seconds.items()}
    return {
        "recipe": name,
        "stage": what,
        "variants": count,
        "ms a step, one": ms["one"],
        "ms a step, stacked": ms["stacked"],
        "times one": round(times, 2),
        "gain": round(count / times, 2),
        "times one, captured": captured,
        "not stacked because": "; ".join(dict.fromkeys(reasons)),
    }


def _train(
    device: str, stages: list[Stage], compile: Compile, on_turn: Callable[[str], None]
) -> None:
    """Train all as one program; one alone as ever."""
    if len(stages) == 1:
        run_stage(stages[0], seed=0, compile=compile)
    else:
        variants = [Variant(stage, seed) for seed, stage in enumerate(stages)]
        for _, error in run_stacked(variants, compile=compile, on_turn=on_turn):
            if error is not None:
                raise error
    synchronise(device)


def _stage(arguments: argparse.Namespace, name: str, what: str, seed: int, steps: int) -> Stage:
    stage = what.partition(",")[0]
    changes = [f"model={MODELS[what]}", f"seed={seed}", f"{stage}.epochs=1"]
    raw = assign(TINY, changes) if name == "tiny" else recipe(name, changes)
    raw[stage] |= {"steps_per_epoch": steps, "patience": 100}
    if arguments.precision:
        raw[stage]["precision"] = arguments.precision
    config = config_from_dict(raw)
    rows = steps * getattr(config, stage).batch_size
    return stage_on(noise(config.specifications(), rows), stage, config, arguments.device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--recipes",
        nargs="+",
        choices=["tiny", *recipe_names()],
        default=["tiny", "toy", "mnist-svhn"],
        metavar="NAME",
        help="tiny or a recipe",
    )
    parser.add_argument("--stages", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--variants", nargs="+", type=int, default=[12])
    parser.add_argument(
        "--steps", type=int, help="per turn; by default 3, of tiny 16 times as many; on a GPU 256"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "bfloat16"])
    add_options(parser)
    arguments = parsed(parser, "sweep", QUICK)
    arguments.steps = arguments.steps or (3 if arguments.device == "cpu" else 256)
    return arguments


if __name__ == "__main__":
    main()
