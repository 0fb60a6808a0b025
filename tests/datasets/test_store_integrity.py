"""A store is what it was when it was built, or it is not read."""

import json
import os
import re
import threading

import h5py
import numpy as np
import pytest

from mvflow.core import DataError, Modality
from mvflow_datasets import SplitData, Store, write_store
from mvflow_datasets.manifest import Manifest
from mvflow_datasets.opened import OpenedFile
from mvflow_datasets.split_data import CheckedSplit


def read_all(path):
    """Every value, as training and evaluation read them: columns whole, then labels, factors."""
    with Store.open(path) as store:
        found = {"": (store.name, store.note, store.builder, store.sources, store.modalities)}
        for name in store.splits:
            split = store[name]
            for key, column in split.columns().items():
                found[name, key] = (np.array(column.values), column.index)
            found[name] = (split.labels, split.factors)
        return found


@pytest.mark.parametrize("change", ["flipped", "cut", "added"])
def test_no_changed_byte_of_a_store_goes_unnoticed(store_path, change):
    """Wherever it is: it is said when the store is opened, or when its rows are read."""
    whole = store_path.read_bytes()
    rng = np.random.default_rng(0)
    places = range(3, len(whole), 13 if change == "flipped" else 97)
    for at in places:
        flipped = bytes([whole[at] ^ (1 << int(rng.integers(8)))])
        changed = {
            "flipped": whole[:at] + flipped + whole[at + 1 :],
            "cut": whole[:at],
            "added": whole[:at] + b"\0" + whole[at:],
        }[change]
        store_path.write_bytes(changed)
        with pytest.raises(DataError) as caught:
            read_all(store_path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).count(str(store_path)) == 1


def test_one_altered_row_is_found_by_whoever_reads_its_block(store_path):
    where = OpenedFile(store_path)
    entry = Manifest.read(where).arrays["test/score"]
    data = bytearray(store_path.read_bytes())
    data[entry.offset + 5] ^= 1
    store_path.write_bytes(data)
    with Store.open(store_path) as store:
        assert store.verify() == ["rows 0 to 11 of test/score were altered"]
        store["train"].take([0])
        with pytest.raises(
            DataError, match=r"damaged \(rows 0 to 11 of test/score were altered\)"
        ):
            store["test"].take([7])


def test_rows_of_good_blocks_can_be_read_beside_an_altered_one(tmp_path, monkeypatch):
    monkeypatch.setattr("mvflow_datasets.manifest.BLOCK_BYTES", 64)
    x = np.arange(200, dtype=np.float32).reshape(50, 4)
    path = write_store(
        tmp_path / "s.h5",
        name="s",
        modalities=[Modality("x", (4,))],
        splits={"a": SplitData({"x": x})},
    )
    offset = Manifest.read(OpenedFile(path)).arrays["a/x"].offset
    data = bytearray(path.read_bytes())
    data[offset + 16 * 22] ^= 128  # row 22, in the block of the rows 20 to 23
    path.write_bytes(data)
    with Store.open(path) as store:
        np.testing.assert_array_equal(store["a"].take([19, 24, 3])["x"], x[[19, 24, 3]])
        for row in (20, 23):
            with pytest.raises(DataError, match="rows 20 to 23 of a/x were altered"):
                store["a"].take([24, row])


def test_a_whole_store_verifies_and_reading_through_hdf5_changes_nothing(store_path):
    before = store_path.read_bytes()
    with h5py.File(store_path, "r+") as file:
        _ = file["train/image"][...]
    assert store_path.read_bytes() == before
    with Store.open(store_path) as store:
        assert store.verify() == []


def replaced(key, **how):
    def change(file, folder):
        shape, dtype = file[key].shape, file[key].dtype
        del file[key]
        if "link" in how:
            file[key] = how["link"](folder)
        elif "external" in how:
            file.create_dataset(key, shape, dtype, external=[(str(folder / "other"), 0, 1 << 20)])
        else:
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(str(folder / "gone.h5"), "x", shape)
            file.create_virtual_dataset(key, layout)

    return change


def compressed(file, folder):
    values = file["train/image"][...]
    del file["train/image"]
    file.create_dataset("train/image", data=values, chunks=(2, 1, 2, 3), compression="gzip")


HDF5_CHANGES = {
    "external link": replaced("train/score", link=lambda f: h5py.ExternalLink("o.h5", "/x")),
    "link to a pipe": replaced(
        "train/score", link=lambda f: h5py.ExternalLink(str(f / "pipe"), "/x")
    ),
    "soft link": replaced("train/score", link=lambda f: h5py.SoftLink("/test/score")),
    "external storage": replaced("train/score", external=True),
    "virtual": replaced("train/score", virtual=True),
    "compressed": compressed,
    "value": lambda file, folder: file["train/labels"].__setitem__(0, 2),
    "attribute": lambda file, folder: file.attrs.__setitem__("name", "other"),
    "new array": lambda file, folder: file.create_dataset("train/new", data=np.zeros(3)),
}


@pytest.mark.parametrize("what", HDF5_CHANGES)
def test_what_hdf5_can_hide_in_a_store_is_refused(store_path, tmp_path, what):
    (tmp_path / "other").write_bytes(b"private " * 1000)
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(store_path, "r+") as file:
        HDF5_CHANGES[what](file, tmp_path)
    with pytest.raises(DataError, match="is damaged .*: build it or copy it again"):
        read_all(store_path)


def forge(path, change):
    """Alter the manifest of a store and hash it anew, as somebody would who knows the format."""
    manifest = Manifest.read(OpenedFile(path))
    values = json.loads(manifest._text())
    change(values)
    text = json.dumps(values).encode()
    forged = type("Forged", (), {"_text": lambda self: text, "format_version": 2})()
    head = Manifest.encode(forged)
    data = path.read_bytes()
    path.write_bytes(head + data[len(head) :])


def entry(key, **fields):
    return lambda m: m["arrays"][key].update(fields)


FORGED = {
    "'note' is 5, expected a text": lambda m: m.update(note=5),
    "'builder.parameters' is a list, expected an object": lambda m: m["builder"].update(
        parameters=[]
    ),
    "'name' is missing": lambda m: m.pop("name"),
    "its manifest was altered": lambda m: m.update(more=1),
    "'splits.train' is a list, expected a whole number": lambda m: m["splits"].update(train=[]),
    "'modalities[0].shape[1]' is 2.5": lambda m: m["modalities"][0].update(shape=[1, 2.5, 3]),
    "unknown likelihood 'gauss'": lambda m: m["modalities"][0].update(likelihood="gauss"),
    "the modalities are named": lambda m: m["modalities"].append(m["modalities"][0]),
    "cannot name a split": lambda m: m["splits"].update({"../x": 1}),
    "what HDF5 says of its arrays was altered": lambda m: m["arrays"].pop("train/image"),
    "train/other is missing": lambda m: m["modalities"][1].update(name="other"),
    "train/score is float32 of shape (3, 4), expected": lambda m: m["modalities"][1].update(
        shape=[5]
    ),
    "train/score is int64 of shape (3, 2), expected uint8 or float32": entry(
        "train/score", dtype="<i8", shape=[3, 2]
    ),
    "is >f4 of shape": entry("train/score", dtype=">f4"),
    "is |O of shape": entry("train/score", dtype="|O"),
    "is |S0 of shape": entry("train/score", dtype="|S0"),
    "of shape (3, 0)": entry("train/score", shape=[3, 0]),
    "of shape (-3, 4)": entry("train/score", shape=[-3, 4]),
    "has 1 hashes, expected 1073741824": entry("train/score", shape=[1 << 46, 4]),
    "lies outside the file": entry("train/score", offset=1 << 60),
    "over another array": entry("train/score", offset=0),
    "train/pairs is int32 of shape (40, 3), expected int32 of shape (41, 3)": lambda m: m[
        "splits"
    ].update(train=41),
    "expected 12,345": lambda m: m.update(size=12345),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_manifest_that_does_not_fit_is_one_sentence(store_path, what):
    forge(store_path, FORGED[what])
    with pytest.raises(DataError, match=re.escape(what)) as caught:
        read_all(store_path)
    assert str(caught.value).startswith(f"store {store_path} is damaged (")


@pytest.mark.parametrize("text", [b"[" * 50_000, b"{}", b"5", b"\xff", b'{"size": ' + b"1" * 5000])
def test_a_manifest_of_another_kind_is_one_sentence(store_path, text):
    forged = type("Forged", (), {"_text": lambda self: text, "format_version": 2})()
    store_path.write_bytes(Manifest.encode(forged))
    with pytest.raises(DataError, match="is damaged \\(its manifest is damaged"):
        Store.open(store_path)


@pytest.mark.parametrize(("old", "new"), [(b"{", b"{ "), (b'"note"', b'"note": "other", "note"')])
def test_a_manifest_that_says_the_same_in_another_way_is_refused(store_path, old, new):
    """One content has one text, so that no other program can read another content from it."""
    text = Manifest.read(OpenedFile(store_path))._text().replace(old, new, 1)
    forged = type("Forged", (), {"_text": lambda self: text, "format_version": 2})()
    head, data = Manifest.encode(forged), store_path.read_bytes()
    store_path.write_bytes(head + data[len(head) :])
    with pytest.raises(DataError, match="its manifest was altered"):
        Store.open(store_path)


BAD_VALUES = {
    "row 2 of a/x holds nan": ("x", np.array([[0, 1], [1, 2], [0, np.nan]], np.float32)),
    "row 1 of a/p holds 1.5": ("p", np.array([[0], [1.5], [1]], np.float32)),
    "row 0 of a/c holds 4": ("c", np.array([4, 0, 3])),
    "row 2 of a/c holds -1": ("c", np.array([0, 1, -1])),
    "row 1 of a/labels holds -7": ("labels", np.array([0, -7, 3])),
}


@pytest.mark.parametrize("what", BAD_VALUES)
def test_values_that_write_store_refuses_are_refused_when_read(tmp_path, monkeypatch, what):
    """A store with right hashes that another program wrote."""
    name, values = BAD_VALUES[what]
    good = {
        "x": np.zeros((3, 2), np.float32),
        "p": np.ones((3, 1), np.float32),
        "c": np.ones(3, int),
    }
    specs = [
        Modality("x", (2,)),
        Modality("p", (1,), "bernoulli"),
        Modality("c", (4,), "categorical"),
    ]
    labels = values if name == "labels" else np.zeros(3, int)
    data = SplitData(good | {name: values} if name in good else good, labels=labels)
    path, splits = tmp_path / "s.h5", {"a": data}
    with pytest.raises(DataError, match="^split 'a': "):
        write_store(path, name="s", modalities=specs, splits=splits)
    monkeypatch.setattr(
        "mvflow_datasets.writing.check_split",
        lambda split, data, *_: CheckedSplit(
            {**data.arrays, "labels": data.labels}, np.ones((3, 3), bool), {}
        ),
    )
    write_store(path, name="s", modalities=specs, splits=splits)
    with pytest.raises(DataError, match=f"damaged \\({what}, which a store may not"):
        read_all(path)


def test_a_store_that_is_changed_while_it_is_read_is_one_sentence(store_path):
    whole = store_path.read_bytes()
    for content, how in ((whole[:-1] + bytes([whole[-1] ^ 1]), "changed"), (b"x", "truncated")):
        store_path.write_bytes(whole)
        os.utime(store_path, (0, 0))  # clocks of file systems are coarse
        with Store.open(store_path) as store:
            store["train"].take([0, 1])
            with store_path.open("r+b") as file:  # in place, as `cp other.h5 store.h5` does
                file.write(content)
                file.truncate(len(content))
            with pytest.raises(DataError, match=f"was ({how}|changed) while it was being read"):
                store["train"].take([0, 1])


def test_a_store_that_is_replaced_by_another_goes_on_being_itself(small, store_path):
    """Under its name lies another file now; what was opened is read to its end."""
    expected = read_all(store_path)["train", "image"][0]
    with Store.open(store_path) as store:
        small.save(store_path, {"train": small.split_data(5)})
        np.testing.assert_array_equal(store["train"].columns()["image"].values, expected)


def test_rows_that_are_streamed_are_those_that_are_held(small, tmp_path):
    """And a store that is truncated under a stream ends it with a sentence, not the process."""
    torch = pytest.importorskip("torch", reason="trains a system")
    training = pytest.importorskip("mvflow.training", reason="trains a system")
    path = small.save(tmp_path / "s.h5", {"a": small.split_data(500, paired=True)})
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0)).split(64)
    with Store.open(path) as store:
        held = training.Table.of(store["a"], "cpu")
        streamed = training.Table.of(store["a"], "cpu", budget=0)
        assert streamed.is_streamed
        for a, b in zip(held.each(order), streamed.each(order), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
        os.truncate(path, 100)
        with pytest.raises(DataError, match="was (truncated|changed) while it was being read"):
            list(streamed.each(order))


def test_eight_threads_read_what_one_reads(small, tmp_path):
    path = small.save(tmp_path / "s.h5", {"a": small.split_data(2000)})
    expected = read_all(path)["a", "score"][0]
    wrong = []
    with Store.open(path) as store:
        stored = store["a"].columns()["score"].values

        def read(seed):
            rows = np.random.default_rng(seed).permutation(2000)
            wrong.extend(r for r in np.split(rows, 50) if (stored[r] != expected[r]).any())

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_labels_larger_than_the_memory_are_said_before_they_are_read(store_path, monkeypatch):
    monkeypatch.setattr("mvflow.core.memory._SMALL", 0)
    monkeypatch.setattr("mvflow.core.memory.available_memory", lambda: 100)
    with pytest.raises(DataError, match=r"train/\w+ of .* takes 0 MiB of memory, and 0 MiB are"):
        Store.open(store_path)


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "long name", "zero byte"])
def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path, kind):
    path = tmp_path / "q.h5"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "loop":
        path.symlink_to(path)
    path = {"device": "/dev/zero", "long name": tmp_path / ("x" * 300), "zero byte": "a\0b"}.get(
        kind, path
    )
    with pytest.raises(DataError, match="^cannot read "):
        Store.open(path)


def test_a_store_that_another_program_has_open(store_path):
    """Its values may be under way: it is said, and not called damage."""
    with (
        h5py.File(store_path, "r+"),
        pytest.raises(DataError, match="is open for writing in another program"),
    ):
        Store.open(store_path)
    with h5py.File(store_path):
        read_all(store_path)


def test_too_many_open_files_are_not_called_damage(store_path, monkeypatch):
    def none_left(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", none_left)
    with pytest.raises(DataError, match=r"^cannot read .*: too many open files$"):
        Store.open(store_path)


def test_bytes_are_the_same_where_the_system_reads_at_no_place(store_path, monkeypatch):
    expected = read_all(store_path)["train", "score"][0]
    monkeypatch.delattr(os, "preadv")
    np.testing.assert_array_equal(read_all(store_path)["train", "score"][0], expected)
