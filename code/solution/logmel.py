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
def mel_matrix(sample_rate: int, n_dft: int, n_mels: int) -> np.ndarray:
    """Slaney mel filterbank with Slaney area norm, 0 Hz to Nyquist: (n_mels, n_dft / 2 + 1)."""
    return librosa.filters.mel(sr=sample_rate, n_fft=n_dft, n_mels=n_mels, norm="slaney")


@functools.cache
def hann_window(n_dft: int) -> np.ndarray:
    """Periodic Hann window: float32 (n_dft,)."""
    return scipy.signal.get_window("hann", n_dft).astype(np.float32)


def log_mel(
    waveform: np.ndarray, sample_rate: int, n_dft: int, n_hop: int, n_mels: int
) -> np.ndarray:
    """Mel power spectrogram in decibels, 10 log10(max(power, 1e-10)).

    Parameters
    ----------
    waveform : float32 (samples,)
    sample_rate : int, Hz
    n_dft, n_hop : int, samples
    n_mels : int

    Returns
    -------
    float32 (frames, n_mels), dB, frames = ceil(samples / n_hop). Not normalised: the largest value
    of a crop is subtracted when the crop is taken (`normalise`).
    """
    n_frames, left, right = same_padding(len(waveform), n_dft, n_hop)
    padded = np.pad(waveform, (left, right))
    windows = sliding_window_view(padded, n_dft)[::n_hop]  # (frames, n_dft)
    mel = mel_matrix(sample_rate, n_dft, n_mels)
    decibels = np.empty((n_frames, n_mels), np.float32)
    for first in range(0, n_frames, BLOCK_FRAMES):
        block = slice(first, first + BLOCK_FRAMES)
        spectrum = scipy.fft.rfft(windows[block] * hann_window(n_dft))  # (block, n_dft / 2 + 1)
        power = spectrum.real**2 + spectrum.imag**2
        decibels[block] = _decibels(power @ mel.T)  # (block, n_mels)
    return decibels


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
