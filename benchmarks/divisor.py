"""What to divide a product of experts by: density of q(z|X) under products of trained ones.

    python -m benchmarks.divisor RUN... --rows 32
    python -m benchmarks.divisor RUN... --predict
    python -m benchmarks.divisor --quick

For runs whose latent space has two dimensions and data two modalities: the product of both
experts is normalised on a grid, and scored by the mean log-density of z ~ q(z|X), at which the
experts are trained; the share of its mass beyond the ball is what the ball would have to cut off.
Compared are the prior (Eq. 12), the prior within the ball, and the aggregated posterior with a
power-law tail from different edges on.

With --predict, for runs of any number of modalities: R2 of each modality from growing numbers of
others, draws of the sampler as configured, divided by the aggregated posterior, by the prior |S|-1
times (Eq. 12) and by the prior once (F.3).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from benchmarks.common import (
    Rows,
    about,
    add_options,
    chosen_runs,
    markdown,
    parsed,
    save,
    script_parser,
)
from mvflow.core import Observed
from mvflow.estimators import load
from mvflow.functional import inside_ball
from mvflow.inference import AggregateDivisor, PriorDivisor
from mvflow.nn import seeded
from mvflow.systems.joint_system import JointEncoderSystem
from mvflow.training import as_input
from mvflow_datasets import Store

EDGES = (0.3, 0.5, 0.7, 0.9, 0.99, 0.999)


def main() -> None:
    parser = script_parser("divisor", __doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--predict", action="store_true", help="R2 by number of modalities")
    parser.add_argument("--draws", type=int, default=20, help="for each row that is predicted")
    parser.add_argument("--points", type=int, default=201, help="of the grid, along each axis")
    add_options(parser, threads=False, device=False)
    arguments = parsed(parser, "divisor", {"rows": 4, "points": 21, "draws": 2})
    with chosen_runs(parser, arguments) as runs:
        lines = _predictions(runs, arguments) if arguments.predict else _lines(runs, arguments)
    out = {"about": about("zuko"), "rows": arguments.rows, "table": lines}
    save(arguments.out, out, markdown(lines))


def _lines(runs: list[Path], arguments: argparse.Namespace) -> Rows:
    lines: Rows = []
    for run in runs:
        found = scores(run, arguments.rows, arguments.points)
        lines.append({"run": run.name, **{k: f"{v['score']:.2f}" for k, v in found.items()}})
        lines.append(
            {"run": "mass beyond the ball", **{k: f"{v['beyond']:.3f}" for k, v in found.items()}}
        )
        print(markdown(lines[-2:]), flush=True)
    return lines


def _predictions(runs: list[Path], arguments: argparse.Namespace) -> Rows:
    """One line for each run, divisor and number of observed modalities."""
    lines: Rows = []
    for run in runs:
        estimator = load(run)
        store = Store.open(run / estimator.config.data.store)
        rows = store[estimator.config.data.test].take(np.arange(arguments.rows))
        for by in ("aggregate", "prior", "prior-once"):
            model = estimator.with_settings(subset={"kind": "product", "divisor": by})
            for size in range(1, len(model.modalities)):
                found = _predicted(model, rows, size, arguments.draws)
                lines.append({"run": run.name, "divisor": by, "observed": size, **found})
                print(markdown(lines[-1:]), flush=True)
    return lines


def _predicted(model: Any, rows: Any, size: int, n: int) -> dict[str, str]:
    """R2 of means of draws, mean over columns and directions, and how the chains fared."""
    names, r2, rhat, improper = sorted(m.name for m in model.modalities), [], [1.0], 0
    for target in names:
        at = names.index(target)
        given = [names[(at + 1 + i) % len(names)] for i in range(size)]
        made, draws = model.generate(
            {name: rows[name] for name in given},
            n,
            targets=[target],
            noise=False,
            full_output=True,
        )
        true = np.asarray(rows[target], np.float64).reshape(len(rows[target]), -1)
        error = ((made[target].mean(0).reshape(true.shape) - true) ** 2).mean(0)
        varies = true.var(0) > 0
        r2.append(np.maximum(1 - error[varies] / true.var(0)[varies], -1).mean())
        summary = draws.diagnostics.summary()
        rhat.append(summary.get("rhat_median") or 1.0)
        improper += summary.get("rows_improper") or 0
    shown = {"R2": f"{np.mean(r2):.3f}", "R-hat, median": f"{max(rhat):.2f}"}
    return {**shown, "improper rows": str(improper)}


@torch.no_grad()
def scores(run: Path, rows: int, points: int) -> dict[str, dict[str, float]]:
    estimator = load(run, subset="product")
    system, radius = estimator.system_, estimator.radius
    assert isinstance(system, JointEncoderSystem)
    store = Store.open(run / estimator.config.data.store)
    taken = store[estimator.config.data.test].take(np.arange(rows))
    x = {name: as_input(torch.as_tensor(values)) for name, values in taken.items()}
    axis = torch.linspace(-3 * radius, 3 * radius, points)
    grid, cell = torch.cartesian_prod(axis, axis)[:, None], 2 * math.log(axis[1] - axis[0])
    experts = [system.expert(name, x[name]) for name in sorted(x)]
    with seeded(0, "divisor"):
        z = system.encode(Observed(x)).sample((100,))

    def density(at: Tensor) -> Tensor:
        parts = [part.expand(-1, rows, -1) for part in at.split(4096)]
        each = [torch.cat([e.log_prob(part) for part in parts]) for e in experts]
        return torch.stack(each).sum(0).double()

    on_grid, at_z = density(grid), density(z)
    moments = system.latent_mean, system.latent_std
    divided: dict[str, Any] = {"prior": PriorDivisor(), "prior in the ball": PriorDivisor()}
    for share in EDGES:
        divided[f"aggregate, edge {share}"] = aggregate = AggregateDivisor(*moments)
        aggregate.edge = float(chi2.ppf(share, 2)) ** 0.5
    found = {}
    for name, shared in divided.items():
        log_pi = on_grid - shared.log_prob(grid).double()
        if name.endswith("ball"):
            log_pi = inside_ball(log_pi, grid, radius)
        total = torch.logsumexp(log_pi, 0) + cell
        within = torch.logsumexp(inside_ball(log_pi, grid, radius), 0) + cell
        score = (at_z - shared.log_prob(z).double() - total).mean()
        found[name] = {"score": float(score), "beyond": float((1 - (within - total).exp()).mean())}
    return found


if __name__ == "__main__":
    main()
