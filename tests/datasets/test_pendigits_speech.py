"""The rebuild of MHD from small files of the forms in which its sources are published."""

import io
import shutil
import wave
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvflow.core import DataError
from mvflow_datasets import Store
from mvflow_datasets.lzw import unpack_z
from mvflow_datasets.pendigits_speech import BUILDER
from mvflow_datasets.spectrograms import hertz, mel
from mvflow_datasets.strokes import trajectory


def pack_z(data, widest=16, clear_every=None):
    """Unix compress, after its definition: greedy words, a clear now and then."""
    packed, group = bytearray([0x1F, 0x9D, 0x80 | widest]), []
    words, since = {}, 0

    def flush():
        bits = [code >> i & 1 for code, width in group for i in range(width)]
        bits += [0] * (-len(bits) % 8)
        packed.extend(np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes())
        group.clear()

    def write(code):
        nonlocal since
        group.append((code, min(widest, max(9, (256 + since).bit_length()))))
        since += 1
        if since % 8 == 0:
            flush()

    word = b""
    for i, byte in enumerate(data):
        longer = word + bytes([byte])
        if len(longer) == 1 or longer in words:
            word = longer
            continue
        write(words.get(word, word[0]))
        if 257 + len(words) < 1 << widest:
            words[longer] = 257 + len(words)
        word = longer[-1:]
        if clear_every and i % clear_every == 0:
            write(words.get(word, word[0]))
            write(256)
            group.extend((0, width) for _, width in group[-1:] * (-since % 8))
            flush()
            words, since, word = {}, 0, b""
    if word:
        write(words.get(word, word[0]))
    flush()
    return bytes(packed)


@given(
    data=st.binary(max_size=80) | st.text("ab", max_size=2000).map(str.encode),
    widest=st.integers(9, 16),
    clear_every=st.sampled_from([None, 1, 7, 100]),
)
def test_unpacking_undoes_packing(data, widest, clear_every):
    assert unpack_z(pack_z(data, widest, clear_every)) == data


@pytest.mark.parametrize("widest", [9, 10, 12, 13])
@pytest.mark.parametrize("clear_every", [None, 3001])
def test_full_tables_and_all_widths_are_followed(widest, clear_every):
    data = np.random.default_rng(0).integers(16, size=40_000, dtype=np.uint8).tobytes()
    packed = pack_z(data, widest, clear_every)
    assert unpack_z(packed) == data
    assert data.startswith(unpack_z(packed[: len(packed) // 2]))


def test_what_compress_itself_packed_is_unpacked():
    """The first bytes of `pendigits-orig.tra.Z`."""
    head = bytes.fromhex("1f9d902e923819c2a40a912220122a4c48a68c9b322ec8bc19a340810b2645b0")
    assert unpack_z(head).startswith(b".INCLUDE        dene.doc\n")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("head", "pattern"),
    [
        ("", "a.Z begins with : expected 1f9d"),
        ("1f9d", "a.Z begins with 1f9d"),
        ("1f8b08", "a.Z begins with 1f8b"),
        ("1f9d10", "flags 10: expected block mode"),
        ("1f9d91", "flags 91: expected block mode and at most 16"),
        ("1f9d90ffff", "a.Z is damaged: code 511 after 0 bytes"),
    ],
)
def test_other_formats_are_refused(head, pattern):
    with pytest.raises(DataError, match=pattern):
        unpack_z(bytes.fromhex(head), "a.Z")


def unipen(writers, digits_each, seed):
    """Digits whose strokes are drawn at random, as text, and as a list to compare with."""
    rng = np.random.default_rng(seed)
    text, drawings = [".INCLUDE dene.doc\n\n"], []
    for writer in range(1, writers + 1):
        for label in np.repeat(range(10), digits_each):
            strokes = [rng.integers(500, size=(rng.integers(2, 6), 2)) for _ in range(2)]
            text.append(f'.SEGMENT DIGIT 1-2 ? "{label}"\n.COMMENT {label} {writer} 1\n')
            for stroke in strokes:
                points = "\n".join(f" {x}  {y}" for x, y in stroke)
                text.append(f".PEN_DOWN\n{points}\n.PEN_UP\n.DT 100\n")
            text.append("\n")
            drawings.append((label, writer, [s * np.array([1, -1]) for s in strokes]))
    return "".join(text).encode(), drawings


DRAWN = {"train": unipen(3, 2, seed=0), "test": unipen(2, 1, seed=1)}
PACKED = {split: pack_z(text, clear_every=5000) for split, (text, _) in DRAWN.items()}
SPEAKERS = ("ann", "bob")
TAKES = {"train": (5, 12), "test": (0, 4)}


def spoken(label, speaker, take, rate=8000, channels=1):
    """A tone whose pitch says the digit."""
    samples = 3000 * np.sin(2 * np.pi * (400 + 300 * label) * np.arange(1600 + take) / rate)
    with io.BytesIO() as out:
        with wave.open(out, "wb") as file:
            file.setparams((channels, 2, rate, 0, "NONE", ""))
            file.writeframes(samples.astype("<i2").tobytes())
        return out.getvalue()


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "raw"
    (folder / "pendigits").mkdir(parents=True)
    for split, name in (("train", "tra"), ("test", "tes")):
        (folder / "pendigits" / f"pendigits-orig.{name}.Z").write_bytes(PACKED[split])
    recordings = folder / "free-spoken-digit-dataset" / "recordings"
    recordings.mkdir(parents=True)
    for label in range(10):
        for speaker in SPEAKERS:
            for take in TAKES["train"] + TAKES["test"]:
                file = recordings / f"{label}_{speaker}_{take}.wav"
                file.write_bytes(spoken(label, speaker, take))
    (recordings / "readme.txt").write_text("not a recording")
    return folder


@pytest.fixture
def build(published, tmp_path):
    stores = []

    def built(name="s.h5", source=published, **arguments):
        stores.append(Store.open(BUILDER.build(tmp_path / name, source=source, **arguments)))
        return stores[-1]

    yield built
    for store in stores:
        store.close()


def test_a_row_is_one_drawing_and_a_sound_of_its_class(build):
    store = build(pairings=3, test_pairings=2)
    for split, (_, drawings) in DRAWN.items():
        source = store[split]
        sounds = len(SPEAKERS) * len(TAKES[split])
        per_class = min(len(drawings) // 10, sounds) * {"train": 3, "test": 2}[split]
        np.testing.assert_array_equal(np.bincount(source.labels), 10 * [per_class])
        expected = {tuple(trajectory(s).astype(np.float32)): (y, w) for y, w, s in drawings}
        shift = {"train": 0, "test": 30}[split]
        taken = source.take(np.arange(len(source)))
        for row, points in enumerate(taken["trajectory"]):
            label, writer = expected[tuple(points)]
            assert source.labels[row] == label
            assert source.factors["writer"][row] == writer + shift
        centres = hertz(np.linspace(0, mel(8000), 130))[1:-1]
        heard = centres[taken["sound"][:, 0].max(axis=1).argmax(axis=1)]
        np.testing.assert_array_equal(np.rint((heard - 400) / 300), source.labels)
        columns = source.columns()
        np.testing.assert_array_equal(columns["image"].index, columns["trajectory"].index)


def test_nobody_writes_and_no_take_is_heard_on_both_sides(build):
    store = build()
    for factor in ("writer", "take"):
        train, test = (set(store[split].factors[factor].tolist()) for split in store.splits)
        assert train
        assert not train & test
    assert set(store["test"].factors["take"]) == set(TAKES["test"])
    assert set(store["test"].factors["speaker"]) == {0, 1}


def test_everything_is_stored_once(build):
    store = build(pairings=3)
    shapes = {
        split: {name: c.values.shape for name, c in store[split].columns().items()}
        for split in store.splits
    }
    assert shapes["train"] == {
        "image": (60, 1, 28, 28), "trajectory": (60, 200), "sound": (40, 1, 32, 128)
    }  # fmt: skip
    assert {name: shape[0] for name, shape in shapes["test"].items()} == {
        "image": 20, "trajectory": 20, "sound": 40
    }  # fmt: skip


def test_the_store_describes_itself(build):
    store = build(variants=2)
    assert store.name == "pendigits-speech"
    found = [(m.name, m.likelihood, m.weight) for m in store.modalities]
    assert found == [
        ("image", "normal", pytest.approx(1.7, abs=0.05)),  # Table E.7
        ("trajectory", "normal", 20.48),
        ("sound", "normal", 1.0),
    ]
    assert {name.rsplit(".", 2)[0] for name in store.sources} == {
        "pendigits-orig",
        "free-spoken-digit-dataset",
    }
    assert store.note == (
        "60 of 7,494 train drawings, 40 of 2,700 train recordings, "
        "20 of 3,498 test drawings, 40 of 300 test recordings"
    )


def test_variants_add_to_the_originals_in_training_only(build):
    plain, varied = build("a.h5"), build("b.h5", variants=3)
    for name, column in varied["test"].columns().items():
        np.testing.assert_array_equal(column.values, plain["test"].columns()[name].values)
    for name in ("trajectory", "sound"):
        new, old = (s["train"].columns()[name].values for s in (varied, plain))
        assert len(new) == 3 * len(old)
        np.testing.assert_array_equal(new[::3], old)
        assert np.all(np.any(new[1::3] != old, axis=tuple(range(1, old.ndim))))
    assert len(varied["train"]) == 3 * len(plain["train"])


def test_a_seed_gives_the_same_bytes_and_another_seed_others(build):
    assert build("a.h5").path.read_bytes() == build("b.h5").path.read_bytes()
    assert build("c.h5", seed=1).fingerprint != build("d.h5", seed=2).fingerprint


def test_an_archive_of_recordings_and_a_flat_folder_make_the_same_data(build, published, tmp_path):
    flat = tmp_path / "flat"
    shutil.copytree(published / "pendigits", flat)
    with zipfile.ZipFile(flat / "free-spoken-digit-dataset-master.zip", "w") as archive:
        for file in sorted(published.glob("free*/recordings/*.wav"), reverse=True):
            archive.write(file, f"free-spoken-digit-dataset-master/recordings/{file.name}")
    assert build("a.h5").fingerprint == build("b.h5", source=flat).fingerprint


TRA = "pendigits/pendigits-orig.tra.Z"
RECORDINGS = "free-spoken-digit-dataset/recordings"
WAV = f"{RECORDINGS}/3_ann_0.wav"


def repack(file, change):
    file.write_bytes(pack_z(change(unpack_z(file.read_bytes()))))


def unlink_all(folder, pattern):
    for file in folder.glob(pattern):
        file.unlink()


DAMAGES = {
    "truncated strokes": (TRA, lambda f: f.write_bytes(f.read_bytes()[:-20]), "of .*cut off"),
    "half of the strokes": (
        TRA,
        lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]),
        "digit .* of|has no digit",
    ),
    "no strokes": (TRA, lambda f: f.write_bytes(b""), "begins with : expected 1f9d"),
    "an empty stroke": (
        TRA,
        lambda f: repack(
            f, lambda t: t + DRAWN["train"][0].split(b".PEN_DOWN")[0][19:] + b".DT 1"
        ),
        "digit 61 of 61: it has no ink",
    ),
    "no nine": (
        TRA,
        lambda f: repack(f, lambda t: t.replace(b'? "9"\n.COMMENT 9', b'? "8"\n.COMMENT 8')),
        "has no digit 9",
    ),
    "rate": (WAV, lambda f: f.write_bytes(spoken(3, "ann", 0, rate=16000)), "has 16000 Hz"),
    "stereo": (WAV, lambda f: f.write_bytes(spoken(3, "ann", 0, channels=2)), "2 channels"),
    "truncated sound": (WAV, lambda f: f.write_bytes(f.read_bytes()[:-9]), "is truncated"),
    "empty sound": (WAV, lambda f: f.write_bytes(b""), "truncated or not a WAV"),
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
    assert not list(tmp_path.glob("*s.h5*"))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.wav", "has no take 5 or later of digit 0, 1, 2, 3, 4, 5, 6, 7, 8, 9: expected record"),
        ("[27]_*_[04].wav", "has no take 0 to 4 of digit 2, 7"),
    ],
)
def test_missing_recordings_are_counted_by_class(published, tmp_path, pattern, message):
    unlink_all(published / RECORDINGS, pattern)
    with pytest.raises(DataError, match=message):
        BUILDER.build(tmp_path / "s.h5", source=published)


@pytest.mark.bad_input
def test_missing_files_are_listed_with_where_they_are_published(published, tmp_path):
    (published / TRA).unlink()
    shutil.rmtree(published / RECORDINGS)
    with pytest.raises(DataError) as caught:
        BUILDER.build(tmp_path / "s.h5", source=published)
    assert "pendigits-orig.tra.Z (UCI" in str(caught.value)
    assert "free-spoken-digit-dataset (https://github.com" in str(caught.value)
    assert ".tes.Z" not in str(caught.value)
