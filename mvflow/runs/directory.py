"""The run directory of one model: configuration, weights, checkpoints, history and manifest."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mvflow.config import Config, parse_toml, to_toml
from mvflow.core import DataError, StageError, Units, UsageError
from mvflow.core.files import (
    MissingFileError,
    check_shape,
    reading,
)
from mvflow.runs.files import (
    append_line,
    fsync,
    read_array,
    read_json,
    write_array,
    write_atomically,
    write_json,
    writing,
)
from mvflow.runs.history import HISTORY, read_history
from mvflow.runs.locking import locked
from mvflow.runs.plan import Inputs, Plan, StageRecord
from mvflow.runs.weights import read_header, read_tensors, write_tensors

__all__ = ["RunDirectory"]

Status = Literal["done", "stale", "unfinished", "missing", "replaced"]

logger = logging.getLogger(__name__)


def _remove(path: Path) -> None:
    with writing(path):
        path.unlink(missing_ok=True)


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
        cls.check_free(path)
        run = cls(Path(path))
        run.write_config(config)
        run._write_manifest({})
        return run

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Check that a new run directory can have this name.

        Raises:
            UsageError: if something is there already.
        """
        place = Path(path)
        with reading(place):
            exists = os.path.lexists(place)
            is_free = not exists or (place.is_dir() and not any(place.iterdir()))
        if not is_free:
            msg = f"{path} exists already: choose another name, or remove it first"
            raise UsageError(msg)

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Open an existing run directory.

        Raises:
            UsageError: if there is none; the message says how to make one.
        """
        run = cls(Path(path))
        file = run.path / "config.toml"
        with reading(file), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            file.stat()  # a loop of links, or a folder that cannot be read, is an error of its own
        if not file.is_file():
            what = "is not a run directory" if run.path.exists() else "does not exist"
            msg = (
                f"{path} {what}: make one with 'mvflow new {path} --recipe NAME --store STORE.h5'"
            )
            raise UsageError(msg)
        return run

    def config(self, objects: Mapping[str, Any] | None = None) -> Config:
        """The configuration as `config.toml` has it now; `objects` as in `parse_toml`."""
        return parse_toml(self.path / "config.toml", objects)

    def write_config(self, config: Config) -> None:
        """Replace `config.toml`."""
        text = to_toml(config)
        write_atomically(self.path / "config.toml", lambda p: p.write_text(text, "utf-8"))

    def begin(self) -> None:
        """Called before the first stage is trained, once nothing refuses to; does nothing."""

    # Stages

    def write_units(self, units: Mapping[str, Units]) -> None:
        """Keep how the values of modalities came from those of files; `units.json`."""
        kept = {name: raw for name, of in units.items() if (raw := of.to_dict())}
        if kept:
            write_json(self.path / "units.json", kept)

    def units(self) -> dict[str, Units]:
        """Modality -> how its values came from those of files; empty in runs of older mvflow.

        Raises:
            DataError: if `units.json` is damaged.
        """
        try:
            kept = read_json(self.path / "units.json", {str: dict})
        except MissingFileError:
            return {}
        return {name: Units.from_dict(raw) for name, raw in kept.items()}

    def weights(self, stage: str) -> Path:
        """Where the weights of a finished stage are."""
        return self.path / f"{stage}.safetensors"

    def checkpoint(self, stage: str) -> Path:
        """Where the newest state of an unfinished stage is."""
        return self.path / "checkpoints" / f"{stage}.safetensors"

    def previous_checkpoint(self, stage: str) -> Path:
        """Where the state before the newest is, in case that the newest is damaged."""
        return self.path / "checkpoints" / f"{stage}.previous.safetensors"

    def save_checkpoint(
        self, stage: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
    ) -> None:
        """Write the newest state of an unfinished stage; the one before becomes the previous.

        Raises:
            DataError: if it cannot be written; the older ones stay.
        """
        self._sync_history()
        write_tensors(
            self.checkpoint(stage), tensors, about, previous=self.previous_checkpoint(stage)
        )

    def newest_checkpoint(
        self, stage: str, key: str
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and description of the newest intact checkpoint made under `key`, or None.

        What is damaged is passed over, and a warning logged that says what is taken instead.
        """
        damaged = []
        for path in self._checkpoints(stage):
            try:
                tensors, about = read_tensors(path)
            except DataError as error:
                damaged.append(str(error))
                continue
            if about.get("key") == key:
                if damaged:
                    logger.warning("%s: going on from the checkpoint before it", damaged[0])
                return tensors, about
        if damaged:
            logger.warning("%s: stage %r starts anew", "; ".join(damaged), stage)
        return None

    def forget(self, stage: str) -> None:
        """Remove the weights and checkpoints of a stage."""
        for path in (self.weights(stage), *self._checkpoints(stage)):
            _remove(path)

    def _checkpoints(self, stage: str) -> list[Path]:
        paths = (self.checkpoint(stage), self.previous_checkpoint(stage))
        return [path for path in paths if path.is_file()]

    def status(self, stage: str, plan: Plan, inputs: Inputs | None = None) -> Status:
        """Whether a stage is done, stale, unfinished, missing, or another's file.

        Done is a stage whose weights are those that the manifest records, trained with the plan's
        settings, on the recorded data, and on the weights of earlier stages that lie here now.

        Args:
            stage: its name.
            plan: stages and settings to compare with.
            inputs: data to compare with; None compares with the data it was trained on.
        """
        if not self.weights(stage).is_file():
            return "unfinished" if self._checkpoints(stage) else "missing"
        entries = self.records()
        entry, header = entries.get(stage), read_header(self.weights(stage))
        if entry is None:
            # The manifest is written after the weights; a process may be killed between the two.
            return "unfinished"
        if header.get("sha256") != entry.weights:
            is_newer = header.get("key") not in (None, entry.key) and self._checkpoints(stage)
            return "unfinished" if is_newer else "replaced"
        needs = plan.spec(stage).needs
        if any(self.status(name, plan, inputs) != "done" for name in needs):
            return "stale"
        if any(entry.needs.get(name) != entries[name].weights for name in needs):
            return "stale"
        data = entry.inputs if inputs is None else inputs.like(entry.inputs)
        key = plan.key(stage, data, {name: entries[name].key for name in needs})
        return "done" if entry.key == key else "stale"

    def require(self, stages: Iterable[str], plan: Plan, options: str = "") -> None:
        """Check that stages are done and fit the configuration.

        Args:
            stages: their names.
            plan: of the model.
            options: that the command needs to make them, such as ` --subset product`.

        Raises:
            DataError: if a file of weights is not the one that was recorded.
            StageError: naming the first that is not done and the command that makes it.
        """
        for stage in stages:
            status = self.status(stage, plan)
            if status == "replaced":
                self._refuse(stage)
            if status != "done":
                why = {
                    "stale": "was trained with other settings, data or earlier stages than there "
                    "are now",
                    "unfinished": "is not finished",
                    "missing": "has not been trained",
                }[status]
                msg = (
                    f"stage {stage!r} of {self.path} {why}: run 'mvflow train {self.path} "
                    f"--stage {stage}{options}' first"
                )
                raise StageError(msg)

    def read_weights(self, stage: str) -> dict[str, Tensor]:
        """Weights of a finished stage, checked against what the manifest records.

        Raises:
            DataError: if the file is missing, damaged, not the one that was recorded, or holds
                what is not a number.
        """
        tensors, about = read_tensors(self.weights(stage))
        entry = self.records().get(stage)
        if entry is None or about["sha256"] != entry.weights:
            self._refuse(stage)
        for name, value in tensors.items():
            if value.is_floating_point() and value.isnan().any():
                msg = (
                    f"{self.weights(stage)} holds NaN in {name!r}: train anew with "
                    f"'mvflow train {self.path} --stage {stage} --again'"
                )
                raise DataError(msg)
        return tensors

    def _refuse(self, stage: str) -> NoReturn:
        msg = (
            f"{self.weights(stage)} is not the file that manifest.json records: put that one "
            f"back, or train anew with 'mvflow train {self.path} --stage {stage} --again'"
        )
        raise DataError(msg)

    def finish(self, stage: str, tensors: Mapping[str, Tensor], record: StageRecord) -> None:
        """Keep the weights of a finished stage and drop its checkpoints."""
        self._sync_history()
        about = {"stage": stage, "key": record.key, "needs": record.needs}
        write_tensors(self.weights(stage), tensors, about)
        self._write_manifest({"stages": self._entries() | {stage: record.to_dict()}})
        for path in self._checkpoints(stage):
            _remove(path)

    def adopt(self, other: RunDirectory, plan: Plan, inputs: Inputs) -> list[str]:
        """Copy from another run the finished stages whose inputs are the same as here.

        What is done here already stays as it is.

        Returns:
            Names of the stages that were taken.
        """
        taken: list[str] = []
        other_records = other.records()
        for stage in plan.names:
            own_records = self.records()
            if self.status(stage, plan, inputs) == "done" or stage not in other_records:
                continue
            entry, needs = other_records[stage], plan.spec(stage).needs
            if any(
                n not in own_records or entry.needs.get(n) != own_records[n].weights for n in needs
            ):
                continue
            key = plan.key(
                stage, inputs.like(entry.inputs), {n: own_records[n].key for n in needs}
            )
            intact = read_header(other.weights(stage)).get("sha256") == entry.weights
            if entry.key == key and intact:
                write_atomically(
                    self.weights(stage), partial(shutil.copyfile, other.weights(stage))
                )
                self._write_manifest({"stages": self._entries() | {stage: entry.to_dict()}})
                for record in other.history():
                    if record["stage"] == stage:
                        self.append_history(record)
                taken.append(stage)
        return taken

    # Arrays

    @property
    def arrays(self) -> Path:
        """Where large arrays are that can be computed again; it may be removed at any time."""
        return self.path / "cache"

    def array(
        self,
        name: str,
        key: str,
        rows: int,
        blocks: Callable[[], Iterable[NDArray[Any]]],
    ) -> NDArray[np.float32]:
        """Cached array under `key`, as a memory map; computed if it is missing or damaged.

        Of each name one array is kept: those of other keys are removed to make room.

        Args:
            name: of the array.
            key: hash of all that the values depend on.
            rows: how many there are.
            blocks: computes them, a block after another.

        Raises:
            DataError: if the array cannot be written.
        """
        path = self.arrays / f"{name}-{key}.npy"
        if path.is_file():
            try:
                return read_array(path)
            except DataError as error:
                logger.warning("%s: computed anew", error)
        for other in self.arrays.glob(f"{name}-*.npy"):
            _remove(other)
        write_array(path, blocks(), rows)
        return read_array(path)

    # Records

    def manifest(self) -> dict[str, Any]:
        """Versions, machine, and for each finished stage what it depended on."""
        path = self.path / "manifest.json"
        return read_json(path) if path.is_file() else {}

    def records(self) -> dict[str, StageRecord]:
        """What is recorded of each finished stage.

        Raises:
            DataError: if the manifest has another shape.
        """
        path = self.path / "manifest.json"
        return {name: StageRecord.from_dict(e, path, name) for name, e in self._entries().items()}

    def _entries(self) -> dict[str, Any]:
        manifest = {"stages": {}} | self.manifest()
        check_shape(manifest, {"stages": dict}, str(self.path / "manifest.json"))
        entries: dict[str, Any] = manifest["stages"]
        return entries

    def _write_manifest(self, update: Mapping[str, Any]) -> None:
        packages = ("mvflow", "torch", "zuko", "numpy")
        environment = {
            "versions": {name: version(name) for name in packages},
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        write_json(self.path / "manifest.json", {**self.manifest(), **environment, **update})

    def history(self) -> list[dict[str, Any]]:
        """Records of all epochs, oldest first; a line cut off by a crash is left out.

        Raises:
            DataError: if the file cannot be read, or a line is JSON of another shape.
        """
        return read_history(self.path / HISTORY)

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Add one line to `history.jsonl`."""
        append_line(self.path / HISTORY, json.dumps(dict(record)))

    def _sync_history(self) -> None:
        """Write the history through to the disk (fsync), before what refers to its records."""
        path = self.path / HISTORY
        if path.is_file():
            with writing(path):
                fsync(path)

    def rewind_history(self, stage: str, epoch: int) -> None:
        """Forget the records of a stage from `epoch` on: they are about to be made again."""
        kept = [r for r in self.history() if r["stage"] != stage or r["epoch"] < epoch]
        text = "".join(json.dumps(r) + "\n" for r in kept)
        write_atomically(self.path / HISTORY, lambda p: p.write_text(text, "utf-8"))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for writing; a second process is refused.

        The system releases it when this process ends, however it ends. What this process holds
        already, it may hold again. Temporary files that a killed process left are removed.

        Raises:
            DataError: if the directory cannot be written.
            LockedError: if another process is training here.
        """
        with locked(self.path) as is_new:
            if is_new:
                self._tidy()
            yield

    def _tidy(self) -> None:
        """Check that files can be written here, and remove what a killed process left half done.

        Only what is written under the lock is looked at: other commands may be at work.
        """
        with writing(self.path), tempfile.TemporaryFile(dir=self.path):
            pass
        for name in ("config.toml", "manifest.json", "history.jsonl", "*.safetensors", "*.npy"):
            for folder in (self.path, self.path / "checkpoints", self.arrays):
                for path in folder.glob(f".{name}.*"):
                    _remove(path)
        records: dict[str, StageRecord] = {}
        with contextlib.suppress(DataError):  # who reads a damaged manifest next says so
            records = self.records()
        for stage, record in records.items():
            if read_header(self.weights(stage)).get("sha256") == record.weights:
                for path in self._checkpoints(stage):
                    if read_header(path).get("key") == record.key:
                        _remove(path)
