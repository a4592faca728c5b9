"""Reading clips: real formats, real faults."""

import io
import sys

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clips import decoding
from clips.decoding import read_clip
from messages import UnreadableClip
from recordings import RATE, encoded, tone


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


def test_a_channel_without_numbers_silences_no_other(tmp_path):
    sound = np.column_stack([np.full(1000, np.nan), np.full(1000, 0.5), np.full(1000, 2e4)])
    sf.write(tmp_path / "clip.wav", sound, RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_clip(tmp_path / "clip.wav", RATE), (0 + 0.5 + 1e4) / 3)


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


@pytest.mark.parametrize("as_path", [True, False])
def test_a_recording_whose_header_was_never_completed_is_read(tmp_path, as_path):
    path = tmp_path / "clip.wav"
    sf.write(path, tone(0.1), RATE, subtype="PCM_16")
    whole, content = read_clip(path, RATE), bytearray(path.read_bytes())
    for place in (4, content.index(b"data") + 4):  # sizes of the file and of its samples
        content[place : place + 4] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_clip(path if as_path else io.BytesIO(content), RATE), whole)


def test_what_follows_no_samples_is_no_sound():
    stream = io.BytesIO()
    sf.write(stream, np.zeros(0), RATE, format="WAV", subtype="PCM_16")
    chunk = b"LIST" + (26).to_bytes(4, "little") + b"INFOISFT" + bytes(18)
    content = bytearray(stream.getvalue() + chunk)
    content[4:8] = (len(content) - 8).to_bytes(4, "little")
    with pytest.raises(UnreadableClip, match="holds no samples"):
        read_clip(io.BytesIO(content), RATE)


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


@pytest.mark.parametrize(
    ("format", "codec", "rate", "channels", "tolerance"),
    [
        ("ipod", "aac", 44100, 2, 0.02),  # .m4a
        ("ipod", "alac", 44100, 1, 1e-4),
        ("adts", "aac", 48000, 1, 0.02),  # .aac
        ("webm", "libopus", 48000, 1, 0.05),
        ("asf", "wmav2", 44100, 2, 0.05),  # .wma
        ("amr", "libopencore_amrnb", 8000, 1, 0.2),
        ("3gp", "libopencore_amrnb", 8000, 1, 0.2),
        ("mov", "pcm_s16le", 22050, 2, 0.01),
    ],
)
def test_reads_what_libsndfile_does_not(format, codec, rate, channels, tolerance):
    content = io.BytesIO(encoded(format, codec, rate, channels, seconds=1))
    with pytest.raises(sf.SoundFileError):
        sf.info(content)
    waveform = read_clip(content, RATE)
    assert waveform.dtype == np.float32
    assert len(waveform) / RATE == pytest.approx(1, abs=0.06)  # codecs add padding
    middle = waveform[RATE // 4 : RATE * 3 // 4]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.5, abs=tolerance)
    pitch = np.argmax(np.abs(np.fft.rfft(middle))) * 2
    assert pitch == pytest.approx(440, abs=2)


def test_reads_the_sound_of_a_video(tmp_path):
    path = tmp_path / "concat:clip.mp4"  # a name that FFmpeg would take for a protocol
    path.write_bytes(encoded("mp4", picture=True))
    assert len(read_clip(path, RATE)) / RATE == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("channels", [2, 8])
def test_channels_of_what_ffmpeg_reads_are_averaged(channels):
    waveform = read_clip(io.BytesIO(encoded("mov", "pcm_s16le", channels=channels)), RATE)
    np.testing.assert_allclose(waveform, tone(), atol=1e-4)


def test_a_codec_that_is_not_known():
    content = encoded("mov", "pcm_s16le").replace(b"sowt", b"zzzz")
    with pytest.raises(UnreadableClip, match="none of a known codec"):
        read_clip(io.BytesIO(content), RATE)


def test_half_of_a_recording_counts():
    content = encoded("adts")
    waveform = read_clip(io.BytesIO(content[: len(content) // 2]), RATE)
    assert 0.2 < len(waveform) / RATE < 0.3


def test_pieces_that_differ_in_rate_and_channels_are_one_clip():
    pieces = [("adts", "aac", 44100, 1), ("adts", "aac", 44100, 2), ("adts", "aac", 22050, 1)]
    content = b"".join(encoded(*piece, seconds=1) for piece in pieces)
    waveform = read_clip(io.BytesIO(content), RATE)
    assert len(waveform) / RATE == pytest.approx(3, abs=0.2)
    for second in range(3):
        middle = waveform[int((second + 0.3) * RATE) : int((second + 0.8) * RATE)]
        pitch = np.argmax(np.abs(np.fft.rfft(middle))) * 2
        assert pitch == pytest.approx(440, abs=3)


@pytest.mark.parametrize("suffix", ["wav", "m4a"])
def test_an_empty_file(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(b"")
    with pytest.raises(UnreadableClip, match=r"^cannot be decoded \(it is empty\)$"):
        read_clip(str(tmp_path / f"a.{suffix}"), RATE)


def test_without_pyav_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UnreadableClip, match=r"recognised; .*m4a.* pip install av\)$"):
        read_clip(io.BytesIO(encoded()), RATE)


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXTINF:10,\nOTHER\n",
        b"ffconcat version 1.0\nfile 'OTHER'\n",
        b"<html>" + b"<p>text</p>" * 2000,
        ("fname,labels\r\n" * 500).encode("utf-8"),
    ],
    ids=["playlist", "list", "page", "table"],
)
def test_ffmpeg_reads_no_other_file_and_no_text(tmp_path, content):
    sf.write(tmp_path / "other.wav", tone(), RATE)
    other = (tmp_path / "other.wav").as_uri().encode()
    with pytest.raises(UnreadableClip, match="recognised"):
        read_clip(io.BytesIO(content.replace(b"OTHER", other)), RATE)


SEEDS = [
    encoded(*kind, seconds=0.1)
    for kind in [("mp4",), ("adts",), ("webm", "libopus", 48000), ("asf", "wmav2"), ("flv",)]
]


@given(st.sampled_from(SEEDS), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=200)
def test_damaged_files_of_ffmpeg_give_audio_or_one_kind_of_error(content, data):
    content = bytearray(content)
    at = st.integers(0, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(at, st.integers(0, 255)), max_size=20)):
        content[place] = value
    try:
        waveform = read_clip(io.BytesIO(content[: data.draw(at) + 1]), RATE)
    except UnreadableClip:
        return
    assert 0 < len(waveform) < 60 * RATE
    assert np.isfinite(waveform).all()
