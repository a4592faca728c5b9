"""Clips as arrays: decode, mix down, resample, trim, and quantise for the clip store."""

from typing import BinaryIO

import librosa
import numpy as np
import soundfile as sf

from messages import UnreadableClip

TRIM_DB = 60.0  # librosa.effects.trim's defaults
TRIM_FRAME = 2048
TRIM_HOP = 512
HOPS_IN_FRAME = TRIM_FRAME // TRIM_HOP  # 4
HOPS_AT_ONCE = 256  # so many, and their squares, stay in the processor's cache
BLOCK_SAMPLES = 1 << 20
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz; others are lies, and costly to resample
INT16_SCALE = 1 / 32768
LARGEST = 1e4  # of float files; full scale is 1
# TypeError is for names that end in .raw: soundfile wants to be told the format of such files.
NOT_DECODED = (sf.SoundFileError, OSError, RuntimeError, ValueError, TypeError)


class _Forward(sf.SoundFile):
    """Read from start to end: soundfile would seek after each block, and fail at the end of a FLAC
    file whose header promises more, or (streamed) does not know the length."""

    def seekable(self) -> bool:
        return False


def read_clip(file: str | BinaryIO, sample_rate: int) -> np.ndarray:
    """Decode any format, rate and channel count that soundfile reads.

    Channels are averaged, other rates resampled (soxr, high quality). Samples that are not finite
    become 0, others are limited to ±10,000. The file is decoded in blocks, so that memory is the
    mono clip's and no more.

    Parameters
    ----------
    file : path or binary file
    sample_rate : int
        Wanted rate, Hz.

    Returns
    -------
    float32 (samples,)

    Raises
    ------
    UnreadableClip
        If the file cannot be decoded or holds no samples. The message does not name the file.
    """
    try:
        with _Forward(file) as sound:
            if not LOWEST_RATE <= sound.samplerate <= HIGHEST_RATE:
                raise ValueError(f"its rate is said to be {sound.samplerate} Hz")
            # The same samples as with float32, in a fifth of the decoder's time.
            dtype = "int16" if sound.subtype == "PCM_16" else "float32"
            blocks, size = [], max(1, min(sound.frames, BLOCK_SAMPLES))
            # Not `sound.blocks`: beyond the end of a truncated MP3 it repeats what it read before.
            while len(block := sound.read(size, dtype=dtype, always_2d=True)):
                blocks.append(_mono(block))
            rate = sound.samplerate
    except NOT_DECODED as error:
        raise UnreadableClip(f"cannot be decoded ({_first_line(error)})") from error
    waveform = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    if not len(waveform):
        raise UnreadableClip("holds no samples")
    if rate != sample_rate:
        waveform = librosa.resample(waveform, orig_sr=rate, target_sr=sample_rate)
    return waveform


def _mono(block: np.ndarray) -> np.ndarray:
    """Mean over channels, finite and small enough to be squared: float32 (samples,).

    block : int16 or float32 (samples, channels)
    """
    if block.dtype == np.int16:
        return _mean(block * np.float32(INT16_SCALE))  # finite and small as it is
    return limited(_mean(block))


def _mean(block: np.ndarray) -> np.ndarray:
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def limited(waveform: np.ndarray) -> np.ndarray:
    """Samples that are not finite become 0, others are limited to ±10,000."""
    if not np.isfinite(waveform).all():
        waveform = np.where(np.isfinite(waveform), waveform, 0)
    return np.clip(waveform, -LARGEST, LARGEST)


def _first_line(error: Exception) -> str:
    """The decoder's reason, without the name of the file or of the stream before it."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rsplit(": ", 1)[-1]


def trim(waveform: np.ndarray) -> np.ndarray:
    """Cut leading and trailing silence: frames 60 dB or more below the loudest.

    The same samples as `librosa.effects.trim(waveform)[0]`, which squares each sample for four
    frames, and needs four times the clip's memory for them; here the frames share the sums of
    their hops. An all-zero clip stays whole.

    Parameters
    ----------
    waveform : float32 (samples,)

    Returns
    -------
    float32 (trimmed samples,), a view. Never empty, unless the clip is.
    """
    n_frames = 1 + len(waveform) // TRIM_HOP
    padded = np.pad(waveform, TRIM_FRAME // 2)
    hops = padded[: (n_frames + HOPS_IN_FRAME - 1) * TRIM_HOP].reshape(-1, TRIM_HOP)
    sums = np.concatenate(
        [
            np.square(hops[first : first + HOPS_AT_ONCE]).sum(axis=1)
            for first in range(0, len(hops), HOPS_AT_ONCE)
        ]
    )
    pairs = sums[:-1] + sums[1:]  # as NumPy adds up a frame: halves, of halves
    rms = np.sqrt((pairs[:-2] + pairs[2:]) / TRIM_FRAME)  # (frames,)
    loud = np.flatnonzero(librosa.amplitude_to_db(rms, ref=np.max, top_db=None) > -TRIM_DB)
    return waveform[loud[0] * TRIM_HOP : min(len(waveform), (loud[-1] + 1) * TRIM_HOP)]


def to_int16(waveform: np.ndarray) -> tuple[np.ndarray, float]:
    """Quantise to int16: lossless for 16-bit sources, the full range for all others.

    Parameters
    ----------
    waveform : float32 (samples,)

    Returns
    -------
    samples : int16 (samples,)
    scale : float
        `samples * scale` is the waveform.

    Notes
    -----
    Works in blocks, so that a long clip takes little more memory than its samples.
    """
    blocks = np.split(waveform, range(BLOCK_SAMPLES, len(waveform), BLOCK_SAMPLES))
    samples, scale = [_lossless(block) for block in blocks], INT16_SCALE
    if any(block is None for block in samples):
        scale = max(float(waveform.max()), -float(waveform.min())) / 32767
        samples = [np.rint(block / np.float32(scale)).astype(np.int16) for block in blocks]
    return np.concatenate(samples), scale


def _lossless(block: np.ndarray) -> np.ndarray | None:
    """The int16 samples that a float32 block was made from; None if there are no such."""
    steps = block / np.float32(INT16_SCALE)
    with np.errstate(invalid="ignore"):  # of what exceeds int16
        samples = steps.astype(np.int16)
    return samples if np.array_equal(samples, steps) else None
