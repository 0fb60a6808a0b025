"""The run directory: the one place where a trained model lives (DESIGN: what a run looks like)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mvflow.config import Config, parse_toml, stage_key, stage_names, to_toml
from mvflow.core import DataError, StageError, UsageError
from mvflow.runs.files import read_json, write_atomically, write_json

__all__ = ["RunDirectory", "read_tensors", "write_tensors"]

Status = Literal["done", "stale", "unfinished", "missing"]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and a JSON object as one safetensors file, atomically."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_atomically(path, lambda p: save_file(plain, p, {"about": json.dumps(about)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        DataError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {k: file.get_tensor(k) for k in file.keys()}, about  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        msg = f"{path} is missing or damaged ({error})"
        raise DataError(msg) from error


@dataclass(frozen=True)
class RunDirectory:
    """A directory with `config.toml`, weights, checkpoint, history and manifest of one model.

    Args:
        path: the directory.
    """

    path: Path

    @classmethod
    def create(cls, path: str | Path, config: Config) -> RunDirectory:
        """Make a new run directory.

        Raises:
            UsageError: if something is there already; nothing is touched.
        """
        run = cls(Path(path))
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            msg = f"{path} exists already: choose another name, or remove it first"
            raise UsageError(msg)
        run.write_config(config)
        run._write_manifest({})
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Open an existing run directory.

        Raises:
            UsageError: if there is none; the message says how to make one.
        """
        run = cls(Path(path))
        if not (run.path / "config.toml").is_file():
            what = "is not a run directory" if run.path.exists() else "does not exist"
            msg = (
                f"{path} {what}: make one with 'mvflow new {path} --recipe NAME --store STORE.h5'"
            )
            raise UsageError(msg)
        return run

    def config(self) -> Config:
        """The configuration as `config.toml` has it now."""
        return parse_toml(self.path / "config.toml")

    def write_config(self, config: Config) -> None:
        """Replace `config.toml`."""
        text = to_toml(config)
        write_atomically(self.path / "config.toml", lambda p: p.write_text(text, "utf-8"))

    # Stages

    def weights(self, stage: str) -> Path:
        """Where the weights of a finished stage are."""
        return self.path / f"{stage}.safetensors"

    def checkpoint(self, stage: str) -> Path:
        """Where the newest state of an unfinished stage is."""
        return self.path / "checkpoints" / f"{stage}.safetensors"

    def status(self, stage: str, config: Config, fingerprint: str | None = None) -> Status:
        """Whether a stage is done, stale (its inputs changed since), unfinished or missing.

        Args:
            stage: its name.
            config: the configuration to compare with.
            fingerprint: of the data; None compares with the data it was trained on.
        """
        if not self.weights(stage).is_file():
            return "unfinished" if self.checkpoint(stage).is_file() else "missing"
        entry = self.manifest().get("stages", {}).get(stage, {})
        data = entry.get("fingerprint", "") if fingerprint is None else fingerprint
        return "done" if entry.get("key") == stage_key(config, stage, data) else "stale"

    def require(self, stages: Iterator[str] | tuple[str, ...], config: Config) -> None:
        """Check that stages are done and fit the configuration.

        Raises:
            StageError: naming the first that is not and the command that makes it.
        """
        for stage in stages:
            status = self.status(stage, config)
            if status != "done":
                why = {
                    "stale": "was trained with other settings than config.toml has now",
                    "unfinished": "is not finished",
                    "missing": "has not been trained",
                }[status]
                verb = f"mvflow train-{stage} {self.path}"
                msg = f"stage {stage!r} of {self.path} {why}: run '{verb}' first"
                raise StageError(msg)

    def finish(
        self,
        stage: str,
        tensors: Mapping[str, Tensor],
        config: Config,
        fingerprint: str,
        about: Mapping[str, Any],
    ) -> None:
        """Keep the weights of a finished stage and drop its checkpoint."""
        key = stage_key(config, stage, fingerprint)
        write_tensors(self.weights(stage), tensors, {"stage": stage, "key": key})
        entry = {"key": key, "fingerprint": fingerprint, **about}
        stages = self.manifest().get("stages", {})
        self._write_manifest({"stages": stages | {stage: entry}})
        self.checkpoint(stage).unlink(missing_ok=True)

    def adopt(self, other: RunDirectory, fingerprint: str) -> list[str]:
        """Copy from another run the finished stages whose inputs are the same as here.

        Returns:
            Names of the stages that were taken.
        """
        config, taken = self.config(), []
        entries = other.manifest().get("stages", {})
        for stage in stage_names(config):
            same = entries.get(stage, {}).get("key") == stage_key(config, stage, fingerprint)
            if same and other.weights(stage).is_file():
                write_atomically(
                    self.weights(stage), partial(shutil.copyfile, other.weights(stage))
                )
                stages = self.manifest().get("stages", {})
                self._write_manifest({"stages": stages | {stage: entries[stage]}})
                for record in other.history():
                    if record["stage"] == stage:
                        self.append_history(record)
                taken.append(stage)
        return taken

    # Records

    def manifest(self) -> dict[str, Any]:
        """Versions, machine, and for each finished stage what it depended on."""
        path = self.path / "manifest.json"
        return read_json(path) if path.is_file() else {}

    def _write_manifest(self, update: Mapping[str, Any]) -> None:
        packages = ("mvflow", "torch", "zuko", "numpy")
        made = {
            "versions": {name: version(name) for name in packages},
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        write_json(self.path / "manifest.json", {**self.manifest(), **made, **update})

    def history(self) -> list[dict[str, Any]]:
        """Records of all epochs, oldest first; a line cut off by a crash is left out."""
        path = self.path / "history.jsonl"
        if not path.is_file():
            return []
        records = []
        for line in path.read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Add one line to `history.jsonl`."""
        with (self.path / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")

    def rewind_history(self, stage: str, epoch: int) -> None:
        """Forget the records of a stage from `epoch` on: they are about to be made again."""
        kept = [r for r in self.history() if r["stage"] != stage or r["epoch"] < epoch]
        text = "".join(json.dumps(r) + "\n" for r in kept)
        write_atomically(self.path / "history.jsonl", lambda p: p.write_text(text, "utf-8"))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for writing; a second process is refused.

        Raises:
            StageError: if another process is training here.
        """
        with (self.path / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                msg = f"another process is training in {self.path}: wait for it, or stop it first"
                raise StageError(msg) from error
            yield
