"""Training many variants of a model: equal stages once, similar ones as one stacked program."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch

from mvflow.config import Config, stage_key, stage_names
from mvflow.core import Batch, MvflowError, Source, UsageError, as_source, fingerprint
from mvflow.estimators.fitting import Fit, check_fits, restored, train_stage
from mvflow.models import JNFModel
from mvflow.runs import RunDirectory
from mvflow.training import Listener, Silent, Stage, Table, build_stage
from mvflow.training.ensemble import Variant, run_stacked
from mvflow.training.stacked import Numbers, StackedLoss

__all__ = ["Quiet", "Stacking", "SweepListener", "SweptRun", "stacks", "sweep"]

Stacking = Literal["auto", "always", "never"]

ORDER = ("projectors", "joint", "prior", "flows", "amortised")

ANY = frozenset({"patience"})
"""Settings of a stage that each variant of a stack may have for its own: no step reads them."""

NUMBERS: dict[str, tuple[str, ...]] = {
    "joint": ("beta", "beta_start"),
    "projectors": ("temperature", "ridge"),
}
"""Settings that the loss of a stage reads, of which each variant of a stack may have its own."""


class SweptRun(NamedTuple):
    """What became of one variant."""

    name: str
    path: Path
    stages: dict[str, str]
    """Stage -> "done" before, "trained" now, or "shared" with another variant."""
    error: str | None


class SweepListener(Protocol):
    """Hears of a sweep."""

    def on_stack(
        self, stage: str, names: Sequence[str], *, stacked: bool, reason: str | None
    ) -> None:
        """These variants are trained now, as one program or in turn; `reason` says why in turn."""
        ...

    def on_failure(self, name: str, error: str) -> None:
        """A variant has failed; the others go on."""
        ...

    def listener(self, name: str) -> Listener:
        """Who hears of the training of one variant."""
        ...


class Quiet:
    """A listener that does nothing."""

    def on_stack(
        self, stage: str, names: Sequence[str], *, stacked: bool, reason: str | None
    ) -> None:
        """Do nothing."""

    def on_failure(self, name: str, error: str) -> None:
        """Do nothing."""

    def listener(self, name: str) -> Listener:
        """One that does nothing either."""
        return Silent()


def sweep(
    variants: Mapping[str, Config],
    out: str | Path,
    source: Source | Batch,
    *,
    device: str = "cpu",
    stack: Stacking = "auto",
    listener: SweepListener | None = None,
) -> list[SweptRun]:
    """Train all variants, each to an ordinary run directory below `out`.

    A stage that several variants have in common (`mvflow.config.stage_key`) is trained once and
    copied. Of the others, those that differ in nothing but seeds and numbers are trained as one
    program: each has the initial weights, batches and noise that it has alone. What an earlier
    call has finished is kept, and an interrupted stage goes on from each variant's checkpoint.

    Args:
        variants: name of the directory -> configuration.
        out: the folder of all runs.
        source: training rows.
        device: "cpu", "cuda", "cuda:1"...
        stack: "auto" stacks on a GPU, where the steps of a stack are captured as of one alone.
        listener: hears of progress.

    Raises:
        DataError: if the data do not fit.
        UsageError: if a directory holds a run with another configuration; nothing is trained.
    """
    heard = listener or Quiet()
    train = as_source(source, next(iter(variants.values())).specifications())
    for config in variants.values():
        check_fits(train, config.specifications())
    runs = _runs(variants, Path(out))
    state = _Sweep(variants, runs, Table.of(train, device), fingerprint(train), heard)
    for stage in ORDER:
        _train_all(stage, state, stack)
    return [
        SweptRun(name, runs[name].path, state.stages[name], state.errors.get(name))
        for name in variants
    ]


def stacks(stage: str, configs: Mapping[str, Config]) -> tuple[list[list[str]], list[str]]:
    """Divide variants into those whose `stage` can be stacked.

    Returns:
        The names in each stack, and the settings that keep the stacks apart.

    Examples:
        >>> from mvflow.config import config_from_dict
        >>> raw = {"latent_dim": 2, "modalities": {"a": {"shape": [3]}}}
        >>> configs = {
        ...     str(i): config_from_dict({**raw, "seed": i, "joint": {"beta": i, "epochs": e}})
        ...     for i, e in [(1, 5), (2, 5), (3, 9)]
        ... }
        >>> stacks("joint", configs)
        ([['1', '2'], ['3']], ['joint.epochs'])
    """
    found: dict[str, list[str]] = {}
    for name, config in configs.items():
        found.setdefault(json.dumps(_structure(stage, config), sort_keys=True), []).append(name)
    all_of = [json.loads(text) for text in found]
    keys = sorted({key for each in all_of for key in each})
    apart = [k for k in keys if len({json.dumps(each.get(k)) for each in all_of}) > 1]
    return list(found.values()), apart


class _Sweep:
    """What the stages of a sweep share."""

    def __init__(
        self,
        variants: Mapping[str, Config],
        runs: Mapping[str, RunDirectory],
        rows: Table,
        data: str,
        listener: SweepListener,
    ) -> None:
        self.variants, self.runs, self.rows, self.data = variants, runs, rows, data
        self.listener = listener
        self.stages: dict[str, dict[str, str]] = {name: {} for name in variants}
        self.errors: dict[str, str] = {}

    def is_done(self, name: str, stage: str) -> bool:
        return self.runs[name].status(stage, self.variants[name], self.data) == "done"

    def fail(self, name: str, error: str) -> None:
        self.errors[name] = error
        self.listener.on_failure(name, error)


def _runs(variants: Mapping[str, Config], out: Path) -> dict[str, RunDirectory]:
    """The run directories, made where there are none."""
    for name, config in variants.items():
        path = out / name
        if (path / "config.toml").is_file():
            other = _first_difference(RunDirectory.open(path).config(), config)
            if other is not None:
                msg = (
                    f"{path} is there with another configuration ({other}): "
                    "choose another --out, or remove it first"
                )
                raise UsageError(msg)
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            msg = f"{path} is there and is not a run directory: choose another --out"
            raise UsageError(msg)
    found = {}
    for name, config in variants.items():
        is_there = (out / name / "config.toml").is_file()
        make = RunDirectory.open if is_there else partial(RunDirectory.create, config=config)
        found[name] = make(out / name)
    return found


def _first_difference(there: Config, wanted: Config) -> str | None:
    ours, theirs = _flat(wanted.model_dump(mode="json")), _flat(there.model_dump(mode="json"))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            return f"{key} is {theirs.get(key)}, not {ours.get(key)}"
    return None


def _flat(node: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables as one, with `section.key` for names."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= (
            _flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
        )
    return found


def _structure(stage: str, config: Config) -> dict[str, Any]:
    """All that variants must have in common for `stage` to be stacked."""
    parts = config.model_dump(mode="json")
    is_shared = config.model == "jnf-shared"
    networks = {
        "projectors": ("shape", "projector"),
        "joint": ("shape", "likelihood", "scale", "weight", "encoder", "decoder"),
    }.get(stage, ("shape",) if is_shared else ("shape", "likelihood", "encoder"))
    settings = {k: v for k, v in parts[stage].items() if k not in ANY}
    for key in NUMBERS.get(stage, ()):
        settings[key] = "none" if settings[key] is None else "a number"
    found: dict[str, Any] = {
        stage: settings,
        "latent_dim": config.latent_dim,
        "data": {"validation": config.data.validation},
        "modalities": {n: {k: m[k] for k in networks} for n, m in parts["modalities"].items()},
    }
    if stage in ("flows", "amortised"):
        found["model"] = config.model
        if is_shared:
            found.setdefault("projectors", {"dim": config.projectors.dim})
    return _flat(found)


def _train_all(stage: str, state: _Sweep, stack: Stacking) -> None:
    """Train `stage` of all variants that have it."""
    having = [n for n, c in state.variants.items() if stage in stage_names(c)]
    by_key: dict[str, list[str]] = {}
    for name in having:
        key = stage_key(state.variants[name], stage, state.data)
        by_key.setdefault(key, []).append(name)
    leaders = []
    for names in by_key.values():
        done = [n for n in names if state.is_done(n, stage)]
        for name in done:
            state.stages[name][stage] = "done"
        names.sort(key=lambda n: (n not in done, n in state.errors))
        if not done and names[0] not in state.errors:
            leaders.append(names[0])
    groups, apart = stacks(stage, {name: state.variants[name] for name in leaders})
    for group in groups:
        _train_group(stage, group, apart, state, stack)
    for names in by_key.values():
        _share(stage, names, state)


def _share(stage: str, names: Sequence[str], state: _Sweep) -> None:
    """Give the others what the first has trained."""
    first, *others = names
    for name in others:
        if name in state.errors or state.stages[name].get(stage) == "done":
            continue
        if first in state.errors:
            state.fail(name, f"shares stage {stage!r} with {first}, which has failed")
            continue
        with state.runs[name].lock():
            state.runs[name].adopt(state.runs[first], state.data)
        state.stages[name][stage] = "shared"


def _train_group(
    stage: str, names: Sequence[str], apart: Sequence[str], state: _Sweep, stack: Stacking
) -> None:
    reason = _why_in_turn(stage, names, apart, state.rows.device, stack)
    is_stacked = reason is None
    state.listener.on_stack(stage, names, stacked=is_stacked, reason=reason or None)
    train = _train_stacked if is_stacked else _train_in_turn
    for name, error in train(stage, names, state):
        if error is None:
            state.stages[name][stage] = "trained"
        elif isinstance(error, MvflowError):
            state.fail(name, str(error))
        else:
            raise error


def _train_stacked(
    stage: str, names: Sequence[str], state: _Sweep
) -> Iterator[tuple[str, Exception | None]]:
    """Train variants as one program; gives what each failed with, or None, as it ends."""

    def on_turn(reason: str) -> None:
        said = f"cannot be stacked ({reason})"
        state.listener.on_stack(stage, names, stacked=False, reason=said)

    fits: dict[str, Fit] = {}
    with ExitStack() as locks:
        for name in names:
            try:
                locks.enter_context(state.runs[name].lock())
                fits[name] = Fit(*_what(stage, state, name), beside=len(names))
            except MvflowError as error:
                yield name, error
        if not fits:
            return
        configs = [state.variants[name] for name in fits]
        variants = [
            Variant(fit.stage, config.seed, numbers, fit.resume, fit.keeper)
            for fit, config, numbers in zip(
                fits.values(), configs, _numbers(stage, configs), strict=True
            )
        ]
        program = partial(_program, stage, [fit.model for fit in fits.values()], configs)
        going = list(fits)
        try:
            for number, failure in run_stacked(variants, program=program, on_turn=on_turn):
                name = list(fits)[number]
                going.remove(name)
                yield name, failure or _finished(fits[name])
        except KeyboardInterrupt:
            for name in going:
                fits[name].keeper.keep_newest()
            raise


def _finished(fit: Fit) -> Exception | None:
    try:
        fit.finish()
    except MvflowError as error:
        return error
    return None


def _why_in_turn(
    stage: str,
    names: Sequence[str],
    apart: Sequence[str],
    device: torch.device,
    stack: Stacking,
) -> str | None:
    """Why variants are not stacked; None if they are."""
    if len(names) == 1:
        return f"no other variant is like it ({', '.join(apart)} differ)" if apart else ""
    if stage == "prior":
        return ""  # it is fitted without gradients
    if stack == "never":
        return "--stack never"
    if stack == "auto" and device.type == "cpu":
        return "a CPU gains little by one program; --stack always makes one"
    return None


def _train_in_turn(
    stage: str, names: Sequence[str], state: _Sweep
) -> Iterator[tuple[str, Exception | None]]:
    for name in names:
        *what, trained, run, data, listener = _what(stage, state, name)
        try:
            train_stage(*what, trained=trained, run=run, data=data, listener=listener)
        except MvflowError as error:
            yield name, error
        else:
            yield name, None


def _what(stage: str, state: _Sweep, name: str) -> tuple[Any, ...]:
    """What `Fit` is given of a variant, its model with the stages that are trained."""
    config = state.variants[name]
    model, _ = restored(state.runs[name], config)
    trained = tuple(s for s in stage_names(config) if state.is_done(name, s))
    heard = state.listener.listener(name)
    model = model.to(state.rows.device)
    run, data = state.runs[name], state.data
    return stage, model, config, state.rows, None, trained, run, data, heard


def _numbers(stage: str, configs: Iterable[Config]) -> list[dict[str, float]]:
    """Of each variant, the settings that its loss reads and that are not those of all."""
    each = [
        {key: getattr(getattr(config, stage), key) for key in NUMBERS.get(stage, ())}
        for config in configs
    ]
    differ = [key for key in each[0] if len({values[key] for values in each}) > 1]
    return [{key: float(values[key]) for key in differ} for values in each]


def _program(
    name: str, models: Sequence[JNFModel], configs: Sequence[Config], stage: Stage
) -> StackedLoss:
    """The stacked loss; where settings differ, that of a stage that reads them as tensors."""
    if not _numbers(name, configs)[0]:
        return StackedLoss(stage)
    model = next(m for m in models if m.stage_module(name) is stage.trainable)
    numbers = Numbers(stage.settings)
    config = configs[0].model_copy(update={name: numbers})
    held = stage.train if stage.validation is None else stage.validation
    live = build_stage(name, model, config, stage.train, held)
    return StackedLoss(live, numbers)
