"""MNIST-SVHN from small files of the published form."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import savemat

from mvflow.core import DataError
from mvflow_datasets import Store
from mvflow_datasets.mnist_svhn import BUILDER, pair_by_class

LABELS = hnp.arrays(np.int64, st.integers(0, 30), elements=st.integers(0, 4))


@given(a=LABELS, b=LABELS, c=LABELS, pairings=st.integers(1, 3), seed=st.integers(0, 99))
def test_pairs_share_their_class_and_each_pairing_zips_to_the_shortest(a, b, c, pairings, seed):
    labels = {"a": a, "b": b, "c": c}
    pairs = pair_by_class(labels, pairings, np.random.default_rng(seed))
    classes = [labels[name][pairs[name]] for name in labels]
    np.testing.assert_array_equal(classes[0], classes[1])
    np.testing.assert_array_equal(classes[0], classes[2])
    counts = np.min([np.bincount(y, minlength=5) for y in labels.values()], axis=0)
    np.testing.assert_array_equal(np.bincount(classes[0], minlength=5), pairings * counts)
    for rows in pairs.values():  # within a pairing no row is used twice
        assert np.bincount(rows, minlength=1).max() <= pairings


def test_the_shorter_set_is_used_whole_and_partners_vary():
    labels = {"short": np.zeros(10, np.int64), "long": np.zeros(500, np.int64)}
    pairs = pair_by_class(labels, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(pairs["short"]), 10 * [4])
    assert len(np.unique(pairs["long"])) > 30  # 40 draws; in one pairing none repeats


def test_pairs_come_in_random_order():
    labels = dict.fromkeys("ab", np.repeat([0, 1], 500))
    pairs = pair_by_class(labels, 1, np.random.default_rng(0))
    classes = labels["a"][pairs["a"]]
    changes = int((classes[1:] != classes[:-1]).sum())
    assert abs(changes - 500) < 4 * np.sqrt(1000) / 2


@pytest.fixture
def published(digits, tmp_path):
    return digits.write(tmp_path / "raw")


@pytest.fixture
def build(published, tmp_path):
    """Build a store from the small files, and open it."""
    stores = []

    def built(name="s.h5", **arguments):
        stores.append(Store.open(BUILDER.build(tmp_path / name, source=published, **arguments)))
        return stores[-1]

    yield built
    for store in stores:
        store.close()


@pytest.mark.parametrize("pairings", [1, 5])
def test_both_images_of_a_row_show_its_label(build, pairings):
    store = build(pairings=pairings)
    for split in store.splits:
        source = store[split]
        taken = source.take(np.arange(len(source)))
        np.testing.assert_array_equal(taken["mnist"][:, 0, 0, 0], source.labels)
        np.testing.assert_array_equal(taken["svhn"][:, 0, 0, 0], source.labels)
        classes = [c.values[:, 0, 0, 0] for c in source.columns().values()]
        counts = np.min([np.bincount(y, minlength=10) for y in classes], axis=0)
        np.testing.assert_array_equal(np.bincount(source.labels, minlength=10), pairings * counts)


def test_images_are_stored_once_and_the_right_way_up(build):
    source = build()["train"]
    mnist, svhn = (np.array(column.values) for column in source.columns().values())
    assert (mnist.shape, svhn.shape) == ((60, 1, 28, 28), (40, 3, 32, 32))
    np.testing.assert_array_equal(mnist[:, 0, 0, 1], np.arange(60))
    np.testing.assert_array_equal(svhn[:, 2, 3, 5], np.arange(40))  # row 3, column 5, blue


def test_the_store_describes_itself(build):
    store = build()
    assert store.name == "mnist-svhn"
    assert [(m.name, m.likelihood) for m in store.modalities] == [
        ("mnist", {"kind": "laplace", "scale": 0.75}),
        ("svhn", {"kind": "laplace", "scale": 0.75}),
    ]
    assert store.splits == ("train", "test")
    assert store.builder["parameters"] == {"pairings": 5}
    assert len(store.sources) == 6
    assert store.info()["note"] == "SVHN subset (40 digits)"


def test_the_published_number_of_digits_needs_no_note(build, monkeypatch):
    monkeypatch.setattr("mvflow_datasets.mnist_svhn._PUBLISHED_SVHN_TRAIN", 40)
    assert build().note == ""


def test_a_seed_gives_the_same_bytes_and_another_seed_others(build):
    assert build("a.h5").path.read_bytes() == build("b.h5").path.read_bytes()
    assert build("c.h5", seed=1).fingerprint != build("d.h5", seed=2).fingerprint


def test_unpacked_and_flat_files_make_the_same_data(build, digits, tmp_path):
    other = digits.write(tmp_path / "unpacked", zipped=False)
    for file in list(other.glob("*/*")):
        file.rename(other / file.name)
    path = BUILDER.build(tmp_path / "flat.h5", source=other)
    with Store.open(path) as flat:
        assert flat.fingerprint == build().fingerprint
        assert "train-images-idx3-ubyte" in flat.sources


IMAGES, Y = "mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte.gz"
MAT = "svhn/train_32x32.mat"


def rezip(file, change):
    file.write_bytes(gzip.compress(change(gzip.decompress(file.read_bytes()))))


def mat(file, **variables):
    good = {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((4, 1))}
    savemat(file, good | variables)


DAMAGES = {
    "truncated gzip": (IMAGES, lambda f: f.write_bytes(f.read_bytes()[:-20]), "truncated or dam"),
    "broken gzip": (
        IMAGES,
        lambda f: f.write_bytes(f.read_bytes()[:40] + b"\0" * 9 + f.read_bytes()[49:]),
        "truncated or damaged",
    ),
    "empty": (IMAGES, lambda f: f.write_bytes(b""), "begins with : expected 00000803"),
    "magic": (
        IMAGES,
        lambda f: rezip(f, lambda d: b"\0\0\x08\x01" + d[4:]),
        "begins with 00000801",
    ),
    "only a header": (
        IMAGES,
        lambda f: rezip(f, lambda d: d[:9]),
        "has 9 bytes: expected a header of 16",
    ),
    "short idx": (IMAGES, lambda f: rezip(f, lambda d: d[:-1]), "47055 bytes: expected 47056"),
    "long idx": (Y, lambda f: rezip(f, lambda d: d + b"\0"), "69 bytes: expected 68"),
    "fewer labels": (
        Y,
        lambda f: rezip(f, lambda d: d[:4] + b"\0\0\0\x3b" + d[8:-1]),
        "has 60 images but",
    ),
    "label 77": (Y, lambda f: rezip(f, lambda d: d[:-1] + b"\x4d"), "label 77: expected 0 to 9"),
    "truncated mat": (MAT, lambda f: f.write_bytes(f.read_bytes()[:-90]), "not a MATLAB file"),
    "empty mat": (MAT, lambda f: f.write_bytes(b""), "not a MATLAB file"),
    "text": (MAT, lambda f: f.write_bytes(b"not a matrix" * 40), "not a MATLAB file"),
    "other variables": (MAT, lambda f: savemat(f, {"X": 1}), "no variable y: expected X and y"),
    "greyscale": (
        MAT,
        lambda f: mat(f, X=np.zeros((32, 32, 4), np.uint8)),
        r"uint8 of shape \(32, 32, 4\)",
    ),
    "floats": (MAT, lambda f: mat(f, X=np.zeros((32, 32, 3, 4))), "X is float64"),
    "label 0": (MAT, lambda f: mat(f, y=np.zeros((4, 1))), "y runs from 0 to 0, expected 1 to 10"),
    "too many y": (MAT, lambda f: mat(f, y=np.ones((5, 1))), "has 4 images but .* 5 labels"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_what_was_expected(published, tmp_path, damage):
    name, spoil, pattern = DAMAGES[damage]
    spoil(published / name)
    with pytest.raises(DataError, match=pattern) as caught:
        BUILDER.build(tmp_path / "s.h5", source=published)
    assert str(published / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.h5").exists()


@pytest.mark.bad_input
def test_images_of_another_size_are_refused(published, digits, tmp_path):
    (published / IMAGES).write_bytes(gzip.compress(digits.idx(np.zeros((60, 20, 20)))))
    with pytest.raises(DataError, match=r"images of \(20, 20\) pixels: expected \(28, 28\)"):
        BUILDER.build(tmp_path / "s.h5", source=published)


@pytest.mark.bad_input
def test_sets_without_a_common_digit_are_refused(published, tmp_path):
    rezip(published / Y, lambda d: d[:8] + bytes(60))
    mat(published / MAT)
    with pytest.raises(DataError, match="have no digit in common"):
        BUILDER.build(tmp_path / "s.h5", source=published)


@pytest.mark.bad_input
def test_missing_files_are_listed_with_where_they_are_published(tmp_path):
    with pytest.raises(DataError) as caught:
        BUILDER.build(tmp_path / "s.h5", source=tmp_path / "nowhere")
    sentence = str(caught.value)
    assert sentence.count("http://yann.lecun.com/exdb/mnist/") == 4
    assert sentence.count("http://ufldl.stanford.edu/housenumbers/") == 2
    assert all(file.name in sentence for file in BUILDER.files)
