"""Downloads from a local server that breaks off, changes its mind, or sends something else."""

import gzip
import hashlib
import itertools
import json
import os
import resource
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvflow.core import DataError, UsageError
from mvflow_datasets import Builder, SourceArchive, SourceFile, SourceFolder, find_builder
from mvflow_datasets import downloading as module
from mvflow_datasets.builders import known_builders
from mvflow_datasets.downloading import TRIES, Download, fetch

CONTENT = np.random.default_rng(0).bytes(5_000)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Sends `server.content`; `server.cuts` says after how many bytes each answer breaks off."""

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        if server.location and self.path != "/moved":
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        if server.hold:
            server.hold.wait(10)
            return
        wanted = self.headers.get("If-Range", server.etag) == server.etag
        start = int(asked[6:-1]) if asked and server.ranges and wanted else 0
        if start and start >= len(server.content):
            self.send_error(416)
            return
        self._send(server, start, 206 if start else 200)

    def _send(self, server, start, status):
        body = server.content[start:]
        self.send_response(status)
        if status == 206:
            n = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{n - 1}/{n}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.says_length:
            self.send_header("Content-Length", str(len(body)))
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *_):
        pass


class Watcher:
    """Keeps what it hears."""

    def __init__(self, stop_at=None):
        self.notes, self.done, self.started, self.ended = [], [], [], []
        self.stop_at = stop_at

    def on_start(self, download, path):
        self.started.append(path.name)

    def on_bytes(self, done, total):
        self.done.append((done, total))
        if self.stop_at is not None and done >= self.stop_at:
            raise KeyboardInterrupt

    def on_end(self, path):
        self.ended.append(path.name)

    def on_note(self, sentence):
        self.notes.append(sentence)


@pytest.fixture
def server(monkeypatch):
    """A server in a thread."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        reset(made)
        made.url = f"http://127.0.0.1:{made.server_port}"
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        if made.hold:
            made.hold.set()
        made.shutdown()
        thread.join()


def reset(server):
    server.content, server.etag, server.headers = CONTENT, '"1"', {}
    server.ranges, server.says_length, server.status = True, True, 200
    server.cuts, server.asked, server.hold, server.location = [], [], None, ""


def get(server, path, *, watcher=None, pauses=None, **changes):
    """Fetch `/file` into `path`; waits are kept, not slept."""
    waited = [] if pauses is None else pauses
    download = Download(f"{server.url}/file", path.name, **changes)
    fetch(download, path, watcher or Watcher(), pause=waited.append)
    return path.read_bytes()


def left(folder):
    """Names of all files in a folder."""
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("checksum", ["", MD5, SHA256])
def test_a_file_is_fetched_whole(server, tmp_path, checksum):
    watcher = Watcher()
    path = tmp_path / "deep" / "er" / "a.gz"
    assert get(server, path, watcher=watcher, checksum=checksum, size=5_000) == CONTENT
    assert left(path.parent) == ["a.gz"]
    assert (watcher.started, watcher.ended) == (["a.gz"], ["a.gz"])
    said = [f"a.gz: no checksum of it is published; what came has {SHA256}"]
    assert watcher.notes == ([] if checksum else said)
    assert watcher.done[0] == (0, 5_000)
    assert watcher.done[-1] == (5_000, 5_000)


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=4), st.booleans(), st.booleans())
@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_wherever_the_connection_breaks_the_file_is_the_same(server, tmp_path, cuts, ranges, tag):
    reset(server)
    server.cuts, server.ranges, server.etag = list(cuts), ranges, '"1"' if tag else None
    path = tmp_path / "a"
    path.unlink(missing_ok=True)
    assert get(server, path, checksum=MD5) == CONTENT
    assert left(tmp_path) == ["a"]


def test_only_the_rest_is_asked_for(server, tmp_path):
    server.cuts = [1_000, 500]
    watcher, pauses = Watcher(), []
    assert get(server, tmp_path / "a", watcher=watcher, pauses=pauses, checksum=MD5) == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]
    assert pauses == [1.0, 1.0]  # each brought something new
    assert [done for done, _ in watcher.done] == sorted(done for done, _ in watcher.done)
    assert watcher.notes == [
        f"a: the connection broke after {n} of 5,000 bytes; next try in 1 s"
        for n in ("1,000", "1,500")
    ]


def test_a_later_call_goes_on_where_one_gave_up(server, tmp_path):
    server.cuts = [2_000] + [0] * TRIES
    pauses = []
    with pytest.raises(DataError) as caught:
        get(server, tmp_path / "a", pauses=pauses)
    assert str(caught.value) == (
        f"cannot fetch a from {server.url}/file: the connection broke after 2,000 of 5,000 bytes; "
        f"tried {TRIES} times; 2 kB are kept in {tmp_path / 'a.part'}: run it again to go on"
    )
    assert pauses == [1, 2, 4, 8, 16]
    assert left(tmp_path) == ["a.part", "a.part.json"]
    server.cuts, server.asked = [], []
    assert get(server, tmp_path / "a", checksum=SHA256) == CONTENT
    assert server.asked == ["bytes=2000-"]


def test_ctrl_c_keeps_what_came(server, tmp_path):
    server.cuts = [3_000]
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path / "a", watcher=Watcher(stop_at=1))
    kept = (tmp_path / "a.part").stat().st_size
    assert 0 < kept <= 3_000
    server.cuts, server.asked = [], []
    assert get(server, tmp_path / "a", checksum=MD5) == CONTENT
    assert server.asked == [f"bytes={kept}-"]


def test_a_whole_part_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path / "a", watcher=Watcher(stop_at=5_000))
    server.asked = []
    assert get(server, tmp_path / "a", checksum=MD5) == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("obeys", [True, False])
def test_a_file_that_changed_is_fetched_anew(server, tmp_path, obeys):
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path / "a", watcher=Watcher(stop_at=1))
    (tmp_path / "a.part").write_bytes(CONTENT[:1_234])
    server.content, server.etag, server.asked = CONTENT[::-1], '"2"', []
    if not obeys:  # sends the rest of another file
        server.etag = None
        server.headers = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    assert get(server, tmp_path / "a") == CONTENT[::-1]
    assert server.asked[0] == "bytes=1234-"


def test_a_part_longer_than_the_file_is_fetched_anew(server, tmp_path):
    server.says_length = False
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path / "a", watcher=Watcher(stop_at=5_000))
    server.content = CONTENT[:100]
    assert get(server, tmp_path / "a") == CONTENT[:100]
    assert server.asked == [None, "bytes=5000-", None]


@pytest.mark.parametrize("about", ["", "{}", "[]", '{"url": "http://other/file"}'])
def test_a_part_of_unknown_origin_is_not_continued(server, tmp_path, about):
    (tmp_path / "a.part").write_bytes(b"something else")
    if about:
        (tmp_path / "a.part.json").write_text(about)
    assert get(server, tmp_path / "a") == CONTENT
    assert server.asked == [None]


def test_a_wrong_checksum_removes_the_file(server, tmp_path):
    with pytest.raises(DataError) as caught:
        get(server, tmp_path / "a", checksum="md5:" + 32 * "0")
    assert str(caught.value) == (
        f"a from {server.url}/file is not what was published: expected the checksum "
        f"md5:{32 * '0'}, found {MD5}; it is removed, run it again"
    )
    assert left(tmp_path) == []


@pytest.mark.parametrize("says_length", [True, False])
def test_a_wrong_size_is_refused(server, tmp_path, says_length):
    server.says_length = says_length
    with pytest.raises(DataError, match="expected .*4,?999"):
        get(server, tmp_path / "a", size=4_999)
    assert left(tmp_path) == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("limit", [{"size": 1_000}, {"at_most": 1_000}])
@pytest.mark.parametrize("says_length", [True, False])
def test_no_more_is_taken_than_was_asked_for(server, tmp_path, monkeypatch, says_length, limit):
    monkeypatch.setattr(module, "_BLOCK", 400)
    server.says_length = says_length
    watcher = Watcher()
    with pytest.raises(DataError, match=r"expected .*1,000.*: it is not what was published"):
        get(server, tmp_path / "a", watcher=watcher, **limit)
    assert max([0, *(done for done, _ in watcher.done)]) <= 1_000
    assert left(tmp_path) == []


def test_a_part_where_all_was_asked_for_is_refused(server, tmp_path, monkeypatch):
    send = Handler._send
    monkeypatch.setattr(Handler, "_send", lambda h, server, start, status: send(h, server, 0, 206))
    with pytest.raises(DataError, match="answers with a part of a: all was asked for"):
        get(server, tmp_path / "a")
    assert left(tmp_path) == []


def test_a_slow_server_is_left_and_asked_for_the_rest(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 1_000)
    watcher, seconds = Watcher(), itertools.count(0, 61)  # a minute and more for each block
    download = Download(f"{server.url}/file", "a", checksum=MD5)
    slow = {"pause": lambda _: None, "clock": lambda: next(seconds)}
    fetch(download, tmp_path / "a", watcher, **slow)
    assert server.asked[:3] == [None, "bytes=1000-", "bytes=2000-"]
    assert watcher.notes[0] == "a: less than 1 kB came per second; next try in 1 s"
    (tmp_path / "a").unlink()
    monkeypatch.setattr(module, "DEADLINE", 200)
    with pytest.raises(
        DataError, match=r"it takes longer than 0 hours; \d kB are kept in .*go on$"
    ):
        fetch(download, tmp_path / "a", watcher, **slow)


def test_a_file_for_which_there_is_no_room_is_not_begun(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4_000))
    with pytest.raises(DataError, match=r"^a needs 5 kB, and 4 kB are free in .*: make room"):
        get(server, tmp_path / "a")
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", ["a.part", "a.part.json"])
def test_a_link_in_place_of_a_part_is_not_followed(server, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / name).symlink_to(victim)
    if name == "a.part":
        with pytest.raises(DataError, match="it is a symbolic link"):
            get(server, tmp_path / "a", checksum=MD5)
    else:
        assert get(server, tmp_path / "a", checksum=MD5) == CONTENT
    assert victim.read_text() == "precious"


def test_a_pipe_in_place_of_a_part_is_not_waited_for(server, tmp_path):
    os.mkfifo(tmp_path / "a.part")
    with pytest.raises(DataError, match=r"^cannot write .*a\.part: it is a named pipe"):
        get(server, tmp_path / "a")


@pytest.mark.parametrize(("status", "said"), [(404, "404 Not Found"), (403, "403 Forbidden")])
def test_what_the_server_does_not_have_is_not_asked_for_again(server, tmp_path, status, said):
    server.status = status
    with pytest.raises(DataError, match=f"/file answers {said}; .* put it at .*/a$"):
        get(server, tmp_path / "a")
    assert len(server.asked) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, tmp_path, status):
    server.status = status
    with pytest.raises(DataError, match=rf"server answers {status} .*; tried 5 times; .* later$"):
        get(server, tmp_path / "a")
    assert len(server.asked) == TRIES
    assert left(tmp_path) == []


def test_no_server_and_no_answer(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    server.hold = threading.Event()
    with pytest.raises(DataError, match="no answer for 0 s; tried 5 times"):
        get(server, tmp_path / "a")
    download = Download("http://127.0.0.1:1/file")
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1: Connection refused; tried 5 times"):
        fetch(download, tmp_path / "a", Watcher(), pause=[].append)


def test_a_web_page_is_not_a_file(server, tmp_path):
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(DataError, match="answers with a web page in place of a$"):
        get(server, tmp_path / "a")
    assert left(tmp_path) == []


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "x-compress"])
def test_bytes_are_kept_as_they_are_sent(server, tmp_path, encoding):
    server.content = gzip.compress(CONTENT, mtime=0)
    server.headers = {"Content-Encoding": encoding, "Content-Type": "application/x-gzip"}
    server.cuts = [100]
    assert gzip.decompress(get(server, tmp_path / "a.gz")) == CONTENT


def test_redirects_lead_to_the_web_only(server, tmp_path):
    server.location = "/moved"
    server.cuts = [1_000]
    assert get(server, tmp_path / "a") == CONTENT
    assert server.asked[-1] == "bytes=1000-"
    for location, said in (
        ("file:///etc/hostname", "'file:///etc/hostname' is not allowed"),
        ("ftp://127.0.0.1/file", "leads to ftp://127.0.0.1/file: only https is followed$"),
    ):
        server.location = location
        with pytest.raises(DataError, match=said):
            get(server, tmp_path / "b")
    assert left(tmp_path) == ["a"]


def test_a_full_disk_keeps_what_came(server, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"^cannot write .*a\.part: file too large$"):
            get(server, tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "a.part").stat().st_size == 2_000
    server.asked = []
    assert get(server, tmp_path / "a", checksum=MD5) == CONTENT
    assert server.asked == ["bytes=2000-"]


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"^cannot write .*: (file exists|not a directory)$"):
        get(server, tmp_path / "file" / "a")
    assert server.asked == []


def test_two_processes_do_not_write_one_part(server, tmp_path):
    class Second(Watcher):
        def on_bytes(self, done, total):
            with pytest.raises(DataError, match="another process is fetching"):
                get(server, tmp_path / "a")

    assert get(server, tmp_path / "a", watcher=Second(), checksum=MD5) == CONTENT


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"url": "ftp://host/a"}, "expected http or https"),
        ({"url": "/etc/passwd"}, "expected http or https"),
        ({"url": "http://host/a", "checksum": "md5:12"}, "expected md5: or sha256:"),
        ({"url": "http://host/a", "checksum": 32 * "0"}, "expected md5: or sha256:"),
    ],
)
def test_an_address_or_checksum_of_another_form_is_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        Download(**changes)


def make_builder(server, *, files=(), alternatives=()):
    known = {
        "a.gz": SourceFile(
            "a.gz", "page A", "sub", Download(f"{server.url}/a.gz", "a.gz", 5_000, MD5)
        ),
        "b": SourceArchive("b", "page B", "in", download=Download(f"{server.url}/v1", "b.tar.gz")),
        "c": SourceFile("c", "page C"),
        "d": SourceFolder("d", "photographs", (".jpg",)),
    }
    return Builder(
        "made",
        "made up",
        make=None,
        files=tuple(known[name] for name in files),
        alternatives=tuple(tuple(known[name] for name in form) for form in alternatives),
    )


def test_a_builder_fetches_what_is_missing_once(server, tmp_path):
    builder, watcher = make_builder(server, files=("a.gz", "b")), Watcher()
    builder.download(tmp_path, watcher)
    assert watcher.ended == ["a.gz", "b.tar.gz"]
    assert (tmp_path / "sub" / "a.gz").read_bytes() == CONTENT
    builder.download(tmp_path, watcher)
    assert len(server.asked) == 2
    assert [note.split(":")[0] for note in watcher.notes] == ["b.tar.gz"]  # it has no checksum


def test_a_file_of_another_checksum_is_said_and_kept(server, tmp_path):
    (tmp_path / "a.gz").write_bytes(b"mine")
    watcher = Watcher()
    make_builder(server, files=("a.gz",)).download(tmp_path, watcher)
    assert (tmp_path / "a.gz").read_bytes() == b"mine"
    assert server.asked == []
    assert len(watcher.notes) == 1
    assert MD5 in watcher.notes[0]
    assert "md5:" + hashlib.md5(b"mine").hexdigest() in watcher.notes[0]


def test_what_cannot_be_fetched_is_said(server, tmp_path):
    builder = make_builder(server, files=("a.gz", "c"))
    with pytest.raises(DataError, match=r"are not in .*: c \(page C\); no address is known"):
        builder.download(tmp_path, Watcher())
    assert left(tmp_path / "sub") == ["a.gz"]
    with pytest.raises(UsageError, match="has no files to download"):
        find_builder("toy").download(tmp_path, Watcher())


@pytest.mark.parametrize(
    ("there", "fetched"),
    [((), ["b.tar.gz"]), (("d",), ["a.gz"]), (("d", "a"), [])],
)
def test_the_form_is_fetched_for_which_most_is_there(server, tmp_path, there, fetched):
    builder, watcher = make_builder(server, files=("b",), alternatives=[("a.gz", "d")]), Watcher()
    if "d" in there:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "1.jpg").touch()
    if "a" in there:
        (tmp_path / "a").touch()
    builder.download(tmp_path, watcher)
    assert watcher.ended == fetched


def test_without_download_nothing_is_fetched_but_offered(server, tmp_path):
    host = server.url.removeprefix("http://")
    builder = make_builder(server, files=("a.gz", "b"))
    ending = rf"; --download would fetch them \(5 kB and more\) from {host}$"
    with pytest.raises(DataError, match=ending):
        builder.build(tmp_path / "s.h5", source=tmp_path)
    with pytest.raises(UsageError, match=ending):
        builder.build(tmp_path / "s.h5")
    builder = make_builder(server, files=("c",), alternatives=[("b", "d")])
    with pytest.raises(DataError, match=r"photographs\)$"):
        make_builder(server, files=("d",)).build(tmp_path / "s.h5", source=tmp_path)
    ending = rf"; --download would fetch b\.tar\.gz \(size not known\) from {host}$"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.jpg").touch()
    with pytest.raises(DataError, match=ending):
        builder.build(tmp_path / "s.h5", source=tmp_path)
    assert server.asked == []


@pytest.mark.parametrize("name", known_builders())
def test_what_builders_offer_is_found_once_it_is_there(tmp_path, name):
    """A fetched file has the name and the place in which it is looked for."""
    for form in find_builder(name).forms:
        for file in form:
            if file.download:
                place = file.destination(tmp_path)
                place.parent.mkdir(exist_ok=True)
                place.touch()
                assert file.find(tmp_path) == place
                assert place.name == file.download.name


def test_the_note_about_a_part_names_its_origin(server, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path / "a", watcher=Watcher(stop_at=1))
    about = json.loads((tmp_path / "a.part.json").read_text())
    assert about == {"url": f"{server.url}/file", "validator": '"1"', "total": 5_000}
