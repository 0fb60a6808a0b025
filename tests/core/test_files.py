"""Files are written whole or not at all, and nothing but files is written or read."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mvflow.core import DataError
from mvflow.core.files import (
    append_line,
    check_shape,
    json_text,
    open_regular,
    read_bytes,
    read_json,
    write_atomically,
    write_json,
    writing,
)


def fails(error):
    def write(path):
        path.write_text("half")
        raise error

    return write


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), ValueError("bug"), KeyboardInterrupt()]
)
def test_what_was_there_stays_when_writing_fails(tmp_path, old, error):
    path = tmp_path / "file"
    if old is not None:
        path.write_text(old)
    with pytest.raises(DataError if isinstance(error, OSError) else type(error)):
        write_atomically(path, fails(error))
    assert (path.read_text() if path.exists() else None) == old
    assert list(tmp_path.iterdir()) == ([path] if old else [])  # no temporary file is left


@pytest.mark.parametrize("error", [None, OSError(errno.ENOSPC, "full")])
def test_the_file_that_was_there_is_kept_when_it_is_replaced(tmp_path, error):
    path, previous = tmp_path / "file", tmp_path / "previous"
    for text in ("1", "2"):
        write_atomically(path, lambda p, t=text: p.write_text(t), previous=previous)
    assert (path.read_text(), previous.read_text()) == ("2", "1")
    if error is None:
        write_atomically(path, lambda p: p.write_text("3"), previous=previous)
        assert (path.read_text(), previous.read_text()) == ("3", "2")
    else:
        with pytest.raises(DataError):
            write_atomically(path, fails(error), previous=previous)
        assert (path.read_text(), previous.read_text()) == ("2", "1")
    assert sorted(tmp_path.iterdir()) == [path, previous]


def test_content_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    did = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle):
        did.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    def watched_replace(old, new):
        did.append((Path(old), Path(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomically(tmp_path / "file", lambda p: p.write_text("whole"))
    temporary = did[0]
    assert temporary.name.startswith(".file.")
    assert did == [temporary, (temporary, tmp_path / "file"), tmp_path]


def test_the_disk_is_full_in_earnest():
    with (
        pytest.raises(DataError, match=r"cannot write a.txt: the disk is full; nothing"),
        writing(Path("a.txt")),
    ):
        Path("/dev/full").write_text("x")


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot write .*: the disk is full; nothing .* is lost"):
        write_atomically(tmp_path / "file", fails(OSError(errno.ENOSPC, "full")))


def test_a_place_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write .*inner"):
        write_json(tmp_path / "file" / "inner", {})


def test_json_round_trip(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"c": "ü"}}
    write_json(tmp_path / "deep" / "v.json", value)
    assert read_json(tmp_path / "deep" / "v.json") == value
    assert list(json.loads((tmp_path / "deep" / "v.json").read_text())) == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 50_000, b"1" * 5000])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="manifest.json is damaged"):
        read_json(path)


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_files_have_the_rights_that_the_user_gives_to_new_files(tmp_path, umask):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from mvflow.core.files import append_line, write_atomically\n"
        f"os.umask({umask})\n"
        "write_atomically(Path('a'), lambda p: p.write_text('x')); append_line(Path('b'), 'x')"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env)
    assert {mode(path) for path in tmp_path.iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("rights", [0o600, 0o640, 0o666, 0o755])
def test_a_file_that_is_replaced_keeps_its_rights_and_is_never_wider(tmp_path, rights):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(rights)
    seen = []
    write_atomically(path, lambda p: seen.append(mode(p)) or p.write_text("new"))
    assert (path.read_text(), mode(path), seen) == ("new", rights, [rights])


def test_temporary_names_cannot_be_known_and_are_never_those_of_others(tmp_path, monkeypatch):
    """A link that lies where the file is to grow is not followed."""
    names = []
    for _ in range(9):
        write_atomically(tmp_path / "f", names.append)
    assert len(set(names)) == 9
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda n: "known")
    (tmp_path / f"{names[0].name[:-16]}known").symlink_to(victim)
    with pytest.raises(DataError, match="file exists"):
        write_atomically(tmp_path / "f", lambda p: p.write_text("mine"))
    assert victim.read_text() == "precious"


def test_a_link_is_replaced_and_what_it_leads_to_is_not(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "link"
    victim.write_text("precious")
    path.symlink_to(victim)
    write_atomically(path, lambda p: p.write_text("new"))
    assert (path.read_text(), path.is_symlink(), victim.read_text()) == ("new", False, "precious")
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(DataError, match="cannot write .*link: it is a symbolic link"):
        append_line(path, "x")
    assert victim.read_text() == "precious"


def make_pipe(path):
    os.mkfifo(path)
    return "it is a named pipe"


def make_folder(path):
    path.mkdir()
    return "it is a folder"


def make_device(path):
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null
    return "it is a device"


@pytest.mark.parametrize("make", [make_pipe, make_folder, make_device])
def test_what_is_no_file_is_neither_replaced_nor_waited_for(tmp_path, make):
    path = tmp_path / "x"
    try:
        reason = make(path)
    except PermissionError:
        pytest.skip("only root makes devices")
    kind = stat.S_IFMT(path.lstat().st_mode)
    for what, work in (
        ("write", lambda: write_atomically(path, lambda p: p.write_text("new"))),
        ("write", lambda: append_line(path, "x")),
        ("read", lambda: open_regular(path)),
        ("read", lambda: read_json(path)),
    ):
        with pytest.raises(DataError, match=f"^cannot {what} {path}: {reason}, expected a file"):
            work()
    assert stat.S_IFMT(path.lstat().st_mode) == kind
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 300, "loop", "a\0b", "file/x"])
def test_names_that_no_file_can_have(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    path = tmp_path / name
    with pytest.raises(
        DataError, match="^cannot read .*: (its name|file name too|too many|embed|not)"
    ):
        open_regular(path)
    if name != "loop":  # which is replaced, as any link
        with pytest.raises(DataError, match="^cannot write .*: (its name|file name too|not a)"):
            write_atomically(path, lambda p: p.write_text("x"))


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path):
    path = tmp_path / ("ä" * 120)
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}


def test_no_more_than_the_limit_is_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(10))
    assert read_bytes(path, 10) == bytes(10)
    with pytest.raises(DataError, match="has more than 9 bytes"):
        read_bytes(path, 9)
    os.truncate(path, 1 << 40)  # a file with a hole, which takes no place on the disk
    with pytest.raises(DataError, match="has more than 67,108,864 bytes"):
        read_json(path)


SHAPE = {"stages": {str: {"key": str, "loss": (float, None.__class__)}}, "rows": [int]}
GOOD = {"stages": {"joint": {"key": "k", "loss": 1, "more": 0}}, "rows": [1, 2], "other": None}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stages": []}, "'stages' is a list, expected an object"),
        ({"stages": {"joint": 5}}, "'stages.joint' is 5, expected an object"),
        ({"stages": {"joint": {"loss": 1}}}, "'stages.joint.key' is missing"),
        ({"stages": {"j": {"key": 1, "loss": 1}}}, "'stages.j.key' is 1, expected a text"),
        (
            {"stages": {"j": {"key": "", "loss": "x"}}},
            "'stages.j.loss' is 'x', expected a number or nothing",
        ),
        ({"rows": [1, True]}, "'rows[1]' is True, expected a whole number"),
        ({"rows": [1, 2.0]}, "'rows[1]' is 2.0, expected a whole number"),
        ({"rows": "x" * 90}, f"'rows' is '{'x' * 39}..., expected a list"),
    ],
)
def test_json_of_another_shape_is_named_with_its_key(tmp_path, change, sentence):
    path = tmp_path / "manifest.json"
    write_json(path, GOOD)
    assert read_json(path, SHAPE) == GOOD
    write_json(path, GOOD | change)
    with pytest.raises(DataError) as caught:
        read_json(path, SHAPE)
    assert str(caught.value) == f"{path} is damaged: {sentence}"


def test_anything_goes_where_anything_is_expected():
    for value in (1, None, [], {"a": [1]}):
        check_shape({"x": value}, {"x": object}, "a file")


def test_an_interruption_leaves_no_temporary_file(tmp_path, monkeypatch):
    """Whenever it comes: here when the file has just been made."""
    opened = os.open

    def interrupted(*arguments):
        os.close(opened(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", lambda path: path.write_text("whole"))
    assert not list(tmp_path.iterdir())


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(
    PLAIN,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(), parts, max_size=4),
)


@given(JSON)
def test_json_of_few_lines_means_the_same(value):
    assert json.loads(json_text(value)) == value
    assert list(json.loads(json_text({"b": value, "a": value}))) == ["b", "a"]


def test_a_row_of_a_table_is_one_line():
    table = {"measures": {f"m{i}": {"mean": 0.5, "values": [0, 1]} for i in range(30)}}
    rows = [line for line in json_text(table).splitlines() if "mean" in line]
    assert [json.loads(f"{{{row.rstrip(',')}}}") for row in rows] == [
        {key: cell} for key, cell in table["measures"].items()
    ]
    matrix = [[i, i + 1] for i in range(3)]
    assert [line.strip(" ,") for line in json_text(matrix).splitlines()[1:-1]] == [
        json.dumps(row) for row in matrix
    ]
