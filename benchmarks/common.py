"""What benchmarks share: options, turns, tables in Markdown, what was measured with what."""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvflow.runs import write_atomically, write_json
from mvflow_cli.main import run as command
from mvflow_datasets import find_builder

Rows = list[dict[str, Any]]

RESULTS = Path("benchmarks/results")


def turn_by_turn(
    timed: Mapping[str, Callable[[], Any]],
    turns: int,
    clock: Callable[[], Any] = time.process_time,
    before: Callable[[], Any] = lambda: None,
) -> dict[str, list[Any]]:
    """Seconds of each in each turn; each turn begins with another, so all meet the same machine.

    By default CPU seconds of this process; `time.perf_counter` gives those on the wall, and
    `both_clocks` both. `before` is called at the begin of a turn and not timed.
    """
    found: dict[str, list[Any]] = {name: [] for name in timed}
    names = list(timed)
    for turn in range(turns):
        before()
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            began = clock()
            timed[name]()
            found[name].append(clock() - began)
    return found


def both_clocks() -> np.ndarray:
    """CPU seconds of this process and seconds on the wall."""
    return np.array([time.process_time(), time.perf_counter()])


def synchronise(device: torch.device | str) -> None:
    """Wait until the device has done what it was given."""
    kind = torch.device(device).type
    if kind != "cpu":
        torch.get_device_module(kind).synchronize()


def markdown(rows: Rows) -> str:
    """A table with the keys of the first row as its head."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(row[key]) for key in head) + " |" for row in rows]
    return "\n".join(lines)


def show_last(rows: Rows) -> None:
    """Print the row that was added last, below the head of the table if it is the first."""
    lines = markdown(rows).splitlines()
    print("\n".join(lines if len(rows) == 1 else lines[-1:]), flush=True)


def about(*packages: str, device: str = "cpu") -> dict[str, Any]:
    """Commit, date, machine and versions; None for a package that is not installed."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    versions: dict[str, str | None] = {}
    for name in ("mvflow", "numpy", "torch", *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "commit": commit,
        "date": date.today().isoformat(),
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


def script_parser(name: str, documentation: str) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.NAME`, described by the first line of its module."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=documentation.splitlines()[0]
    )


def add_options(
    parser: argparse.ArgumentParser, *, threads: bool = True, device: bool = True
) -> None:
    """`--quick`, `--out` and, unless the script has none or its own, `--device`, `--threads`."""
    parser.add_argument("--quick", action="store_true", help="a smoke test: no figure counts")
    parser.set_defaults(device="cpu")
    if device:
        parser.add_argument("--device", default="cpu", help="cpu or cuda")
    if threads:
        parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help=f"where to write, FILE.md beside it; by default in {RESULTS}, if it is not --quick",
    )


def parsed(
    parser: argparse.ArgumentParser, name: str, quick: Mapping[str, Any]
) -> argparse.Namespace:
    """Arguments with a device that is there, a file to write to, and the sizes of `--quick`.

    Torch has `--threads` from here on, or one thread where there is no such option.

    Args:
        parser: after `add_options`.
        name: of the file, if no other is asked for; that of a device other than a CPU is added.
        quick: what `--quick` sets.
    """
    arguments = parser.parse_args()
    try:
        device_name(arguments.device)
    except (RuntimeError, AssertionError):
        parser.error(f"--device {arguments.device}: torch sees no such device here")
    for option, value in (quick if arguments.quick else {}).items():
        setattr(arguments, option, value)
    torch.set_num_threads(np.ravel(getattr(arguments, "threads", 1))[0].item())
    folder = Path(tempfile.gettempdir()) / "mvflow-bench" if arguments.quick else RESULTS
    kind = torch.device(arguments.device).type
    file = f"{name}.json" if kind == "cpu" else f"{name}-{kind}.json"
    arguments.out = (arguments.out or folder / file).with_suffix(".json")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    return arguments


def save(out: Path, found: Mapping[str, Any], text: str) -> None:
    """Write what was found as JSON, and its tables beside it."""
    write_json(out, found)
    write_atomically(out.with_suffix(".md"), lambda path: path.write_text(f"{text}\n", "utf-8"))


@contextmanager
def chosen_runs(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> Iterator[list[Path]]:
    """The runs that were named, or one that is made for `--quick`."""
    if arguments.quick:
        with quick_run() as run:
            yield [run]
    elif arguments.runs:
        yield arguments.runs
    else:
        parser.error("name the runs, or use --quick")


@contextmanager
def quick_run() -> Iterator[Path]:
    """A run of the toy recipe, hardly trained, with product and amortised posterior."""
    settings = ("joint.epochs=1", "flows.epochs=1", "classifiers.epochs=2", "prior=standard")
    steps = [f"{stage}.steps_per_epoch=3" for stage in ("joint", "flows")]
    with tempfile.TemporaryDirectory() as folder:
        store, run = Path(folder, "toy.h5"), Path(folder, "run")
        find_builder("toy").build(store, rows=600, test_rows=64)
        words = [f"--set={assignment}" for assignment in (*settings, *steps)]
        quietly(["new", str(run), "--recipe=toy", f"--store={store}", *words])
        quietly(["train", str(run)])
        quietly(["train-amortised", str(run)])
        yield run


def quietly(words: Sequence[str]) -> None:
    """A command, of which only errors are shown.

    Raises:
        SystemExit: if it fails.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        code = command(list(words))
    if code:
        raise SystemExit(code)


def device_name(device: str) -> str:
    """The device and what it is called."""
    kind = torch.device(device).type
    if kind == "cpu":
        return "cpu"
    module = torch.get_device_module(kind)
    if not module.is_available():
        msg = f"there is no {device}"
        raise RuntimeError(msg)
    return f"{device}: {module.get_device_name(device)}"


class Report:
    """Tables, printed as they are made and kept as JSON and as Markdown.

    Args:
        title: first line.
        arguments: of the script; all but where to write and which parts are kept as settings.
        packages: whose versions matter besides those of `about`.
    """

    def __init__(self, title: str, arguments: argparse.Namespace, *packages: str) -> None:
        self.out: Path = arguments.out
        self.found: dict[str, Any] = {
            "about": about(*packages, device=device_name(arguments.device)),
            "settings": {
                name: str(value) if isinstance(value, Path) else value
                for name, value in vars(arguments).items()
                if name not in ("out", "parts")
            },
        }
        self._text = [f"# {title}"]

    def add(self, part: str, caption: str, rows: Rows, began: float | None = None) -> None:
        """Print and keep one table; `began` is the time on the wall at which it was begun."""
        self.found[part] = rows
        self._text.append(f"{caption}\n\n{markdown(rows)}")
        took = "" if began is None else f"\n\n{time.perf_counter() - began:.0f} s"
        print(f"\n{self._text[-1]}{took}", flush=True)
        save(self.out, self.found, "\n\n".join([*self._text, self._footer()]))

    def grow(self, part: str, caption: str, rows: Rows) -> None:
        """Print the last line of a table that is being made, and keep all so far."""
        show_last(rows)
        self.found[part] = rows
        tables = [*self._text, f"{caption}\n\n{markdown(rows)}"]
        save(self.out, self.found, "\n\n".join([*tables, self._footer()]))

    def _footer(self) -> str:
        made = self.found["about"]
        versions = ", ".join(f"{name} {v}" for name, v in made["versions"].items() if v)
        run = f"Commit {made['commit']}, {made['date']}, {made['device']}"
        threads = f"{made['threads']} thread{'s' if made['threads'] > 1 else ''}"
        return f"{run}, {threads}, {versions}.\n\nColumns: see `benchmarks/README.md`."
