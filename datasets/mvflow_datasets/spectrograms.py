"""Spoken words: reading WAV files and making log-mel spectrograms of one second."""

from __future__ import annotations

import io
import wave
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import DataError

__all__ = ["hertz", "log_mel", "mel", "mel_filters", "one_second", "read_wav", "resampled"]

RATE = 16_000
BANDS = 128
FRAMES = 32
WINDOW = 1024
HOP = 512
DYNAMIC_RANGE = 80.0


def read_wav(data: bytes, name: str, *, rate: int) -> NDArray[np.float64]:
    """Samples of a mono WAV file of 16 bits, in [-1, 1).

    Args:
        data: bytes of the file.
        name: what to call it in an error.
        rate: sampling rate that it must have, in Hz.

    Raises:
        DataError: if it is of another form, cut off, or silent.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            form = (file.getframerate(), file.getnchannels(), 8 * file.getsampwidth())
            frames = file.getnframes()
            packed = file.readframes(frames)
    except (EOFError, wave.Error) as error:
        msg = f"{name} is truncated or not a WAV file ({error or 'too short'})"
        raise DataError(msg) from error
    if form != (rate, 1, 16):
        msg = (
            f"{name} has {form[0]} Hz, {form[1]} channels and {form[2]} bits: "
            f"expected {rate} Hz, 1 channel and 16 bits"
        )
        raise DataError(msg)
    if len(packed) != 2 * frames:
        msg = f"{name} is truncated: it has {len(packed) // 2} of {frames} samples"
        raise DataError(msg)
    samples = np.frombuffer(packed, "<i2") / 32768
    if not samples.any():
        msg = f"{name} is silent: all of its {frames} samples are 0"
        raise DataError(msg)
    return samples


def resampled(samples: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """The same sound at 16 kHz (SciPy's polyphase filter)."""
    from scipy.signal import resample_poly  # slow to import

    common = int(np.gcd(RATE, rate))
    return np.asarray(resample_poly(samples, RATE // common, rate // common))


def one_second(samples: NDArray[np.float64], place: float = 0.5) -> NDArray[np.float64]:
    """Exactly one second: silence is added to a shorter sound, a longer one is cut.

    Args:
        samples: at 16 kHz.
        place: share of the added silence that comes before the sound. Of a longer sound the
            second with the most energy is kept.

    Examples:
        >>> one_second(np.ones(4))[7997:8003]
        array([0., 1., 1., 1., 1., 0.])
    """
    free = RATE - len(samples)
    if free >= 0:
        before = round(place * free)
        return np.pad(samples, (before, free - before))
    energy = np.concatenate([[0.0], np.cumsum(samples**2)])
    start = int(np.argmax(energy[RATE:] - energy[:-RATE]))
    return samples[start : start + RATE]


def log_mel(second: NDArray[np.float64]) -> NDArray[np.float32]:
    """Log-mel spectrogram of one second at 16 kHz, between 0 and 1.

    Power of a Hann window of 1,024 samples every 512, the first centred on the first sample, in
    128 mel bands; in decibels, of which the 80 below the loudest become [0, 1].

    Returns:
        (1, frames = 32, bands = 128); the loudest is 1, and 0 is 80 dB below it or less.
    """
    padded = np.pad(second, (WINDOW // 2, FRAMES * HOP + WINDOW // 2 - RATE))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: FRAMES * HOP : HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2 @ _filters().T
    floor = 10 ** (-DYNAMIC_RANGE / 10)
    decibels = 10 * np.log10(np.maximum(power / power.max(), floor))
    return (1 + decibels / DYNAMIC_RANGE).astype(np.float32)[None]


def mel_filters(bands: int = BANDS) -> NDArray[np.float64]:
    """Weights of the triangular mel bands between 0 and 8 kHz at the frequencies of the FFT.

    The centres are equally far apart in mel. Each triangle rises from 0 at the centre before its
    own to 1, and falls to 0 at the one after, straight in Hz: two neighbours sum to 1 between
    their centres.

    Returns:
        (bands, 513).
    """
    edges = hertz(np.linspace(0, mel(RATE / 2), bands + 2))
    bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    below, centres, above = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - below) / (centres - below)
    falling = (above - bins) / (above - centres)
    return np.maximum(0, np.minimum(rising, falling))


@cache
def _filters() -> NDArray[np.float64]:
    return mel_filters()


def mel(frequency: ArrayLike) -> NDArray[np.float64]:
    """Pitch in mel of a frequency in Hz, 2595 log10(1 + f / 700) (O'Shaughnessy 1987).

    Examples:
        >>> round(float(mel(1000)))
        1000
    """
    return 2595 * np.log10(1 + np.asarray(frequency, np.float64) / 700)


def hertz(pitch: ArrayLike) -> NDArray[np.float64]:
    """Frequency in Hz of a pitch in mel: the inverse of `mel`."""
    return 700 * (10 ** (np.asarray(pitch, np.float64) / 2595) - 1)
