"""The Python of the first pages runs, and every command of the documentation can be parsed."""

import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
import typer

from mvflow_cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    """With few rows; a loaded model generates what the saved one does."""
    rng = np.random.default_rng(0)
    names = {x: rng.random((40, 1, 32, 32), np.float32) for x in "ab"}
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    exec(code, names)
    given = {"square": names["a"][:5]}
    made, again = (
        m.generate(given, n=8)["circle"] for m in (names["model"], names["load"]("runs/mine"))
    )
    assert made.shape == (8, 5, 1, 32, 32)
    np.testing.assert_array_equal(made, again)


def test_python_of_the_first_page_runs():
    """What the modalities share is found: b's last column is minus a's first."""
    names = {}
    train, configure = blocks("docs/index.md", "python")
    exec(train, names)
    shared, made = names["a"][:10, 0], names["made"][..., 2].mean(0)
    assert np.corrcoef(shared, -made)[0, 1] > 0.9
    exec(configure, names)
    assert names["model"].stage_names == ("joint", "flows", "prior")


COMMANDS = {
    f"{page}: {line}": shlex.split(line, comments=True)[1:]
    for page in PAGES
    for block in blocks(page, "")
    for line in re.split(r"\n| && ", block.replace("\\\n", " "))
    if line.startswith("mvflow ") and page != "docs/extending.md"  # its own test runs them
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_commands_can_be_parsed(words):
    """Commands and options exist, and values are of their types; nothing is run."""
    command = typer.main.get_command(app)
    context = command.make_context("mvflow", words, obj={})
    while hasattr(context.command, "resolve_command"):
        words = [*getattr(context, "_protected_args", ()), *context.args]
        name, command, rest = context.command.resolve_command(context, words)
        context = command.make_context(name, rest, parent=context)


def test_architecture_has_the_layers_that_imports_obey():
    """The picture's names, in order, are the layers of `pyproject.toml`."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (c["layers"] for c in contracts["contracts"] if "containers" in c)
    (picture,) = blocks("docs/architecture.md", "text")
    drawn = re.findall(r"^  ([a-z]+(?: \| [a-z]+)*)(?:  .*)?$", picture, re.M)
    assert drawn == layers


@pytest.mark.parametrize("page", PAGES)
def test_files_that_pages_name_exist(page):
    """Paths of modules are those of this checkout."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text("utf-8"), flags=re.M | re.S)
    homes = [ROOT, ROOT / "mvflow", ROOT / "datasets", ROOT / "cli", ROOT / "cli/mvflow_cli"]
    for path in re.findall(r"`([\w/]+/\w+\.py)", text):
        assert any((home / path).is_file() for home in homes), path
