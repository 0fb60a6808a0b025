"""What to divide a product of experts by: density of q(z|X) under products of trained ones.

    python -m benchmarks.divisor RUN... --rows 32

For runs whose latent space has two dimensions and data two modalities: the product of both
experts is normalised on a grid, and scored by the mean log-density of z ~ q(z|X), at which the
experts are trained; the share of its mass beyond the ball is what the ball would have to cut off.
Compared are the prior (Eq. 12), the prior within the ball, and the aggregated posterior with a
power-law tail from different edges on.
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

from benchmarks.common import about, markdown
from mvflow.estimators import load
from mvflow.functional import inside_ball
from mvflow.inference import Aggregate, Prior
from mvflow.nn import seeded
from mvflow.runs import write_json
from mvflow.training import as_input
from mvflow_datasets import Store

EDGES = (0.3, 0.5, 0.7, 0.9, 0.99, 0.999)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.divisor", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--points", type=int, default=201, help="of the grid, along each axis")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for run in arguments.runs:
        found = scores(run, arguments.rows, arguments.points)
        lines.append({"run": run.name, **{k: f"{v['score']:.2f}" for k, v in found.items()}})
        lines.append(
            {"run": "mass beyond the ball", **{k: f"{v['beyond']:.3f}" for k, v in found.items()}}
        )
        print(markdown(lines[-2:]), flush=True)
    out = {"about": about("zuko"), "rows": arguments.rows, "table": lines}
    write_json(arguments.out / "divisor.json", out)
    (arguments.out / "divisor.md").write_text(markdown(lines) + "\n", "utf-8")


@torch.no_grad()
def scores(run: Path, rows: int, points: int) -> dict[str, dict[str, float]]:
    estimator = load(run)
    model, radius = estimator.model_, float(estimator.model_.joint.radius)
    store = Store.open(run / estimator.config.data.store)
    taken = store[estimator.config.data.test].take(np.arange(rows))
    x = {name: as_input(torch.as_tensor(values)) for name, values in taken.items()}
    axis = torch.linspace(-3 * radius, 3 * radius, points)
    grid, cell = torch.cartesian_prod(axis, axis)[:, None], 2 * math.log(axis[1] - axis[0])
    experts = [model.unimodal(name, x[name]) for name in sorted(x)]
    with seeded(0, "divisor"):
        z = model.joint.posterior(x).sample((100,))

    def density(at: Tensor) -> Tensor:
        parts = [part.expand(-1, rows, -1) for part in at.split(4096)]
        return sum(torch.cat([e.log_prob(part) for part in parts]) for e in experts).double()

    on_grid, at_z = density(grid), density(z)
    moments = model.joint.latent_mean, model.joint.latent_std
    divided: dict[str, Any] = {"prior": Prior(), "prior in the ball": Prior()}
    for share in EDGES:
        divided[f"aggregate, edge {share}"] = aggregate = Aggregate(*moments)
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
