"""The `mvflow` program: assembles the commands, and turns every error into one line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from mvflow_cli import data
from mvflow_cli.choose_prior import choose_prior
from mvflow_cli.compare import compare
from mvflow_cli.complete import complete
from mvflow_cli.convert import convert
from mvflow_cli.demo import demo
from mvflow_cli.diagnose import diagnose
from mvflow_cli.embed import embed
from mvflow_cli.evaluate import evaluate
from mvflow_cli.impute import impute
from mvflow_cli.list import list_kinds
from mvflow_cli.new import new
from mvflow_cli.output import LogLines, say, tolerate_encodings
from mvflow_cli.report import report
from mvflow_cli.reproduce import reproduce
from mvflow_cli.sample import sample
from mvflow_cli.stage_commands import CommandGroup
from mvflow_cli.subprocesses import LOCKED
from mvflow_cli.sweep import sweep
from mvflow_cli.train import train
from mvflow_cli.train_classifiers import train_classifiers

__all__ = ["app", "main", "run"]

app = typer.Typer(
    name="mvflow",
    cls=CommandGroup,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(new)
app.command()(train)
app.command()(train_classifiers)
app.command()(choose_prior)
app.command()(sweep)
app.command()(sample)
app.command()(impute)
app.command()(complete)
app.command()(embed)
app.command()(evaluate)
app.command()(diagnose)
app.command()(compare)
app.command()(report)
app.command()(reproduce)
app.command("list")(list_kinds)
app.command()(convert)
app.command()(demo)
app.add_typer(data.app, name="data")

# The class of all errors that Typer itself raises; Typer has had two homes for it.
_TyperError: Any = typer.BadParameter.__mro__[2]


def _show_version(wanted: bool) -> None:
    if wanted:
        from mvflow import __version__

        typer.echo(f"mvflow {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _global(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from (a traceback).")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            metavar="MODULE",
            help="Import a module whose classes config.toml names; may be repeated.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Learn several modalities jointly, generate any of them from any others.

    Example: mvflow demo
    """
    context.obj["debug"] = debug
    for module in plugin or []:
        from mvflow.core.registry import trust

        trust(module)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    It is 0 where it is done, 1 where it failed, 2 after wrong use, 75 where another process is at
    work in the same run: the same command may be tried again.

    Args:
        arguments: of the command line, without the program's name.
    """
    state: dict[str, Any] = {"debug": False}
    command = typer.main.get_command(app)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = command.main(list(arguments), "mvflow", standalone_mode=False, obj=state)
    except _TyperError as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "mvflow")
        return _fail(f"{error.format_message()} (see '{where} --help')", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        _trace(state)
        return _fail(*_sentence(error, is_debugged=state["debug"]))
    if code == 130:  # how Typer returns a Ctrl-C that no command has dealt with
        return _fail("interrupted", 1)
    return code if isinstance(code, int) else 0


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Say what a warning of ours says; of others, also where they are from."""
    from mvflow.core.errors import UnreliableDrawsWarning

    is_ours = issubclass(category, UnreliableDrawsWarning)
    where = "" if is_ours else f"{category.__name__} at {filename}:{lineno}: "
    say(f"mvflow: warning: {where}{message}", err=True)


def _sentence(error: Exception, *, is_debugged: bool) -> tuple[str, int]:
    """What is said of an error, and the exit code."""
    # here, for the sake of --help
    from mvflow.core.errors import LockedError, MvflowError, UsageError

    if isinstance(error, MvflowError):
        code = LOCKED if isinstance(error, LockedError) else 1
        return str(error), 2 if isinstance(error, UsageError) else code
    if isinstance(error, OSError):
        reason, name = (error.strerror or str(error)).lower(), error.filename
        return f"cannot use {name}: {reason}" if name else f"cannot go on: {reason}", 1
    if isinstance(error, RecursionError):
        return "a file or a setting is nested too deeply to be read", 1
    if isinstance(error, MemoryError):
        reason = f" ({' '.join(str(error).lower().split())})" if str(error) else ""
        return f"there is not enough memory for this{reason}: use fewer rows at once", 1
    hint = "" if is_debugged else "; run 'mvflow --debug ...' to see where"
    return f"unexpected {type(error).__name__}: {error}{hint}", 1


def _fail(sentence: str, code: int) -> int:
    say(f"mvflow: {' '.join(sentence.split())}", err=True)
    return code


def _trace(state: dict[str, Any]) -> None:
    if state["debug"]:
        for line in traceback.format_exc().splitlines():
            say(line, err=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, _interrupt)
    tolerate_encodings()
    logging.lastResort = LogLines(logging.WARNING)
    code = run(sys.argv[1:])
    if code and _has_process_group():
        _exit_at_once(code)
    sys.exit(code)


def _has_process_group() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _exit_at_once(code: int) -> NoReturn:
    """End without destructors: those of a process group whose peers are lost may abort."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a closed pipe
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
