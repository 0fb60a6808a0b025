"""What is printed is what it is: no markup, no control characters, in any encoding."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from mvflow.core import Modality
from mvflow_cli.output import plain, say, show, tolerate_encodings
from mvflow_datasets import SplitData, write_store
from mvflow_datasets.manifest import Manifest
from mvflow_datasets.opened import OpenedFile

EVIL = "a[bold]b[/] :smile: \x1b[31mred\x1b]0;title\x07\x9b2J \u202eback\ud800\r\nend"
SHOWN = r"a[bold]b[/] :smile: \x1b[31mred\x1b]0;title\x07\x9b2J \u202eback\ud800\r"


def test_a_line_stays_one_line_and_steers_nothing(capsys):
    say(EVIL)
    assert capsys.readouterr().out == SHOWN + r"\nend" + "\n"
    for text in ("gefäß", "日本語", "±0.1 µs\u202f·", "a\tb"):
        assert plain(text) == text


def test_cells_and_titles_of_tables_are_texts(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    table = Table("[red]head", title="[old/]run[seed]")
    table.add_row(EVIL)
    table.add_row("beta[0.5]")
    show(table)
    out = capsys.readouterr().out
    for word in ("[red]head", "[old/]run[seed]", "beta[0.5]", SHOWN):
        assert word in out
    assert "\x1b" not in out


@pytest.fixture
def evil_store(tmp_path):
    data = SplitData({"a": np.zeros((3, 2), np.float32)}, labels=np.zeros(3, int))
    return write_store(
        tmp_path / "s[0.5].h5",
        name="[bold]n\x1b[2J",
        note=EVIL,
        modalities=[Modality("a", (2,))],
        splits={"train": data},
        builder={"name": "x", "parameters": {"a\x1b": "\x1b"}},
    )


def test_a_received_store_steers_no_terminal(mvflow, evil_store):
    found = mvflow("data", "info", evil_store)
    assert found.code == 0
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & set(found.out)
    assert r"[bold]n\x1b[2J (" in found.out
    missing = mvflow("data", "info", "no\x1b[31m[bold].h5")
    assert r"no store at no\x1b[31m[bold].h5" in missing.err
    assert "\x1b" not in missing.err


def test_verify(mvflow, refused, evil_store):
    found = mvflow("data", "verify", evil_store)
    assert found.code == 0
    assert f"{evil_store} is as it was when it was built (" in found.out
    data = bytearray(evil_store.read_bytes())
    data[Manifest.read(OpenedFile(evil_store)).arrays["train/a"].offset] ^= 1
    evil_store.write_bytes(data)
    found = mvflow("data", "verify", evil_store, "--json")
    assert (found.code, json.loads(found.out)["damage"]) == (
        1,
        ["rows 0 to 2 of train/a were altered"],
    )
    assert mvflow("data", "verify", evil_store).out == (
        f"{evil_store}: rows 0 to 2 of train/a were altered\n"
    )
    evil_store.write_bytes(data[:-1])
    assert "is damaged (it has" in refused("data", "verify", evil_store, code=1)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "ascii:surrogateescape"])
@pytest.mark.parametrize(
    "words",
    [["--help"], ["data", "build", "--help"], ["data", "list"], ["data", "info", "ü±日.h5"]],
)
def test_output_in_any_encoding(tmp_path, encoding, words):
    code = "from mvflow_cli.main import main; import sys; sys.argv[0] = 'mvflow'; main()"
    env = os.environ | {
        "PYTHONIOENCODING": encoding,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        check=False,
        env=env,
        cwd=tmp_path,
    )
    assert done.returncode == (1 if "info" in words else 0), done.stderr
    (done.stdout + done.stderr).decode(encoding.partition(":")[0])
    assert b"unexpected" not in done.stderr


def test_what_an_encoding_lacks_becomes_a_question_mark(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    tolerate_encodings()
    stream.write("gefäß")
    stream.flush()
    assert stream.buffer.getvalue() == b"gef??"


def test_a_full_disk_behind_a_redirection_is_a_sentence():
    code = "from mvflow_cli.main import main; import sys; sys.argv[0] = 'mvflow'; main()"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", code, "data", "list"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=env, check=False)
    assert done.returncode == 1
    assert done.stderr == b"mvflow: cannot write the result: no space left on device\n"
