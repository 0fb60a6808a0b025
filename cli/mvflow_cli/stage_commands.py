"""Commands for single stages, `train-STAGE` and `fit-STAGE`, made from the stages that there are.

Those that `mvflow --help` lists are entry points of the group `mvflow.stage_commands`; their
values are the system, or the kind of part, that brings the stage. Others work all the same.
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["CommandGroup", "provider"]

PREFIXES = ("train-", "fit-")
GROUP = "mvflow.stage_commands"


class CommandGroup(TyperGroup):
    """The commands of the program, and those of all stages."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands; those of stages follow `train`."""
        names = super().list_commands(ctx)
        stages = sorted({e.name for e in entry_points(group=GROUP)} - set(names))
        at = names.index("train") + 1 if "train" in names else len(names)
        return [*names[:at], *stages, *names[at:]]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name."""
        command = super().get_command(ctx, cmd_name)
        prefix = next((p for p in PREFIXES if cmd_name.startswith(p) and cmd_name != p), None)
        if command is not None or prefix is None:
            return command
        return _stage_command(cmd_name, cmd_name.removeprefix(prefix))


def provider(stage: str) -> Any:
    """The class of parts that brings a stage; None if it is a system's own, or unknown."""
    registered: list[EntryPoint] = [
        entry for p in PREFIXES for entry in entry_points(group=GROUP, name=f"{p}{stage}")
    ]
    return registered[0].load() if registered else None


def _stage_command(name: str, stage: str) -> Any:
    """The command `train` for one stage, with all of its other options."""
    from mvflow_cli.train import train

    def command(**options: Any) -> None:
        train(stage=[stage], **options)

    signature = inspect.signature(train, eval_str=True)
    parameters = [p for p in signature.parameters.values() if p.name != "stage"]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    app = typer.Typer(
        add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.command(name, help=_help(name, stage), short_help=f"Train only stage {stage!r}.")(command)
    return typer.main.get_command(app)


def _help(name: str, stage: str) -> str:
    return (
        f"Train only stage {stage!r} of a run; the stages that it needs must be done.\n\n"
        f"If the run's configuration lacks the part that brings the stage, the part is chosen.\n\n"
        f"Example: mvflow {name} runs/toy"
    )
