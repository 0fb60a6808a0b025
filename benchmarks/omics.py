"""Protein from RNA of simulated cells, and batches in latent spaces: `auto`, totalVI, ridge."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.common import Rows, about, add_options, markdown, parsed, save, script_parser
from benchmarks.simulated_cells import Cells, simulate_cells
from mvflow.config import config_from_dict, resolved
from mvflow.config.auto import auto_config
from mvflow.core import Modality
from mvflow.estimators import estimator_class
from mvflow.likelihoods.count_tables import COUNTS, count_settings

DRAWS = 200
LEVEL = 0.9
Numbers = NDArray[np.floating]


class Found(NamedTuple):
    """What a method makes of cells of which it sees the RNA, or all for `latent`."""

    predicted: Numbers | None
    """log(1 + protein) of the test cells, the expected one."""
    latent: Numbers | None
    """Of the test cells, both modalities given."""
    from_rna: Numbers | None
    """Latents given the RNA alone."""
    bounds: dict[str, tuple[Numbers, Numbers]]
    """"calibration" and "test" -> lower and upper end of intervals of proteins."""


class Split(NamedTuple):
    """Rows of the cells."""

    train: NDArray[np.int64]
    calibration: NDArray[np.int64]
    test: NDArray[np.int64]


def main() -> None:
    """Run, print and write the tables."""
    parser = script_parser("omics", __doc__)
    parser.add_argument("--cells", type=int, default=2000, help="a fifth of them to test on")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of simulations, each split anew"
    )
    parser.add_argument("--methods", help="names that begin so, separated by commas")
    parser.add_argument(
        "--set", nargs="*", default=[], dest="assignments", help="settings of JNF: key=value"
    )
    add_options(parser, device=False)
    small = {"cells": 300, "seeds": [0], "assignments": ["joint.epochs=3"]}
    arguments = parsed(parser, "omics", small)
    methods: dict[str, Callable[[Cells, Split, int], Found]] = {
        "JNF, batch as covariate": partial(jnf, assignments=arguments.assignments, removed=True),
        "JNF, batch not removed": partial(jnf, assignments=arguments.assignments, removed=False),
        "ridge on log(1 + counts)": ridge,
        "PCA of log(1 + counts)": principal_components,
    }
    if totalvi_is_installed():
        methods["totalVI"] = partial(totalvi, epochs=3 if arguments.quick else None)
    if arguments.methods:
        begin = tuple(arguments.methods.split(","))
        methods = {name: method for name, method in methods.items() if name.startswith(begin)}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for seed in arguments.seeds:
        cells = simulate_cells(arguments.cells, seed=seed)
        split = split_of(arguments.cells, seed)
        for name, method in methods.items():
            begun = time.process_time()
            found = method(cells, split, seed)
            numbers = measure(cells, split, found, seed)
            measured[name].append({**numbers, "seconds": time.process_time() - begun})
            print(f"seed {seed}, {name}: {measured[name][-1]}", flush=True)
    text = "\n\n".join(map(markdown, (table(measured, PREDICTION), table(measured, LATENTS))))
    print(text)
    facts = about("scikit-learn", "scvi-tools")
    save(arguments.out, {"about": facts, "measured": measured}, text)


PREDICTION = {
    "R²": "r2",
    "correlation": "correlation",
    "90 % interval covers": "raw",
    "calibrated": "calibrated",
    "seconds": "seconds",
}
LATENTS = {
    "batch, both given": "batch",
    "cell type": "type",
    "batch, RNA given": "batch_rna",
    "cell type, RNA given": "type_rna",
    "chance of batch": "chance",
}


def table(measured: dict[str, list[dict[str, float]]], columns: dict[str, str]) -> Rows:
    """Mean over splits, with the smallest and the largest."""
    rows: Rows = []
    for name, parts in measured.items():
        shown = {}
        for title, key in columns.items():
            values = [part[key] for part in parts if key in part]
            digits = 0 if key == "seconds" else 3
            text = f"{np.mean(values):.{digits}f}" if values else ""
            if len(values) > 1:
                text += f" ({min(values):.{digits}f}–{max(values):.{digits}f})"
            shown[title] = text
        if any(
            value for title, value in shown.items() if title not in ("seconds", "chance of batch")
        ):
            rows.append({"method": name, **shown})
    return rows


def split_of(cells: int, seed: int) -> Split:
    """A fifth to test on, a tenth to calibrate intervals, the rest to train on."""
    order = np.random.default_rng(1000 + seed).permutation(cells)
    test, calibration = cells // 5, cells // 10
    parts = np.split(order, [test, test + calibration])
    return Split(np.sort(parts[2]), np.sort(parts[1]), np.sort(parts[0]))


def measure(cells: Cells, split: Split, found: Found, seed: int) -> dict[str, float]:
    """Scores on the test cells: medians over proteins, accuracies of a classifier on latents."""
    test, numbers = split.test, {}
    if found.predicted is not None:
        true = np.log1p(cells.protein[test])
        residual = ((true - found.predicted) ** 2).sum(0)
        r2 = 1 - residual / ((true - true.mean(0)) ** 2).sum(0)
        pairs = zip(true.T, found.predicted.T, strict=True)
        numbers["r2"] = float(np.median(r2))
        numbers["correlation"] = float(np.median([np.corrcoef(*pair)[0, 1] for pair in pairs]))
    if found.bounds:
        low, high = found.bounds["test"]
        numbers["raw"] = covered(cells.protein[test], low, high)
        outside = scores(cells.protein[split.calibration], *found.bounds["calibration"])
        rank = min(int(np.ceil((len(outside) + 1) * LEVEL)), len(outside))
        wider = np.sort(outside, 0)[rank - 1]
        low, high = np.expm1(np.log1p(low) - wider), np.expm1(np.log1p(high) + wider)
        numbers["calibrated"] = covered(cells.protein[test], low, high)
    for key, z in (("", found.latent), ("_rna", found.from_rna)):
        if z is not None:
            numbers[f"batch{key}"] = accuracy(z, cells.batch[test])
            numbers[f"type{key}"] = accuracy(z, cells.kind[test])
    numbers["chance"] = float(
        np.unique(cells.batch[test], return_counts=True)[1].max() / len(test)
    )
    return numbers


def covered(true: NDArray[np.int64], low: Numbers, high: Numbers) -> float:
    """Share of values within their intervals."""
    return float(((true >= np.ceil(low - 1e-6)) & (true <= np.floor(high + 1e-6))).mean())


def scores(true: NDArray[np.int64], low: Numbers, high: Numbers) -> Numbers:
    """How far log(1 + x) lies outside (conformalised quantile regression, Romano et al. 2019)."""
    y = np.log1p(true)
    return np.maximum(np.log1p(low) - y, y - np.log1p(high))


def accuracy(z: Numbers, classes: NDArray[Any]) -> float:
    """Of logistic regression on latents, cross-validated."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return float(cross_val_score(classifier, z, classes, cv=5).mean())


def jnf(
    cells: Cells, split: Split, seed: int, assignments: Sequence[str], *, removed: bool
) -> Found:
    """The recipe `auto`; encoders and decoders see the batch if it is to be removed."""
    data = {"rna": cells.rna, "protein": cells.protein}
    specs = [Modality(n, x.shape[1:], count_settings(COUNTS, x.shape[1])) for n, x in data.items()]
    raw = auto_config(specs, len(split.train), covariates=removed)
    config = config_from_dict(resolved(raw, assignments))
    model = estimator_class(config.system).from_config(config)

    def taken(rows: NDArray[np.int64], *names: str) -> dict[str, Any]:
        return {name: data[name][rows] for name in names or data}

    def batch(rows: NDArray[np.int64]) -> Any:
        return {"batch": cells.batch[rows]} if removed else None

    model.fit(taken(split.train), covariates=batch(split.train), seed=seed)
    bounds, test = {}, split.test
    for part in ("calibration", "test"):
        rows = getattr(split, part)
        draws = model.generate(
            taken(rows, "rna"), DRAWS, noise=True, seed=seed, covariates=batch(rows)
        )["protein"]
        tails = (1 - LEVEL) / 2
        bounds[part] = tuple(np.quantile(draws, (tails, 1 - tails), axis=0))
    return Found(
        np.log1p(draws).mean(0),
        model.encode(taken(test), covariates=batch(test))[0],
        model.transform(taken(test, "rna"), n=50, covariates=batch(test)),
        bounds,
    )


def ridge(cells: Cells, split: Split, seed: int) -> Found:
    """Ridge regression on log counts and the batch, its penalty by leave-one-out."""
    x = np.column_stack([np.log1p(cells.rna), cells.batch == "B"])
    y = np.log1p(cells.protein)
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 20)))
    model.fit(x[split.train], y[split.train])
    spread = (y[split.train] - model.predict(x[split.train])).std(0) * 1.645
    bounds = {}
    for part in ("calibration", "test"):
        at = model.predict(x[getattr(split, part)])
        bounds[part] = np.expm1(at - spread).clip(0), np.expm1(at + spread)
    return Found(model.predict(x[split.test]), None, None, bounds)


def principal_components(cells: Cells, split: Split, seed: int) -> Found:
    """Ten components of all counts or of the RNA alone, for comparison of latent spaces."""

    def of(x: Numbers) -> Numbers:
        model = make_pipeline(StandardScaler(), PCA(10, random_state=seed)).fit(x[split.train])
        return np.asarray(model.transform(x[split.test]))

    rna, protein = np.log1p(cells.rna), np.log1p(cells.protein)
    return Found(None, of(np.column_stack([rna, protein])), of(rna), {})


def totalvi_is_installed() -> bool:
    """Whether scvi-tools can be imported."""
    try:
        import scvi  # noqa: F401
    except ImportError:
        return False
    return True


def totalvi(cells: Cells, split: Split, seed: int, *, epochs: int | None) -> Found:
    """TotalVI (Gayoso et al. 2021) at its defaults, for all of its epochs or so many.

    Protein is imputed as its authors do: cells without protein are batches of their own in
    training, so that it has seen the RNA of these cells. What it gives is brought to the level of
    counts by a line for each protein, fitted to the calibration cells. Latents of the test cells
    given both come from a second model, trained on the training cells alone.
    """
    import anndata
    import scvi

    scvi.settings.seed = seed

    def trained(rows: NDArray[np.int64], batch: NDArray[Any], protein: NDArray[Any]) -> Any:
        data = anndata.AnnData(cells.rna[rows].astype(np.float32))
        data.obs["batch"], data.obsm["protein"] = batch, protein
        scvi.model.TOTALVI.setup_anndata(
            data, batch_key="batch", protein_expression_obsm_key="protein"
        )
        model = scvi.model.TOTALVI(data)
        model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
        return model

    whole = np.concatenate([split.train, split.calibration, split.test])
    hidden, tests = (
        np.arange(len(split.train), len(whole)),
        np.arange(len(whole))[-len(split.test) :],
    )
    batch, protein = cells.batch[whole].astype("U8"), cells.protein[whole].astype(np.float32)
    batch[hidden] = np.char.add(batch[hidden], " hidden")
    protein[hidden] = 0
    model = trained(whole, batch, protein)
    expressed = np.zeros(protein.shape)
    for level in ("A", "B"):
        at = hidden[cells.batch[whole[hidden]] == level]
        _, expressed[at] = model.get_normalized_expression(
            indices=at,
            transform_batch=[level],
            n_samples=25,
            return_numpy=True,
            include_protein_background=True,
        )
    logs, true = np.log1p(expressed), np.log1p(cells.protein[whole])
    known = hidden[: len(split.calibration)]
    lines = [np.polyfit(logs[known, j], true[known, j], 1) for j in range(logs.shape[1])]
    pairs = zip(lines, logs[tests].T, strict=True)
    predicted = np.column_stack([np.polyval(line, column) for line, column in pairs])
    from_rna = model.get_latent_representation(indices=tests)
    full = trained(split.train, cells.batch[split.train], cells.protein[split.train].astype("f4"))
    test = anndata.AnnData(cells.rna[split.test].astype(np.float32))
    test.obs["batch"] = cells.batch[split.test]
    test.obsm["protein"] = cells.protein[split.test].astype(np.float32)
    return Found(predicted, full.get_latent_representation(test), from_rna, {})


if __name__ == "__main__":
    main()
