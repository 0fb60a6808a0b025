"""The stages of a run with all that their weights depend on, and what is recorded of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mvflow.config import Config
from mvflow.core import DataError, UsageError, unknown_name
from mvflow.core.parts import problem
from mvflow.stages import StageSpec

__all__ = ["Inputs", "Plan", "StageRecord"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Fingerprints of the data that a stage is trained on."""

    train: str = ""
    """Of the training rows."""
    validation: str | None = None
    """Of validation rows of their own; None: a share of the training rows."""

    def like(self, other: Inputs) -> Inputs:
        """These training rows, with another's way to hold out rows."""
        return Inputs(self.train, other.validation)


@dataclass(frozen=True, slots=True)
class StageRecord:
    """Manifest entry of a finished stage."""

    key: str
    """Hash of settings, data, seed and the keys of earlier stages."""
    weights: str
    """Content hash of its weights."""
    needs: dict[str, str] = field(default_factory=dict)
    """Earlier stage -> content hash of the weights that it was trained on."""
    fingerprint: str = ""
    """Of the training rows."""
    validation: str | None = None
    """Of validation rows of their own."""
    seed: int = 0
    seconds: float = 0.0
    rows: int = 0
    device: str = ""
    epochs: int = 0
    bytes: list[str] = field(default_factory=list)
    """Modalities whose training rows were uint8 intensities."""

    @property
    def inputs(self) -> Inputs:
        """The data that it was trained on."""
        return Inputs(self.fingerprint, self.validation)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_dict(cls, raw: Any, path: Path, stage: str) -> StageRecord:
        """From JSON.

        Raises:
            DataError: if it has another shape.
        """
        known = {f.name for f in fields(cls)}
        own = {k: v for k, v in raw.items() if k in known} if isinstance(raw, dict) else raw
        try:
            return _RECORD.validate_python(own)
        except ValidationError as error:
            msg = (
                f"{path}: stages.{stage} is not the record of a stage ({problem(error)}); a run "
                "of mvflow 0.1 is converted by 'mvflow convert RUN'"
            )
            raise DataError(msg) from error


_RECORD = TypeAdapter(StageRecord)


class Plan:
    """The stages of a configured system, in order, and the key of each.

    Args:
        config: of the run.
        stages: of its system.

    Raises:
        UsageError: if two stages have the same name, or one needs a later one.
    """

    def __init__(self, config: Config, stages: Iterable[StageSpec]) -> None:
        self.config, self.stages = config, tuple(stages)
        seen: list[str] = []
        for spec in self.stages:
            missing = [name for name in spec.needs if name not in seen]
            if missing or spec.name in seen:
                what = (
                    f"needs {missing[0]!r}, which does not come before it"
                    if missing
                    else "is there twice"
                )
                msg = f"system {config.system!r}: stage {spec.name!r} {what}"
                raise UsageError(msg)
            seen.append(spec.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return tuple(spec.name for spec in self.stages)

    @cached_property
    def _specs(self) -> dict[str, StageSpec]:
        return {spec.name: spec for spec in self.stages}

    def spec(self, name: str) -> StageSpec:
        """A stage by its name.

        Raises:
            UsageError: if there is none; the message names the nearest.
        """
        if name not in self._specs:
            raise UsageError(unknown_name("stage", name, self.names))
        return self._specs[name]

    def after(self, names: Iterable[str]) -> tuple[str, ...]:
        """Stages that depend on any of these, directly or not."""
        changed = set(names)
        for spec in self.stages:
            if changed & set(spec.needs):
                changed.add(spec.name)
        return tuple(n for n in self.names if n in changed and n not in set(names))

    def keys(self, inputs: Inputs) -> dict[str, str]:
        """Stage -> its key, if all stages are trained on the same data."""
        keys: dict[str, str] = {}
        for name in self.names:
            keys[name] = self.key(name, inputs, keys)
        return keys

    def key(self, stage: str, inputs: Inputs, needs: Mapping[str, str]) -> str:
        """Hash of all that the weights of a stage depend on.

        Stages with equal keys train equal weights, so one run can take them from another.

        Args:
            stage: its name.
            inputs: fingerprints of the data.
            needs: earlier stage -> its key.
        """
        spec, data = self.spec(stage), self.config.data
        held = data.validation if inputs.validation is None else inputs.validation
        parts = {
            "stage": [stage, type(spec.module).__qualname__, spec.version],
            "data": [inputs.train, data.train, held],
            "seed": self.config.seed,
            "settings": None if spec.settings is None else spec.settings.dependencies(),
            "reads": spec.reads,
            "needs": {name: needs[name] for name in spec.needs},
        }
        if self.config.covariates:  # absent else: keys of models without any stay as they were
            parts["covariates"] = {c.name: c.to_dict() for c in self.config.covariate_specs()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
