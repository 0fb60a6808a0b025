"""Coherence, diversity and cost of draws by subset rule, number of observed modalities, guidance.

    python -m benchmarks.subsets RUN... --guidance 0 1 2
    python -m benchmarks.subsets RUN --subset product mixture
    python -m benchmarks.subsets --quick

For runs with labels. Coherence of joint draws (given nothing) is the share whose modalities are
classified alike; given modalities it is the share of draws of the others that have the class of
the row. Diversity is the root mean squared distance of two draws of one row, mean over rows and
targets; beside it that of two real rows of one class. CPU seconds are for all draws of the line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    about,
    add_options,
    chosen_runs,
    markdown,
    parsed,
    save,
    script_parser,
)
from mvflow.estimators import Estimator, load
from mvflow.evaluation import ModalityClassifiers
from mvflow_datasets import Store

Arrays = Mapping[str, np.ndarray]


def main() -> None:
    parser = script_parser("subsets", __doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--rows", type=int, default=500, help="rows that are given")
    parser.add_argument(
        "--draws", type=int, default=4, help="of each row; 500 times as many joint"
    )
    parser.add_argument("--guidance", type=float, nargs="+", default=[0.0])
    parser.add_argument("--subset", nargs="+", help="rules, in place of the run's own")
    add_options(parser, threads=False, device=False)
    arguments = parsed(parser, "subsets", {"rows": 16, "draws": 2})
    with chosen_runs(parser, arguments) as runs:
        lines = [
            {"run": path.name, **line}
            for path in runs
            for kind in arguments.subset or [None]
            for line in measured(path, kind, arguments.rows, arguments.draws, arguments.guidance)
        ]
    text = markdown(lines)
    print(text)
    out = {"about": about("zuko"), "rows": arguments.rows, "draws": arguments.draws}
    save(arguments.out, {**out, "table": lines}, text)


def measured(
    path: Path, kind: str | None, rows: int, draws: int, weights: list[float]
) -> Iterator[dict[str, Any]]:
    """Lines of one run and rule: joint draws by prior, then every subset by weight of guidance."""
    kinds: dict[str, Any] = {} if kind is None else {"subset": kind}
    plain = load(path, **kinds)
    store = Store.open(path / plain.config.data.store)
    train, test = (store[getattr(plain.config.data, split)] for split in ("train", "test"))
    cache = store.path.with_suffix(".classifiers.safetensors")
    settings = plain.config.classifiers
    classifiers = ModalityClassifiers.train(train, test, settings, cache=cache)
    at = np.random.default_rng(0).permutation(len(test))[:rows]
    assert test.labels is not None
    x, labels = test.take(at), test.labels[at]
    names = [m.name for m in plain.modalities]
    rule = plain.facts().get("subset", "")
    for prior in plain.priors():
        began = time.process_time()
        made = plain.generate(None, 500 * draws, prior=prior, noise=False)
        seconds = time.process_time() - began
        classes = np.stack([classifiers.predict(n, made[n][:, 0]) for n in names])
        alike = (classes == classes[:1]).all(0).mean()
        yield line("nothing", f"{rule}, {prior} prior", float(alike), None, None, seconds)
    for weight in weights if plain.guidance is not None else [0.0]:
        model = plain.with_guidance(weight) if weight else plain
        for given in (s for size in range(1, len(names)) for s in combinations(names, size)):
            yield from conditional(model, {n: x[n] for n in given}, x, labels, classifiers, draws)


def conditional(
    model: Estimator,
    given: Arrays,
    x: Arrays,
    labels: np.ndarray,
    classifiers: ModalityClassifiers,
    draws: int,
) -> Iterator[dict[str, Any]]:
    began = time.process_time()
    made = model.generate(given, draws, seed=1, noise=False)
    seconds = time.process_time() - began
    hits, apart, real = [], [], []
    for name, each in made.items():
        found = classifiers.predict(name, each.reshape(-1, *each.shape[2:]))
        hits.append((found.reshape(len(each), -1) == labels).mean())
        apart.append(distance(each[0], each[1]))
        scale = 255.0 if x[name].dtype == np.uint8 else 1.0
        real.append(distance(*partners(x[name] / scale, labels)))
    coherence, diversity, of_real = (float(np.mean(v)) for v in (hits, apart, real))
    rule = model.facts()["subset"]
    yield line("+".join(given), rule, coherence, diversity, of_real, seconds)


def partners(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and for each another one of its class."""
    order = np.argsort(labels, kind="stable")
    first, second = order[:-1], order[1:]
    same = labels[first] == labels[second]
    return values[first[same]], values[second[same]]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    flat = (a.astype(float) - b.astype(float)).reshape(len(a), -1)
    return float(np.sqrt((flat**2).mean(1)).mean())


def line(
    given: str,
    rule: str,
    coherence: float,
    diversity: float | None,
    real: float | None,
    seconds: float,
) -> dict[str, Any]:
    shown = {"coherence": coherence, "diversity": diversity, "of real rows": real}
    numbers = {k: "-" if v is None else f"{v:.3f}" for k, v in shown.items()}
    found = {"given": given, "rule": rule, **numbers, "CPU s": f"{seconds:.2f}"}
    print(found, flush=True)
    return found


if __name__ == "__main__":
    main()
