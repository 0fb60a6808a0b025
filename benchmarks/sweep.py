"""Time of n variants trained as one stacked program, against training them in turn; Markdown.

    python benchmarks/sweep.py                      # toy and mnist-svhn networks, n = 4 and 12
    python benchmarks/sweep.py --device cuda --recipes mnist-svhn --variants 12

Rows are noise in the shapes of a recipe's modalities: nothing here depends on their values. A
turn is --steps steps of one variant alone, and as many of all variants stacked; the two take
turns. CPU seconds of the process on a CPU, seconds on the wall elsewhere. *times one* is the
stacked time over that of one variant: n would be no gain, 1 all of it. *gain* is n over that.
Medians over the turns, the first of which is not counted. Gathering, optimiser and clipping are
timed, building the stages is not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Rows, about, markdown, turn_by_turn

from mvflow.config import Config, config_from_dict, recipe
from mvflow.core import as_source
from mvflow.models import build_model
from mvflow.runs import write_json
from mvflow.training import Stage, Table, build_stage, run_stage
from mvflow.training.together import Prepare, Together

MODELS = {
    "projectors": "jnf-shared",
    "joint": "jnf",
    "flows": "jnf",
    "flows, shared": "jnf-shared",
}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    rows: Rows = []
    for name in arguments.recipes:
        for what in arguments.stages:
            for count in arguments.variants:
                rows.append(_measured(arguments, name, what, count))
                print(
                    "\n".join(markdown(rows[-1:]).splitlines()[-1 if rows[1:] else 0 :]),
                    flush=True,
                )
    write_json(arguments.out, {"about": about(device=arguments.device), "sweeps": rows})


def _measured(arguments: argparse.Namespace, name: str, what: str, count: int) -> dict[str, Any]:
    stages = [_stage(arguments, name, what, seed) for seed in range(count)]
    reasons: list[str | None] = []

    def stacked() -> None:
        together = Together()
        for error in together.run(
            [partial(_run, stage, seed) for seed, stage in enumerate(stages)]
        ):
            if error is not None:
                raise error
        reasons.append(together.reason)

    def synchronised(run: Callable[[], None]) -> Callable[[], None]:
        def timed() -> None:
            run()
            if arguments.device != "cpu":
                torch.get_device_module(arguments.device).synchronize()

        return timed

    ways = {"one": partial(run_stage, stages[0], seed=0), "stacked": stacked}
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    found = turn_by_turn(
        {key: synchronised(way) for key, way in ways.items()}, arguments.turns + 1, clock
    )
    one, all_of_them = (np.array(found[key][1:]) for key in ("one", "stacked"))
    times = float(np.median(all_of_them / one))
    return {
        "recipe": name,
        "stage": what,
        "variants": count,
        "ms a step, one": round(1e3 * float(np.median(one)) / arguments.steps, 2),
        "ms a step, stacked": round(1e3 * float(np.median(all_of_them)) / arguments.steps, 2),
        "times one": round(times, 2),
        "gain": round(count / times, 2),
        "not stacked because": reasons[-1] or "",
    }


def _run(stage: Stage, seed: int, prepare: Prepare) -> None:
    run_stage(prepare(stage), seed=seed)


def _stage(arguments: argparse.Namespace, name: str, what: str, seed: int) -> Stage:
    stage = what.partition(",")[0]
    raw = recipe(name, [f"model={MODELS[what]}", f"seed={seed}", f"{stage}.epochs=1"])
    raw[stage] |= {"steps_per_epoch": arguments.steps, "patience": 100}
    if arguments.precision:
        raw[stage]["precision"] = arguments.precision
    config = config_from_dict({**raw, "data": {"validation": 0.0}})
    model = build_model(config).to(arguments.device).requires_grad_(False)
    model.stage_module(stage).requires_grad_(True)
    rows = Table.of(_noise(config, arguments.steps * _batch_size(config, stage)), arguments.device)
    return build_stage(stage, model, config, rows)


def _batch_size(config: Config, stage: str) -> int:
    size: int = getattr(config, stage).batch_size
    return size


def _noise(config: Config, count: int) -> Any:
    rng = np.random.default_rng(0)
    data = {}
    for modality in config.specifications():
        values = rng.random((count, *modality.shape), np.float32)
        data[modality.name] = values.round() if modality.likelihood == "bernoulli" else values
    return as_source(data, config.specifications())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["toy", "mnist-svhn"])
    parser.add_argument("--stages", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--variants", nargs="+", type=int, default=[4, 12])
    parser.add_argument("--steps", type=int, default=4, help="per turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--precision", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sweep.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
