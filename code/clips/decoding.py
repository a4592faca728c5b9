"""Audio files as waveforms: decoded, mixed down and resampled."""

from typing import BinaryIO

import librosa
import numpy as np
import soundfile as sf

from messages import UnreadableClip
from solution.audio import INT16_SCALE, limited

BLOCK_SAMPLES = 1 << 20
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz; others are lies, and costly to resample
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


def _first_line(error: Exception) -> str:
    """The decoder's reason, without the name of the file or of the stream before it."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rsplit(": ", 1)[-1]
