"""`mvflow demo`: three models of the toy set, from nothing to a report."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from mvflow_cli.measuring import load_evaluation, measure
from mvflow_cli.new import configure, create
from mvflow_cli.observed import read_observed
from mvflow_cli.opening import open_store, open_trained, set_up
from mvflow_cli.options import Device, Json, Seed, Threads
from mvflow_cli.output import finite, say, show_json
from mvflow_cli.progress import TrainingProgress
from mvflow_cli.report import make_report
from mvflow_cli.samples import draw_samples, write_samples
from mvflow_cli.training import TrainOptions, train_stages

if TYPE_CHECKING:
    from mvflow.config import Config

__all__ = ["demo"]


class _Model(NamedTuple):
    """One of the demo's models: how it differs from the recipe."""

    name: str
    choices: dict[str, str | None]


MODELS = (
    _Model("jnf", {}),
    _Model("jnf-gaussian", {"posterior": "gaussian"}),
    _Model("jnf-shared", {"projector": "dcca"}),
)
"""All take the joint stage of the first: it does not depend on how they differ."""

SETTINGS: list[str] = []
"""Changes to the recipe, as `section.key=value`."""


def demo(
    out: Annotated[Path, typer.Argument(metavar="[OUT]", help="Folder to fill.")] = Path(
        "mvflow-demo"
    ),
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Build the toy set, train three models on it, sample, evaluate, and write a report.

    What an earlier call has finished in the same folder is kept. Takes two to three minutes.

    Example: mvflow demo
    """
    begun = time.perf_counter()
    set_up(device, threads)
    options = TrainOptions(device=device, threads=threads, json=json)
    try:
        summary = _run(out, seed, options)
    except KeyboardInterrupt:
        say(f"mvflow: interrupted; go on with 'mvflow demo {out}'", err=True)
        raise typer.Exit(1) from None
    from mvflow.runs import write_json

    summary["seconds"] = round(time.perf_counter() - begun, 1)
    summary["peak_memory_mib"] = _peak_memory()
    write_json(out / "summary.json", finite(summary))
    if json:
        show_json(summary)
        return
    say(f"wrote {out / 'report.html'} and {out / 'summary.json'} in {summary['seconds']:.0f} s")


def _run(out: Path, seed: int, options: TrainOptions) -> dict[str, Any]:
    steps: dict[str, float] = {}
    store, page = out / "toy.h5", out / "report.html"
    with _timed(steps, "data"):
        _build(out, store, seed, options)
    for name, choices in MODELS:
        config = configure("toy", store, choices, SETTINGS, seed)
        with _timed(steps, f"{name}: train"):
            _train(out, name, config, options)
    evaluations = {}
    for name, _ in MODELS:
        with _timed(steps, f"{name}: sample"):
            _sample(out / name, seed, options)
        with _timed(steps, f"{name}: evaluate"):
            evaluations[name] = _evaluate(out / name, seed, options)
    runs = [out / name for name, _ in MODELS]
    title = "mvflow demo: squares and circles"
    with _timed(steps, "report"):
        make_report(runs, page, title=title, seed=seed, device=options.device, err=options.json)
    return {"seed": seed, "threads": options.threads, "steps": steps, **evaluations}


@contextmanager
def _timed(steps: dict[str, float], name: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    steps[name] = round(time.perf_counter() - begun, 2)


def _build(out: Path, store: Path, seed: int, options: TrainOptions) -> None:
    """Build the toy set; what lies there already must be of the same seed."""
    from mvflow.core import UsageError
    from mvflow_datasets import Store, find_builder

    if store.exists():
        with Store.open(store) as built:
            made_with = built.builder.get("seed")
        if made_with != seed:
            msg = (
                f"{out} holds a demo with seed {made_with}: choose another folder for seed {seed}"
            )
            raise UsageError(msg)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"{out} exists and is not a demo: choose another folder"
        raise UsageError(msg)
    say(f"building {store}", err=options.json)
    find_builder("toy").build(store, seed=seed)


def _train(out: Path, name: str, config: Config, options: TrainOptions) -> None:
    from mvflow.core import fingerprint
    from mvflow.runs import Inputs, Plan, RunDirectory
    from mvflow.systems import build_system, stages_of

    path, first = out / name, out / MODELS[0].name
    say(f"{path}: training", err=options.json)
    if not (path / "config.toml").is_file():
        create(path, config)
    run = RunDirectory.open(path)
    if path != first:
        plan = Plan(run.config(), stages_of(build_system(run.config())))
        with open_store(run, config, out / "toy.h5") as store:
            inputs = Inputs(fingerprint(store[config.data.train]))
        if run.status("joint", plan, inputs) == "missing":
            run.adopt(RunDirectory.open(first), plan, inputs)
    train_stages(path, None, options)


def _sample(path: Path, seed: int, options: TrainOptions) -> None:
    """Samples of each modality given the other, and from the prior."""
    run, model = open_trained(path, options.device)
    names = [m.name for m in model.modalities]
    stages = {name: record.key for name, record in run.records().items()}
    for given in ([], *([name] for name in names)):
        file = run.path / "samples" / f"{'+'.join(given) or 'prior'}.h5"
        seen = read_observed(run, model.config, given, None, None)
        n = 8 if given else 64
        about = {
            "run": str(run.path.resolve()),
            "stages": stages,
            "seed": seed,
            "n": n,
            "rows": seen.rows,
            "given": seen.origin,
        }
        write_samples(file, draw_samples(model, seen, n, seed=seed), seen, about)


def _evaluate(path: Path, seed: int, options: TrainOptions) -> dict[str, Any]:
    run, model = open_trained(path, options.device)
    kept = load_evaluation(run, model)
    if kept is not None:
        return kept.to_dict()
    say(f"{path}: evaluating", err=options.json)
    with (
        open_store(run, model.config) as store,
        TrainingProgress(err=options.json) as progress,
    ):
        return measure(
            run, model, store, seed=seed, device=options.device, callback=progress
        ).to_dict()


def _peak_memory() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
