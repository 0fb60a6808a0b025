"""Train and measure every system of a recipe over several seeds; print a table, write JSON.

    python -m benchmarks.coherence toy --store toy.h5 --runs runs --seeds 0 1 2
    python -m benchmarks.coherence mnist-svhn --store ms.h5 --runs runs --seeds 0

Systems that share the joint stage take it from one another. What is finished is not trained
again, so an interrupted call goes on; what is evaluated is not evaluated again.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvflow.config import config_from_dict, recipe, stage_names
from mvflow.core import fingerprint
from mvflow.estimators import CLASSES
from mvflow.evaluation import ModalityClassifiers, evaluate
from mvflow.runs import RunDirectory, read_json, write_json
from mvflow_datasets import Store

SYSTEMS = {
    "gaussian": ["model=jnf", "flows.posterior=gaussian"],
    "maf": ["model=jnf", "flows.posterior=maf"],
    "conditional-maf": ["model=jnf", "flows.posterior=conditional-maf"],
    "nsf": ["model=jnf", "flows.posterior=nsf"],
    "shared-contrastive": ["model=jnf-shared", "projectors.kind=contrastive"],
    "shared-dcca": ["model=jnf-shared", "projectors.kind=dcca"],
}
DEFAULT = {
    "toy": ["maf", "gaussian", "conditional-maf", "nsf", "shared-dcca"],
    "mnist-svhn": ["maf", "shared-contrastive", "shared-dcca"],
}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
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
    out = {"about": _about(arguments), "data": data, "runs": rows}
    write_json(arguments.out / f"coherence-{arguments.recipe}.json", out)
    (arguments.out / f"coherence-{arguments.recipe}.md").write_text(table + "\n", "utf-8")


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
    if path.exists():
        run = RunDirectory.open(path)
    else:
        run = RunDirectory.create(path, config)
        if first is not None:
            run.adopt(first, fingerprint(train))
    estimator = CLASSES[config.model].from_config(config).restore(run, arguments.device)
    rest = [s for s in stage_names(config) if s not in estimator.trained_]
    if rest:
        estimator.fit(train, run=run, stages=rest, device=arguments.device)
    metrics = path / "metrics" / "evaluation.json"
    if rest or not metrics.is_file():
        cache = arguments.store.with_suffix(".classifiers.safetensors")
        classifiers = ModalityClassifiers.train(
            train, test, config.classifiers, cache=cache, device=arguments.device
        )
        write_json(metrics, evaluate(estimator, test, classifiers, seed=0).to_dict())
    stages = run.manifest()["stages"]
    seconds = {name: entry["seconds"] for name, entry in stages.items()}
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


def _about(arguments: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "commit": commit,
        "date": date.today().isoformat(),
        "device": arguments.device,
        "threads": arguments.threads,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("mvflow", "torch", "zuko", "numpy")},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coherence", description=__doc__.splitlines()[0]
    )
    parser.add_argument("recipe", choices=DEFAULT)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
