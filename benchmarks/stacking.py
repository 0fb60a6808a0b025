"""Time of a step of n variants trained as one stack, against that of one alone; prints Markdown.

    python -m benchmarks.stacking                    # tiny networks on the CPU
    python -m benchmarks.stacking --device cuda      # and those of mnist-svhn, eager and captured
    python -m benchmarks.stacking --quick

Milliseconds of a step on the wall, in the loops that train: medians over epochs of --steps
steps, the first of which is not counted; captures are not timed. *times one* is the time of a step
of the stack over that of one alone, n would be no gain; *gain* is n over that. Rows are noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common import Report, Rows, add_options, parsed, script_parser, show_last
from mvflow.config import Config, assign, config_from_dict, recipe
from mvflow.core import ArraySource
from mvflow.stacking import Variant, run_stack
from mvflow.systems import build_system, stages_of
from mvflow.training import (
    Checkpoint,
    Compile,
    EpochRecord,
    NoOpCallback,
    Stage,
    Table,
    build_stage,
    run_stage,
)
from mvflow.training.memory import peak_memory

STAGES = {
    "projectors": "jnf-shared",
    "joint": "jnf",
    "flows": "jnf",
    "flows on projections": "jnf-shared",
}
MLP = {"kind": "mlp", "hidden": [8]}
NETWORKS = {"encoder": MLP, "decoder": MLP, "projector": MLP}
TINY: dict[str, Any] = {
    "latent_dim": 2,
    "modalities": {name: {"shape": [4], **NETWORKS} for name in ("a", "b")},
    "joint": {"batch_size": 8, "merge": [8]},
    "flows": {"batch_size": 8, "summary_hidden": [8]},
    "posterior": {"kind": "maf", "transforms": 2, "hidden": [8, 8]},
}
TINY_SHARED = {"projectors": {"batch_size": 8}, "projector": {"kind": "contrastive", "dim": 2}}


def main() -> None:
    arguments = _arguments()
    report = Report(__doc__.splitlines()[0].removesuffix("; prints Markdown."), arguments)
    rows: Rows = []
    began = time.perf_counter()
    for name in arguments.recipes:
        for what in STAGES:
            rows.append(_measured(arguments, name, what))
            show_last(rows)
    report.add("stacking", "Milliseconds of a step on the wall.", rows, began)


def _measured(arguments: argparse.Namespace, name: str, what: str) -> dict[str, Any]:
    count, device = arguments.variants, torch.device(arguments.device)
    ways: tuple[Compile, ...] = ("no",) if device.type == "cpu" else ("no", "graph")
    row: dict[str, Any] = {"recipe": name, "stage": what, "n": count}
    for way in ways:
        alone, *_ = _stages(arguments, name, what, 1)
        recorder = _Recorder()
        run_stage(alone, callback=recorder, compile=way)
        one = _milliseconds(recorder.records, arguments.steps)
        records: list[EpochRecord] = []
        variants = [Variant(s, i) for i, s in enumerate(_stages(arguments, name, what, count))]
        variants[0].on_epoch = records.append
        run_stack(variants, compile=way)
        stacked = _milliseconds(records, arguments.steps)
        said = "eager" if way == "no" else "captured"
        row |= {f"one {said}": one, f"stacked {said}": stacked}
        row |= {"times one": round(stacked / one, 2), "gain": round(count * one / stacked, 2)}
        row = {f"{k}, {said}" if k in ("times one", "gain") else k: v for k, v in row.items()}
    row["peak MiB"] = round(peak_memory(device) / 2**20)
    return row


class _Recorder(NoOpCallback):
    def __init__(self) -> None:
        self.records: list[EpochRecord] = []

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        self.records.append(record)


def _milliseconds(records: list[EpochRecord], steps: int) -> float:
    return round(1e3 * statistics.median(r.seconds for r in records[1:]) / steps, 3)


def _stages(arguments: argparse.Namespace, name: str, what: str, count: int) -> list[Stage]:
    """The stage with other weights for each seed, and rows in common."""
    stage, system = what.partition(" ")[0], STAGES[what]
    found: list[Stage] = []
    rows: Table | None = None
    for seed in range(count):
        config = _config(name, system, stage, seed, arguments)
        built = build_system(config)
        spec = next(s for s in stages_of(built) if s.name == stage)
        if rows is None:
            assert spec.settings is not None
            many = arguments.steps * spec.settings.batch_size
            rows = Table.of(_noise(config, many), arguments.device)
        built.to(arguments.device).eval().requires_grad_(False)
        spec.module.requires_grad_(True)
        found.append(build_stage(spec, built, rows))
    return found


def _config(
    name: str, system: str, stage: str, seed: int, arguments: argparse.Namespace
) -> Config:
    changes = [f"system={system}", f"seed={seed}"]
    changes += [f"{stage}.epochs={arguments.epochs}", f"{stage}.steps_per_epoch={arguments.steps}"]
    if name != "tiny":
        return config_from_dict(recipe(name, changes))
    return config_from_dict(assign(TINY | (TINY_SHARED if "shared" in system else {}), changes))


def _noise(config: Config, rows: int) -> ArraySource:
    rng, arrays = np.random.default_rng(0), {}
    for m in config.specifications():
        shape = (rows, *m.shape)
        is_image = len(m.shape) == 3
        arrays[m.name] = (
            rng.integers(0, 256, shape, np.uint8) if is_image else rng.random(shape, np.float32)
        )
    return ArraySource(arrays, config.specifications())


def _arguments() -> argparse.Namespace:
    parser = script_parser("stacking", __doc__)
    parser.add_argument("--recipes", nargs="+", help="by default tiny, on a GPU mnist-svhn too")
    parser.add_argument("--variants", type=int, default=12, metavar="N")
    parser.add_argument("--steps", type=int, default=32, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=6, help="the first is not counted")
    add_options(parser)
    arguments = parsed(parser, "stacking", {"variants": 3, "steps": 2, "epochs": 2})
    if arguments.recipes is None:
        arguments.recipes = ["tiny"] if arguments.device == "cpu" else ["tiny", "mnist-svhn"]
    return arguments


if __name__ == "__main__":
    main()
