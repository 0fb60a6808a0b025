"""Are draws posterior draws where posteriors are bent? Calibration of every subset rule.

    python -m benchmarks.calibration
    python -m benchmarks.calibration --quick

z ~ N(0, I) in two dimensions, a bent modality of one noisy number (banana) and a linear one of
two. One joint stage serves all rules: the product of experts, their mixture, the amortised
posterior and flow matching without guidance and with. Each is checked as `mvflow diagnose` does,
against rows that the model simulates and against held-out rows. Reported are, of all subsets, the
smallest p-value, corrected for the number of tests (a calibrated model is below .05 one time in
twenty), and the range of the share of true values in 80 % intervals.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

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
from mvflow import JNF, Modality
from mvflow.core import ArraySource
from mvflow.estimators import Estimator
from mvflow.evaluation import check_calibration

NOISE = {"banana": 0.3, "linear": 0.5}
LEVEL = 0.8
FLOW = {"kind": "conditional-maf", "transforms": 3, "hidden": (64, 64)}
RULES: dict[str, dict[str, Any]] = {
    "product": {},
    "mixture": {},
    "amortised": {"posterior": {**FLOW, "context": 32}},
    "matching": {"width": 128, "embedding": 32},
}
QUICK = {"train_rows": 300, "rows": 20, "chained_rows": 20, "seeds": 1, "epochs": 1}


def main() -> None:
    """Train, check, and write one row for each rule, guidance and truth."""
    parser = script_parser("calibration", __doc__)
    parser.add_argument("--train-rows", type=int, default=12_000, help="of the data")
    parser.add_argument("--rows", type=int, default=1000, help="latents that are ranked")
    parser.add_argument("--chained-rows", type=int, default=300, help="where chains are drawn")
    parser.add_argument("--seeds", type=int, default=2, help="of data, training and ranks")
    parser.add_argument("--epochs", type=int, default=20, help="of each stage")
    parser.add_argument("--guidance", type=float, default=1.0, help="of the guided draws")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=[*RULES])
    add_options(parser, device=False)
    options = parsed(parser, "calibration", QUICK)
    table: Rows = []
    found = []
    for seed in range(options.seeds):
        train, held_out = sample(options.train_rows, seed), sample(options.rows, seed + 1000)
        begun = time.process_time()
        joint = joint_stage(options.epochs).fit(train, seed=seed, stages=["joint"])
        print(f"joint stage: {time.process_time() - begun:.0f} s of CPU", flush=True)
        for rule in options.rules:
            begun = time.process_time()
            model = with_rule(joint, rule, options.epochs, train)
            seconds = time.process_time() - begun
            weights = (0.0, options.guidance) if rule == "matching" else (0.0,)
            for weight in weights:
                drawn = model.with_guidance(weight) if weight else model
                rows = options.chained_rows if rule == "product" else options.rows
                line: dict[str, Any] = {
                    "seed": seed,
                    "rule": rule + (f", guidance {weight:g}" if weight else ""),
                    "rows": rows,
                }
                for against, data in (("model", None), ("data", held_out)):
                    checked = checks(drawn, data, rows, seed)
                    found.append({**line, "against": against, **checked})
                    line |= shown(against, checked["subsets"])
                table.append({**line, "training, s": f"{seconds:.0f}"})
                show_last(table)
    save(options.out, {"about": about(), "found": found}, markdown(table))


def sample(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Rows of both modalities."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 2))
    means = {
        "banana": z[:, 1:] + z[:, :1] ** 2 - 1,
        "linear": z @ np.array([[0.8, -0.6], [0.6, 0.8]]),
    }
    return {n: m + NOISE[n] * rng.normal(size=m.shape) for n, m in means.items()}


def joint_stage(epochs: int) -> JNF:
    """A joint VAE of two latents, whose likelihoods have the noise of the data, by the ELBO."""
    network = {"kind": "mlp", "hidden": (64, 64)}
    shapes = {"banana": (1,), "linear": (2,)}
    return JNF(
        [
            Modality(n, shape, {"kind": "normal", "scale": NOISE[n]}, weight=1.0)
            for n, shape in shapes.items()
        ],
        latent_dim=2,
        networks={n: {"encoder": network, "decoder": network} for n in shapes},
        joint={**training(epochs), "merge": (64, 64)},
        posterior=FLOW,
        flows={**training(epochs), "summary_hidden": (64,)},
        data={"validation": 0.0},
    )


def with_rule(joint: JNF, rule: str, epochs: int, train: Mapping[str, np.ndarray]) -> Estimator:
    """The model with another subset rule, and the stages that it needs."""
    subset = {"kind": rule, **RULES[rule]}
    if rule not in ("product", "mixture"):
        subset |= {**training(2 * epochs), "summary_hidden": (128, 128)}
    model = joint.with_settings(subset=subset)
    stages = [name for name in model.stage_names if name not in model.trained_]
    return model.fit(train, stages=stages) if stages else model


def training(epochs: int) -> dict[str, Any]:
    """Settings of a stage."""
    return {
        "epochs": epochs,
        "batch_size": 128,
        "learning_rate": 3e-3,
        "schedule": "one-cycle",
    }


def checks(model: Estimator, data: Any, rows: int, seed: int) -> dict[str, Any]:
    """Smallest p-value and coverages by subset."""
    source = None if data is None else ArraySource({n: v[:rows] for n, v in data.items()})
    result = check_calibration(model, source, rows=rows, seed=seed)
    level = min(map(float, next(iter(result.subsets.values())).coverage), key=near)
    return {
        "level": level,
        "tests": result.tests,
        "failed": result.failed,
        "subsets": {
            name: {
                "p_value": of.p_value,
                "verdict": of.verdict,
                "coverage": next(v for k, v in of.coverage.items() if float(k) == level),
            }
            for name, of in result.subsets.items()
        },
    }


def near(level: float) -> float:
    """How far a level is from the one that is shown."""
    return abs(level - LEVEL)


def shown(against: str, subsets: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Columns of the table."""
    worst = min(subsets, key=lambda name: subsets[name]["p_value"])
    covered = [share for of in subsets.values() for share in of["coverage"]]
    bad = sum(of["verdict"] != "good" for of in subsets.values())
    return {
        f"{against}: failed": f"{bad} of {len(subsets)}",
        f"{against}: smallest p": f"{subsets[worst]['p_value']:.3f} ({worst})",
        f"{against}: 80 % intervals hold": f"{min(covered):.3f} to {max(covered):.3f}",
    }


if __name__ == "__main__":
    main()
