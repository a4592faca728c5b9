"""Audio files as waveforms: decoded, mixed down and resampled."""

import os
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import BinaryIO

import librosa
import numpy as np
import soundfile as sf

from config import HIGHEST_RATE, LOWEST_RATE
from messages import UnreadableClip
from solution.audio import INT16_SCALE, limited

BLOCK_SAMPLES = 1 << 20
# Of what FFmpeg reads: no playlists, which name other files, and nothing without a header, as text
# passes for it.
FFMPEG_FORMATS = (
    *("mov", "matroska", "asf", "aac", "amr", "mp3", "ogg", "flac", "wav", "w64", "aiff", "caf"),
    *("au", "nistsphere", "ac3", "eac3", "ape", "wv", "tta", "avi", "flv", "mpeg", "mpegts"),
)
# TypeError is for names that end in .raw: soundfile wants to be told the format of such files.
NOT_DECODED = (sf.SoundFileError, OSError, RuntimeError, ValueError, TypeError)


class _Forward(sf.SoundFile):
    """Read from start to end: soundfile would seek after each block, and fail at the end of a FLAC
    file whose header promises more, or (streamed) does not know the length."""

    def seekable(self) -> bool:
        return False


def read_clip(file: str | BinaryIO, sample_rate: int) -> np.ndarray:
    """Decode any format, rate and channel count that libsndfile or, where it is installed, PyAV
    (FFmpeg) reads: float32 (samples,) at `sample_rate`, Hz, from a path or a seekable binary file.

    Channels are averaged, other rates resampled (soxr, high quality). Samples that are not finite
    become 0, others are limited to ±10,000. The file is decoded in blocks, so that memory is the
    mono clip's and no more.

    UnreadableClip if it cannot be decoded or holds no samples; the message does not name the file.
    """
    try:
        try:
            with _Forward(file) as sound:
                rate, waveform = _decode(sound)
            if not len(waveform) and _is_unfinished(file):
                raise ValueError("holds no samples")
        except NOT_DECODED as error:
            rate, waveform = _decode_with_ffmpeg(file, str(error))
    except NOT_DECODED as error:
        raise UnreadableClip(f"cannot be decoded ({_first_line(error)})") from error
    if not len(waveform):
        raise UnreadableClip("holds no samples")
    if rate != sample_rate:
        waveform = librosa.resample(waveform, orig_sr=rate, target_sr=sample_rate)
    return waveform


def holds_sound(file: BinaryIO) -> bool:
    """Does libsndfile know this format, or FFmpeg find a sound in it?"""
    with suppress(*NOT_DECODED):
        file.seek(0)
        return sf.info(file) is not None
    with suppress(*NOT_DECODED):
        return next(_ffmpeg_blocks(file, ""), None) is not None
    return False


def duration(file: BinaryIO) -> float:
    """Seconds of sound in a file: what its header says, which may be a lie, or else all of it.

    Raises one of NOT_DECODED.
    """
    try:
        return sf.info(file).duration
    except NOT_DECODED as error:
        rate, waveform = _decode_with_ffmpeg(file, str(error))
        return len(waveform) / rate if rate else 0.0


def _is_unfinished(file: str | BinaryIO) -> bool:
    """Is it a WAV file whose header was to be completed at the end, as where a recorder lost its
    power? It promises less than there is."""
    with _opened(file) as stream:
        stream.seek(0)
        name, size = struct.unpack("<4sI", stream.read(8))
        return name == b"RIFF" and 8 + size < stream.seek(0, os.SEEK_END)


def _opened(file: str | BinaryIO) -> AbstractContextManager[BinaryIO]:
    return open(file, "rb") if isinstance(file, str | os.PathLike) else nullcontext(file)


def _decode(sound: sf.SoundFile) -> tuple[int, np.ndarray]:
    """The sample rate, and float32 (samples,)."""
    _require_rate(sound.samplerate)
    # The same samples as with float32, in a fifth of the decoder's time.
    dtype = "int16" if sound.subtype == "PCM_16" else "float32"
    blocks, size = [np.empty(0, np.float32)], max(1, min(sound.frames, BLOCK_SAMPLES))
    # Not `sound.blocks`: beyond the end of a truncated MP3 it repeats what it read before.
    while len(block := sound.read(size, dtype=dtype, always_2d=True)):
        blocks.append(_mono(block))
    return sound.samplerate, np.concatenate(blocks)


def _decode_with_ffmpeg(file: str | BinaryIO, fault: str) -> tuple[int, np.ndarray]:
    """The first sound in a file, as `_decode`; `fault` is why libsndfile does not read it."""
    blocks = [*_ffmpeg_blocks(file, fault)]
    rate = blocks[0][0] if blocks else None
    return rate, np.concatenate([np.empty(0, np.float32), *(block for _, block in blocks)])


def _ffmpeg_blocks(file: str | BinaryIO, fault: str) -> Iterator[tuple[int, np.ndarray]]:
    """The same block by block, each with the sample rate, which is that of the first one."""
    try:
        import av  # here, not above: few clips need it, and Kaggle may not have it
    except ImportError:
        raise ValueError(
            f"{fault.rstrip('.')}; m4a, webm, wma and others take PyAV, pip install av"
        ) from None
    rate, kind = None, None
    with _opened(file) as stream:
        stream.seek(0)
        if not stream.read(1):
            raise ValueError("it is empty")
        stream.seek(0)
        try:
            formats = {"format_whitelist": ",".join(FFMPEG_FORMATS)}
            container = av.open(stream, container_options=formats, metadata_errors="ignore")
        except av.FFmpegError:
            raise ValueError(fault) from None
        with container:
            # PyAV would end the process at a packet of a codec that FFmpeg does not know.
            known = [sound for sound in container.streams.audio if sound.codec_context]
            if not known:
                raise ValueError("it has no sound, or none of a known codec")
            for frame in _frames(container, known[0]):
                former, kind = kind, (frame.format.name, frame.layout.name, frame.sample_rate)
                if kind != former:  # at first, and where pieces are joined that differ
                    _require_rate(frame.sample_rate)
                    rate = rate or frame.sample_rate
                    to_float = av.AudioResampler("flt", rate=rate)
                for part in to_float.resample(frame):  # interleaved
                    channels = part.layout.nb_channels
                    yield rate, _mono(part.to_ndarray().reshape(-1, channels))


def _frames(container, sound) -> Iterator:
    """The decoded frames of a stream, but for those that are damaged."""
    from av import FFmpegError

    with suppress(LookupError, FFmpegError):  # LookupError: a stream that the header did not name
        for packet in container.demux(sound):
            with suppress(FFmpegError):
                yield from packet.decode()


def _require_rate(rate: int) -> None:
    """ValueError if it is a lie."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ValueError(f"its rate is said to be {rate} Hz")


def _mono(block: np.ndarray) -> np.ndarray:
    """Mean over channels, each finite and small enough to be squared: float32 (samples,).

    block : int16 or float32 (samples, channels)
    """
    if block.dtype == np.int16:
        block = block * np.float32(INT16_SCALE)
    # Before the mean: a channel that is no number would take the others with it.
    return limited(block[:, 0]) if block.shape[1] == 1 else limited(block).mean(axis=1)


def _first_line(error: Exception) -> str:
    """The decoder's reason, without the name of the file or of the stream before it."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rsplit(": ", 1)[-1]
