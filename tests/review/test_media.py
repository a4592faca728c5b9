"""Sound and pictures are what was given, in files that anything opens."""

import base64
import io

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from review import media


def opened(uri: str, kind: str) -> io.BytesIO:
    head, data = uri.split(",")
    assert head == f"data:{kind};base64"
    return io.BytesIO(base64.b64decode(data))


@pytest.mark.parametrize(("rate", "stored"), [(44100, 44100), (40000, 44100), (96000, 48000)])
def test_sound_is_heard_at_its_pitch(rate, stored):
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate).astype(np.float32)
    heard, rate = sf.read(opened(media.sound(tone, rate), "audio/mpeg"))
    assert rate == stored
    assert np.argmax(np.abs(np.fft.rfft(heard))) * rate / len(heard) == pytest.approx(1000, abs=2)
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.05)


def test_sound_beyond_full_scale_is_turned_down():
    noise = np.random.default_rng(0).normal(0, 5, 44100).astype(np.float32)
    heard, _ = sf.read(opened(media.sound(noise, 44100), "audio/mpeg"))
    assert np.abs(heard).max() < 1.5


@pytest.mark.parametrize("n", [1, 100, 5000])
def test_short_sounds_are_files_too(n):
    heard, _ = sf.read(opened(media.sound(np.zeros(n, np.float32), 44100), "audio/mpeg"))
    assert len(heard) >= n


def test_ten_seconds_take_at_most_a_hundred_kilobytes():
    noise = np.random.default_rng(0).uniform(-1, 1, 441_000).astype(np.float32)
    assert len(media.sound(noise, 44100)) < 100_000


def test_low_frequencies_are_at_the_bottom_and_what_is_loud_is_bright():
    decibels = np.full((30, 64), -100, np.float32)
    decibels[10, 0] = 0
    image = Image.open(opened(media.picture(decibels), "image/png"))
    assert image.size == (30, 64)
    light = np.array(image.convert("L"))
    assert np.unravel_index(light.argmax(), light.shape) == (63, 10)


def test_ticks_are_where_the_mel_bands_are():
    ticks = dict(media.frequency_ticks(44100))
    assert list(ticks) == ["500 Hz", "1 kHz", "2 kHz", "4 kHz", "8 kHz", "16 kHz"]
    assert ticks["1 kHz"] == pytest.approx(100 * 15 / 60.0, abs=1)  # 15 mel of some 60
    assert list(dict(media.frequency_ticks(8000))) == ["500 Hz", "1 kHz", "2 kHz"]


@pytest.mark.parametrize("seconds", [0.00002, 0.05, 0.3, 1.0, 2.4, 9.99, 10])
def test_times_do_not_crowd(seconds):
    ticks = media.time_ticks(seconds)
    assert ticks[0] == ("0 s", 0)
    assert len(ticks) <= 7
    assert all(0 <= at < 100 for _, at in ticks)
