"""What rows that lack modalities are worth, where every answer is known exactly.

    python -m benchmarks.incomplete
    python -m benchmarks.incomplete --subset matching --distillation 0 0.5 --draws 20
    python -m benchmarks.incomplete --quick

Linear-Gaussian rows of three modalities, of which two are absent in a share of the rows each. JNF
is trained on all of them, on those alone that are complete, and on the same rows with nothing
absent; then log p(X) of complete rows that it has not seen is compared with the exact value, and
the posterior of each of the seven subsets with the exact one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import (
    Rows,
    about,
    add_options,
    markdown,
    parsed,
    save,
    script_parser,
    show_last,
)
from mvflow import JNF
from mvflow_datasets.linear_gaussian import LinearGaussian

__all__ = ["SUBSETS", "compared", "main", "measured", "model"]

NAMES = ("m0", "m1", "m2")
SUBSETS = [s for size in (1, 2, 3) for s in combinations(NAMES, size)]
LATENT = 2
TRAININGS = ("all rows", "complete rows alone", "nothing absent")
RULES: dict[str, dict[str, Any]] = {
    "amortised": {"posterior": "gaussian", "learning_rate": 1e-2},
    "matching": {"width": 128, "learning_rate": 3e-3},
}
"""What subset rules need beyond the widths of their networks."""

Arrays = Mapping[str, NDArray[np.float32]]


def model(exact: LinearGaussian, batch: int, epochs: int, rule: Mapping[str, Any]) -> JNF:
    """Linear heads and decoders, merged by a small network; one posterior of all subsets.

    Args:
        exact: the model that rows are drawn from.
        batch: rows of a batch.
        epochs: of each stage.
        rule: `subset.kind` and further settings of it.
    """
    linear = {"kind": "mlp", "hidden": []}
    training = {
        "epochs": epochs,
        "batch_size": batch,
        "learning_rate": 1e-2,
        "schedule": "one-cycle",
    }
    return JNF(
        exact.modalities,
        latent_dim=LATENT,
        networks={n: {"encoder": linear, "decoder": linear} for n in NAMES},
        joint={**training, "merge": (64, 64)},
        subset={
            "embedding": 16,
            "summary_hidden": (64, 64),
            **training,
            **RULES[rule["kind"]],
            **rule,
        },
        data={"validation": 0.0},
    )


def measured(estimator: JNF, exact: LinearGaussian, x: Arrays, draws: int) -> dict[str, Any]:
    """Nats by which log p(X) is too low, and KL(exact || q) of all subsets, means over rows."""
    # p(X) does not change when z is rotated: Procrustes' rotation takes z to the model's latents
    u, _, v = np.linalg.svd(exact.posterior(x).mean.T @ estimator.encode(x)[0])
    turned = LinearGaussian(
        {n: w @ u @ v for n, w in exact.loadings.items()}, exact.offsets, exact.noise
    )
    rng, divergences = np.random.default_rng(0), {}
    for names in SUBSETS:
        given = {n: x[n] for n in names}
        known = turned.posterior(given)
        root = np.linalg.cholesky(known.covariance)
        z = known.mean + rng.standard_normal((draws, *known.mean.shape)) @ root.T
        log_p = np.stack([known.log_prob(draw) for draw in z])
        log_q = estimator.posterior_log_prob(z.astype(np.float32), given)
        divergences["+".join(names)] = float((log_p - log_q).mean())
    found = estimator.log_likelihood(x, n=500)
    return {
        "nats_too_low": float((exact.log_likelihood(x) - found).mean()),
        "divergences": divergences,
    }


def compared(
    rows: int,
    absent: float,
    seed: int,
    rule: Mapping[str, Any] | None = None,
    *,
    trained_on: Collection[str] = TRAININGS,
    batch: int = 128,
    steps: int = 1500,
    draws: int = 200,
) -> dict[str, Any]:
    """Some or all trainings of one seed.

    Args:
        rows: for training.
        absent: share of the rows that lack m1, and of those that lack m2.
        seed: of rows, masks and training.
        rule: `subset.kind` and further settings of it; by default "amortised".
        trained_on: which of `TRAININGS`.
        batch: rows of a batch.
        steps: of each stage.
        draws: of the exact posterior of each row, for divergences.
    """
    exact = LinearGaussian.drawn(modalities=3, latent=LATENT, seed=seed)
    rng = np.random.default_rng(seed)
    train, test = (
        {n: v.astype(np.float32) for n, v in exact.sample(count, rng)[1].items()}
        for count in (rows, 500)
    )
    present = {n: rng.random(rows) >= absent for n in ("m1", "m2")}
    complete = present["m1"] & present["m2"]
    gaps = {
        n: np.where(present[n][:, None], v, np.nan) if n in present else v
        for n, v in train.items()
    }
    trainings: list[tuple[Arrays, Any]] = [
        (gaps, present),
        ({n: v[complete] for n, v in train.items()}, None),
        (train, None),
    ]
    found = {}
    for name, (x, masks) in zip(TRAININGS, trainings, strict=True):
        if name not in trained_on:
            continue
        began = time.perf_counter()
        size = min(batch, len(x["m0"]))
        estimator = model(
            exact, size, steps // (len(x["m0"]) // size), rule or {"kind": "amortised"}
        )
        estimator.fit(x, present=masks, seed=seed)
        seconds = time.perf_counter() - began
        found[name] = {
            "rows": len(x["m0"]),
            **measured(estimator, exact, test, draws),
            "seconds": round(seconds, 1),
        }
    return found


def main() -> None:
    """Train, measure, and write one row for each training."""
    parser = script_parser("incomplete", __doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 5000], help="for training")
    parser.add_argument("--absent", type=float, default=0.6, help="share without m1, without m2")
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--steps", type=int, default=1500, help="of each stage")
    parser.add_argument("--subset", choices=RULES, default="amortised", help="subset.kind")
    parser.add_argument("--distillation", type=float, nargs="+", help="weights of a teacher")
    parser.add_argument("--trained-on", nargs="+", choices=TRAININGS, default=TRAININGS)
    parser.add_argument("--draws", type=int, default=200, help="of the exact posterior of a row")
    add_options(parser, device=False)
    options = parsed(parser, "incomplete", {"rows": [300], "seeds": 1, "steps": 8})
    rules: list[dict[str, Any]] = [{"kind": options.subset}]
    if options.distillation:
        rules = [{**rules[0], "distillation": weight} for weight in options.distillation]
    table: Rows = []
    found = []
    for rows, seed, rule in product(options.rows, range(options.seeds), rules):
        result = compared(
            rows,
            options.absent,
            seed,
            rule,
            trained_on=options.trained_on,
            steps=options.steps,
            draws=options.draws,
        )
        found.append({"rows": rows, "seed": seed, "rule": rule, "trainings": result})
        for name, one in result.items():
            divergences = [*one["divergences"].values()]
            table.append(
                {
                    "rows": rows,
                    "seed": seed,
                    "rule": ", teacher ".join(f"{value}" for value in rule.values()),
                    "trained on": f"{name} ({one['rows']})",
                    "log p(X) too low by": f"{one['nats_too_low']:.3f}",
                    "KL of seven subsets, mean": f"{np.mean(divergences):.3f}",
                    "largest": f"{max(divergences):.3f}",
                    "s": f"{one['seconds']:.0f}",
                }
            )
            show_last(table)
    save(options.out, {"about": about(), "found": found}, markdown(table))


if __name__ == "__main__":
    main()
