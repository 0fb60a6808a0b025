"""Opening what commands work on: a run, its store, its trained model, a device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow.core import Units
    from mvflow.estimators import Estimator
    from mvflow.runs import RunDirectory
    from mvflow_datasets import Store

__all__ = [
    "check_output",
    "move_store",
    "open_store",
    "open_trained",
    "recorded_index",
    "run_units",
    "set_up",
    "store_path",
]


DEVICES = ("cpu", "cuda", "mps", "xpu")


def set_up(device: str = "cpu", threads: int | None = None) -> None:
    """Set the number of threads and check that the device can be used.

    Raises:
        UsageError: if it cannot.
    """
    import torch

    from mvflow.core import UsageError

    if device.partition(":")[0] not in DEVICES:  # torch has some that compute nothing
        msg = f"device {device!r} cannot be used here: expected cpu, cuda, cuda:1 and the like"
        raise UsageError(msg)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        msg = f"device {device!r} cannot be used here: {reason}"
        raise UsageError(msg) from error


def check_output(out: Path, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Check that a file can be written, before hours of work and before anything is lost.

    Args:
        out: the file.
        force: whether it may replace another one.
        inputs: files that are read, which it never replaces.

    Raises:
        DataError: if there is a folder, or a folder cannot be there.
        UsageError: if it is one of the inputs, or is there and may not be replaced.
    """
    from mvflow.core import DataError, UsageError
    from mvflow.core.files import reading

    with reading(out):
        if out.is_dir():
            msg = f"cannot write {out}: it is a folder, expected a file or nothing"
            raise DataError(msg)
        exists = out.exists()
        is_input = exists and any(p.exists() and out.samefile(p) for p in inputs)
    if is_input:
        msg = f"{out} is one of the files that are read: name another one to write"
        raise UsageError(msg)
    if exists and not force:
        msg = f"{out} exists already: add --force to replace it"
        raise UsageError(msg)


def run_units(run: RunDirectory, config: Config, store: Path | None = None) -> dict[str, Units]:
    """Modality -> units of the values that a run was trained on; nothing where nobody knows.

    Args:
        run: the run directory.
        config: its configuration.
        store: new place of its store, which is asked where the run does not say.
    """
    units = run.units()
    if not units and config.data.store and (store or (run.path / config.data.store)).is_file():
        with open_store(run, config, store) as opened:
            units = dict(opened.units)
    return units


def recorded_index(run: RunDirectory, config: Config, store: Path | None = None) -> dict[str, str]:
    """Modality -> the column that named rows when the store was imported, where one was named.

    Nothing where the run's own store is not there; arguments as of `run_units`.
    """
    from mvflow.core import DataError

    if store is None and not config.data.store:
        return {}
    try:
        with open_store(run, config, store) as opened:
            reading = opened.builder.get("reading", {})
    except DataError:
        if store is not None:
            raise
        return {}
    return {name: str(said["index"]) for name, said in reading.items() if "index" in said}


def store_path(run: RunDirectory, config: Config, override: Path | None = None) -> Path:
    """Where a run's store lies.

    Raises:
        UsageError: if the run does not say.
        DataError: if nothing is there; the message says how to name another place.
    """
    from mvflow.core import DataError, UsageError
    from mvflow.core.files import reading

    if override is None and not config.data.store:
        msg = f"{run.path}/config.toml names no store: add --store STORE.h5"
        raise UsageError(msg)
    path = run.path / config.data.store if override is None else override
    with reading(path):
        exists = path.exists()
    if not exists:
        msg = f"there is no store at {path}: if it has moved, add --store and its new place"
        raise DataError(msg)
    return path.resolve()


def open_store(run: RunDirectory, config: Config, override: Path | None = None) -> Store:
    """Open the store of a run, and check that it is the one that the run was trained on.

    Raises:
        DataError: if it is missing, damaged, or another one.
    """
    from mvflow.core import DataError, fingerprint
    from mvflow_datasets import Store

    store = Store.open(store_path(run, config, override))
    known = {record.fingerprint for record in run.records().values()} - {""}
    if known and fingerprint(store[config.data.train]) not in known:
        msg = (
            f"{run.path} was trained on other rows than split {config.data.train!r} of "
            f"{store.path} has now: name that store with --store, "
            "or make another run with 'mvflow new'"
        )
        raise DataError(msg)
    return store


def move_store(run: RunDirectory, config: Config, store: Path) -> None:
    """Keep the new place of the store in `config.toml`; no stage depends on it."""
    data = config.data.model_copy(update={"store": str(store)})
    run.write_config(config.model_copy(update={"data": data}))


def open_trained(
    path: Path, device: str = "cpu", *, guidance: float | None = None, **kinds: str | None
) -> tuple[RunDirectory, Estimator]:
    """A run directory all of whose stages are done, and its model.

    Args:
        path: the run directory.
        device: where the model is to be.
        guidance: of draws, in place of that of config.toml.
        kinds: other kinds of parts than config.toml has, such as subset="amortised".

    Raises:
        StageError: if a stage is not done; the message names the command that makes it.
        UsageError: if there is no such kind, or no guidance.
    """
    from mvflow.estimators import load
    from mvflow.runs import RunDirectory

    run = RunDirectory.open(path)
    chosen: dict[str, Any] = {k: kind for k, kind in kinds.items() if kind is not None}
    model = load(path, device, **chosen)
    subset = chosen.get("subset")
    run.require(model.stage_names, model.plan_, f" --subset {subset}" if subset else "")
    return run, model if guidance is None else model.with_guidance(guidance)
