"""The program as a whole: help, version, start, exit codes, errors in one line."""

import pytest

from mvflow import __version__
from mvflow_cli import main, opening

COMMANDS = [
    ("new",),
    ("train",),
    ("train-projectors",),
    ("train-joint",),
    ("train-flows",),
    ("train-amortised",),
    ("train-matching",),
    ("fit-prior",),
    ("train-classifiers",),
    ("sample",),
    ("evaluate",),
    ("diagnose",),
    ("compare",),
    ("list",),
    ("convert",),
    ("sweep",),
    ("report",),
    ("demo",),
    ("data",),
    ("data", "list"),
    ("data", "build"),
    ("data", "info"),
    ("data", "verify"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(mvflow, command):
    found = mvflow(*command, "--help")
    assert found.code == 0
    assert "Example: mvflow " in found.out
    assert not found.err


def test_help_lists_every_command(mvflow):
    for found in (mvflow("--help"), mvflow()):
        assert found.code == 0
        for command in COMMANDS:
            assert command[0] in found.out


def test_version(mvflow):
    assert mvflow("--version").out == f"mvflow {__version__}\n"


def test_unknown_command_and_option(refused, trained):
    assert "trian" in refused("trian", code=2)
    assert "--devise" in refused("train", trained, "--devise", "cpu", code=2)
    assert "RUN" in refused("train", code=2)
    assert "--store" in refused("new", "somewhere", code=2)


def test_unusable_device(refused, trained):
    line = refused("sample", trained, "--device", "qpu", code=2)
    assert "device 'qpu' cannot be used here" in line


def test_unexpected_error_is_one_line_and_debug_shows_the_traceback(mvflow, trained, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(opening, "store_path", broken)
    found = mvflow("sample", trained, "--given", "square")
    assert found.code == 1
    assert found.err == (
        "mvflow: unexpected ZeroDivisionError: no such luck; "
        "run 'mvflow --debug ...' to see where\n"
    )
    found = mvflow("--debug", "sample", trained, "--given", "square")
    assert found.code == 1
    assert "Traceback" in found.err
    assert found.err.endswith("mvflow: unexpected ZeroDivisionError: no such luck\n")


def test_debug_shows_the_traceback_of_expected_errors(mvflow, tmp_path):
    found = mvflow("--debug", "train", tmp_path / "none")
    assert found.code == 2
    assert "Traceback" in found.err


def test_ctrl_c_anywhere_is_one_line(refused, trained, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(opening, "store_path", interrupted)
    assert refused("sample", trained, "--given", "square", code=1) == "mvflow: interrupted"


def test_main_turns_sigterm_into_an_interrupt():
    with pytest.raises(KeyboardInterrupt):
        main._interrupt(15, None)


def test_too_little_memory_is_a_sentence(refused, monkeypatch):
    def large(*_):
        raise MemoryError("Unable to allocate 2.00 GiB\nfor an array")

    monkeypatch.setattr("mvflow_datasets.Store.open", large)
    line = refused("data", "info", "a.h5", code=1)
    assert "not enough memory for this (unable to allocate 2.00 gib for an array): use" in line
