"""Reading clips: real formats, real faults."""

import io

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clips import decoding
from clips.decoding import read_clip
from messages import UnreadableClip

RATE = 44100


def tone(seconds=0.5, rate=RATE, pitch=440.0):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_16", 1e-4),
        ("wav", "PCM_U8", 1e-2),
        ("wav", "PCM_24", 1e-6),
        ("wav", "FLOAT", 1e-6),
        ("flac", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 0.1),
        ("mp3", "MPEG_LAYER_III", 0.1),
    ],
)
def test_reads_formats(tmp_path, suffix, subtype, tolerance):
    path = tmp_path / f"clip.{suffix}"
    sf.write(path, tone(), RATE, subtype=subtype)
    waveform = read_clip(path, RATE)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - RATE // 2) <= 2400  # MPEG adds padding
    middle = slice(5000, 15000)
    np.testing.assert_allclose(waveform[middle], tone()[middle], atol=tolerance)


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 192000])
def test_resamples(tmp_path, rate):
    sf.write(tmp_path / "clip.wav", tone(rate=rate), rate, subtype="FLOAT")
    waveform = read_clip(tmp_path / "clip.wav", RATE)
    assert abs(len(waveform) - RATE // 2) <= 1
    np.testing.assert_allclose(waveform[2000:-2000], tone()[2000 : len(waveform) - 2000], atol=0.01)


@pytest.mark.parametrize("channels", [2, 8])
def test_mixes_channels_down(tmp_path, channels):
    sound = np.zeros((1000, channels))
    sound[:, 0] = 0.5
    sf.write(tmp_path / "clip.wav", sound, RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_clip(tmp_path / "clip.wav", RATE), 0.5 / channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_16"), ("flac", "PCM_16"), ("aiff", "PCM_16"), ("wav", "PCM_24"), ("wav", "ULAW")],
)
def test_samples_are_soundfiles(tmp_path, suffix, subtype, channels):
    path = tmp_path / f"clip.{suffix}"
    sound = np.random.default_rng(0).uniform(-1, 1, (2000, channels))
    sound[:2] = [[-1], [1]]
    sf.write(path, sound, RATE, subtype=subtype)
    expected = sf.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    np.testing.assert_array_equal(read_clip(path, RATE), expected)


def test_samples_that_are_not_finite_become_silence(tmp_path):
    sound = np.full(1000, 0.5)
    sound[[3, 4, 5]] = np.nan, np.inf, -np.inf
    sf.write(tmp_path / "clip.wav", sound, RATE, subtype="FLOAT")
    waveform = read_clip(tmp_path / "clip.wav", RATE)
    np.testing.assert_array_equal(waveform[[2, 3, 4, 5, 6]], [0.5, 0, 0, 0, 0.5])


def test_long_clips_are_read_in_blocks(tmp_path, monkeypatch):
    sf.write(tmp_path / "clip.wav", tone(), RATE, subtype="PCM_16")
    whole = read_clip(tmp_path / "clip.wav", RATE)
    monkeypatch.setattr(decoding, "BLOCK_SAMPLES", 1000)
    np.testing.assert_array_equal(read_clip(tmp_path / "clip.wav", RATE), whole)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "cannot be decoded"), (b"this is no audio\n" * 50, "cannot be decoded")],
)
def test_what_is_no_audio_is_named(content, reason):
    with pytest.raises(UnreadableClip, match=reason):
        read_clip(io.BytesIO(content), RATE)


def test_a_file_without_samples_is_unreadable(tmp_path):
    sf.write(tmp_path / "clip.wav", np.zeros(0), RATE)
    with pytest.raises(UnreadableClip, match="holds no samples"):
        read_clip(tmp_path / "clip.wav", RATE)


@given(st.binary(max_size=2000), st.integers(0, 3))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=100)
def test_any_bytes_give_audio_or_one_kind_of_error(content, n_intact):
    stream = io.BytesIO()
    sf.write(stream, tone(0.01), RATE, format="WAV", subtype="PCM_16")
    content = stream.getvalue()[: n_intact * 15] + content
    try:
        waveform = read_clip(io.BytesIO(content), RATE)
    except UnreadableClip:
        return
    assert len(waveform) > 0
    assert np.isfinite(waveform).all()


def test_a_truncated_mp3_is_as_long_as_what_is_there(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(60 * RATE)
    sf.write(tmp_path / "a.mp3", noise, RATE)
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 2])
    waveform = read_clip(tmp_path / "a.mp3", RATE)
    assert 25 < len(waveform) / RATE < 35
