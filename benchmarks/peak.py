"""Memory that the program says a stage needs, against the peak that is seen; prints Markdown.

    python -m benchmarks.peak                 # all networks, about five minutes on a CPU
    python -m benchmarks.peak --quick
    python -m benchmarks.peak toy many
    python -m benchmarks.peak mnist-svhn --device cuda

Each stage is trained for two epochs of a few steps on random rows, with the batches of its recipe.
On a GPU the peak is that of the allocator, workspaces of the kernels with it. On a CPU it is the
highest sum of what the stage held before and of all that torch's allocator gave and took.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import Report, Rows, add_options, parsed, show_last
from benchmarks.noise import noise, stage_on
from mvflow.config import Config, config_from_dict, recipe, stage_names
from mvflow.training import Stage, predicted_memory, run_stage

EPOCHS = 2
"""From the second epoch on there are copies of the optimiser's moments too."""


def peak_bytes(stage: Stage, steps: int = 3) -> int:
    """The most bytes that tensors hold while `run_stage` runs, those held before included."""
    changed = {"epochs": EPOCHS, "steps_per_epoch": steps}
    short = replace(stage, settings=stage.settings.model_copy(update=changed))
    device = stage.train.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run_stage(short)
        return torch.cuda.max_memory_allocated(device)
    return held_bytes(stage) + peak_of(lambda: run_stage(short))


def peak_of(run: Callable[[], object]) -> int:
    """The most bytes of the host that tensors made in `run` hold at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = profiled.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    sizes = [size for _, size in sorted(changes, key=lambda change: change[0])]
    return max(0, int(np.cumsum(sizes).max()))


def held_bytes(root: object) -> int:
    """Bytes of all tensors that can be reached from an object, each storage once."""
    storages = [t.untyped_storage() for t in _reached(root) if isinstance(t, Tensor)]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def _reached(root: object) -> Iterator[object]:
    """What an object holds, and what that holds; of functions, what they close over."""
    todo, seen = [root], {id(root)}
    while todo:
        found = todo.pop()
        yield found
        parts = (
            (found.__closure__,) if isinstance(found, FunctionType) else gc.get_referents(found)
        )
        for part in parts:
            if id(part) not in seen and not isinstance(part, type | ModuleType):
                seen.add(id(part))
                todo.append(part)


# What is compared


def networks(name: str, arguments: argparse.Namespace) -> Rows:
    """All stages of a recipe, with both kinds of projectors, in both precisions."""
    out: Rows = []
    for precision in ("float32", "bfloat16"):
        for kind, projectors, skipped in KINDS:
            changes = [f"model={kind}", "subset=product", f"projectors.kind={projectors}"]
            changes += [f"{s}.precision={precision}" for s in ("projectors", "joint", "flows")]
            config = config_from_dict(recipe(name, changes))
            for stage in stage_names(config):
                if stage not in skipped:
                    what = f"{stage} ({projectors})" if stage == "projectors" else stage
                    row = {"network": name, "model": kind, "stage": what, "precision": precision}
                    _compare(out, row, stage, config, arguments)
    return out


KINDS = (
    ("jnf", "contrastive", ()),
    ("jnf-shared", "contrastive", ("joint",)),
    ("jnf-shared", "dcca", ("joint", "flows")),
)
"""Model, projectors, and stages that are as those of an earlier one."""


def many(_: str, arguments: argparse.Namespace) -> Rows:
    """The encoder and decoder of MNIST (Table E.6) for 2, 5 and 10 modalities."""
    out: Rows = []
    raw = config_from_dict(recipe("mnist-svhn", ["joint.precision=float32"])).model_dump(
        mode="json"
    )
    mnist = raw["modalities"]["mnist"]
    for count in (2, 5, 10):
        config = config_from_dict({**raw, "modalities": {f"m{i}": mnist for i in range(count)}})
        for stage in stage_names(config):
            row = {"network": f"{count} x mnist", "model": "jnf", "stage": stage}
            _compare(out, row | {"precision": "float32"}, stage, config, arguments)
    return out


def _compare(
    out: Rows, row: dict[str, Any], name: str, config: Config, arguments: argparse.Namespace
) -> None:
    batch = getattr(config, name).batch_size
    rows = noise(config.specifications(), arguments.steps * batch)
    stage = stage_on(rows, name, config, arguments.device)
    began = time.perf_counter()
    said = predicted_memory(stage)
    asked = time.perf_counter() - began
    seen = peak_bytes(stage, arguments.steps)
    row |= {"batch": batch} | {part: _mib(size) for part, size in said._asdict().items()}
    row |= {"said": _mib(said.total), "peak": _mib(seen)}
    out.append(row | {"said / peak": round(said.total / seen, 3), "s to say": round(asked, 2)})
    show_last(out)


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


PARTS: dict[str, Callable[[str, argparse.Namespace], Rows]] = {
    "toy": networks,
    "mnist-svhn": networks,
    "polymnist": networks,
    "pendigits-speech": networks,
    "many": many,
}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    title = __doc__.splitlines()[0].removesuffix("; prints Markdown.")
    report = Report(title, arguments)
    for part in arguments.parts:
        began = time.perf_counter()
        rows = PARTS[part](part, arguments)
        shares = [row["said / peak"] for row in rows]
        caption = f"{part}, MiB; said / peak from {min(shares)} to {max(shares)}:"
        report.add(part, caption, rows, began)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--steps", type=int, default=3, help="of an epoch")
    add_options(parser)
    arguments = parsed(parser, "peak", {"steps": 1})
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    if arguments.steps < 1:
        parser.error(f"--steps {arguments.steps}: expected 1 or more")
    arguments.parts = arguments.parts or (["toy"] if arguments.quick else list(PARTS))
    return arguments


if __name__ == "__main__":
    main()
