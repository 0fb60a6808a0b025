"""`mvflow sweep`: one recipe with many seeds and settings, side by side."""

from __future__ import annotations

import itertools
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.table import Column, Table

from mvflow_cli.new import configure
from mvflow_cli.opening import set_up
from mvflow_cli.options import Device, Json, Threads
from mvflow_cli.output import say, show, show_json

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow.estimators.sweeping import SweptRun
    from mvflow.training import Checkpoint, EpochRecord, Stage

__all__ = ["sweep"]

STACKING = ("auto", "always", "never")

PRECISIONS = ("float32", "bfloat16")

STAGES = ("projectors", "joint", "prior", "flows", "amortised")

EVERY = 2.0
"""Least seconds between two lines of progress."""


def sweep(
    store: Annotated[
        Path,
        typer.Argument(metavar="STORE", help="Store with the data (.h5).", show_default=False),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe to begin with, such as toy or mnist-svhn; 'auto' chooses by the store.",
            show_default=False,
        ),
    ],
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEED,...", help="Seeds of training, as in 0,1,2,3.", show_default=False
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE,...",
            help="Values of a setting, as in joint.beta=0.5,1,2.5; a single one holds for all. "
            "May be repeated: all combinations are trained.",
            show_default=False,
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="Settings that belong together, as in model=jnf-shared,projectors.kind=dcca. "
            "Each --variant is trained with all seeds and values.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs; by default sweep-RECIPE.", show_default=False),
    ] = None,
    stack: Annotated[
        str,
        typer.Option(
            metavar="|".join(STACKING),
            help="Train similar variants as one program. auto: on a GPU, not on a CPU.",
        ),
    ] = "auto",
    device: Device = "cpu",
    threads: Threads = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(PRECISIONS),
            help="Of all stages of all variants; by default as in the recipe.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train one recipe with many seeds and settings, each variant to its own run directory.

    A stage that variants have in common is trained once. What is done is kept: run the same
    command again to go on.

    Example: mvflow sweep toy.h5 --recipe toy --seeds 0,1,2,3 --set joint.beta=0.5,1,2.5
    """
    from mvflow.core import UsageError, unknown_name

    if stack not in STACKING:
        raise UsageError(unknown_name("stacking", stack, STACKING))
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(unknown_name("precision", precision, PRECISIONS))
    choices = _combinations(seeds, settings or [], variant or [])
    if precision is not None:
        both = [f"{s}.precision={precision}" for s in STAGES if s != "prior"]
        choices = {name: [*given, *both] for name, given in choices.items()}
    configs = _configured(recipe, store, choices)
    place = Path(f"sweep-{recipe}") if out is None else out
    set_up(device, threads)
    say(f"{len(configs)} variants in {place}", err=json)
    try:
        found = _train(configs, place, store, device, stack, json)
    except KeyboardInterrupt:
        say(
            "mvflow: interrupted; all full epochs are kept: run the same command again to go on",
            err=True,
        )
        raise typer.Exit(1) from None
    rows = [_result(run) for run in found]
    if json:
        show_json({"out": str(place), "runs": rows})
    else:
        _tell(rows, place)
    if any(run.error for run in found):
        raise typer.Exit(1)


def _train(
    configs: Mapping[str, Config], out: Path, store: Path, device: str, stack: Any, json: bool
) -> list[SweptRun]:
    from mvflow.estimators import sweeping
    from mvflow_datasets import Store

    first = next(iter(configs.values()))
    with Store.open(store) as opened:
        train = opened[first.data.train]
        progress = _Progress(lambda line: say(line, err=json))
        return sweeping.sweep(configs, out, train, device=device, stack=stack, listener=progress)


# What is asked for


def _combinations(
    seeds: str | None, settings: Sequence[str], variants: Sequence[str]
) -> dict[str, list[str]]:
    """Name of each variant -> all its assignments; the seed is one of them.

    Raises:
        UsageError: if something is malformed, empty or given twice.
    """
    groups = [_assignments("--variant", text) for text in variants]
    swept: list[list[tuple[str, str]]] = []
    fixed: list[tuple[str, str]] = []
    for text in settings:
        key, values = _values(text)
        pairs = [(key, value) for value in values]
        if len(pairs) > 1:
            swept.append(pairs)
        else:
            fixed += pairs
    if seeds is not None:
        swept.append([("seed", value) for value in _seeds(seeds)])
    _check_once([key for key, _ in (*fixed, *(one[0] for one in swept))], groups)
    parts = ([groups] if groups else []) + [[[pair] for pair in one] for one in swept]
    named = {key for group in groups for key, _ in group} | {one[0][0] for one in swept}
    found: dict[str, list[str]] = {}
    for chosen in itertools.product(*parts):
        pairs = [pair for part in chosen for pair in part]
        name = _name(pairs, named)
        if name in found:
            _fail(f"two variants would both be called {name}: leave one of them out")
        found[name] = [f"{key}={value}" for key, value in (*fixed, *pairs)]
    return found


def _values(text: str) -> tuple[str, list[str]]:
    """Key and values of one --set."""
    key, equals, rest = text.partition("=")
    if not equals or not key.strip():
        _fail(f"cannot read --set {text!r}: expected section.key=value, as in joint.beta=0.5,1")
    values = _split(rest)
    if not all(values):
        _fail(f"--set {text!r} has an empty value: expected a list as in joint.beta=0.5,1,2.5")
    twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
    if twice is not None:
        _fail(f"--set {text!r} has {twice} twice")
    return key.strip(), values


def _assignments(option: str, text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in _split(text):
        key, equals, value = (s.strip() for s in part.partition("="))
        if not equals or not key or not value:
            _fail(
                f"cannot read {option} {text!r}: expected key=value,..., "
                "as in model=jnf-shared,projectors.kind=dcca"
            )
        pairs.append((key, value))
    return pairs


def _seeds(text: str) -> list[str]:
    parts = _split(text)
    for part in parts:
        if not re.fullmatch(r"\d+", part):
            _fail(f"cannot read --seeds {text!r}: expected whole numbers from 0, as in 0,1,2,3")
    seeds = [str(int(part)) for part in parts]
    twice = next((s for i, s in enumerate(seeds) if s in seeds[:i]), None)
    if twice is not None:
        _fail(f"--seeds {text!r} has seed {twice} twice")
    return seeds


def _split(text: str) -> list[str]:
    """Parts between commas that are in no brackets and no quotes.

    Examples:
        >>> _split("[8, 8],[16]")
        ['[8, 8]', '[16]']
    """
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            depth += (char in "[{") - (char in "]}")
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _check_once(keys: Sequence[str], groups: Sequence[Sequence[tuple[str, str]]]) -> None:
    for i, key in enumerate(keys):
        if key in keys[:i]:
            _fail(f"{key} is set twice: give all its values in one --set")
    for group in groups:
        own = [key for key, _ in group]
        for i, key in enumerate(own):
            if key in (*own[:i], *keys):
                _fail(f"{key} is set twice: once in --variant, and once more")


def _name(pairs: Sequence[tuple[str, str]], named: set[str]) -> str:
    """A readable name for the directory; a key loses its section where no other ends like it.

    Examples:
        >>> _name([("joint.beta", "0.5"), ("seed", "0")], {"joint.beta", "seed"})
        'beta=0.5,seed=0'
    """
    parts = []
    for key, value in pairs:
        short = key.rpartition(".")[2]
        clash = sum(other.rpartition(".")[2] == short for other in named) > 1
        parts.append(f"{key if clash else short}={value}")
    text = ",".join(parts) or "run"
    return re.sub(r"[^\w.=,+\[\]-]", "_", text)


def _fail(sentence: str) -> NoReturn:
    from mvflow.core import UsageError

    raise UsageError(sentence)


def _configured(
    recipe: str, store: Path, choices: Mapping[str, Sequence[str]]
) -> dict[str, Config]:
    """The configuration of each variant.

    Raises:
        UsageError: if variants are to be trained on different rows.
    """
    configs = {
        name: configure(recipe, store, {}, assignments, None)
        for name, assignments in choices.items()
    }
    if len({(c.data.train, c.data.test) for c in configs.values()}) > 1:
        _fail("data.train and data.test must be those of all variants: make a sweep for each")
    return configs


# What is heard and told


class _Progress:
    """Hears of a sweep and says a line now and then."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._said = -EVERY
        self._stage, self._names = "", [""]

    def on_stack(
        self, stage: str, names: Sequence[str], *, stacked: bool, reason: str | None
    ) -> None:
        """Say what is trained now, and how."""
        self._stage, self._names, self._said = stage, list(names), time.monotonic()
        what = f"{stage}: {names[0]}" if len(names) == 1 else f"{stage}: {len(names)} variants"
        how = " as one program" if stacked else " in turn" if len(names) > 1 else ""
        self._tell(f"{what}{how}{f': {reason}' if reason else ''}")

    def on_failure(self, name: str, error: str) -> None:
        """Say it at once."""
        self._tell(f"{name} has failed: {error}")

    def listener(self, name: str) -> _Heard:
        """One that speaks for this variant."""
        return _Heard(self, name)

    def on_epoch(self, name: str, record: EpochRecord) -> None:
        """Say where one variant is, if nothing has been said for a while."""
        if time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            at = (
                f" ({self._names.index(name) + 1} of {len(self._names)})"
                if name in self._names
                else ""
            )
            self._tell(
                f"{record.stage} {name}{at}: epoch {record.epoch + 1}, loss {record.loss:.4g}"
            )


class _Heard:
    """The listener of one variant."""

    def __init__(self, progress: _Progress, name: str) -> None:
        self._progress, self._name = progress, name

    def on_step(
        self,
        stage: Stage,
        epoch: int,
        step: int,
        steps: int,
        loss: float,
        checkpoint: Callable[[], Checkpoint],
    ) -> None:
        """Say nothing of steps."""

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        """Pass it on."""
        self._progress.on_epoch(self._name, record)


def _result(run: SweptRun) -> dict[str, Any]:
    """A run, its stages and the last losses."""
    from mvflow.runs import RunDirectory

    last = {record["stage"]: record for record in RunDirectory(run.path).history()}
    stages = {
        stage: {
            "how": how,
            "epochs": last[stage]["epoch"] + 1 if stage in last else 0,
            "loss": last[stage]["loss"] if stage in last else None,
            "validation": ((last[stage]["validation"] or {}).get("loss"))
            if stage in last
            else None,
        }
        for stage, how in run.stages.items()
    }
    return {"run": str(run.path), "name": run.name, "error": run.error, "stages": stages}


def _tell(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """The table of results, and what comes next."""
    names = [n for n in STAGES if any(n in row["stages"] for row in rows)]
    table = Table(Column("run", overflow="fold"))
    for heading in (*(f"{name} loss" for name in names), "state"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        losses = [row["stages"].get(name, {}).get("loss") for name in names]
        shown = ["" if loss is None else f"{loss:.4g}" for loss in losses]
        is_new = any(stage["how"] != "done" for stage in row["stages"].values())
        state = "failed" if row["error"] else "trained" if is_new else "done before"
        table.add_row(row["name"], *shown, state)
    show(table)
    good = [row for row in rows if not row["error"]]
    failed = f"; {len(rows) - len(good)} failed" if len(good) < len(rows) else ""
    say(f"{len(good)} of {len(rows)} runs are trained, in {out}{failed}")
    if good:
        say(f"go on with 'mvflow evaluate {shlex.quote(good[0]['run'])}'")
