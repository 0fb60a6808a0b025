"""`mvflow convert`: a run directory of format 1 becomes one of this mvflow's format."""

from __future__ import annotations

from mvflow_cli.options import Json, RunPath
from mvflow_cli.output import say, show_json

__all__ = ["convert"]


def convert(run: RunPath, json: Json = False) -> None:
    """Convert a run directory that mvflow 0.1 made; its weights stay as they are.

    Example: mvflow convert runs/old
    """
    from mvflow.estimators.converting import convert_run

    taken = convert_run(run)
    if json:
        show_json({"run": str(run), "stages": taken})
        return
    say(f"converted {run}: stages {', '.join(taken) or 'none'}")
