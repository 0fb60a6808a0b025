"""Evaluating a run and keeping the result with it: shared by `evaluate`, `report` and `demo`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvflow_cli.output import finite

if TYPE_CHECKING:
    from mvflow.estimators import Estimator
    from mvflow.evaluation import Autoencoders, Classifiers
    from mvflow.runs import RunDirectory
    from mvflow.training import Callback, Processes
    from mvflow_datasets import Store

__all__ = ["beside", "judges", "kept_metrics", "measure"]


def measure(
    run: RunDirectory,
    model: Estimator,
    store: Store,
    *,
    seed: int = 0,
    split: str | None = None,
    device: str = "cpu",
    listener: Callback | None = None,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Evaluate a trained run on a split of its store, and write `metrics/evaluation.json`.

    With another kind of subset posterior than `config.toml` has, the file is named after it.
    Rows without labels are evaluated without coherence. Classifiers and autoencoders are those
    kept beside the store; they are trained if there are none yet. Several processes divide the
    rows to draw, decode and score; the main process trains and writes.
    """
    from mvflow.evaluation import evaluate
    from mvflow.runs import write_json

    test = store[split or model.config.data.test]
    is_main = processes is None or processes.is_main_process
    if processes is not None and not is_main:
        processes.barrier()
        listener = None
    classifiers = None
    if test.labels is not None:
        classifiers = judges(run, model, store, device=device, listener=listener)
    features = _autoencoders(run, model, store, device=device, listener=listener)
    if processes is not None and is_main:
        processes.barrier()
    result = evaluate(model.across(processes), test, classifiers, [features], seed=seed)
    result = finite({**result, "split": test.name, **_inputs(run, model)})
    if is_main:
        write_json(_path(run, model), result)
    return dict(result)


def judges(
    run: RunDirectory,
    model: Estimator,
    store: Store,
    *,
    device: str = "cpu",
    listener: Callback | None = None,
) -> Classifiers | None:
    """The store's classifiers, trained if there are none yet; None if its rows have no labels."""
    from mvflow.evaluation import classifiers_for

    train, test = store[model.config.data.train], store[model.config.data.test]
    if train.labels is None or test.labels is None:
        return None
    return classifiers_for(
        beside(store.path, "classifiers", run.path),
        train,
        test,
        model.config.classifiers,
        device=device,
        listener=listener,
    )


def _autoencoders(
    run: RunDirectory, model: Estimator, store: Store, *, device: str, listener: Callback | None
) -> Autoencoders:
    from mvflow.evaluation import autoencoders_for

    return autoencoders_for(
        beside(store.path, "autoencoders", run.path),
        store[model.config.data.train],
        store[model.config.data.test],
        model.config.classifiers,
        device=device,
        listener=listener,
    )


def kept_metrics(run: RunDirectory, model: Estimator) -> dict[str, Any] | None:
    """The evaluation that a run has, or None if there is none of these weights and settings.

    One from before there were all of today's measures counts as none.
    """
    from mvflow.runs import read_json

    path = _path(run, model)
    if not path.is_file():
        return None
    metrics = read_json(path)
    inputs = _inputs(run, model)
    if "diversity" not in metrics:
        return None
    return metrics if {k: metrics.get(k) for k in inputs} == inputs else None


def _path(run: RunDirectory, model: Estimator) -> Path:
    kind = model.config.subset
    own = run.config().subset == kind
    return run.path / "metrics" / ("evaluation.json" if own else f"evaluation-{kind}.json")


def _inputs(run: RunDirectory, model: Estimator) -> Mapping[str, Any]:
    """What tells whether an evaluation is still that of a run: its weights, its settings."""
    from mvflow.config import stage_names

    stages = run.manifest()["stages"]
    settings = model.config.model_dump(mode="json")
    return {
        "stages": {name: stages[name]["key"] for name in stage_names(model.config)},
        "settings": {k: settings[k] for k in ("evaluation", "sampler", "classifiers")},
    }


def beside(store: Path, kind: str, otherwise: Path) -> Path:
    """Where networks that judge the rows of a store are kept.

    Args:
        store: the store, beside which they lie, so that all its runs share them.
        kind: "classifiers" or "autoencoders".
        otherwise: the folder that takes them if the store's cannot be written.
    """
    folder = store.parent if os.access(store.parent, os.W_OK) else otherwise
    return folder / f"{store.stem}.{kind}.safetensors"
