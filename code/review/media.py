"""Sound and log-mels in the form that a page has them: MP3 and PNG, within it."""

import base64
import io

import librosa
import numpy as np
import soundfile as sf
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb

from solution.logmel import DYNAMIC_RANGE_DB, normalise

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz
COMPRESSION = 0.7  # about 50 kbit/s in one channel
TICKS = (500, 1000, 2000, 4000, 8000, 16000)  # Hz


def sound(waveform: np.ndarray, sample_rate: int) -> str:
    """A waveform as the URI of an MP3 file, which all browsers play; louder than 1 is turned down.

    waveform : float32 (samples,)
    """
    if sample_rate not in MP3_RATES:
        rate = min(MP3_RATES, key=lambda rate: abs(rate - sample_rate))
        waveform = librosa.resample(waveform, orig_sr=sample_rate, target_sr=rate)
        sample_rate = rate
    waveform = waveform / max(1, np.abs(waveform).max())
    file = io.BytesIO()
    options = {"bitrate_mode": "VARIABLE", "compression_level": COMPRESSION}
    sf.write(file, waveform, sample_rate, format="MP3", **options)
    return _uri("audio/mpeg", file)


def picture(decibels: np.ndarray) -> str:
    """A log-mel as the URI of a PNG file, low frequencies at the bottom.

    decibels : float32 (frames, mel bands)
    """
    shades = (normalise(decibels) / DYNAMIC_RANGE_DB + 1) * 255
    image = Image.fromarray(shades.T[::-1].astype(np.uint8)).convert("P")
    colours = sample_colorscale("Magma", np.linspace(0, 1, 256).tolist())
    image.putpalette([round(part) for colour in colours for part in unlabel_rgb(colour)])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return _uri("image/png", file)


def frequency_ticks(sample_rate: int) -> list[tuple[str, float]]:
    """Labels of a log-mel's frequencies, and where they are: percent of its height."""
    height = librosa.hz_to_mel(sample_rate / 2)
    return [
        (f"{hz // 1000} kHz" if hz >= 1000 else f"{hz} Hz", 100 * librosa.hz_to_mel(hz) / height)
        for hz in TICKS
        if hz < 0.9 * sample_rate / 2
    ]


def time_ticks(seconds: float) -> list[tuple[str, float]]:
    """Labels of times, and where they are: percent of the width."""
    steps = (step for step in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2) if seconds / step <= 6)
    step = next(steps, 5)
    return [
        (f"{second:g} s", 100 * second / seconds)
        for second in np.arange(0, seconds * 0.95, step).round(2)
    ]


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
