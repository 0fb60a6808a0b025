"""Train and measure every system of a recipe over several seeds; print a table, write JSON.

    python -m benchmarks.coherence toy --store toy.h5 --runs runs --seeds 0 1 2
    python -m benchmarks.coherence mnist-svhn --store ms.h5 --runs runs --seeds 0
    python -m benchmarks.coherence toy --quick

Systems that share the joint stage take it from one another. What is finished is not trained
again, so an interrupted call goes on; what is evaluated is not evaluated again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import about, add_options, parsed, save, script_parser
from mvflow.config import config_from_dict, recipe
from mvflow.core import fingerprint
from mvflow.estimators import load
from mvflow.evaluation import ModalityClassifiers, evaluate
from mvflow.runs import Inputs, RunDirectory, read_json, write_json
from mvflow_datasets import Store, find_builder

SYSTEMS = {
    "gaussian": ["system=jnf", "posterior=gaussian"],
    "maf": ["system=jnf", "posterior=maf"],
    "conditional-maf": ["system=jnf", "posterior=conditional-maf"],
    "nsf": ["system=jnf", "posterior=nsf"],
    "shared-contrastive": ["system=jnf-shared", "projector=contrastive"],
    "shared-dcca": ["system=jnf-shared", "projector=dcca"],
}
DEFAULT = {
    "toy": ["maf", "gaussian", "conditional-maf", "nsf", "shared-dcca"],
    "mnist-svhn": ["maf", "shared-contrastive", "shared-dcca"],
}


QUICK_SETTINGS = (
    *(f"{stage}.epochs=1" for stage in ("projectors", "joint", "flows", "classifiers")),
    *(f"{stage}.steps_per_epoch=2" for stage in ("projectors", "joint", "flows")),
    *(f"evaluation.{k}={n}" for k, n in (("rows", 64), ("prior_draws", 64), ("sampler_rows", 2))),
    *(f"evaluation.importance_{k}={n}" for k, n in (("rows", 2), ("draws", 10))),
    *(f"sampler.{k}={n}" for k, n in (("warmup", 4), ("draws", 4))),
)


def main() -> None:
    arguments = _arguments()
    if not arguments.quick:
        _measure_all(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.store = find_builder("toy").build(Path(folder, "toy.h5"), rows=600, test_rows=64)
        arguments.runs = Path(folder)
        _measure_all(arguments)


def _measure_all(arguments: argparse.Namespace) -> None:
    store = Store.open(arguments.store)
    rows = []
    for seed in arguments.seeds:
        first: RunDirectory | None = None
        for system in arguments.systems or DEFAULT[arguments.recipe]:
            run, result = _measured(arguments, store, system, seed, first)
            first = first or run
            rows.append({**result, "system": system, "seed": seed})
            print(f"{system} seed {seed}: {_line(result)}", flush=True)
    table = _table(rows)
    print("\n" + table)
    data = {key: value for key, value in store.info().items() if key != "path"}
    out = {"about": about("zuko", device=arguments.device), "data": data, "runs": rows}
    save(arguments.out, out, table)


def _measured(
    arguments: argparse.Namespace,
    store: Store,
    system: str,
    seed: int,
    first: RunDirectory | None,
) -> tuple[RunDirectory, dict[str, Any]]:
    """Train one system unless it is trained, measure it unless it is measured."""
    path = arguments.runs / f"{arguments.recipe}-{seed}-{system}"
    settings = [*SYSTEMS[system], f"seed={seed}", f"data.store={arguments.store.resolve()}"]
    config = config_from_dict(recipe(arguments.recipe, [*settings, *arguments.set]))
    train, test = store[config.data.train], store[config.data.test]
    run = RunDirectory.open(path) if path.exists() else RunDirectory.create(path, config)
    estimator = load(path, arguments.device)
    if first is not None and run.adopt(first, estimator.plan_, Inputs(fingerprint(train))):
        estimator = load(path, arguments.device)
    rest = [s for s in estimator.stage_names if s not in estimator.trained_]
    if rest:
        estimator.fit(train, run=run, stages=rest, device=arguments.device)
    metrics = path / "metrics" / "evaluation.json"
    if rest or not metrics.is_file():
        cache = arguments.store.with_suffix(".classifiers.safetensors")
        classifiers = ModalityClassifiers.train(
            train, test, config.classifiers, cache=cache, device=arguments.device
        )
        write_json(metrics, evaluate(estimator, test, classifiers, seed=0).to_dict())
    seconds = {name: record.seconds for name, record in run.records().items()}
    return run, {**read_json(metrics), "seconds": seconds}


def _line(result: dict[str, Any]) -> str:
    found = {"joint": result["coherence"]["joint"], **result["coherence"]["conditional"]}
    return "  ".join(f"{name} {value['mean']:.3f}" for name, value in found.items())


def _table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row per system, mean and worst over seeds."""
    directions = list(rows[0]["coherence"]["conditional"])
    modalities = list(rows[0]["classifiers"])
    head = ["system", "seeds", "joint", *directions]
    head += [f"log q(z given {m})" for m in modalities]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for system in dict.fromkeys(row["system"] for row in rows):
        mine = [row for row in rows if row["system"] == system]
        cells = [system, str(len(mine)), _cell([r["coherence"]["joint"]["mean"] for r in mine])]
        for d in directions:
            cells.append(_cell([r["coherence"]["conditional"][d]["mean"] for r in mine]))
        for m in modalities:
            cells.append(_cell([r["posterior_log_density"][m]["mean"] for r in mine], 2))
        lines.append("| " + " | ".join(cells) + " |")
    judged = ", ".join(f"{m} {a:.3f}" for m, a in rows[0]["classifiers"].items())
    return "\n".join(lines) + f"\n\nMean (worst seed). Classifiers on real test data: {judged}."


def _cell(values: list[float], digits: int = 3) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f})"


def _arguments() -> argparse.Namespace:
    parser = script_parser("coherence", __doc__)
    parser.add_argument("recipe", choices=DEFAULT)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    add_options(parser)
    quick = {"set": list(QUICK_SETTINGS), "systems": ["maf", "shared-dcca"]}
    arguments = parsed(parser, f"coherence-{parser.parse_args().recipe}", quick)
    if arguments.store is None and not arguments.quick:
        parser.error("name the --store, or use --quick")
    return arguments


if __name__ == "__main__":
    main()
