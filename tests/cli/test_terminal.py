"""Help, words that are nearly right, files of another shape, progress, interruptions."""

import json
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import typer
from typer.models import OptionInfo

from mvflow_cli.main import app


def commands(command=None, path=()):
    """All commands with all that is below them."""
    command = command or typer.main.get_command(app)
    yield path, command
    if hasattr(command, "list_commands"):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*path, name))


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_and_all_that_was_written(mvflow, monkeypatch, path):
    """What stands in brackets would be taken for markup, and vanish."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    found = mvflow(*path, "-h")
    assert (found.code, found.err) == (0, "")
    shown = " ".join(re.sub(r"[│╭╮╰╯─|+]", " ", found.out).split())
    assert "Example: mvflow " in shown
    for parameter in COMMANDS[path].params:
        if written := getattr(parameter, "help", None):
            assert " ".join(re.sub(r"[|+]", " ", written).split()) in shown
        default = getattr(parameter, "default", None)
        if parameter.show_default and isinstance(default, str | int) and default is not False:
            assert f"[default: {default}" in shown


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_option_is_named_by_its_metavar(path):
    """typer 0.27 takes a metavar that is the name in capitals for the name: --SYSTEM."""
    hints = typing.get_type_hints(COMMANDS[path].callback or print, include_extras=True)
    for name, hint in hints.items():
        for option in getattr(hint, "__metadata__", ()):
            if isinstance(option, OptionInfo) and option.metavar == name.upper():
                assert str(option.default).startswith("--"), name  # where typer finds names


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("mvflow compa", ["compare"]),
        ("mvflow data bui", ["build"]),
        ("mvflow train --agai", ["--again"]),
    ],
)
def test_bash_completes_commands_and_options(tmp_path, typed, completed):
    mvflow = tmp_path / "mvflow"
    mvflow.write_text(f"#!{sys.executable}\nfrom mvflow_cli.main import main\nmain()\n")
    mvflow.chmod(0o700)
    script = f"""
        eval "$({mvflow} --show-completion bash)"
        complete -p mvflow >&2
        COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _mvflow_completion {mvflow}
        echo "${{COMPREPLY[@]}}"
    """
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert answer.stdout.split() == completed, answer
    assert "-F _mvflow_completion mvflow" in answer.stderr, answer


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("train", "RUN", "--stage", "Jonit"), "joint"),
        (("train", "RUN", "--subset", "produkt"), "product"),
        (("sample", "RUN", "--given", "Squares"), "square"),
        (("sample", "RUN", "--targets", "sqare"), "square"),
        (("sample", "RUN", "--prior", "Standart"), "standard"),
        (("sample", "RUN", "--sampler", "HCM"), "hmc"),
        (("new", "x", "--recipe", "TOY", "--store", "STORE"), "toy"),
        (("new", "x", "--recipe", "toy", "--store", "STORE", "--system", "JNF"), "jnf"),
        (("new", "x", "--recipe", "toy", "--store", "STORE", "--posterior", "MAV"), "maf"),
        (("evaluate", "RUN", "--split", "tset"), "test"),
        (("data", "build", "Toi", "x.h5"), "toy"),
        (("data", "build", "toy", "x.h5", "--row", "3"), "rows"),
        (("list", "sampler"), "samplers"),
        (("trian",), "train"),
    ],
)
def test_words_suggest_the_nearest(refused, trained, store, words, nearest):
    words = [{"RUN": trained, "STORE": store}.get(word, word) for word in words]
    assert re.search(f"[Dd]id you mean '{nearest}'", refused(*words, code=2))


def test_a_device_that_computes_nothing_is_refused(refused, trained):
    for device in ("meta", "gpu", "CPU", "cpu:x"):
        assert f"device {device!r} cannot be used here" in refused(
            "sample", trained, "--device", device, code=2
        )


def manifest(change):
    def edit(run):
        file = run / "manifest.json"
        value = json.loads(file.read_text("utf-8"))
        change(value)
        file.write_text(json.dumps(value), "utf-8")

    return edit


def append(name, text):
    def edit(run):
        with (run / name).open("a", encoding="utf-8") as file:
            file.write(text)

    return edit


def loop(run):
    (run / "config.toml").unlink()
    (run / "config.toml").symlink_to("config.toml")


DAMAGED = {
    "stages a list": (manifest(lambda m: m.update(stages=[])), "sample", "'stages' is a list"),
    "a stage 5": (manifest(lambda m: m["stages"].update(joint=5)), "sample", "stages.joint"),
    "no key": (manifest(lambda m: m["stages"]["joint"].pop("key")), "sample", "stages.joint"),
    "manifest deep": (append("manifest.json", "[" * 50_000), "sample", "manifest.json"),
    "history 5": (append("history.jsonl", "5\n"), "train", "history.jsonl is damaged: it is 5"),
    "history {}": (append("history.jsonl", "{}\n"), "train", "'stage' is missing"),
    "history deep": (
        append("history.jsonl", '{"stage": ' + "[" * 70 + "]" * 70 + "}\n"),
        None,
        "",
    ),
    "config deep": (append("config.toml", "x = " + "[" * 3000 + "]" * 3000), "sample", "deeply"),
    "config 100": (append("config.toml", "x = " + "[" * 100 + "]" * 100), "sample", "deeply"),
    "config digits": (append("config.toml", "x = " + "1" * 5000), "sample", "not valid TOML"),
    "config large": (append("config.toml", "#" * (1 << 24)), "sample", "more than 16,777,216"),
    "link loop": (loop, "sample", "cannot read"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_file_of_another_shape_is_a_sentence_with_file_and_key(mvflow, copied, what):
    edit, command, sentence = DAMAGED[what]
    edit(copied)
    found = mvflow(command or "train", copied)
    assert (found.code == 0) == (command is None)
    assert "unexpected" not in found.err
    assert len(found.err.splitlines()) == (command is not None)
    assert sentence in found.err


def test_what_the_system_refuses_is_a_sentence(refused, monkeypatch, trained):
    def denied(*_):
        raise PermissionError(13, "Permission denied", str(trained / "config.toml"))

    assert "file name too long" in refused("sample", "x" * 300, code=1)
    monkeypatch.setattr("mvflow.runs.RunDirectory.config", denied)
    line = refused("train", trained, code=1)
    assert line == f"mvflow: cannot use {trained / 'config.toml'}: permission denied"


def test_training_says_validation_loss_and_why_it_ended(mvflow, make):
    settings = ["joint.epochs=40", "joint.patience=1", "joint.learning_rate=1e-9"]
    run = make("short", settings=settings)
    found = mvflow("train", run, "--stage", "joint")
    assert re.search(r"joint epoch 1/40: loss \S+, validation loss \S+, ", found.out)
    ended = re.search(
        r"joint: ended early, for the validation loss has not fallen for 1 epochs; kept are the "
        r"weights of epoch (\d+) of 40, validation loss (\S+)\n",
        found.out,
    )
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    best = min(history, key=lambda record: record["validation"]["loss"])
    assert ended[1] == str(best["epoch"] + 1)
    assert ended[2] == f"{best['validation']['loss']:.4g}"
    assert "ended early" not in mvflow("train", make("full"), "--stage", "joint").out


def test_warnings_of_the_library_steer_no_terminal(started):
    code = (
        "import logging, sys; from mvflow_cli import main; "
        "main.run = lambda words: logging.getLogger('mvflow.x').warning('a\\x1b[31mb') or 0; "
        "main.main()"
    )
    assert started(program=("-c", code)).communicate()[1] == "a\\x1b[31mb\n"


def test_networks_beside_a_store_that_cannot_be_written_are_used(
    mvflow, copied, store, tmp_path, monkeypatch
):
    own = shutil.copyfile(store, tmp_path / "own.h5")
    assert mvflow("evaluate", copied, "--store", own).code == 0
    kept = sorted(tmp_path.glob("own.*.safetensors"))
    assert len(kept) == 2
    shutil.rmtree(copied / "metrics")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    trained = []
    monkeypatch.setattr("mvflow.evaluation.networks.run_stage", lambda *_, **__: trained.append(1))
    assert mvflow("evaluate", copied, "--store", own).code == 0
    assert not trained
    for path in kept:
        assert (copied / path.name).read_bytes() == path.read_bytes()
