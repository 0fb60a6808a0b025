"""Run directories of many variants of one recipe, made all together or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer

from mvflow_cli.judge_files import JudgeFiles
from mvflow_cli.output import say

__all__ = ["make_runs"]


def make_runs(
    variants: Mapping[str, Sequence[str]],
    out: Path,
    store: Path,
    recipe: str,
    judges: JudgeFiles | None = None,
    hint: str = "",
) -> None:
    """Make the run directories by `mvflow new`: all of them, or none if one cannot be made.

    Args:
        variants: name of each run -> its `key=value` assignments.
        out: folder of the runs.
        store: with the data.
        recipe: that the runs begin with.
        judges: networks that will measure them.
        hint: what else is said of a run that cannot be made.

    Raises:
        UsageError: if a directory holds a run with another configuration.
        DataError: if one was trained on other rows, or cannot be written.
        MvflowError: if `judges` cannot judge them.
    """
    from mvflow.core import UsageError
    from mvflow.core.files import writing
    from mvflow_cli.main import run

    if (file := next((p for p in (out, *out.parents) if p.is_file()), None)) is not None:
        msg = f"cannot make runs in {out}: {file} is a file; choose another --out"
        raise UsageError(msg)
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    with ExitStack() as stack:
        with writing(out):
            scratch = stack.enter_context(_scratch(parent))
        said: set[str] = set()
        for name, assignments in variants.items():
            words = [f"--set={text}" for text in assignments]
            command = ["new", f"{scratch}/{name}", f"--recipe={recipe}", f"--store={store}"]
            texts = io.StringIO()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(texts):
                code = run([*command, *words])
            lines = texts.getvalue().splitlines()
            if code:
                lines[-1] += f" (in {name!r}{hint})"
            for line in lines:
                if line not in said:
                    say(line, err=True)
            said.update(lines)
            if code:
                raise typer.Exit(code)
        made = {Path(scratch, name): out / name for name in variants}
        (judges or JudgeFiles()).check(made)
        missing = {new: path for new, path in made.items() if not _is_there(path, new)}
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        for new, path in missing.items():
            with writing(path):
                try:
                    new.rename(path)
                except OSError:  # another command has made it meanwhile
                    if not _is_there(path, new):
                        raise


def _scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=".sweep-", dir=folder)


def _is_there(path: Path, new: Path) -> bool:
    """Whether a directory holds a run with the same configuration as a new one.

    Raises:
        UsageError: if its configuration is another.
        DataError: if it was trained on other rows.
    """
    from mvflow.core import UsageError
    from mvflow.runs import RunDirectory
    from mvflow_cli.opening import open_store

    if (path / "config.toml").is_file():
        ours, theirs = (
            _flat(RunDirectory.open(p).config().model_dump(mode="json")) for p in (new, path)
        )
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                if key == "data.store" and _is_same_store(path, theirs[key], ours[key]):
                    continue
                msg = (
                    f"{path} is there with another configuration ({key} is {theirs.get(key)}, "
                    f"not {ours.get(key)}): choose another --out, or remove it first"
                )
                raise UsageError(msg)
        with open_store(run := RunDirectory.open(path), run.config()):
            return True
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        msg = f"{path} is there and is not a run directory: choose another --out"
        raise UsageError(msg)
    return False


def _is_same_store(run: Path, theirs: str, ours: str) -> bool:
    """Whether the store of a run that is there has the same content as another, wherever it lies.

    Raises:
        UsageError: if it is not where the run says.
    """
    from mvflow.core import UsageError
    from mvflow_datasets import Store

    if not theirs or not (place := run / theirs).exists():
        msg = (
            f"{run} is there, but its store is not: there is nothing at {theirs or 'its place'}; "
            f"if it is {ours} now, 'mvflow train {run} --store {ours}' says so to the run"
        )
        raise UsageError(msg)
    with Store.open(place) as a, Store.open(ours) as b:
        return a.fingerprint == b.fingerprint


def _flat(node: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables as one, with keys like `section.key`."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        is_table = isinstance(value, dict)
        flat |= _flat(value, f"{before}{key}.") if is_table else {before + key: value}
    return flat
