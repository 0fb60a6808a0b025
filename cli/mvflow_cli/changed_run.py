"""A run as it will be with changed settings, none of which is written before training begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mvflow.runs import Inputs, Plan, RunDirectory
from mvflow_cli.output import say

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow.runs.directory import Status

__all__ = ["ChangedRun"]


@dataclass(frozen=True)
class ChangedRun(RunDirectory):
    """A run directory with other settings, and without the stages that are trained again.

    Args:
        path: the directory.
        settings: that `config.toml` will have.
        again: stages whose weights will be removed.
        err: whether the changes are said on stderr.
    """

    settings: Config
    again: tuple[str, ...] = ()
    err: bool = False

    def config(self, objects: Mapping[str, Any] | None = None) -> Config:
        """The changed settings."""
        return self.settings

    def status(self, stage: str, plan: Plan, inputs: Inputs | None = None) -> Status:
        """The status of a stage; one that is trained again is missing."""
        return "missing" if stage in self.again else super().status(stage, plan, inputs)

    def begin(self) -> None:
        """Write the settings, say which have changed, and remove the weights."""
        before = super().config()
        if self.settings != before:
            self.write_config(self.settings)
            known, new = (_flat(config.to_dict()) for config in (before, self.settings))
            for key in sorted(new):
                if new[key] != known.get(key) and key != "data.store":
                    was = f" (was {known[key]!r})" if key in known else ""
                    say(f"config.toml: {key} = {new[key]!r}{was}", err=self.err)
        for stage in self.again:
            self.forget(stage)


def _flat(raw: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables as one, with keys like `section.key`."""
    out: dict[str, Any] = {}
    for key, value in raw.items():
        name = f"{before}{key}"
        out |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return out
