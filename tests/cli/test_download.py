"""`mvflow data download`, and `--download` of `mvflow data build`."""

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mvflow.core import Modality
from mvflow_datasets import Builder, Content, SourceFile, SplitData
from mvflow_datasets.downloading import Download

CONTENT = bytes(range(200))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def make(files, seed):
    """One row for each byte."""
    values = np.frombuffer(files["a.bin"].read_bytes(), np.uint8).astype(np.float32)[:, None]
    return Content((Modality("x", (1,)),), {"train": SplitData({"x": values})})


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder on a local server, from which the dataset `small` is fetched."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "a.bin").write_bytes(CONTENT)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    serve = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        url = f"http://127.0.0.1:{server.server_port}/a.bin"
        download = Download(url, checksum="md5:" + hashlib.md5(CONTENT).hexdigest())
        files = (SourceFile("a.bin", "the page", download=download),)
        builder = Builder("small", "200 rows", make, files=files)
        monkeypatch.setattr("mvflow_datasets.find_builder", lambda name: builder)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def test_build_fetches_only_when_asked(mvflow, refused, tmp_path, published):
    assert "--download would fetch them" in refused("data", "build", "small", "s.h5", code=2)
    line = refused("data", "build", "small", "s.h5", "--source", tmp_path, code=1)
    assert "a.bin (the page); --download would fetch them" in line
    found = mvflow("data", "build", "small", "s.h5", "--download")
    assert found.code == 0, found
    lines = found.out.splitlines()
    assert lines[0].startswith("fetching http://127.0.0.1:")
    assert lines[0].endswith("/a.bin into small-files/a.bin")
    assert lines[1:] == [
        "fetched small-files/a.bin (200 bytes)",
        "wrote s.h5: train 200 rows",
    ]
    assert (tmp_path / "small-files" / "a.bin").read_bytes() == CONTENT
    (published / "a.bin").unlink()
    found = mvflow("data", "build", "small", "s.h5", "--force", "--download")
    assert found.out == "wrote s.h5: train 200 rows\n"


def test_download_alone(mvflow, tmp_path, published):
    found = mvflow("data", "download", "small", tmp_path / "my files")
    assert found.code == 0, found
    assert found.out.splitlines()[-1] == (
        f"all files are in {tmp_path / 'my files'}: go on with "
        f"'mvflow data build small small.h5 --source '{tmp_path / 'my files'}''"
    )
    assert mvflow("data", "download", "small").code == 0
    assert (tmp_path / "small-files" / "a.bin").read_bytes() == CONTENT


def test_json_is_all_there_is_on_stdout(mvflow, tmp_path, published):
    found = mvflow("data", "download", "small", "--json")
    assert json.loads(found.out) == {"dataset": "small", "folder": "small-files"}
    assert found.err == ""
    (tmp_path / "small-files" / "a.bin").write_bytes(b"my own")
    found = mvflow("data", "build", "small", "s.h5", "--download", "--json")
    assert json.loads(found.out)["splits"]["train"]["rows"] == 6
    assert "is not as published: expected the checksum md5:" in found.err


def test_what_goes_wrong_is_one_line_and_leaves_no_store(refused, tmp_path, published):
    (published / "a.bin").write_bytes(b"changed")
    line = refused("data", "build", "small", "s.h5", "--download", code=1)
    assert "expected the checksum md5:" in line
    (published / "a.bin").unlink()
    line = refused("data", "build", "small", "s.h5", "--download", code=1)
    assert "answers 404" in line
    assert not (tmp_path / "s.h5").exists()
    assert list((tmp_path / "small-files").iterdir()) == []


def test_ctrl_c_says_how_to_go_on(mvflow, refused, monkeypatch, published):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mvflow_datasets.builders.fetch", interrupted)
    line = refused("data", "download", "small", code=1)
    assert line == "mvflow: interrupted; what came is kept: run it again to go on"


def test_a_bar_on_a_terminal(mvflow, monkeypatch, published):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    found = mvflow("data", "download", "small")
    assert "a.bin from 127.0.0.1" in found.out
    assert "200/200 bytes" in found.out
