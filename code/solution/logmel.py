"""Log-mel spectrograms in NumPy: what `time_frequency.Melspectrogram` gives, before normalisation.

Used by preprocessing, which runs in many processes and should not load TensorFlow in each.
"""

import functools

import librosa
import numpy as np
import scipy.fft
import scipy.signal
from numpy.lib.stride_tricks import sliding_window_view

FLOOR_POWER = 1e-10  # -100 dB
FLOOR_DB = -100.0  # exactly what silence gets, within a clip and around it
DYNAMIC_RANGE_DB = 80.0
TINY = np.finfo(np.float32).tiny  # has a logarithm, below the floor's
BLOCK_FRAMES = 128  # the temporaries of so many, some 4 MB, stay in the processor's cache


def same_padding(n_samples: int, n_dft: int, n_hop: int, maximum=max) -> tuple[int, int, int]:
    """Frames of a TensorFlow 'same' convolution, and the zeros it puts left and right.

    With `maximum=tf.maximum`, `n_samples` may be a tensor.
    """
    n_frames = -(-n_samples // n_hop)
    total = maximum((n_frames - 1) * n_hop + n_dft - n_samples, 0)
    return n_frames, total // 2, total - total // 2


@functools.cache
def mel_matrix(sample_rate: int, n_dft: int, n_mels: int, **bands) -> np.ndarray:
    """Mel filterbank, by default Slaney's from 0 Hz to Nyquist: (n_mels, n_dft / 2 + 1).

    bands : `fmin`, `fmax` (Hz), `htk`, `norm`, as of `librosa.filters.mel`
    """
    return librosa.filters.mel(sr=sample_rate, n_fft=n_dft, n_mels=n_mels, **bands)


@functools.cache
def hann_window(n_dft: int) -> np.ndarray:
    """Periodic Hann window: float32 (n_dft,)."""
    return scipy.signal.get_window("hann", n_dft).astype(np.float32)


def log_mel(
    waveform: np.ndarray,
    sample_rate: int,
    n_dft: int,
    n_hop: int,
    n_mels: int,
    *,
    power_melgram: float = 2.0,
    return_decibel_melgram: bool = True,
    **bands,
) -> np.ndarray:
    """Mel power spectrogram in decibels, 10 log10(max(power, 1e-10)), or as it is.

    waveform : float32 (samples,)
    n_dft, n_hop : samples
    power_melgram : p gives (mel power) ** (p / 2)
    bands : `fmin`, `fmax`, `htk`, `norm` of `mel_matrix`

    Float32 (frames, n_mels), frames = ceil(samples / n_hop). Decibels are not normalised: the
    largest value of a crop is subtracted when the crop is taken (`normalise`).
    """
    n_frames, left, right = same_padding(len(waveform), n_dft, n_hop)
    if not n_frames:  # not one window
        return np.empty((0, n_mels), np.float32)
    padded = np.pad(waveform, (left, right))
    windows = sliding_window_view(padded, n_dft)[::n_hop]  # (frames, n_dft)
    matrix = mel_matrix(sample_rate, n_dft, n_mels, **bands)
    spectrogram = np.empty((n_frames, n_mels), np.float32)
    for first in range(0, n_frames, BLOCK_FRAMES):
        block = slice(first, first + BLOCK_FRAMES)
        spectrum = scipy.fft.rfft(windows[block] * hann_window(n_dft))  # (block, n_dft / 2 + 1)
        mel = (spectrum.real**2 + spectrum.imag**2) @ matrix.T  # (block, n_mels)
        if power_melgram != 2.0:
            mel = np.maximum(mel, FLOOR_POWER**2) ** (power_melgram / 2)
        spectrogram[block] = _decibels(mel) if return_decibel_melgram else mel
    return spectrogram


def _decibels(power: np.ndarray) -> np.ndarray:
    # Floored as decibels: ten times the logarithm of 1e-10 is -100.00001 on some processors.
    return np.maximum(10 * np.log10(np.maximum(power, TINY)), FLOOR_DB)


def mix_powers(a: np.ndarray, b: np.ndarray, rate: float) -> np.ndarray:
    """Decibels of two sounds heard at once with amplitudes `rate` and `1 - rate`.

    The mixup of waveforms carried over to log-mels: for independent sounds powers add, so the
    weights are rate² and (1 - rate)².
    """
    power = rate**2 * 10 ** (a / 10) + (1 - rate) ** 2 * 10 ** (b / 10)
    return _decibels(power)


def normalise(decibels: np.ndarray) -> np.ndarray:
    """Minus each crop's maximum, floored at -80 dB: (..., frames, n_mels), all in [-80, 0]."""
    decibels = decibels - decibels.max(axis=(-2, -1), keepdims=True)
    return np.maximum(decibels, -DYNAMIC_RANGE_DB)
