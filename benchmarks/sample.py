"""Cost and quality of draws from products of experts, against other packages; prints Markdown.

    python benchmarks/sample.py               # all three tables, minutes
    python benchmarks/sample.py a --steps 10  # a tenth of the paper's schedule

a: the paper's schedule (100 steps of 10 leapfrogs) with the networks of Table E.6, two experts,
   20 latent dimensions, against MultiVae's JNF, turn by turn.
b: Gaussian experts, whose product is known: gradients and CPU time per effective draw, where a
   mean of k effective draws has the squared error 1/k in units of the exact variance.
c: inverse of masked autoregressive flows, in evaluations of their density.

MultiVae 1.0.3 and hamiltorch take part where they are installed. Times are CPU times of this
process, one thread.
"""

from __future__ import annotations

import argparse
import logging
import platform
import subprocess
import time
import warnings
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from zuko.distributions import DiagNormal

from mvflow.config import Flows, SamplerConfig, config_from_dict, recipe
from mvflow.functional import normal_poe
from mvflow.inference import PAPER, ProductOfExperts, build_sampler
from mvflow.inference.product import Draws
from mvflow.models import build_model
from mvflow.nn import seeded
from mvflow.posteriors import build_posterior
from mvflow.posteriors.inverse import OrderedInverse
from mvflow.runs import write_json

Rows = list[dict[str, Any]]

OURS = {
    "mvflow hmc": SamplerConfig(),
    "mvflow hmc, paper": SamplerConfig(**PAPER),
    "mvflow sir": SamplerConfig(name="sir"),
}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)  # MultiVae announces every call
    out: dict[str, Any] = {"about": _about()}
    with torch.no_grad():
        for part in arguments.parts or PARTS:
            print(f"\n{part}: {PARTS[part].__doc__}\n")
            out[part] = PARTS[part](arguments)
            print(_table(out[part]), flush=True)
    write_json(arguments.out, out)


def schedule(arguments: argparse.Namespace) -> Rows:
    """The paper's schedule, MAF with two transforms, d = 20: CPU seconds per 1,000 draws."""
    n, steps = arguments.draws, arguments.steps
    model = build_model(config_from_dict(recipe("mnist-svhn"))).eval().requires_grad_(False)
    x = {"mnist": torch.rand(1, 1, 28, 28), "svhn": torch.rand(1, 3, 32, 32)}
    settings = SamplerConfig(**{**PAPER, "draws": steps})

    def ours() -> None:
        product = ProductOfExperts([model.unimodal(name, x[name]) for name in x])
        build_sampler(settings).sample(product, n)

    def default() -> None:
        product = ProductOfExperts([model.unimodal(name, x[name]) for name in x])
        build_sampler(SamplerConfig()).sample(product, n)

    timed: dict[str, Callable[[], Any]] = {"mvflow, paper": ours, "mvflow, default": default}
    if find_spec("multivae"):
        encoders = {name: model.flows[name].encoder for name in x}
        theirs = _multivae(encoders, 20, {name: tuple(v.shape[1:]) for name, v in x.items()}, None)
        repeated = {name: v.expand(1, *v.shape[1:]) for name, v in x.items()}
        timed["MultiVae"] = lambda: _their_draws(theirs, repeated, n, steps)
    seconds = _turn_by_turn(timed, arguments.repeats)
    base = seconds["mvflow, paper"]
    return [
        {
            "sampler": name,
            "draws": n,
            "steps": steps if name != "mvflow, default" else "100 + kept",
            "CPU s": round(each, 3),
            "s per 1,000 draws": round(each * 1000 / n, 3),
            "times mvflow, paper": round(each / base, 2),
        }
        for name, each in seconds.items()
    ]


def known(arguments: argparse.Namespace) -> Rows:
    """Two Gaussian experts of equal width: gradients and CPU time per effective draw."""
    out = []
    for d in arguments.latent:
        for width in (0.9, 0.5, 0.1, 0.004):
            rng = np.random.default_rng(0)
            locs = 0.7 * width * rng.normal(size=(2, arguments.rows, d))
            scales = np.full_like(locs, width)
            for name, sample in _samplers(arguments).items():
                with seeded(0, name):
                    row = _score(locs, scales, sample, few=name == "hamiltorch")
                out.append({"d": d, "width": width, "sampler": name, **row})
    return out


def inverse(arguments: argparse.Namespace) -> Rows:
    """MAF with two transforms, hidden 128 and 128, 1,024 rows: CPU ms."""
    out = []
    for d in (20, 64, 190):
        with seeded(0, "inverse"):
            flow = build_posterior(Flows(), d, lambda n: nn.Linear(2, n)).requires_grad_(False)
            q, y = flow(torch.zeros(1, 2)), torch.randn(1024, 1, d)
        ordered = [part for part in flow.modules() if isinstance(part, OrderedInverse)]
        plain = [part.transform for part in ordered]
        seconds = _turn_by_turn(
            {
                "density": lambda q=q, y=y: q.log_prob(y),
                "ordered": lambda ts=ordered, y=y: [t()._inverse(y) for t in ts],
                "plain": lambda ts=plain, y=y: [t()._inverse(y) for t in ts],
            },
            arguments.repeats,
        )
        ms = {name: round(1e3 * s, 2) for name, s in seconds.items()}
        ratios = {
            "ordered / density": round(seconds["ordered"] / seconds["density"], 2),
            "plain / ordered": round(seconds["plain"] / seconds["ordered"], 1),
        }
        out.append({"d": d, **ms, **ratios})
    return out


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "a": schedule,
    "b": known,
    "c": inverse,
}

# What takes part.


def _samplers(arguments: argparse.Namespace) -> dict[str, Callable[[ProductOfExperts, int], Any]]:
    settings = dict(OURS)
    if find_spec("hamiltorch"):
        settings["hamiltorch"] = SamplerConfig(name="hamiltorch")
    made: dict[str, Any] = {name: build_sampler(s).sample for name, s in settings.items()}
    if find_spec("multivae"):
        made["MultiVae"] = _their_gaussian_draws
    return {k: v for k, v in made.items() if not arguments.samplers or k in arguments.samplers}


def _score(
    locs: np.ndarray, scales: np.ndarray, sample: Callable[..., Any], few: bool, n: int = 200
) -> dict[str, Any]:
    """Draw `n` per row; compare with the exact means and variances."""
    rows = slice(2) if few else slice(None)
    pairs = zip(locs[:, rows], scales[:, rows], strict=True)
    product = ProductOfExperts([DiagNormal(*map(torch.from_numpy, p)) for p in pairs])
    gradients = _counted(product)
    began = time.process_time()
    found = sample(product, n)
    seconds = time.process_time() - began
    z = found.z if isinstance(found, Draws) else found
    loc, scale = normal_poe(locs[:, rows], scales[:, rows])
    u = (z.double().numpy() - loc) / scale
    error = u.mean(0)
    effective = 1 / np.mean(error**2)
    if isinstance(found, Draws) and found.diagnostics.method == "sir":
        claimed = 1 / (1 / n + 1 / found.diagnostics.ess[:, None])
    elif isinstance(found, Draws):
        claimed = np.minimum(found.diagnostics.ess, n)[:, None]
    else:
        claimed = np.full((len(loc), 1), n)
    deviations = error * np.sqrt(claimed)
    per_row = gradients["count"] / len(loc) or getattr(sample, "gradients", 0)
    return {
        "effective": round(float(effective), 1),
        "reported": round(float(np.median(claimed)), 1),
        "worst R-hat or k": _worst(found),
        "gradients / effective": round(float(per_row / effective), 1),
        "CPU ms / effective": round(float(1e3 * seconds / len(loc) / effective), 3),
        "effective / CPU s": round(float(effective * len(loc) / seconds), 1),
        "rms deviation, s.e.": round(float(np.sqrt(np.mean(deviations**2))), 2),
        "largest, s.e.": round(float(np.abs(deviations).max()), 1),
        "variance / exact": round(float(u.var(0).mean()), 3),
    }


def _worst(found: Any) -> float | str:
    if not isinstance(found, Draws):
        return "-"
    d = found.diagnostics
    return round(float(np.max(d.khat if d.method == "sir" else d.rhat)), 2)


def _counted(product: ProductOfExperts) -> dict[str, int]:
    """Counts gradients of single points of single rows, from now on."""
    found, inner = {"count": 0}, product.value_and_grad

    def value_and_grad(z: Tensor) -> tuple[Tensor, Tensor]:
        # hamiltorch asks for one point at a time, and gets those of all rows
        found["count"] += 1 if z.ndim == 2 else z.shape[0] * z.shape[1]
        return inner(z)

    product.value_and_grad = value_and_grad  # type: ignore[method-assign]
    return found


def _their_gaussian_draws(product: ProductOfExperts, n: int) -> Tensor:
    """MultiVae's sampler, its flows the identity and its encoders constants."""
    q = {f"m{j}": expert.base_dist for j, expert in enumerate(product.experts)}
    constants = {
        name: lambda index, e=e: torch.cat([e.loc, e.scale.log()], -1)[index[:, 0].long()].float()
        for name, e in q.items()
    }
    rows, d = next(iter(q.values())).loc.shape
    model = _multivae(constants, d, dict.fromkeys(q, (1,)), _identity(d))
    index = torch.arange(rows).float()[:, None]
    return _their_draws(model, dict.fromkeys(q, index), n, 100).reshape(n, rows, d)


_their_gaussian_draws.gradients = 200 * 100 * 11  # type: ignore[attr-defined]


def _their_draws(model: Any, x: dict[str, Tensor], n: int, steps: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model._sample_from_poe_subset(
            list(x), x, mcmc_steps=steps, n_lf=10, eps_lf=0.01, K=n, divide_prior=True
        )


def _multivae(
    encoders: dict[str, Callable[[Tensor], Tensor]],
    d: int,
    shapes: dict[str, tuple[int, ...]],
    flow: Callable[[], nn.Module] | None,
) -> Any:
    """MultiVae's JNF around encoders whose outputs are a mean and a log scale."""
    from multivae.models import JNF, JNFConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn.base_architectures import BaseEncoder
    from pythae.models.normalizing_flows.maf import MAF, MAFConfig

    class Encoder(BaseEncoder):
        def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.made, self.latent_dim = made, d

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_scale = self.made(x).split(d, -1)
            return ModelOutput(embedding=loc, log_covariance=2 * log_scale)

    def maf() -> nn.Module:
        return MAF(MAFConfig(input_dim=(d,), n_made_blocks=2, n_hidden_in_made=2, hidden_size=128))

    with torch.enable_grad():
        config = JNFConfig(n_modalities=len(shapes), latent_dim=d, input_dims=shapes)
        model = JNF(
            config,
            encoders={name: Encoder(e) for name, e in encoders.items()},
            flows={name: (flow or maf)() for name in shapes},
        )
    return model.eval().requires_grad_(False)


def _identity(d: int) -> Callable[[], nn.Module]:
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.normalizing_flows.base import BaseNF, BaseNFConfig

    class Identity(BaseNF):
        def __init__(self) -> None:
            super().__init__(BaseNFConfig(input_dim=(d,)))

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(out=z, log_abs_det_jac=torch.zeros_like(z[:, 0]))

    return Identity


# Measuring.


def _turn_by_turn(timed: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Least CPU seconds of each; they take turns, so that all meet the same machine."""
    found: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, call in timed.items():
            began = time.process_time()
            call()
            found[name].append(time.process_time() - began)
    return {name: min(each) for name, each in found.items()}


def _table(rows: Rows) -> str:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(row[key]) for key in head) + " |" for row in rows]
    return "\n".join(lines)


def _about() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = {}
    for name in ("mvflow", "torch", "zuko", "numpy", "multivae", "pythae", "hamiltorch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "commit": commit,
        "date": date.today().isoformat(),
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--draws", type=int, default=1000, help="in part a")
    parser.add_argument("--steps", type=int, default=100, help="in part a")
    parser.add_argument("--rows", type=int, default=16, help="in part b")
    parser.add_argument("--latent", type=int, nargs="+", default=[8], help="dimensions in part b")
    parser.add_argument("--samplers", nargs="+", help="those in part b; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sample.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
