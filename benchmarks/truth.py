"""How far are posteriors from the truth? KL(true || approximation) on a grid, for every subset.

    python -m benchmarks.truth
    python -m benchmarks.truth --linear --only maf "amortised conditional-maf" matching
    python -m benchmarks.truth --only "mixture nsf"
    python -m benchmarks.truth --quick

z ~ N(0, I) in two dimensions, three modalities of one noisy number each: a bent one (banana), a
linear one and the distance from the origin (a ring); with `--linear` three linear ones. Every
posterior p(z|x_S) is known on a grid. Each family is fitted to pairs (z, x) by maximum
likelihood, one expert for each modality, and Eq. 12 makes the rest; the amortised posterior is
fitted to all subsets at once, and so is the velocity of flow matching. A mixture has the experts
of a family. Reported are the median
and, in brackets, the worst of the rows, in nats. What is normalised, and costs much to evaluate,
is compared at draws of the true posterior.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Rows, about, add_options, markdown, parsed, save, script_parser
from mvflow.config import Training
from mvflow.inference import AggregateDivisor, PriorDivisor, ProductOfExperts
from mvflow.nn import MLP, seeded
from mvflow.posteriors import (
    MAF,
    NSF,
    AmortisedPosterior,
    ConditionalMAF,
    Family,
    Gaussian,
    MatchedFlow,
    MatchingPosterior,
    build_posterior,
)
from mvflow.stages import Losses
from mvflow.systems.subsets.matching import random_subsets_by_size
from mvflow.systems.subsets.mixture import EqualMixture
from mvflow.training import Stage, Table, TensorColumn, run_stage

AXIS = torch.linspace(-6, 6, 241)
GRID = torch.cartesian_prod(AXIS, AXIS)[:, None]
CELL = float(AXIS[1] - AXIS[0]) ** 2
MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "banana": lambda z: z[..., 1] + z[..., 0] ** 2 - 1,
    "linear": lambda z: 0.8 * z[..., 1] - 0.6 * z[..., 0],
    "ring": lambda z: z.norm(dim=-1),
}
NOISE = {"banana": 0.3, "linear": 0.5, "ring": 0.3}
LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "first": lambda z: z[..., 0],
    "second": lambda z: 0.8 * z[..., 1] - 0.6 * z[..., 0],
    "third": lambda z: 0.5 * z[..., 1] + z[..., 0],
}
SIZE: dict[str, Any] = {"transforms": 3, "hidden": (64, 64)}
FAMILIES: dict[str, Family] = {
    "gaussian": Gaussian(),
    "maf": MAF(**SIZE),
    "conditional-maf": ConditionalMAF(**SIZE),
    "nsf": NSF(**SIZE),
}
AMORTISED: dict[str, Family] = {
    "conditional-maf": ConditionalMAF(**SIZE, context=32),
    "nsf": NSF(**SIZE, context=32),
}
CHECKED, DRAWS = 256, 400
"""Rows on which the solver is checked; draws of the true posterior of each row."""
QUICK = {"rows": 1, "steps": 4}
Posterior = Callable[[Mapping[str, Tensor]], Any]


def main() -> None:
    parser = script_parser("truth", __doc__)
    parser.add_argument("--rows", type=int, default=64, help="observations to judge")
    parser.add_argument("--steps", type=int, default=3000, help="of each fit")
    add_options(parser, threads=False, device=False)
    parser.add_argument("--linear", action="store_true", help="three linear modalities")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="KIND",
        help="families, 'amortised FAMILY', 'mixture FAMILY', matching",
    )
    arguments = parsed(parser, "truth", QUICK)
    if arguments.linear:
        MEANS.clear()
        MEANS.update(LINEAR)
        NOISE.update(dict.fromkeys(LINEAR, 0.5))
    rivals = [f"amortised {kind}" for kind in AMORTISED]
    mixtures = [f"mixture {kind}" for kind in FAMILIES]
    only = set(arguments.only or [*FAMILIES, *rivals, *mixtures, "matching"])
    train, test = sample(min(200, arguments.steps) * 256, 0), sample(arguments.rows, 1)
    truth = {s: true_posterior({n: test[n] for n in s}) for s in subsets()}
    table: Rows = []
    seconds: dict[str, float] = {}
    for name, posterior in systems(train, arguments.steps, seconds, only):
        for given, known in truth.items():
            kl = divergence(known, posterior({n: test[n] for n in given}))
            line = {"posterior": name, "given": "+".join(given), "mean": float(kl.mean())}
            table.append({**line, "median": float(kl.median()), "worst": float(kl.max())})
            print(line["posterior"], line["given"], f"{table[-1]['median']:.4f}", flush=True)
    names = list(dict.fromkeys(line["posterior"] for line in table))
    text = markdown(
        [
            {
                "posterior": name,
                **{line["given"]: cell(line) for line in table if line["posterior"] == name},
            }
            for name in names
        ]
    )
    print("\n" + text)
    out = {"about": about("zuko"), "rows": arguments.rows, "steps": arguments.steps}
    save(arguments.out, {**out, "seconds": seconds, "divergences": table}, text)


def cell(line: Mapping[str, Any]) -> str:
    return f"{line['median']:.3f} ({line['worst']:.2f})"


def subsets() -> list[tuple[str, ...]]:
    return [s for size in (1, 2, 3) for s in combinations(MEANS, size)]


def sample(rows: int, seed: int) -> dict[str, Tensor]:
    with seeded(seed, "truth"):
        z = torch.randn(rows, 2)
        x = {n: f(z)[:, None] + NOISE[n] * torch.randn(rows, 1) for n, f in MEANS.items()}
    return {"z": z, **x}


def true_posterior(x: Mapping[str, Tensor]) -> Tensor:
    """Log p(z|x_S) of each row on the grid, (points, rows)."""
    log_p = -0.5 * GRID.double().square().sum(-1)
    for name, values in x.items():
        residual = (values[:, 0].double() - MEANS[name](GRID.double())) / NOISE[name]
        log_p = log_p - 0.5 * residual**2
    return log_p - torch.logsumexp(log_p, 0) - np.log(CELL)


@torch.no_grad()
def divergence(known: Tensor, posterior: Any) -> Tensor:
    """KL(true || posterior) of each row; the posterior is normalised on the grid."""
    if isinstance(posterior, MatchedFlow | EqualMixture):
        with seeded(0, "draws"):
            points = torch.multinomial((known + np.log(CELL)).exp().T, DRAWS, replacement=True).T
        log_q = posterior.log_prob(GRID[points, 0])
        return (torch.gather(known, 0, points) - log_q.double()).mean(0)
    at = GRID.expand(-1, known.shape[1], -1)
    log_q = torch.cat([posterior.log_prob(part) for part in at.split(8192)]).double()
    log_q = log_q - torch.logsumexp(log_q, 0) - np.log(CELL)
    return (known.exp() * (known - log_q)).sum(0) * CELL


def systems(
    train: Mapping[str, Tensor], steps: int, seconds: dict[str, float], only: Set[str]
) -> Any:
    """Name and posterior of each family's experts and products, and of the amortised rivals."""
    aggregate = AggregateDivisor(train["z"].mean(0), train["z"].std(0))
    for kind, family in FAMILIES.items():
        if not only & {kind, f"mixture {kind}"}:
            continue
        begun = time.process_time()
        experts = {name: expert(train, name, family, steps) for name in MEANS}
        seconds[kind] = time.process_time() - begun
        divisors = {"prior": PriorDivisor(), "aggregate": aggregate} if kind in only else {}
        for divided, divisor in divisors.items():
            yield f"{kind}, product over the {divided}", product_of(experts, divisor)
        if f"mixture {kind}" in only:
            yield f"{kind}, mixture", mixture_of(experts)
    for kind, family in ((k, f) for k, f in AMORTISED.items() if f"amortised {k}" in only):
        begun = time.process_time()
        made = amortised(train, family, 2 * steps)
        seconds[f"amortised {kind}"] = time.process_time() - begun
        yield f"{kind}, amortised", made
    if "matching" in only:
        begun = time.process_time()
        made = matched(train, 2 * steps)
        seconds["matching"] = time.process_time() - begun
        yield "flow matching", made


def product_of(experts: Mapping[str, Any], divisor: Any) -> Posterior:
    return lambda x: ProductOfExperts([experts[n](x[n]) for n in x], divisor=divisor)


def mixture_of(experts: Mapping[str, Any]) -> Posterior:
    return lambda x: EqualMixture([experts[n](x[n]) for n in x])


def expert(train: Mapping[str, Tensor], name: str, family: Family, steps: int) -> Any:
    with seeded(0, name, family.kind):
        q = build_posterior(family, 2, lambda out: MLP(1, 64, 64, out))
    fit(q, steps, train, lambda b: q(b[name]).log_prob(b["z"]).mean())
    return q


def amortised(train: Mapping[str, Tensor], family: Family, steps: int) -> Any:
    with seeded(0, "amortised", family.kind):
        q = AmortisedPosterior(
            {n: MLP(1, 64, 32) for n in MEANS},
            build_posterior(family, 2, lambda out: MLP(33 * len(MEANS), 128, 128, out)),
            32,
        )

    def fitness(batch: Mapping[str, Tensor]) -> Tensor:
        observed = torch.rand(len(batch["z"]), len(MEANS)) < 0.5
        return q({n: batch[n] for n in MEANS}, observed).log_prob(batch["z"]).mean()

    fit(q, steps, train, fitness)
    return q


def matched(train: Mapping[str, Tensor], steps: int) -> Any:
    with seeded(0, "matching"):
        encoders = {n: MLP(1, 64, 32) for n in MEANS}
        q = MatchingPosterior(encoders, 2, 32, hidden=(128, 128), width=128)

    def given(batch: Mapping[str, Tensor]) -> Tensor:
        seen = random_subsets_by_size(len(batch["z"]), len(MEANS))
        return q.condition({n: batch[n] for n in MEANS}, seen)

    def fitness(batch: Mapping[str, Tensor]) -> Tensor:
        q.update_averages()
        return -q.loss(q.states(batch["z"]), given(batch)).mean()

    fit(q, steps, train, fitness)
    q.use_averages()
    few = {n: v[:CHECKED] for n, v in train.items()}
    q.choose_steps(few["z"], q({n: few[n] for n in MEANS}), 0.005)
    print(f"flow matching: {int(q.steps)} steps, error {float(q.solver_error):.4f}", flush=True)
    return q


def fit(module: Any, steps: int, train: Mapping[str, Tensor], fitness: Any) -> None:
    chosen = Training(
        epochs=max(1, steps // 200), batch_size=256, learning_rate=3e-3, schedule="one-cycle"
    )
    table = Table({n: TensorColumn(v, None) for n, v in train.items()}, len(train["z"]))
    stage = Stage("flows", module, lambda b, _: Losses(-fitness(b), {}), chosen, table)
    run_stage(stage)
    module.requires_grad_(False)


if __name__ == "__main__":
    main()
