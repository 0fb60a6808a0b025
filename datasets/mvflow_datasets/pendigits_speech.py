"""Pen-drawn and spoken digits of the same class: MHD rebuilt from public sources (paper, A.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, generator
from mvflow_datasets.archives import open_files
from mvflow_datasets.builders import Builder, Content, Parameter, SourceArchive, SourceFile
from mvflow_datasets.downloading import Download
from mvflow_datasets.mhd import MODALITIES
from mvflow_datasets.mnist_svhn import pair_by_class
from mvflow_datasets.spectrograms import log_mel, one_second, read_wav, resampled
from mvflow_datasets.strokes import Drawing, read_unipen, render, sheared, trajectory
from mvflow_datasets.writing import SplitData

__all__ = ["BUILDER"]

_PENDIGITS = "UCI's Pen-Based Recognition of Handwritten Digits, https://doi.org/10.24432/C5MG6K"
_SPEECH = "https://github.com/Jakobovski/free-spoken-digit-dataset"
_SPOKEN = "free-spoken-digit-dataset"
_STROKES = {"train": "pendigits-orig.tra.Z", "test": "pendigits-orig.tes.Z"}
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/pendigits"
_DOWNLOADS = {
    split: Download(f"{_UCI}/{_STROKES[split]}", size=size, checksum=f"sha256:{digest}")
    for split, size, digest in (
        (
            "train",
            1_011_395,
            "ceae25d05f1ccfed4d27ca2e5766370fb32ddd685a647567e84cf7685aa7ac8b",
        ),
        ("test", 456_041, "55ff1032e789eae273d0a4a1831dd61a2418f36ec5c0647457aa767b36d65960"),
    )
}
_PUBLISHED = {
    "train": {"drawings": 7_494, "recordings": 2_700},
    "test": {"drawings": 3_498, "recordings": 300},
}

_WAV = re.compile(r"(?:^|/)recordings/(\d)_([^/_]+)_(\d+)\.wav$")
_RATE = 8_000
_TEST_TAKES = 5
_TRAINING_WRITERS = 30

_WIDTHS = (0.06, 0.15)  # MHD has lines of 12 to 28 points where a digit is about 192 points long
_TURN = np.deg2rad(10)
_SLANT = 0.15


class _Recording(NamedTuple):
    name: str
    label: int
    speaker: str
    take: int

    @property
    def split(self) -> str:
        return "test" if self.take < _TEST_TAKES else "train"


class _Drawn(NamedTuple):
    """Arrays of one split's drawings, all versions of a drawing in a row."""

    images: NDArray[np.uint8]
    trajectories: NDArray[np.float32]
    labels: NDArray[np.int64]
    writers: NDArray[np.int16]


class _Spoken(NamedTuple):
    """Arrays of one split's recordings, all versions of a recording in a row."""

    spectrograms: NDArray[np.float32]
    labels: NDArray[np.int64]
    speakers: NDArray[np.int16]
    takes: NDArray[np.int16]


def _drawn(drawings: list[Drawing], variants: int, rng: np.random.Generator) -> _Drawn:
    """Draw every digit; the first version as it was written, the others slanted and turned."""
    images, trajectories = [], []
    for drawing in drawings:
        for variant in range(variants):
            angle, slant = rng.uniform(-1, 1, size=2) * (_TURN, _SLANT) * (variant > 0)
            strokes = sheared(drawing.strokes, angle, slant)
            images.append(render(strokes, rng.uniform(*_WIDTHS)))
            trajectories.append(trajectory(strokes))
    return _Drawn(
        np.stack(images),
        np.stack(trajectories).astype(np.float32),
        np.repeat([d.label for d in drawings], variants),
        np.repeat([d.writer for d in drawings], variants).astype(np.int16),
    )


def _listed(place: Path, names: Iterable[str]) -> list[_Recording]:
    """All recordings, by digit, speaker and take; each class must be in both splits."""
    matches = [(name, m) for name in names if (m := _WAV.search(name))]
    recordings = [_Recording(name, int(m[1]), m[2], int(m[3])) for name, m in matches]
    for split, takes in (
        ("train", f"{_TEST_TAKES} or later"),
        ("test", f"0 to {_TEST_TAKES - 1}"),
    ):
        present = {r.label for r in recordings if r.split == split}
        if missing := sorted(set(range(10)) - present):
            msg = (
                f"{place} has no take {takes} of digit {', '.join(map(str, missing))}: "
                "expected recordings/{digit}_{speaker}_{take}.wav"
            )
            raise DataError(msg)
    return sorted(recordings, key=lambda r: (r.label, r.speaker, r.take))


def _spoken(place: Path, variants: int, seed: int) -> dict[str, _Spoken]:
    """Hear every recording; the first version centred, the others anywhere in the second."""
    files = open_files(place)
    recordings = _listed(place, files.names)
    speakers = sorted({r.speaker for r in recordings})
    out = {}
    for split in _STROKES:
        rng = generator(seed, "pendigits-speech", split, "sounds")
        mine = [r for r in recordings if r.split == split]
        versions = variants if split == "train" else 1
        spectrograms = []
        for recording in mine:
            data = files.read(recording.name)
            sound = resampled(read_wav(data, str(place / recording.name), rate=_RATE), _RATE)
            places = [0.5, *rng.uniform(size=versions - 1)]
            spectrograms += [log_mel(one_second(sound, at)) for at in places]
        out[split] = _Spoken(
            np.stack(spectrograms),
            np.repeat([r.label for r in mine], versions),
            np.repeat([speakers.index(r.speaker) for r in mine], versions).astype(np.int16),
            np.repeat([r.take for r in mine], versions).astype(np.int16),
        )
    return out


def _paired(drawn: _Drawn, spoken: _Spoken, pairings: int, rng: np.random.Generator) -> SplitData:
    labels = {"drawing": drawn.labels, "sound": spoken.labels}
    pairs = pair_by_class(labels, pairings, rng)
    drawing, sound = pairs["drawing"], pairs["sound"]
    return SplitData(
        arrays={
            "image": drawn.images,
            "trajectory": drawn.trajectories,
            "sound": spoken.spectrograms,
        },
        labels=drawn.labels[drawing],
        pairs={"image": drawing, "trajectory": drawing, "sound": sound},
        factors={
            "writer": drawn.writers[drawing],
            "speaker": spoken.speakers[sound],
            "take": spoken.takes[sound],
        },
    )


def _make(
    files: Mapping[str, Path], seed: int, *, pairings: int, test_pairings: int, variants: int
) -> Content:
    drawings = {split: read_unipen(files[name]) for split, name in _STROKES.items()}
    for split, name in _STROKES.items():
        if missing := sorted(set(range(10)) - {d.label for d in drawings[split]}):
            msg = f"{files[name]} has no digit {', '.join(map(str, missing))}"
            raise DataError(msg)
    # The published files number the writers of each from 1, but they are different people.
    drawings["test"] = [d._replace(writer=d.writer + _TRAINING_WRITERS) for d in drawings["test"]]
    spoken = _spoken(files[_SPOKEN], variants, seed)
    splits = {}
    for split, times, versions in (("train", pairings, variants), ("test", test_pairings, 1)):
        rng = generator(seed, "pendigits-speech", split, "drawings")
        drawn = _drawn(drawings[split], versions, rng)
        rng = generator(seed, "pendigits-speech", split, "pairs")
        splits[split] = _paired(drawn, spoken[split], times, rng)
    counts_by_split = {
        split: {
            "drawings": len(drawings[split]),
            "recordings": len(spoken[split].labels) // (variants if split == "train" else 1),
        }
        for split in splits
    }
    return Content(MODALITIES, splits, note=_note(counts_by_split))


def _note(counts_by_split: Mapping[str, Mapping[str, int]]) -> str:
    """What is not as published."""
    return ", ".join(
        f"{count:,} of {_PUBLISHED[split][what]:,} {split} {what}"
        for split, counts in counts_by_split.items()
        for what, count in counts.items()
        if count != _PUBLISHED[split][what]
    )


BUILDER = Builder(
    name="pendigits-speech",
    summary="digits as image, pen trajectory and spoken word: MHD rebuilt from public sources",
    make=_make,
    parameters=(
        Parameter("pairings", 19, "how often each class is paired anew for training"),
        Parameter("test_pairings", 34, "how often each class is paired anew for testing"),
        Parameter("variants", 1, "versions of each training digit: slanted, turned, shifted"),
    ),
    files=(
        *(
            SourceFile(name, _PENDIGITS, "pendigits", _DOWNLOADS[split])
            for split, name in _STROKES.items()
        ),
        SourceArchive(
            _SPOKEN,
            _SPEECH,
            "recordings",
            also=(f"{_SPOKEN}-master", f"{_SPOKEN}-1.0.10"),
            download=Download(
                f"{_SPEECH}/archive/v1.0.10.tar.gz", f"{_SPOKEN}-1.0.10.tar.gz", at_most=10**8
            ),
        ),
    ),
    about=(
        "Image and trajectory of a row are one drawing, its sound is a recording of the same "
        "digit; per class both are shuffled and zipped to the shorter, many times. Images are "
        "drawn from the pen strokes with lines of random width, cropped to the ink, centred in a "
        "square with a margin of 60 % and 28 pixels wide. Trajectories are 100 points at equal "
        "distances along the ink (all x, then all y downwards); the longer side of their "
        "bounding box is 1. Sounds are log-mel spectrograms of one second at 16 kHz in 128 bands "
        "and 32 frames; the 80 decibels below the loudest become 0 to 1. The recordings have "
        "8 kHz, so bands above 4 kHz are nearly empty. Writers of the test split wrote nothing "
        "of the training split. Its takes (0 to 4, as published) are not in the training split "
        "either, but its speakers are: accuracies are across takes, not across speakers. "
        "Factors: writer (31 to 44 in the test split), speaker (in alphabetical order) and take. "
        "`variants` above 1 add copies of each training digit: drawings turned by at most 10 "
        "degrees and slanted by at most 0.15, sounds moved within their second."
    ),
    licence="pen strokes (UCI): CC BY 4.0; spoken digits: CC BY-SA 4.0, and so the store",
)
