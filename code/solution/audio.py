"""Clips as arrays: trimmed, and quantised for the clip store."""

import librosa
import numpy as np

TRIM_DB = 60.0  # librosa.effects.trim's defaults
TRIM_FRAME = 2048
TRIM_HOP = 512
HOPS_IN_FRAME = TRIM_FRAME // TRIM_HOP  # 4
HOPS_AT_ONCE = 256  # so many, and their squares, stay in the processor's cache
BLOCK_SAMPLES = 1 << 20
INT16_SCALE = 1 / 32768
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # float32 has smaller numbers, of fewer digits
LARGEST = 1e4  # of float files; full scale is 1


def limited(waveform: np.ndarray) -> np.ndarray:
    """Samples that are not finite become 0, others are limited to ±10,000."""
    return np.clip(np.nan_to_num(waveform, nan=0, posinf=0, neginf=0), -LARGEST, LARGEST)


def trim(waveform: np.ndarray) -> np.ndarray:
    """Cut leading and trailing silence: frames 60 dB or more below the loudest.

    The same samples as librosa 0.6.3's `effects.trim`, which reflects the clip at its edges before
    it takes frames (since 0.9 librosa pads zeros). That squares each sample for four frames, and
    needs four times the clip's memory for them; here the frames share the sums of their hops. Gives
    a view of float32 (samples,), never empty unless the clip is. An all-zero clip stays whole.
    """
    if not len(waveform):
        return waveform
    n_frames = 1 + len(waveform) // TRIM_HOP
    padded = np.pad(waveform, TRIM_FRAME // 2, mode="reflect")  # again and again, if it is short
    hops = padded[: (n_frames + HOPS_IN_FRAME - 1) * TRIM_HOP].reshape(-1, TRIM_HOP)
    blocks = np.split(hops, range(HOPS_AT_ONCE, len(hops), HOPS_AT_ONCE))
    # (hops,), of which each frame has four
    sums = np.concatenate([np.square(block).sum(axis=1) for block in blocks])
    pairs = sums[:-1] + sums[1:]  # (hops - 1,), as NumPy adds up a frame: halves, of halves
    rms = np.sqrt((pairs[:-2] + pairs[2:]) / TRIM_FRAME)  # (hops - 3,), one for each frame
    loud = np.flatnonzero(librosa.amplitude_to_db(rms, ref=np.max, top_db=None) > -TRIM_DB)
    return waveform[loud[0] * TRIM_HOP : (loud[-1] + 1) * TRIM_HOP]


def to_int16(waveform: np.ndarray) -> tuple[np.ndarray, float]:
    """Quantise float32 (samples,): lossless for 16-bit sources, the full range for all others.

    Gives int16 samples and a scale: `samples * scale` is the waveform. Works in blocks, so that a
    long clip takes little more memory than its samples.
    """
    blocks = np.split(waveform, range(BLOCK_SAMPLES, len(waveform), BLOCK_SAMPLES))
    samples, scale = [_lossless(block) for block in blocks], INT16_SCALE
    if any(block is None for block in samples):
        peak = max(float(waveform.max()), -float(waveform.min()))
        scale = max(peak / 32767, SMALLEST_SCALE)
        samples = [np.rint(block / np.float32(scale)).astype(np.int16) for block in blocks]
    return np.concatenate(samples), scale


def _lossless(block: np.ndarray) -> np.ndarray | None:
    """The int16 samples that a float32 block was made from; None if there are no such."""
    steps = block / np.float32(INT16_SCALE)
    with np.errstate(invalid="ignore"):  # of what exceeds int16
        samples = steps.astype(np.int16)
    return samples if np.array_equal(samples, steps) else None
