"""Finished parts of an evaluation, kept in a run so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvflow_cli.output import finite

__all__ = ["KeptParts", "state_hash"]

MAX_PART = 1 << 28
"""Bytes of a part, at most."""


def state_hash(state: Mapping[str, Any]) -> str:
    """A hash of all that a result depends on."""
    text = json.dumps(finite(state), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class KeptParts:
    """Parts as files in `RUN/metrics/parts/`, of one state of the run and one way to measure.

    Parts of another state are removed when the first one is kept.

    Args:
        run: directory of the run.
        state: all that the parts depend on.
    """

    def __init__(self, run: Path, state: Mapping[str, Any]) -> None:
        self._all = run / "metrics" / "parts"
        self._folder = self._all / state_hash(state)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from evaluating the run meanwhile.

        Raises:
            LockedError: if another process does.
        """
        from mvflow.core.files import writing
        from mvflow.runs import locked

        with writing(self._all.parent):
            self._all.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._all.parent, "evaluating"):
            yield

    def get(self, name: str) -> str | None:
        """JSON of a part, None if there is none."""
        from mvflow.core.files import MissingFileError, read_bytes

        try:
            return read_bytes(self._path(name), MAX_PART).decode("utf-8", "replace")
        except MissingFileError:
            return None

    def put(self, name: str, text: str) -> None:
        """Keep a part."""
        from mvflow.runs import write_atomically

        if not self._folder.is_dir():
            self.clear()
        write_atomically(self._path(name), lambda path: path.write_text(text, "utf-8"))

    def clear(self) -> None:
        """Remove all parts: the evaluation that they belong to is finished, or out of date."""
        if self._all.is_dir() and not self._all.is_symlink():
            shutil.rmtree(self._all, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
