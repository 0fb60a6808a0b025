"""Cost and quality of draws from products of experts, against other packages; prints Markdown.

    python -m benchmarks.sample                # all tables, about ten minutes
    python -m benchmarks.sample --quick        # the same tables from next to nothing, a minute
    python -m benchmarks.sample a d --steps 10 # a tenth of the paper's schedule
    python -m benchmarks.sample e --device cuda

a: the paper's schedule (100 steps of 10 leapfrogs) with the networks of Table E.6, two experts,
   20 latent dimensions, against MultiVae's JNF, turn by turn.
b: the same networks with their last layers zero, so that experts are Gaussian and their product is
   known: gradients and CPU time per effective draw, where a mean of k effective draws has the
   squared error 1/k in units of the exact variance.
c: inverse of masked autoregressive flows, in evaluations of their density.
d: the paper's schedule with the flows of every published network, two to four experts.
e: on a GPU only: the schedule of a, and many rows at once, captured as CUDA graphs and not.

MultiVae 1.0.3 and hamiltorch take part where the interpreter that runs this finds them. Times
are CPU times of this process, one thread, but for e, which takes times on the wall.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Transform

from benchmarks.common import Report, Rows, add_options, parsed, script_parser, turn_by_turn
from mvflow.config import config_from_dict, recipe
from mvflow.functional import normal_poe
from mvflow.inference import SIR, Draws, HMCSampler, ProductOfExperts, Sampler
from mvflow.inference.hamiltorch import Hamiltorch
from mvflow.nn import seeded
from mvflow.posteriors import MAF, build_posterior
from mvflow.posteriors.fast.inverse import OrderedInverse
from mvflow.posteriors.fast.levels import levels
from mvflow.systems import build_system
from mvflow.systems.jnf import JNF
from mvflow.systems.subsets import PROTOCOLS

PAPER = {k: v for k, v in PROTOCOLS["paper"]["sampler"].items() if k != "kind"}
OURS: dict[str, Sampler] = {
    "mvflow hmc": HMCSampler(),
    "mvflow hmc, 10 leapfrogs": HMCSampler(num_steps=10),
    "mvflow hmc, paper": HMCSampler(**PAPER),
    "mvflow sir": SIR(),
}
PUBLISHED = {"mnist-svhn": (2,), "mhd": (2, 3), "polymnist": (2, 3, 4)}
"""Recipe -> numbers of experts in part d."""
ON_CPU = ["a", "b", "c", "d"]
QUICK = {"draws": 64, "steps": 4, "rows": 2, "repeats": 1, "points": [1, 16]}
QUICK |= {"samplers": ["mvflow hmc", "mvflow sir", "MultiVae"]}


def main() -> None:
    arguments = _arguments()
    logging.disable(logging.INFO)  # MultiVae announces every call
    title = __doc__.splitlines()[0].removesuffix("; prints Markdown.")
    report = Report(title, arguments, "zuko", "multivae", "pythae", "hamiltorch")
    with torch.no_grad():
        for part in arguments.parts or (ON_CPU if arguments.device == "cpu" else ["e"]):
            began = time.perf_counter()
            report.add(part, f"{part}: {PARTS[part].__doc__}", PARTS[part](arguments), began)


def schedule(arguments: argparse.Namespace) -> Rows:
    """The paper's schedule, MAF with two transforms, d = 20: CPU seconds per 1,000 draws."""
    n, steps = arguments.draws, arguments.steps
    system = build_system(config_from_dict(recipe("mnist-svhn"))).eval().requires_grad_(False)
    assert isinstance(system, JNF)
    assert system.flows is not None
    x = {"mnist": torch.rand(1, 1, 28, 28), "svhn": torch.rand(1, 3, 32, 32)}
    paper = HMCSampler(**{**PAPER, "draws": steps})

    def ours() -> None:
        product = ProductOfExperts([system.expert(name, x[name]) for name in x])
        paper.sample(product, n)

    def default() -> None:
        product = ProductOfExperts([system.expert(name, x[name]) for name in x])
        HMCSampler().sample(product, n)

    timed: dict[str, Callable[[], Any]] = {"mvflow, paper": ours, "mvflow, default": default}
    if find_spec("multivae"):
        encoders: dict[str, Any] = {name: system.flows[name].encoder for name in x}
        theirs = _multivae(encoders, 20, {name: tuple(v.shape[1:]) for name, v in x.items()})
        repeated = {name: v.expand(1, *v.shape[1:]) for name, v in x.items()}
        timed["MultiVae"] = lambda: _their_draws(theirs, repeated, n, steps)
    ours()  # the first call of torch's kernels is not timed
    seconds = turn_by_turn(timed, arguments.repeats)
    base = min(seconds["mvflow, paper"])
    return [
        {
            "sampler": name,
            "draws": n,
            "steps": steps if name != "mvflow, default" else "100 + kept",
            "CPU s": round(min(each), 3),
            "turns": " ".join(f"{one:.2f}" for one in each),
            "s per 1,000 draws": round(min(each) * 1000 / n, 3),
            "times mvflow, paper": round(min(each) / base, 2),
        }
        for name, each in seconds.items()
    ]


def known(arguments: argparse.Namespace) -> Rows:
    """Two experts, Gaussian and of equal width: gradients and CPU time per effective draw."""
    out = []
    for d in arguments.latent:
        for width in (0.9, 0.5, 0.1, 0.004):
            rng = np.random.default_rng(0)
            locs = 0.7 * width * rng.normal(size=(2, arguments.rows, d))
            scales = np.full_like(locs, width)
            for name, sample in _samplers(arguments).items():
                with seeded(0, name):
                    row = _score(locs, scales, sample, arguments.draws, few=name == "hamiltorch")
                out.append({"d": d, "width": width, "sampler": name, **row})
    return out


def inverse(arguments: argparse.Namespace) -> Rows:
    """MAF with two transforms, hidden 128 and 128: CPU ms, without the once sorted weights."""
    out = []
    for d in (20, 64, 190):
        with seeded(0, "inverse"):
            flow = build_posterior(MAF(), d, lambda n: nn.Linear(2, n)).requires_grad_(False)
        q = flow(torch.zeros(1, 2))
        lazy = [part for part in flow.modules() if isinstance(part, OrderedInverse)]
        ordered, plain = [t() for t in lazy], [t.transform() for t in lazy]
        for points in arguments.points:
            y = torch.randn(points, 1, d)
            ways: dict[str, Callable[[], Any]] = {
                "density": partial(q.log_prob, y),
                "products": _products(lazy, points),
                "ordered": partial(_inverses, ordered, y),
                "plain": partial(_inverses, plain, y),
            }
            for way in ways.values():
                way()
            seconds = turn_by_turn(ways, 3 * arguments.repeats)
            least = {name: min(each) for name, each in seconds.items()}
            rest = least["ordered"] - least["products"]
            out.append(
                {
                    "d": d,
                    "points": points,
                    **{name: round(1e3 * each, 2) for name, each in least.items()},
                    "ordered / density": round(least["ordered"] / least["density"], 2),
                    "(ordered - products) / density": round(rest / least["density"], 2),
                    "plain / ordered": round(least["plain"] / least["ordered"], 1),
                }
            )
    return out


def _inverses(transforms: Sequence[Transform], y: Tensor) -> list[Tensor]:
    return [transform.inv(y) for transform in transforms]


def _products(lazy: list[OrderedInverse], points: int) -> Callable[[], Any]:
    """The products of matrices alone, zeros included, that an evaluation of the networks needs."""
    nets = [levels(t.transform) for t in lazy]
    weights = [layer.weight for net in nets for layer in (*net.hidden, net.last)]
    inputs = [torch.randn(w.shape[1], points) for w in weights]
    return lambda: [w @ x for w, x in zip(weights, inputs, strict=True)]


def published(arguments: argparse.Namespace) -> Rows:
    """A tenth of the paper's steps with the flows of all published networks: CPU seconds."""
    n, steps = arguments.draws, max(4, arguments.steps // 10)
    out = []
    for name, counts in PUBLISHED.items():
        experts = _experts(name, max(counts))
        for count in counts:
            product = ProductOfExperts([q(torch.zeros(1, 2)) for q in experts[:count]])
            sampler = HMCSampler(**{**PAPER, "draws": steps})
            timed = {"": lambda s=sampler, p=product: s.sample(p, n)}
            (seconds,) = turn_by_turn(timed, arguments.repeats).values()
            each = min(seconds) / (steps * PAPER["num_steps"] + 1)
            out.append(
                {
                    "networks": name,
                    "d": experts[0].shift.numel(),
                    "experts": count,
                    "draws": n,
                    "steps": steps,
                    "CPU s": round(min(seconds), 3),
                    "ms per gradient of all": round(1e3 * each, 2),
                    "s for 100 steps": round(min(seconds) * 100 / steps, 1),
                }
            )
    return out


def captured(arguments: argparse.Namespace) -> Rows:
    """On a GPU: the paper's schedule, and many rows in chunks; seconds on the wall.

    Captured: as `HMCSampler` draws, the product's density and gradient being one CUDA graph. The
    seconds are with its capture, once a chunk, and with diagnostics.
    """
    out = []
    experts = [q.to(arguments.device) for q in _experts("mnist-svhn", 2)]
    short, sampler = (HMCSampler(**PAPER | {"draws": n}) for n in (4, arguments.steps))
    for rows, n in ((1, arguments.draws), (arguments.many, 1)):
        chunk = min(rows, arguments.chunk)
        seen = torch.zeros(chunk, 2, device=arguments.device)
        product = ProductOfExperts([q(seen) for q in experts])
        for way in ("captured", "eager"):
            with contextlib.nullcontext() if way == "captured" else _not_captured():
                short.sample(product, n)
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                began = time.perf_counter()
                draws = [sampler.sample(product, n).z.cpu() for _ in range(0, rows, chunk)]
                seconds = time.perf_counter() - began
            row = {"way": way, "rows": rows, "draws": n, "steps": arguments.steps}
            memory = torch.cuda.max_memory_allocated() / 2**30
            row |= {"s": round(seconds, 3), "GiB": round(memory, 2)}
            out.append(row | {"finite": bool(torch.cat(draws, 1).isfinite().all())})
    return out


def _not_captured() -> contextlib.AbstractContextManager[Any]:
    return mock.patch("mvflow.inference.chains.captured", lambda function, _: function)


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "a": schedule,
    "b": known,
    "c": inverse,
    "d": published,
    "e": captured,
}

# What takes part.


def _experts(name: str, count: int) -> list[Any]:
    """Posteriors with the flows of a recipe, over an encoder that is one layer."""
    config: Any = config_from_dict(recipe(name))
    with seeded(0, name):
        made = [
            build_posterior(config.posterior, config.latent_dim, lambda n: nn.Linear(2, n))
            for _ in range(count)
        ]
    return [q.eval().requires_grad_(False) for q in made]


def _samplers(arguments: argparse.Namespace) -> dict[str, Callable[[ProductOfExperts, int], Any]]:
    settings = dict(OURS)
    if find_spec("hamiltorch"):
        settings["hamiltorch"] = Hamiltorch()
    made: dict[str, Any] = {name: each.sample for name, each in settings.items()}
    if find_spec("multivae"):
        made["MultiVae"] = _their_known_draws
    return {k: v for k, v in made.items() if not arguments.samplers or k in arguments.samplers}


def _score(
    locs: np.ndarray, scales: np.ndarray, sample: Callable[..., Any], n: int, *, few: bool
) -> dict[str, Any]:
    """Draw `n` per row; compare with the exact means and variances."""
    rows = slice(2) if few else slice(None)
    pairs = [
        (torch.from_numpy(loc).float(), torch.from_numpy(scale).float())
        for loc, scale in zip(locs[:, rows], scales[:, rows], strict=True)
    ]
    product = ProductOfExperts([_still_expert(loc, scale) for loc, scale in pairs])
    gradients = _counted(product)
    began = time.process_time()
    found = sample(product, n) if sample is not _their_known_draws else sample(pairs, n)
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
    per_row = gradients["count"] / len(loc) or n * getattr(sample, "gradients", 0)
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


def _still_expert(loc: Tensor, scale: Tensor) -> Any:
    """N(loc, scale^2), (rows, latent), through the flow of Table E.6 with its last layers zero."""
    # models bound log scales by 7 tanh(./7)
    outputs = torch.cat([loc, 7 * torch.atanh(scale.log() / 7)], -1)
    with seeded(0, "still"):
        q = build_posterior(MAF(), loc.shape[-1], lambda _: _Constant(outputs))
    for part in q.modules():
        if isinstance(part, OrderedInverse):
            _silence(part.transform.hyper[-1])
    return q.eval().requires_grad_(False)(torch.zeros(len(loc), 1))


class _Constant(nn.Module):
    outputs: Tensor

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("outputs", outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs


def _silence(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _at(outputs: Tensor, index: Tensor) -> Tensor:
    return outputs[index[:, 0].long()]


def _their_known_draws(pairs: list[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """MultiVae's sampler, the last layers of its flows zero and its encoders constants."""
    q = {f"m{j}": torch.cat([loc, scale.log()], -1) for j, (loc, scale) in enumerate(pairs)}
    constants = {name: partial(_at, e) for name, e in q.items()}
    rows, d = pairs[0][0].shape
    model = _multivae(constants, d, dict.fromkeys(q, (1,)), still=True)
    index = torch.arange(rows).float()[:, None]
    return _their_draws(model, dict.fromkeys(q, index), n, 100).reshape(n, rows, d)


_their_known_draws.gradients = 100 * 11  # type: ignore[attr-defined]


def _their_draws(model: Any, x: dict[str, Tensor], n: int, steps: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model._sample_from_poe_subset(
            list(x), x, mcmc_steps=steps, n_lf=10, eps_lf=0.01, K=n, divide_prior=True
        )


def _multivae(
    encoders: Mapping[str, Callable[[Tensor], Tensor]],
    d: int,
    shapes: dict[str, tuple[int, ...]],
    *,
    still: bool = False,
) -> Any:
    """MultiVae's JNF around encoders whose outputs are a mean and a log scale.

    With `still` the last layers of its flows are zero, and the flows the identity.
    """
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
        made = MAF(MAFConfig(input_dim=(d,), n_made_blocks=2, n_hidden_in_made=2, hidden_size=128))
        for block in made.net if still else ():
            if type(block).__name__ == "MADE":
                _silence(block.net[-1])
        return made

    with torch.enable_grad():
        config = JNFConfig(n_modalities=len(shapes), latent_dim=d, input_dims=shapes)
        model = JNF(
            config,
            encoders={name: Encoder(e) for name, e in encoders.items()},
            flows={name: maf() for name in shapes},
        )
    return model.eval().requires_grad_(False)


def _arguments() -> argparse.Namespace:
    parser = script_parser("sample", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--draws", type=int, default=1000, help="in all parts but c")
    parser.add_argument("--steps", type=int, default=100, help="in parts a, d (a tenth) and e")
    parser.add_argument("--rows", type=int, default=4, help="in part b")
    parser.add_argument("--latent", type=int, nargs="+", default=[20], help="dimensions in part b")
    parser.add_argument("--samplers", nargs="+", help="those in part b; all by default")
    parser.add_argument("--points", type=int, nargs="+", default=[1, 64, 1024], help="in part c")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--many", type=int, default=100_000, help="rows in part e")
    parser.add_argument("--chunk", type=int, default=16_384, help="rows at a time in part e")
    add_options(parser, threads=False)
    arguments = parsed(parser, "sample", QUICK)
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    if "e" in arguments.parts and arguments.device == "cpu":
        parser.error("part e needs --device cuda")
    return arguments


if __name__ == "__main__":
    main()
