"""What all builders share: parameters, source files, and stores that a seed determines."""

import hashlib

import numpy as np
import pytest

from mvflow import __version__
from mvflow.core import DataError, Modality, Registry, UsageError
from mvflow_datasets import (
    Builder,
    Content,
    Parameter,
    SourceFile,
    SplitData,
    Store,
    find_builder,
    known_builders,
)


def make(files, seed, *, rows, scale):
    """Rows that hold the seed, and the bytes of the source file where there is one."""
    values = np.full((rows, 1), seed * scale, np.float32)
    if files:
        values[:, 0] = len(files["a.gz"].read_bytes())
    return Content((Modality("x", (1,)),), {"train": SplitData({"x": values})}, note="made up")


PARAMETERS = (Parameter("rows", 3, "rows"), Parameter("scale", 1, "factor", minimum=0))
DRAWN = Builder("drawn", "rows that hold the seed", make, PARAMETERS)
READ = Builder(
    "read",
    "rows that hold a size",
    make,
    PARAMETERS,
    (SourceFile("a.gz", "page A", "sub"), SourceFile("b", "page B")),
)


def test_the_store_says_how_it_was_built(tmp_path):
    path = DRAWN.build(tmp_path / "s.h5", seed=7, rows="5")
    with Store.open(path) as store:
        assert store.name == "drawn"
        assert store.note == "made up"
        assert store.sources == {}
        assert store.builder == {
            "name": "drawn",
            "parameters": {"rows": 5, "scale": 1},
            "seed": 7,
            "mvflow": __version__,
        }
        np.testing.assert_array_equal(store["train"].take([0, 4])["x"], [[7], [7]])


@pytest.mark.parametrize("place", ["a.gz", "a", "sub/a.gz", "sub/a"])
def test_source_files_are_found_packed_or_not_in_either_folder(tmp_path, place):
    (tmp_path / "sub").mkdir()
    (tmp_path / place).write_bytes(b"four")
    (tmp_path / "b").write_bytes(b"b")
    path = READ.build(tmp_path / "s.h5", source=tmp_path)
    with Store.open(path) as store:
        assert store["train"].take([0])["x"].item() == 4
        assert store.sources == {
            (tmp_path / place).name: hashlib.sha256(b"four").hexdigest(),
            "b": hashlib.sha256(b"b").hexdigest(),
        }


@pytest.mark.bad_input
@pytest.mark.parametrize("present", [(), ("b",)])
def test_missing_files_are_listed_with_their_pages(tmp_path, present):
    for name in present:
        (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        READ.build(tmp_path / "s.h5", source=tmp_path)
    assert "a.gz (page A)" in str(caught.value)
    assert ("b (page B)" in str(caught.value)) == (not present)
    assert not (tmp_path / "s.h5").exists()


@pytest.mark.bad_input
def test_the_source_folder_must_fit_the_builder(tmp_path):
    with pytest.raises(UsageError, match=r"name the folder that holds a\.gz, b$"):
        READ.build(tmp_path / "s.h5")
    with pytest.raises(UsageError, match="takes no source folder$"):
        DRAWN.build(tmp_path / "s.h5", source=tmp_path)
    assert (READ.needs_source, DRAWN.needs_source) == (True, False)


@pytest.mark.bad_input
def test_an_unknown_parameter_names_the_nearest(tmp_path):
    with pytest.raises(UsageError) as caught:
        DRAWN.build(tmp_path / "s.h5", row=3)
    expected = "unknown parameter of 'drawn' 'row': did you mean 'rows'? Known: rows, scale"
    assert str(caught.value) == expected


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [0, -1, "many", 2.5, "", True, None])
def test_a_parameter_must_be_a_whole_number_in_range(tmp_path, value):
    with pytest.raises(UsageError, match="^rows is .*: expected a whole number, at least 1$"):
        DRAWN.build(tmp_path / "s.h5", rows=value)


def test_builders_are_found_by_name():
    assert {"toy", "mnist-svhn"} <= set(known_builders())
    for name in ("toy", "mnist-svhn"):
        builder = find_builder(name)
        assert builder.name == name
        assert builder.summary
        assert "\n" not in builder.summary


@pytest.mark.bad_input
def test_an_unknown_builder_names_the_nearest():
    with pytest.raises(
        UsageError, match="unknown dataset 'mnist-svnh': did you mean 'mnist-svhn'"
    ):
        find_builder("mnist-svnh")


@pytest.mark.bad_input
def test_a_plug_in_that_is_no_builder_is_refused(monkeypatch):
    monkeypatch.setattr(Registry, "load", lambda self, name: print)
    with pytest.raises(UsageError, match="registered as dataset 'odd' .* expected a Builder"):
        find_builder("odd")
