"""Spectrograms against the definitions of mel, of the Fourier transform and of the decibel."""

import io
import wave

import numpy as np
import pytest

from mvflow.core import DataError
from mvflow_datasets.spectrograms import (
    BANDS,
    FRAMES,
    HOP,
    RATE,
    WINDOW,
    hertz,
    log_mel,
    mel,
    mel_filters,
    one_second,
    read_wav,
    resampled,
)

BINS = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
EDGES = 700 * np.expm1(
    np.linspace(0, np.log1p(8000 / 700), BANDS + 2)
)  # mel is a log of 1 + f/700


def tone(frequency, samples=RATE, rate=RATE):
    return np.sin(2 * np.pi * frequency * np.arange(samples) / rate)


def wav(samples, rate=8000, channels=1, width=2):
    with io.BytesIO() as out:
        with wave.open(out, "wb") as file:
            file.setparams((channels, width, rate, 0, "NONE", ""))
            file.writeframes(np.asarray(samples).astype(f"<i{width}").tobytes())
        return out.getvalue()


def test_mel_and_hertz_undo_each_other():
    frequency = np.geomspace(1, 8000, 50)
    np.testing.assert_allclose(hertz(mel(frequency)), frequency, rtol=1e-12)
    np.testing.assert_allclose(mel(700), 2595 * np.log10(2))


def test_filters_are_hats_between_equal_steps_of_mel():
    hats = [np.interp(BINS, EDGES[i : i + 3], [0, 1, 0]) for i in range(BANDS)]
    np.testing.assert_allclose(mel_filters(), hats, atol=1e-9)
    assert np.all(mel_filters().sum(axis=1) > 0.5)


def test_filters_share_every_frequency_between_the_outer_centres():
    first, *_, last = EDGES[1:-1]
    inner = np.abs(BINS - (first + last) / 2) <= (last - first) / 2
    np.testing.assert_allclose(mel_filters().sum(axis=0)[inner], 1, atol=1e-9)


def test_a_spectrogram_is_the_definition_spelled_out():
    sound = np.random.default_rng(0).normal(size=RATE) * np.linspace(0, 1, RATE) ** 4
    window = np.sin(np.pi * np.arange(WINDOW) / WINDOW) ** 2
    waves = np.exp(-2j * np.pi * np.outer(BINS / RATE, np.arange(WINDOW)))
    hats = np.stack([np.interp(BINS, EDGES[i : i + 3], [0, 1, 0]) for i in range(BANDS)])
    chosen = [0, 7, 16, FRAMES - 1]
    powers = []
    for frame in chosen:
        at = frame * HOP + np.arange(-WINDOW // 2, WINDOW // 2)
        inside = np.where((at >= 0) & (at < RATE), sound[np.clip(at, 0, RATE - 1)], 0)
        powers.append(hats @ np.abs(waves @ (inside * window)) ** 2)
    found = log_mel(sound)
    assert (found.shape, found.dtype, found.max()) == ((1, FRAMES, BANDS), np.float32, 1)
    decibels = 10 * np.log10(powers)
    difference = decibels - 80 * (found[0, chosen] - 1)
    shown = found[0, chosen] > 0
    np.testing.assert_allclose(difference[shown], difference[shown].max(), atol=1e-3)
    assert np.all(difference[~shown] <= difference[shown].max() + 1e-3)


@pytest.mark.parametrize("frequency", [200, 440, 1000, 3000, 7000])
def test_a_tone_is_loudest_in_its_own_band(frequency):
    spectrogram = log_mel(tone(frequency))[0]
    centre = EDGES[1:-1][spectrogram[5:-5].argmax(axis=1)]
    assert np.all(abs(mel(centre) - mel(frequency)) < 0.6 * mel(EDGES[1]) + 8)


def test_loudness_does_not_matter_and_80_decibels_do():
    sound = tone(1000) + 1e-5 * tone(5000)
    np.testing.assert_allclose(log_mel(3 * sound), log_mel(sound), atol=1e-5)
    at = np.searchsorted(EDGES, 5000) - 1
    assert log_mel(sound)[0, 16, at] == 0
    louder = log_mel(tone(1000) + 1e-2 * tone(5000))[0, 16, at]
    assert louder == pytest.approx(0.5, abs=0.05)  # 40 dB below, and half of the range


def test_resampling_keeps_a_tone():
    found = resampled(tone(1000, 4000, 8000), 8000)
    assert len(found) == 8000
    np.testing.assert_allclose(found[500:-500], tone(1000, 8000)[500:-500], atol=2e-3)


@pytest.mark.parametrize(("place", "before"), [(0, 0), (0.5, 7950), (1, 15900)])
def test_a_short_sound_is_placed_in_silence(place, before):
    found = one_second(np.ones(100), place)
    np.testing.assert_array_equal(np.flatnonzero(found), before + np.arange(100))
    assert len(found) == RATE


def test_of_a_long_sound_the_loudest_second_is_kept():
    sound = np.full(3 * RATE, 0.01)
    sound[20_000:36_000] = np.arange(1, RATE + 1)
    np.testing.assert_array_equal(one_second(sound), np.arange(1, RATE + 1))


def test_samples_are_read_exactly():
    values = np.array([-32768, -1, 0, 1, 32767])
    np.testing.assert_array_equal(read_wav(wav(values), "a", rate=8000), values / 32768)


GOOD = wav(np.arange(100))
BAD = {
    "empty": (b"", "a.wav is truncated or not a WAV file"),
    "text": (b"hello, here is no sound at all", "truncated or not a WAV file"),
    "header": (GOOD[:30], "truncated or not a WAV file"),
    "cut": (GOOD[:-20], "is truncated: it has 90 of 100 samples"),
    "rate": (wav([1], rate=16000), "16000 Hz, 1 channels and 16 bits: expected 8000 Hz, 1 cha"),
    "stereo": (wav([1, 1], channels=2), "8000 Hz, 2 channels"),
    "wide": (wav([1], width=4), "and 32 bits: expected"),
    "silent": (wav([0, 0]), "is silent: all of its 2 samples are 0"),
    "no samples": (wav([]), "is silent: all of its 0 samples"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("damage", BAD)
def test_other_sounds_are_refused(damage):
    data, pattern = BAD[damage]
    with pytest.raises(DataError, match=pattern):
        read_wav(data, "a.wav", rate=8000)
