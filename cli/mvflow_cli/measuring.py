"""Measuring a run and keeping the results with it: shared by all commands that show them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mvflow_cli.judge_files import JudgeFiles

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow.core import Source
    from mvflow.estimators import Estimator
    from mvflow.evaluation import (
        Calibration,
        Evaluation,
        EvaluationPlan,
        FeatureNetwork,
        InceptionFeatures,
        ModalityClassifiers,
    )
    from mvflow.evaluation.networks import ModalityNetworks
    from mvflow.runs import RunDirectory
    from mvflow.training import Callback, Processes
    from mvflow_datasets import Store

__all__ = [
    "changed",
    "evaluation_path",
    "kept_classifiers",
    "load_classifiers",
    "load_evaluation",
    "load_networks",
    "load_result",
    "measure",
    "network_path",
    "run_state",
    "settings_state",
]

TIMED_ROWS = 4
"""Of each modality, by which it is told how long Inception-v3 takes."""
SECTIONS = ("evaluation", "sampler", "classifiers", "subset")
"""Of the configuration, on which an evaluation depends."""
KEPT_LATER = ("subset",)
"""Sections that results of older versions do not have."""

Result = TypeVar("Result", "Evaluation", "Calibration")
Networks = TypeVar("Networks", bound="ModalityNetworks")


def measure(
    run: RunDirectory,
    model: Estimator,
    store: Store,
    *,
    seed: int = 0,
    split: str | None = None,
    protocol: str = "",
    device: str = "cpu",
    callback: Callback | None = None,
    processes: Processes | None = None,
    judges: JudgeFiles | None = None,
    keep: bool = False,
    tell: Callable[[str], None] | None = None,
    on_plan: Callable[[EvaluationPlan], None] | None = None,
    progress: Callable[[int, int, str, float], None] | None = None,
) -> Evaluation:
    """Evaluate a trained run on a split of its store, and write `metrics/evaluation.json`.

    With another kind of subset posterior than `config.toml` has, or by a protocol, the file is
    named after it.
    Rows without labels are evaluated without coherence. Classifiers and autoencoders are those
    kept beside the store; they are trained if there are none yet. Intervals of tables are
    calibrated on the same rows and kept beside. Several processes divide the rows to draw, decode
    and score; the one that is_main trains and writes. One process alone keeps what is finished,
    so that it can be interrupted and goes on, and no second one evaluates the run meanwhile.

    Args:
        run: the run.
        model: its model.
        store: its store.
        seed: of rows, subsets and draws.
        split: of the store; by default the one for testing.
        protocol: by which the model draws (`Estimator.with_protocol`), if by any.
        device: where networks that measure are trained.
        callback: of their training.
        processes: that all run this.
        judges: files with networks that measure, which the user brings.
        keep: return the evaluation that is there, if it was measured in just this way.
        tell: called with a sentence where something takes long before the plan is known.
        on_plan: called before it starts with what it will do, and about how long that takes.
        progress: called before each part; see `mvflow.evaluate`.

    Raises:
        LockedError: if another process evaluates the run.
    """
    from mvflow.core import fingerprint
    from mvflow.evaluation import Evaluation, ModalityAutoencoders, evaluate
    from mvflow.runs import write_intervals, write_json
    from mvflow_cli.keeping import KeptParts, state_hash
    from mvflow_datasets.importing import read_units

    test = store[split or model.config.data.test]
    classifiers, features, others = (judges or JudgeFiles()).read(test, device=device)
    is_main = processes is None or processes.is_main_process
    if processes is not None and not is_main:
        processes.barrier()
        callback = None
    if test.labels is not None and classifiers is None:
        classifiers = load_classifiers(run, model, store, device=device, callback=callback)
    if features is None:
        features = load_networks(
            ModalityAutoencoders, run, model, store, device=device, callback=callback
        )
    networks: list[FeatureNetwork] = [features, *others]
    if processes is not None and is_main:
        processes.barrier()
    state = run_state(run, model, SECTIONS)
    about = {j.name: getattr(j, "about", "") for j in (classifiers, *networks) if j}
    has_limits = model.config.evaluation.frechet_infinity
    way = {"seed": seed, "rows": fingerprint(test), "judges": about, "limits": has_limits}
    parts = KeptParts(run.path, {**state, **way}) if processes is None else None
    path = evaluation_path(run, model, protocol)
    key = state_hash({**state, **way, "evaluation": model.config.evaluation.model_dump()})
    if keep and (kept := load_result(Evaluation, path, state)) and kept.key == key:
        return kept
    is_own = path.name == "evaluation.json"
    if tell is not None and is_main:
        for judge in others:
            tell(_inception_sentence(judge, test, model))
    with nullcontext() if parts is None else parts.lock():
        evaluation = evaluate(
            model.distribute(processes),
            test,
            classifiers,
            networks,
            seed=seed,
            train=store[model.config.data.train],
            units=read_units(store.path),
            parts=parts,
            on_plan=on_plan if processes is None else None,
            progress=progress if is_main else None,
            on_intervals=(lambda wide: write_intervals(run, wide, state["stages"]))
            if is_main and is_own
            else None,
        )
        more: dict[str, Any] = {"split": test.name, "data": store.name, "note": store.note}
        more |= {**state, "key": key}
        if evaluation.method is not None:
            more["method"] = evaluation.method.model_copy(update={"protocol": protocol})
        result = evaluation.model_copy(update=more)
        if is_main:
            write_json(path, result.to_dict())
        if parts is not None:
            parts.clear()
    return result


def _inception_sentence(judge: InceptionFeatures, test: Source, model: Estimator) -> str:
    """How many real rows go through Inception-v3 first, and about how long that takes."""
    from mvflow_cli.progress import clock

    settings = model.config.evaluation
    rows = min(len(test), max(settings.rows, settings.prior_draws))
    images = [m.name for m in model.modalities if judge.accepts(m)]
    seconds = 0.0
    for name in images:
        x = test.take(range(min(TIMED_ROWS, len(test))))[name]
        judge.features(name, x[:1])  # what is made once does not count
        began = time.monotonic()
        judge.features(name, x)
        seconds += rows * (time.monotonic() - began) / len(x)
    return (
        f"Inception-v3: first the features of {rows:,} real rows of {', '.join(images)}, about "
        f"{clock(seconds)}; generated rows take as long each"
    )


def load_classifiers(
    run: RunDirectory,
    model: Estimator,
    store: Store,
    *,
    device: str = "cpu",
    callback: Callback | None = None,
) -> ModalityClassifiers | None:
    """The store's classifiers, trained if there are none yet; None if its rows have no labels."""
    from mvflow.evaluation import ModalityClassifiers

    if any(store[split].labels is None for split in _splits(model)):
        return None
    return load_networks(ModalityClassifiers, run, model, store, device=device, callback=callback)


def kept_classifiers(
    run: RunDirectory, model: Estimator, store: Store, *, device: str = "cpu"
) -> ModalityClassifiers | None:
    """The classifiers that are kept beside the store; None if there are none."""
    from mvflow.evaluation import ModalityClassifiers

    if not network_path(store.path, ModalityClassifiers, run.path).is_file():
        return None
    return load_classifiers(run, model, store, device=device)


def load_networks(
    kind: type[Networks],
    run: RunDirectory,
    model: Estimator,
    store: Store,
    *,
    device: str = "cpu",
    callback: Callback | None = None,
) -> Networks:
    """Networks of one kind, kept beside the store; trained if there are none yet.

    Where the store's folder cannot be written, those that lie there are copied into the run.
    """
    from mvflow.runs import waiting_lock, write_atomically

    cache = network_path(store.path, kind, run.path)
    shared = store.path.parent / cache.name
    if shared.is_file() and not cache.is_file():
        write_atomically(cache, partial(shutil.copyfile, shared))
    train, test = (store[split] for split in _splits(model))
    with nullcontext() if cache.is_file() else waiting_lock(cache):
        return kind.train(
            train,
            test,
            model.config.classifiers,
            cache=cache,
            device=device,
            callback=callback,
        )


def _splits(model: Estimator) -> tuple[str, str]:
    return model.config.data.train, model.config.data.test


def load_evaluation(run: RunDirectory, model: Estimator) -> Evaluation | None:
    """The evaluation that a run has, or None if there is none of these weights and settings.

    One that an older mvflow wrote counts as none.
    """
    from mvflow.evaluation import Evaluation

    return load_result(Evaluation, evaluation_path(run, model), run_state(run, model, SECTIONS))


def load_result(kind: type[Result], path: Path, state: Mapping[str, Any]) -> Result | None:
    """The result in a file, or None if there is none of this shape and state."""
    from mvflow.core import DataError
    from mvflow.runs import read_json

    if not path.is_file():
        return None
    try:
        result = kind.from_dict(read_json(path), str(path))
    except DataError:
        return None
    return result if is_current(result, state) else None


def is_current(result: Result, state: Mapping[str, Any]) -> bool:
    """Whether a result is of a state."""
    is_same = result.stages == state["stages"]
    return is_same and ("settings" not in state or not changed(result, state["settings"]))


def changed(result: Result, now: Mapping[str, Any]) -> list[str]:
    """Settings "section.key" that a result was made with and that are others now.

    Those that an older version did not keep with its results count as they are.
    """
    then, found = result.settings, []
    for name in sorted(then.keys() | now.keys()):
        if name not in then or name not in now:
            found += [] if name in KEPT_LATER and name in now else [name]
        elif isinstance(then[name], dict):
            found += [f"{name}.{k}" for k, v in then[name].items() if now[name].get(k) != v]
    return found


def evaluation_path(run: RunDirectory, model: Estimator, protocol: str = "") -> Path:
    """Where the evaluation of a run is kept; of another rule, guidance or protocol, named so."""
    name, own = map(_rule_name, (model.config, run.config()))
    words = ["evaluation", *([name] if name != own else []), *([protocol] if protocol else [])]
    return run.path / "metrics" / f"{'-'.join(words)}.json"


def _rule_name(config: Config) -> str:
    rule = getattr(config, "subset", None)
    guidance = getattr(rule, "guidance", 0.0)
    return getattr(rule, "kind", "") + (f"-guided-{guidance:g}" if guidance else "")


def run_state(run: RunDirectory, model: Estimator, sections: Iterable[str]) -> dict[str, Any]:
    """What tells whether a result is still that of a run: its weights, and some settings.

    An evaluation of more or fewer subsets, or with limits of distances, is one all the same.
    """
    records = run.records()
    return {
        "stages": {name: records[name].key for name in model.stage_names},
        "settings": settings_state(model.config, sections),
    }


def settings_state(config: Config, sections: Iterable[str] = SECTIONS) -> dict[str, Any]:
    """The sections of a configuration that a result depends on."""
    settings = config.model_dump(mode="json")
    for name in ("subsets", "frechet_infinity"):
        settings["evaluation"].pop(name)
    guidance = getattr(getattr(config, "subset", None), "guidance", 0.0)
    return {
        **{name: settings[name] for name in sections if name in settings},
        **({"guidance": {"weight": guidance}} if guidance else {}),
    }


def network_path(store: Path, kind: type[ModalityNetworks], otherwise: Path) -> Path:
    """Where networks that measure the rows of a store are kept.

    Args:
        store: the store, beside which they lie, so that all its runs share them.
        kind: of the networks, after which the file is named.
        otherwise: the folder that takes them if the store's cannot be written.
    """
    folder = store.parent if os.access(store.parent, os.W_OK) else otherwise
    return folder / f"{store.stem}.{kind.name}s.safetensors"
