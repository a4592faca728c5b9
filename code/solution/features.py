"""The 128 x 12 global features: twelve statistics of 128 overlapping windows of the whole clip."""

import numpy as np

PERCENTILES = (0, 1, 25, 30, 50, 60, 75, 99, 100)
N_FEATURES = 3 + len(PERCENTILES)
NUM_STEPS = 128


def global_features(waveform: np.ndarray, num_steps: int = NUM_STEPS) -> np.ndarray:
    """Mean, standard deviation, range and nine percentiles of `num_steps` windows: (num_steps, 12).

    waveform : float (samples,), the untrimmed clip

    With stride = samples / num_steps, window s covers the samples from `s * stride - stride / 2`
    to `s * stride + 1.5 * stride`, cut off at the ends of the clip: each overlaps half of its
    neighbours. Clips of fewer than `num_steps` samples are zero-padded at their end first. Float32;
    percentiles 0, 1, 25, 30, 50, 60, 75, 99, 100 with linear interpolation, as published.
    ValueError if the waveform is not one-dimensional.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"expected a waveform of shape (samples,), got {waveform.shape}")
    waveform = waveform.astype(np.promote_types(waveform.dtype, np.float32), copy=False)
    if len(waveform) < num_steps:
        waveform = np.pad(waveform, (0, num_steps - len(waveform)))
    stride = len(waveform) / num_steps
    features = np.empty((num_steps, N_FEATURES), np.float32)
    for step, row in enumerate(features):
        i = step * stride
        window = np.sort(waveform[max(0, int(i - stride / 2)) : int(i + 1.5 * stride)])
        row[:2] = window.mean(dtype=np.float64), window.std(dtype=np.float64)
        row[2] = window[-1] - window[0]
        row[3:] = _percentiles(window)
    return features


def _percentiles(ordered: np.ndarray) -> np.ndarray:
    """PERCENTILES of ascending samples, to the bit of `np.percentile`, which would sort anew."""
    position = np.asarray(PERCENTILES) / 100 * (len(ordered) - 1)
    rank = position.astype(int)
    low, high = ordered[rank], ordered[np.minimum(rank + 1, len(ordered) - 1)]
    difference, weight = high - low, position - rank
    return np.where(weight < 0.5, low + difference * weight, high - difference * (1 - weight))
