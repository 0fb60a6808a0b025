"""PolyMNIST and its translated form: made anew from digits and photographs, and as published."""

import errno
import hashlib
import re
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mvflow.core import DataError, UsageError
from mvflow_datasets import Blocks, Store, find_builder
from mvflow_datasets.polymnist import (
    BUILDER,
    TRANSLATED,
    downscaled_ink,
    ink,
    permuted_within_classes,
)

MNIST = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
BUILDERS = pytest.mark.parametrize("builder", [BUILDER, TRANSLATED], ids=lambda b: b.name)


def photograph(high, wide, third):
    """Red tells the row, green the column, blue the photograph; all below 128."""
    rows, columns = np.mgrid[:high, :wide]
    return np.stack([rows, columns, np.full_like(rows, third)], -1).astype(np.uint8)


def write_raw(folder, digits, *, rows=(90, 40), sizes=((28, 28), (40, 60), (100, 31)), seed=0):
    """Digits of the official form and photographs, the last of which has the largest number."""
    rng = np.random.default_rng(seed)
    (folder / "mnist").mkdir(parents=True)
    made = {}
    for (split, names), n in zip(MNIST.items(), rows, strict=True):
        made[split] = SimpleNamespace(
            images=rng.choice([0, 60, 128, 129, 255], size=(n, 28, 28)).astype(np.uint8),
            labels=rng.integers(4, size=n),
        )
        (folder / "mnist" / names[0]).write_bytes(digits.idx(made[split].images))
        (folder / "mnist" / names[1]).write_bytes(digits.idx(made[split].labels))
    (folder / "polymnist-backgrounds").mkdir()
    for k, size in enumerate(sizes):
        name = f"{[2, 9, 10, 11][k]}.png"
        Image.fromarray(photograph(*size, k)).save(folder / "polymnist-backgrounds" / name)
    return made


@pytest.fixture
def raw(tmp_path, digits):
    folder = tmp_path / "raw"
    return SimpleNamespace(folder=folder, digits=write_raw(folder, digits))


@pytest.fixture
def build(raw, tmp_path):
    """Build a store from the small files, or others, and open it."""
    stores = []

    def built(builder=BUILDER, name="s.h5", source=raw.folder, **arguments):
        stores.append(Store.open(builder.build(tmp_path / name, source=source, **arguments)))
        return stores[-1]

    yield built
    for store in stores:
        store.close()


def taken_apart(x):
    """Ink and corner of images whose photograph tells its rows and columns below 128."""
    shown = x > 127
    assert (shown == shown[:, :1]).all()  # one mask for the three colours
    crop = np.where(shown, 255 - x, x)
    corners = crop[:, :2, 0, 0]
    grid = np.stack(np.mgrid[:28, :28])
    np.testing.assert_array_equal(crop[:, :2], corners[:, :, None, None] + grid)
    return shown[:, 0], corners


@BUILDERS
def test_every_image_is_a_crop_inverted_where_a_digit_of_its_class_is(build, raw, builder):
    store = build(builder)
    for split in store.splits:
        source, digits = store[split], raw.digits[split]
        np.testing.assert_array_equal(source.labels, digits.labels)
        used = []
        for k, (high, wide) in enumerate(((28, 28), (40, 60), (100, 31))):
            x = np.array(source.columns()[f"m{k}"].values)
            shown, corners = taken_apart(x)
            assert (np.where(x[:, 2] > 127, 255 - x[:, 2], x[:, 2]) == k).all()
            assert (corners <= [high - 28, wide - 28]).all()
            if builder is TRANSLATED:
                shown = [tight(mask) for mask in shown]
                inks = downscaled_ink(digits.images) > 0
                inks = [tight(mask) for mask in inks]
            else:
                inks = digits.images > 128
            known = {(mask.shape, mask.tobytes()): i for i, mask in enumerate(inks)}
            order = np.array([known[mask.shape, mask.tobytes()] for mask in shown])
            np.testing.assert_array_equal(np.sort(order), np.arange(len(digits.labels)))
            np.testing.assert_array_equal(digits.labels[order], source.labels)
            used.append(order)
        assert (used[0] != used[1]).any()  # other handwriting in each modality
        assert (used[1] != used[2]).any()


def tight(mask):
    """The part of a mask between its first and last rows and columns that are not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_ink_is_what_is_brighter_than_128():
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(ink(values), np.where(np.arange(256) > 128, 255, 0))


def test_downscaled_digits_are_those_of_torch():
    """The published code: `interpolate(scale_factor=0.75)`, cut down to bytes, above 128."""
    x = np.random.default_rng(0).integers(256, size=(200, 28, 28), dtype=np.uint8)
    scaled = torch.nn.functional.interpolate(
        torch.from_numpy(x)[:, None].double(), scale_factor=0.75, mode="bilinear"
    ).numpy()[:, 0]
    found = downscaled_ink(x)
    assert found.shape == (200, 21, 21)
    clear = abs(scaled - 129) > 1e-6  # torch rounds, we do not
    np.testing.assert_array_equal(found[clear] > 0, np.floor(scaled[clear]) > 128)
    assert clear.mean() > 0.99


def test_places_and_corners_are_uniform(tmp_path, digits, build):
    folder = tmp_path / "full"
    write_raw(folder, digits, rows=(3000, 1), sizes=((30, 34),))
    names = [folder / "mnist" / name for name in MNIST["train"]]
    names[0].write_bytes(digits.idx(np.full((3000, 28, 28), 255)))
    x = np.array(build(TRANSLATED, source=folder)["train"].columns()["m0"].values)
    shown, corners = taken_apart(x)
    places = np.stack([shown.any(2).argmax(1), shown.any(1).argmax(1)], 1)
    grid = np.arange(28)
    inside = (grid >= places[..., None]) & (grid < places[..., None] + 21)
    np.testing.assert_array_equal(shown, inside[:, 0, :, None] & inside[:, 1, None, :])
    for drawn, values in ((places[:, 0], 7), (places[:, 1], 7), (corners[:, 0], 3)):
        counts = np.bincount(drawn, minlength=values)
        assert len(counts) == values
        share = 1 / values
        error = np.sqrt(3000 * share * (1 - share))
        assert abs(counts - 3000 * share).max() < 4 * error
    assert set(corners[:, 1]) == set(range(7))


@pytest.mark.parametrize("seed", range(3))
def test_a_permutation_within_classes_reaches_every_row(seed):
    labels = np.random.default_rng(seed).integers(5, size=80)
    order = permuted_within_classes(labels, np.random.default_rng(seed))
    np.testing.assert_array_equal(labels[order], labels)
    np.testing.assert_array_equal(np.sort(order), np.arange(80))
    assert (order != np.arange(80)).any()


@BUILDERS
def test_a_seed_gives_the_same_bytes_and_another_seed_others(build, builder, monkeypatch):
    first = build(builder, "a.h5", seed=3)
    assert build(builder, "b.h5", seed=4).path.read_bytes() != first.path.read_bytes()
    assert build(builder, "c.h5", seed=3).path.read_bytes() == first.path.read_bytes()
    whole = np.array(first["train"].columns()["m1"].values)
    monkeypatch.setattr("mvflow_datasets.manifest.BLOCK_BYTES", 20_000)  # whatever the blocks
    again = build(builder, "d.h5", seed=3)["train"].columns()["m1"].values
    np.testing.assert_array_equal(again, whole)


def test_fewer_modalities_are_the_first_of_more(build):
    three, two = build(name="3.h5"), build(name="2.h5", modalities=2)
    assert [m.name for m in two.modalities] == ["m0", "m1"]
    for name, column in two["train"].columns().items():
        np.testing.assert_array_equal(column.values, three["train"].columns()[name].values)
    assert two.note.endswith("(m0 2.png, m1 9.png)")


@BUILDERS
def test_thumbnails_are_means_of_the_pixels_of_the_images(build, published, builder):
    for source in (None, published):
        chosen = {} if source is None else {"source": source}
        full = build(builder, "full.h5", **chosen)
        small = build(builder, "small.h5", shrink=4, **chosen)
        assert small.note.endswith("thumbnails of 7 x 7 pixels")
        for split in ("train", "test"):
            for m, x in full[split].take(range(len(full[split]))).items():
                torch_mean = torch.nn.functional.avg_pool2d(torch.from_numpy(x).double(), 4)
                thumbnails = small[split].take(range(len(small[split])))[m]
                np.testing.assert_array_equal(thumbnails, torch_mean.round().numpy())


@BUILDERS
def test_the_rebuilt_store_describes_itself(build, builder):
    store = build(builder, seed=5)
    assert store.name == builder.name
    assert store.builder["seed"] == 5
    assert [(m.name, m.shape, m.likelihood) for m in store.modalities] == [
        (f"m{k}", (3, 28, 28), {"kind": "laplace", "scale": 0.75}) for k in range(3)
    ]
    assert store.note == "rebuilt from MNIST and photographs (m0 2.png, m1 9.png, m2 10.png)"
    assert len(store.sources) == 4 + 3
    assert store["train"].take([3, 1])["m2"].dtype == np.uint8


# The published form.

NAMES = [(index, label) for label in (3, 7) for index in (0, 1, 9, 10)]


def published_image(split, k, index, label):
    """An image that says which one it is."""
    x = np.zeros((28, 28, 3), np.uint8)
    x[0, :4, 0], x[3, 5] = [split == "test", k, index, label], (1, 2, 3)
    return x


def write_published(folder, modalities=3):
    """Folders of PNG files, created in random order."""
    jobs = [(s, k, *name) for s in ("train", "test") for k in range(modalities) for name in NAMES]
    for i in np.random.default_rng(0).permutation(len(jobs)):
        split, k, index, label = jobs[i]
        place = folder / split / f"m{k}" / f"{index}.{label}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(published_image(*jobs[i])).save(place)
    return folder


@pytest.fixture
def published(tmp_path):
    return write_published(tmp_path / "published" / "MMNIST")


def packed(folder, name, top="PolyMNIST/MMNIST"):
    """An archive of a folder, its files in reverse order, with what a file manager adds."""
    path = folder.parents[1] / name
    files = sorted((f for f in folder.rglob("*") if f.is_file()), reverse=True)
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.mkdir("PolyMNIST")
            archive.writestr("__MACOSX/PolyMNIST/MMNIST/train/m0/._0.0.png", b"junk")
            for file in files:
                archive.write(file, f"{top}/{file.relative_to(folder)}")
        return path
    with tarfile.open(path, f"w:{name.partition('.tar')[2].removeprefix('.')}") as archive:
        for file in files:
            archive.add(file, f"./{top}/{file.relative_to(folder)}")
    return path


def check_published(store):
    expected = sorted(NAMES)
    for split in ("train", "test"):
        source = store[split]
        np.testing.assert_array_equal(source.labels, [label for _, label in expected])
        for k in range(len(store.modalities)):
            x = np.array(source.columns()[f"m{k}"].values)
            for row, name in zip(x, expected, strict=True):
                image = published_image(split, k, *name)
                np.testing.assert_array_equal(row, image.transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["PolyMNIST.zip", "MMNIST.tar", "MMNIST.tar.gz", "any.tar.xz"])
def test_archives_hold_what_the_folder_holds(published, build, name):
    folder = build(source=published.parent)
    check_published(folder)
    assert folder.note == "subset (train 8, test 8 rows)"
    path = packed(published, name)
    store = build(source=path if name.startswith("any") else path.parent, name="packed.h5")
    assert store.fingerprint == folder.fingerprint
    assert store.sources == {name: hashlib.sha256(path.read_bytes()).hexdigest()}


def test_the_folder_itself_may_be_the_source_and_is_summed_up(published, build):
    store = build(source=published, modalities=2)
    check_published(store)
    assert len(store.modalities) == 2
    listed = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {name}\n"
        for name, file in sorted(
            (str(f.relative_to(published)), f) for f in published.rglob("*.*")
        )
    )
    assert store.sources == {"MMNIST": hashlib.sha256(listed.encode()).hexdigest()}


def test_the_published_number_of_rows_needs_no_note(published, build, monkeypatch):
    rows = {"train": 8, "test": 8}
    monkeypatch.setattr("mvflow_datasets.polymnist._PUBLISHED_ROWS", rows)
    assert build(source=published).note == ""


def test_published_files_come_before_a_rebuild(published, raw, build):
    published.rename(raw.folder / "MMNIST")
    assert build().note.startswith("subset")


# Bad input: one clear line, and nothing half-written.


def cut(path, share=0.7):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def save_png(path, shape, mode="RGB"):
    Image.new(mode, shape[::-1]).save(path)


PUBLISHED_DAMAGES = {
    "index in one modality only": (
        lambda f: (f / "train/m1/9.3.png").unlink(),
        r"MMNIST/train: m1 has no 9\.3\.png, which m0 has: images are paired by name",
    ),
    "index in the first one only": (
        lambda f: (f / "test/m0/9.3.png").unlink(),
        r"MMNIST/test: m0 has no 9\.3\.png, which m1 has",
    ),
    "another class for an index": (
        lambda f: [
            (f / "train" / m / f"77.{label}.png").write_bytes(b"")
            for m, label in (("m0", 4), ("m1", 4), ("m2", 5))
        ],
        r"train: m0 has 77\.4\.png where m2 has 77\.5\.png: images that belong together",
    ),
    "the same image twice": (
        lambda f: (f / "train/m1/9.3.png").rename(f / "train/m1/01.3.png"),
        r"has image 1\.3\.png twice, as .*train/m1/01\.3\.png and .*m1/1\.3\.png: remove one",
    ),
    "no class": (
        lambda f: (f / "train/m1/9.3.png").rename(f / "train/m1/9.png"),
        r"train/m1/9\.png: expected a name such as 17\.4\.png",
    ),
    "a gap in the modalities": (
        lambda f: (f / "test/m1").rename(f / "test/n1"),
        r"has no images test/m1/<index>\.<class>\.png",
    ),
    "no test split": (
        lambda f: (f / "test").rename(f / "tset"),
        r"has no images test/m0/<index>\.<class>\.png",
    ),
    "unreadable header": (
        lambda f: (f / "test/m1/9.3.png").write_bytes(b"\x89PNG\r\n\x1a\nno header here"),
        r"test/m1/9\.3\.png is not a PNG or JPEG that can be read: download it again",
    ),
    "empty": (lambda f: (f / "test/m1/9.3.png").write_bytes(b""), r"9\.3\.png is not a PNG"),
    "truncated": (
        lambda f: cut(f / "test/m1/9.3.png"),
        r"test/m1/9\.3\.png is truncated or damaged \(.*\): download it again",
    ),
    "wrong size": (
        lambda f: save_png(f / "test/m1/9.3.png", (28, 29)),
        r"test/m1/9\.3\.png is a picture of 28 x 29 pixels, mode RGB: expected 28 x 28, mode RGB",
    ),
    "grey": (
        lambda f: save_png(f / "train/m0/0.3.png", (28, 28), "L"),
        r"28 x 28 pixels, mode L: expected 28 x 28, mode RGB",
    ),
}


def refusal(builder, path, error=DataError, **arguments):
    """The sentence of a build that must fail; the folder of the store stays as it was."""
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    with pytest.raises(error) as caught:
        builder.build(path, **arguments)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def old_store(tmp_path):
    """A file in the way, which must stay."""
    path = tmp_path / "stores" / "s.h5"
    path.parent.mkdir()
    path.write_bytes(b"the old store")
    return path


@pytest.mark.bad_input
@pytest.mark.parametrize("damage", PUBLISHED_DAMAGES)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_damaged_published_files(published, old_store, damage, form):
    spoil, pattern = PUBLISHED_DAMAGES[damage]
    spoil(published)
    source = published.parent
    if form == "zip":  # the places are then those inside the archive
        source = packed(published, "MMNIST.zip").parent
        pattern = pattern.replace("MMNIST/", r"MMNIST\.zip/")
    sentence = refusal(BUILDER, old_store, source=source)
    assert re.search(pattern, sentence), sentence


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["MMNIST.zip", "MMNIST.tar", "MMNIST.tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 0.88])
def test_truncated_archives(published, old_store, name, share):
    path = packed(published, name)
    cut(path, share)
    sentence = refusal(BUILDER, old_store, source=path.parent)
    assert str(path) in sentence
    assert "truncated or damaged" in sentence or "has no" in sentence


@pytest.mark.bad_input
def test_a_tar_archive_that_ends_between_two_files(published, old_store):
    path = packed(published, "MMNIST.tar")
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset])
    sentence = refusal(BUILDER, old_store, source=path.parent)
    assert "MMNIST.tar is truncated or damaged (unexpected end of data)" in sentence


@pytest.mark.bad_input
def test_a_damaged_member_of_an_archive_is_named(published, old_store):
    path = packed(published, "MMNIST.zip")
    data = path.read_bytes()
    at = data.index(b"IDAT", data.index(b"test/m1/9.3.png"))
    path.write_bytes(data[: at + 8] + b"\xff\xff" + data[at + 10 :])
    sentence = refusal(BUILDER, old_store, source=path.parent)
    assert "test/m1/9.3.png is truncated or damaged (Bad CRC-32" in sentence


def spoil_photograph(folder, how):
    file = folder / "polymnist-backgrounds" / "9.png"
    if how == "truncated":
        cut(file)
    elif how == "text":
        file.write_text("not a picture")
    else:
        save_png(file, (27, 300))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", "9.png is truncated or damaged"),
        ("text", "9.png is not a PNG or JPEG that can be read"),
        ("small", "9.png has 27 x 300 pixels: expected a photograph of at least 28 x 28"),
    ],
)
def test_unusable_photographs(raw, old_store, how, words):
    spoil_photograph(raw.folder, how)
    assert words in refusal(BUILDER, old_store, source=raw.folder)


@pytest.mark.bad_input
def test_thumbnails_that_do_not_divide_the_images(raw, old_store):
    words = "shrink is 3: expected a divisor of 28"
    assert words in refusal(BUILDER, old_store, UsageError, source=raw.folder, shrink=3)


@pytest.mark.bad_input
def test_more_modalities_than_there_are(raw, published, old_store):
    sentence = refusal(BUILDER, old_store, UsageError, source=raw.folder, modalities=4)
    assert sentence.startswith("modalities is 4: expected at most 3, as many as ")
    assert sentence.endswith("polymnist-backgrounds holds")
    sentence = refusal(BUILDER, old_store, UsageError, source=published, modalities=4)
    assert sentence.endswith("at most 3, as many as " + f"{published} holds")


@pytest.mark.bad_input
def test_what_is_missing_is_listed_for_either_form(raw, old_store, tmp_path):
    for file in (raw.folder / "polymnist-backgrounds").iterdir():
        file.rename(file.with_suffix(".txt"))
    sentence = refusal(BUILDER, old_store, source=raw.folder)
    assert "MMNIST (PolyMNIST.zip" in sentence
    assert ", or else polymnist-backgrounds (a folder with a photograph" in sentence
    assert "idx3" not in sentence
    sentence = refusal(TRANSLATED, old_store, source=tmp_path / "nowhere")
    assert "PolyMNIST_translated_scale075 (" in sentence
    assert "t10k-labels-idx1-ubyte.gz (the MNIST page" in sentence
    sentence = refusal(BUILDER, old_store, UsageError)
    assert "t10k-labels-idx1-ubyte.gz, polymnist-backgrounds; --download would" in sentence


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "a long story"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", [0, 4])
def test_a_full_disk_or_an_interrupt_leaves_the_old_store(
    raw, old_store, monkeypatch, failure, after
):
    real, calls = Blocks.__iter__, []

    def fails_after(blocks):
        calls.append(blocks)
        if len(calls) > after:
            raise failure
        return real(blocks)

    monkeypatch.setattr(Blocks, "__iter__", fails_after)
    expected = DataError if isinstance(failure, OSError) else KeyboardInterrupt
    sentence = refusal(BUILDER, old_store, expected, source=raw.folder)
    if expected is DataError:
        reason = "the disk is full; nothing that was there is lost"
        assert sentence == f"cannot write {old_store}: {reason}"


def test_the_command(raw, published, tmp_path, capsys):
    from mvflow_cli.main import run  # the other tests need no command

    out = tmp_path / "p.h5"
    words = ["data", "build", "polymnist", str(out), "--source", str(raw.folder)]
    assert run([*words, "--modalities", "2", "--seed", "1"]) == 0
    expected = (
        "train 90 rows, test 40 rows; rebuilt from MNIST and photographs (m0 2.png, m1 9.png)"
    )
    assert capsys.readouterr().out == f"wrote {out}: {expected}\n"
    before = out.read_bytes()
    assert run([*words, "--force", "--modalities", "9"]) == 2
    cut(packed(published, "MMNIST.tar.gz"))
    assert run([*words[:-1], str(published.parents[1]), "--force"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("polymnist-backgrounds holds")
    assert "MMNIST.tar.gz is truncated or damaged" in lines[1]
    assert out.read_bytes() == before


def test_both_are_registered():
    assert find_builder("polymnist") is BUILDER
    assert find_builder("translated-polymnist") is TRANSLATED
