"""Product of experts or one amortised posterior? Densities, coherence and cost by subset size.

    python -m benchmarks.subset RUN... --rows 64
    python -m benchmarks.subset --quick

For runs in which both kinds are trained (`mvflow train RUN`, then `mvflow train-amortised RUN`).
By number of observed modalities, over at most six subsets of each size:

- log q(z|x_S) at z ~ q(z|X), nats per row: what Eq. 8 maximises. A product's constant is found by
  bridge sampling (Meng and Wong 1996) between its own draws and the amortised posterior's; for one
  modality both densities are known, and the bridge is checked on them.
- conditional coherence, where a store has labels: one draw for each of the rows and every target.
- CPU seconds of one draw for each row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import (
    about,
    add_options,
    chosen_runs,
    markdown,
    parsed,
    save,
    script_parser,
)
from mvflow.core import Observed, derive_seed
from mvflow.estimators import Estimator, load
from mvflow.evaluation import ModalityClassifiers
from mvflow.systems import Encodes
from mvflow.training import as_input
from mvflow_datasets import Store

MOST_SUBSETS = 6


def main() -> None:
    parser = script_parser("subset", __doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--rows", type=int, default=64, help="for densities")
    parser.add_argument("--coherence-rows", type=int, default=256)
    add_options(parser, threads=False, device=False)
    arguments = parsed(parser, "subset", {"rows": 4, "coherence_rows": 16})
    lines = []
    with chosen_runs(parser, arguments) as runs:
        for path in runs:
            for line in compare(path, arguments.rows, arguments.coherence_rows):
                lines.append({"run": path.name, **line})
                print(lines[-1], flush=True)
    shown = [{**line, **{k: form(k, v) for k, v in line.items()}} for line in lines]
    print(markdown(shown))
    out = {"about": about("zuko"), "rows": arguments.rows, "table": lines}
    save(arguments.out, out, markdown(shown))


def form(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if key in ("coherence", "R-hat, median") else f"{value:.2f}"
    return str(value)


def posteriors(path: Path) -> dict[str, Estimator]:
    """The run with each kind of posterior; all share the joint stage."""
    found, product = {}, load(path, subset="product")
    for divisor in ("prior", "aggregate"):
        rule = {"kind": "product", "divisor": divisor}
        found[f"product over the {divisor}"] = product.with_settings(subset=rule)
    return {**found, "amortised": load(path, subset="amortised")}


def compare(path: Path, rows: int, coherence_rows: int) -> Any:
    """One line for each number of observed modalities and each kind of posterior."""
    kinds = posteriors(path)
    estimator = kinds["amortised"]
    store = Store.open(path / estimator.config.data.store)
    test = store[estimator.config.data.test]
    classifiers = None
    if test.labels is not None:
        classifiers = ModalityClassifiers.train(
            store[estimator.config.data.train],
            test,
            estimator.config.classifiers,
            cache=store.path.with_suffix(".classifiers.safetensors"),
        )
    at = np.random.default_rng(0).permutation(len(test))[:coherence_rows]
    x, labels = test.take(at), None if test.labels is None else test.labels[at]
    loc, scale = estimator.encode(x)
    z = loc + scale * np.random.default_rng(1).standard_normal(loc.shape).astype(np.float32)
    names = sorted(x)
    for size in range(1, len(names) + 1):
        chosen = list(combinations(names, size))
        chosen = [chosen[i] for i in np.random.default_rng(size).permutation(len(chosen))]
        for kind, each in kinds.items():
            if size == 1 and "prior" in kind:
                continue  # the flow itself, for both products
            found = [
                one(each, estimator, {n: x[n] for n in s}, z, labels, classifiers, rows)
                for s in chosen[:MOST_SUBSETS]
            ]
            means = {k: mean([f[k] for f in found]) for k in found[0]}
            yield {"observed": size, "posterior": kind, "subsets": len(found), **means}


def mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def one(
    estimator: Estimator,
    amortised: Estimator,
    given: Mapping[str, np.ndarray],
    z: np.ndarray,
    labels: np.ndarray | None,
    classifiers: ModalityClassifiers | None,
    rows: int,
) -> dict[str, float | None]:
    """All that is measured of one kind of posterior given one subset."""
    seed = derive_seed(0, *given)
    few = {n: v[:rows] for n, v in given.items()}
    densities, at = log_density(estimator, amortised, few, z[:rows], seed)
    begun = time.process_time()
    draws = estimator.draw(given, 1, seed=seed, combine=True)
    seconds = time.process_time() - begun
    rhat = draws.diagnostics.rhat
    targets = [m.name for m in estimator.modalities if m.name not in given]
    coherence = None
    if classifiers is not None and targets:
        made = estimator.decode(draws.z[0], targets)
        coherence = float(
            np.mean([(classifiers.predict(t, made[t]) == labels).mean() for t in targets])
        )
    return {
        "log q(z given x_S)": densities,
        "known constant": at,
        "coherence": coherence,
        "CPU s for a draw of each row": seconds,
        "R-hat, median": float(np.median(rhat)) if rhat.size else None,
    }


def _combined(estimator: Estimator, x: Observed) -> Any:
    assert isinstance(estimator.system_, Encodes)
    return estimator.system_.combine(x)


def log_density(
    estimator: Estimator,
    amortised: Estimator,
    given: Mapping[str, np.ndarray],
    z: np.ndarray,
    seed: int,
) -> tuple[float, float | None]:
    """Mean log-density at z; for a product also the error of the bridge where it is known."""
    if estimator is amortised:
        return float(amortised.posterior_log_prob(z, given, combine=True).mean()), None
    x = Observed({n: as_input(torch.as_tensor(v)) for n, v in given.items()})
    with torch.no_grad():
        product, rival = (_combined(each, x) for each in (estimator, amortised))
        own = torch.from_numpy(estimator.draw(given, 400, seed=seed, combine=True).z)
        others = rival.sample((400,))
        constant = bridge(
            product.log_prob(own),
            rival.log_prob(own),
            product.log_prob(others),
            rival.log_prob(others),
        )
        value = product.log_prob(torch.from_numpy(z)).double() - constant
    if len(given) == 1:  # known to be 0
        return float((value + constant).mean()), float(constant.abs().mean())
    return float(value.mean()), None


def bridge(own_p: Tensor, own_q: Tensor, other_p: Tensor, other_q: Tensor) -> Tensor:
    """Log constant of p, (rows,), from log p and log q at draws of p and of q (draws, rows)."""
    own, other = (own_p - own_q).double(), (other_p - other_q).double()
    constant = torch.logsumexp(other, 0) - math.log(len(other))
    shares = math.log(0.5), math.log(0.5)
    for _ in range(100):
        top = other - torch.logaddexp(shares[0] + other, shares[1] + constant)
        bottom = -torch.logaddexp(shares[0] + own, shares[1] + constant)
        new = torch.logsumexp(top, 0) - torch.logsumexp(bottom, 0)
        new = new + math.log(len(own) / len(other))
        constant = torch.where(new.isfinite(), new, constant)
    return constant


if __name__ == "__main__":
    main()
