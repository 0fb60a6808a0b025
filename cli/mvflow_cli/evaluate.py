"""`mvflow evaluate`: everything the paper measures of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mvflow_cli.diagnose import load_calibration
from mvflow_cli.distributed import ClusterOptions, process_group
from mvflow_cli.folding import evaluate_folds
from mvflow_cli.judge_files import JudgeFiles
from mvflow_cli.judging import judge_run, say_verdict
from mvflow_cli.measuring import measure
from mvflow_cli.opening import open_store, open_trained, set_up
from mvflow_cli.options import (
    AutoencoderFiles,
    ClassifierFiles,
    Device,
    Devices,
    Guidance,
    InceptionWeights,
    Json,
    Nodes,
    Protocol,
    RunPath,
    Seed,
    StorePath,
    SubsetKind,
    Threads,
    Timeout,
)
from mvflow_cli.output import say, show, show_json
from mvflow_cli.progress import TrainingProgress, say_plan, time_left

if TYPE_CHECKING:
    from mvflow.evaluation import Evaluation
    from mvflow.evaluation.predictions import Interval
    from mvflow.evaluation.result import Coherence, Frechet
    from mvflow.metrics import Estimate

__all__ = ["evaluate"]

SHOWN_LEVEL = 0.9
"""Of the intervals whose coverage is shown; the file has others."""
MAX_SHOWN = 12
"""Directions beyond which the table shows means; the file always has all."""


def evaluate(
    run: RunPath,
    subset: SubsetKind = None,
    protocol: Protocol = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split to evaluate on; by default the one for testing.", show_default=False
        ),
    ] = None,
    subsets: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Subsets of each number of observed modalities that are measured, drawn with the "
            "seed; of single ones, and of all but one, all are. By default evaluation.subsets of "
            "the run.",
            show_default=False,
        ),
    ] = None,
    frechet_infinity: Annotated[
        bool,
        typer.Option(
            "--frechet-infinity",
            help="Estimate Fréchet distances of infinitely many rows too, by a line through "
            "several numbers of rows.",
        ),
    ] = False,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Cross-validation, for few rows: so many models are trained, each without one "
            "part of the rows, which it then predicts. Only predictions of tables are measured.",
            show_default=False,
        ),
    ] = None,
    inception: InceptionWeights = None,
    classifiers: ClassifierFiles = None,
    autoencoders: AutoencoderFiles = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Measure nothing where the run was evaluated in just this way before."
        ),
    ] = False,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    devices: Devices = None,
    nodes: Nodes = 1,
    timeout: Timeout = 300.0,
    json: Json = False,
) -> None:
    """Measure what a run predicts and generates: R², intervals, coherence, distances, likelihoods.

    Says first what it will do and about how long that takes. Interrupted, it goes on where it
    was when it is called again. What is measured by a protocol is kept beside the rest, for
    'mvflow compare --protocol'.

    Example: mvflow evaluate runs/toy --json
    """
    from mvflow.evaluation.summaries import distance_rows

    if folds is not None:
        judging = {
            "--inception": inception,
            "--classifiers": classifiers,
            "--autoencoders": autoencoders,
            "--frechet-infinity": frechet_infinity,
        }
        if used := [name for name, value in judging.items() if value]:
            msg = f"--folds scores predictions of tables alone: leave out {' and '.join(used)}"
            raise typer.BadParameter(msg)
        set_up(device, threads)
        evaluate_folds(run, folds, seed=seed, store=store, device=device, json=json)
        return
    with process_group(
        ClusterOptions(devices, nodes, timeout=timeout), device, threads
    ) as processes:
        place = device if processes is None else str(processes.device)
        opened, model = open_trained(run, place, subset=subset, guidance=guidance)
        if protocol is not None:
            model = model.with_protocol(protocol)
        changes: dict[str, Any] = {} if subsets is None else {"subsets": subsets}
        if frechet_infinity:
            changes["frechet_infinity"] = True
        if changes:
            settings = model.config.evaluation.model_copy(update=changes)
            model = model.with_settings(evaluation=settings.model_dump())
        with (
            open_store(opened, model.config, store) as data,
            TrainingProgress(err=json) as training,
            time_left(err=json) as progress,
        ):
            result = measure(
                opened,
                model,
                data,
                seed=seed,
                split=split,
                protocol=protocol or "",
                device=place,
                callback=training,
                processes=processes,
                judges=JudgeFiles(inception, classifiers or (), autoencoders or ()),
                keep=keep,
                tell=partial(say, err=json),
                on_plan=partial(say_plan, err=json),
                progress=progress,
            )
            diagnosis = load_calibration(opened, model)
            judgement = judge_run(model, result, diagnosis)
    if processes is not None and not processes.is_main_process:
        return
    if json:
        show_json(result.to_dict())
        return
    if result.presence is not None:
        say(result.presence.sentence)
    if result.coherence is None:
        say("the store has no labels: evaluated without coherence")
    show(_table(str(run), result))
    for sentence in (distance_rows(result, model.config.evaluation), result.prediction_sentence):
        if sentence:
            say(sentence)
    say_verdict(judgement)


def _table(run: str, result: Evaluation) -> Table:
    table = Table(title=f"{run}: {result.rows} rows of {result.split!r}", title_justify="left")
    table.add_column("measure")
    table.add_column("of")
    table.add_column("value", justify="right")
    for measure_name, of, value in _lines(result):
        table.add_row(measure_name, of, value)
    return table


def _lines(result: Evaluation) -> Iterator[tuple[str, str, str]]:
    if result.coherence is not None:
        yield from _coherence_lines(result.coherence, result)
        for name, share in result.classifiers.items():
            yield "classifier accuracy", name, f"{share:.3f}"
    for network, distances in result.frechet.items():
        yield from _frechet_lines(network, distances, result)
    for network, about in result.networks.items():
        yield "features", network, about
    for title, measured, digits in (
        ("squared error of reconstruction", result.reconstruction, 4),
        ("log-likelihood (nats)", result.log_likelihood, 2),
        ("posterior log-density (nats)", result.posterior_log_density, 2),
    ):
        for of, value in _short(measured):
            yield title, of, _with_error(value, digits)
    if result.gaps is not None:
        yield "inference gap (nats)", "log p(X) - ELBO", _with_error(result.gaps.gap, 2)
        if result.gaps.from_prior is not None:
            yield "KL(q(z|X) || p(z))", "latents", _with_error(result.gaps.from_prior, 2)
        for name, value in result.gaps.divergences.items():
            yield "KL(q(z|X) || q(z|x))", name, _with_error(value, 2)
        for name, bounds in result.gaps.excess.items():
            least, most = (
                _with_error(v, 2).replace(" ± ", "±") for v in (bounds.at_least, bounds.at_most)
            )
            yield "KL(average of q(z|X) || q(z|x))", name, f"{least} to {most}"
        if result.gaps.variation_of_information is not None:
            shown = _with_error(result.gaps.variation_of_information, 2)
            yield "variation of information", "bound (nats)", shown
    for space, found in result.diversity.items():
        title = "diversity of values" if space == "data" else f"diversity ({space} features)"
        for of, spread in _short(found.conditional):
            real = found.real[of.split("->")[1]].mean
            yield title, of, f"{_with_error(spread, 3)} (real rows {real:.3f})"
    yield from _prediction_lines(result)
    sampler = result.sampler
    for key in ("acceptance", "rhat_worst", "divergences", "ess_median", "ball_contacts"):
        number = getattr(sampler, key)
        if number is not None and sampler.method != "exact":
            yield f"sampler {sampler.name}", key, f"{number:.4g}"


def _prediction_lines(result: Evaluation) -> Iterator[tuple[str, str, str]]:
    """Tables: every direction, or where there are many, means by number of observed modalities."""
    from mvflow.evaluation.predictions import measure_of_kind

    for key, found in result.predictions.items() if len(result.predictions) <= MAX_SHOWN else ():
        scores = {"model": found.model, **found.baselines}
        values = {name: getattr(of, found.measure) for name, of in scores.items()}
        title = {"r2": "R²", "accuracy": "accuracy", "deviance": "Poisson deviance"}[found.measure]
        yield title, key, _beside(values)
        for kind, of_kind in found.by_kind.items():
            names = ("R²", "r2") if measure_of_kind(kind) == "r2" else ("accuracy", "accuracy")
            for name, score in (names, ("log loss", "log_loss")):
                own = {"model": of_kind.model, **of_kind.baselines}
                known = {k: v for k, of in own.items() if (v := getattr(of, score)) is not None}
                if known:
                    yield f"{name}, {kind}", key, _beside(known)
        yield from _interval_line(key, found.model.intervals)
    if len(result.predictions) <= MAX_SHOWN:
        return
    for size, means in result.predictions_by_observed.items():
        of = f"{size} observed ({means.directions} directions)"
        if means.r2:
            yield "R²", of, _beside(means.r2)
        if means.accuracy:
            yield "accuracy", of, _beside(means.accuracy)
        for kind, values in means.by_kind.items():
            name = "R²" if measure_of_kind(kind) == "r2" else "accuracy"
            yield f"{name}, {kind}", of, _beside(values)
        if SHOWN_LEVEL in means.coverage:
            raw, calibrated = (
                levels.get(SHOWN_LEVEL) for levels in (means.coverage, means.calibrated_coverage)
            )
            yield _coverage_line(of, raw, calibrated)


def _interval_line(of: str, intervals: Mapping[float, Interval]) -> Iterator[tuple[str, str, str]]:
    if SHOWN_LEVEL in intervals:
        found = intervals[SHOWN_LEVEL]
        yield _coverage_line(of, found.coverage, found.calibrated_coverage)


def _coverage_line(
    of: str, raw: Estimate | None, calibrated: Estimate | None
) -> tuple[str, str, str]:
    shown = "-" if raw is None else _with_error(raw, 3)
    if calibrated is not None:
        shown += f"; calibrated {_with_error(calibrated, 3)}"
    return f"{100 * SHOWN_LEVEL:.0f} % intervals hold", of, shown


def _beside(values: Mapping[str, Estimate | None]) -> str:
    """The model's number, and those of baselines."""
    known = {name: value for name, value in values.items() if value is not None}
    own = _with_error(known.pop("model"), 3) if "model" in known else "-"
    others = ", ".join(f"{name} {value.mean:.3f}" for name, value in known.items())
    return f"{own} ({others})" if others else own


def _coherence_lines(found: Coherence, result: Evaluation) -> Iterator[tuple[str, str, str]]:
    yield "coherence", "joint", _with_chance(found.joint, found.joint_chance)
    if found.joint_fitted is not None:
        shown = _with_chance(found.joint_fitted, found.joint_fitted_chance)
        yield "coherence", "joint, fitted prior", shown
    for of, value in _by_direction(found, result):
        yield "coherence", of, _with_chance(value, found.conditional_chance)
    if len(found.conditional_by_observed) > 1 and found.conditional_mean is not None:
        yield (
            "coherence",
            "mean over subsets",
            _with_chance(found.conditional_mean, found.conditional_chance),
        )
    if found.conditional_balanced is not None:
        chance = 1 / len(found.conditional_by_class)
        yield "coherence", "mean over classes", _with_chance(found.conditional_balanced, chance)
    if (many := found.one_to_many) is not None:
        shown = _with_chance(many.together_mean, many.chance_mean)
        yield "1 → N: targets agree", "one draw", shown
        yield "1 → N: targets agree", "separate draws", _with_error(many.apart_mean, 3)
        if many.shared is not None:
            yield "1 → N: targets agree", "of what is open", _with_error(many.shared, 3)
    for name, value in found.reconstruction.items():
        yield "class survives reconstruction", name, _with_error(value, 3)


def _frechet_lines(
    network: str, distances: Frechet, result: Evaluation
) -> Iterator[tuple[str, str, str]]:
    """Distances in the features of one network; the mean over modalities is the paper's MFD."""
    title = "FID" if network == "inception-v3" else f"Fréchet distance ({network} features)"
    joint: dict[str, Mapping[str, Estimate] | None] = {
        "joint": distances.joint,
        "joint, fitted prior": distances.joint_fitted,
    }
    for way, by_modality in joint.items():
        for name, value in (by_modality or {}).items():
            yield title, f"{way}: {name}", _with_error(value, 3)
    for of, value in _by_direction(distances, result):
        yield title, of, _with_error(value, 3)
    for name, value in distances.real.items():
        yield title, f"{distances.rows:,} real rows: {name}", _with_error(value, 3)
    for kind in ("limit", "precision", "recall"):
        ways = getattr(distances, kind)
        name = f"{title}, infinitely many rows" if kind == "limit" else f"{kind} ({network})"
        for of, mean in ways.mean if ways is not None else ():
            if mean is not None:
                of = of.replace("_fitted", ", fitted prior").replace("real", "real rows")
                yield name, of, _with_error(mean, 3)
    if network == "autoencoder":
        for of, mean in distances.mean:
            if mean is not None:
                of = of.replace("_fitted", ", fitted prior").replace("real", "real rows")
                yield "MFD (mean over modalities)", of, _with_error(mean, 3)


def _by_direction(
    found: Coherence | Frechet, result: Evaluation
) -> Iterator[tuple[str, Estimate]]:
    """Every direction, or where there are many, their means by number of observed modalities."""
    if len(found.conditional) <= MAX_SHOWN:
        yield from found.conditional.items()
        return
    for size, value in found.conditional_by_observed.items():
        rows = getattr(found, "rows", result.rows_by_observed[size])
        yield f"{size} observed ({rows:,} rows)", value


def _short(found: Mapping[str, Estimate]) -> Iterator[tuple[str, Estimate]]:
    """All entries, or of too many directions none."""
    directions = [of for of in found if "->" in of]
    for of, value in found.items():
        if of not in directions or len(directions) <= MAX_SHOWN:
            yield of, value


def _with_chance(found: Estimate, chance: float | None) -> str:
    shown = _with_error(found, 3)
    return shown if chance is None else f"{shown} (chance {chance:.3f})"


def _with_error(found: Estimate, digits: int) -> str:
    numbers = (found.mean, found.standard_error)
    return " ± ".join(f"{n:.{digits}f}" if math.isfinite(n) else "-" for n in numbers)
