"""The clip store gives back what was put in, and clips that cannot be read are silence."""

import io

import numpy as np
import pytest
import soundfile as sf

from clips import store as clipstore
from clips.files import ClipFile
from clips.prepare import prepare
from config import PREPROCESSING_SETTINGS, Config
from conftest import open_writer
from solution.audio import trim
from solution.features import global_features

SETTINGS = Config().values(PREPROCESSING_SETTINGS)
RATE = 44100


@pytest.fixture
def sources(tmp_path):
    rng = np.random.default_rng(0)
    waveforms = {}
    for name, n in (("tiny", 50), ("short", 5000), ("long", 60_000)):
        steps = rng.integers(-9000, 9000, n)
        steps[: n // 10] = 0  # silence to trim
        waveforms[name] = (steps / 32768).astype(np.float32)
        sf.write(tmp_path / f"{name}.wav", waveforms[name], RATE, subtype="PCM_16")
    return tmp_path, waveforms


def make_store(folder, source, names):
    with open_writer(folder, SETTINGS) as writer:
        for name in names[len(writer) :]:
            writer.append(name, prepare(ClipFile(source, f"{name}.wav"), SETTINGS))
    (folder / "store.checkpoint").unlink()  # as sealing does
    return clipstore.ClipStore(folder)


def test_gives_back_trimmed_clips_features_and_log_mels(tmp_path, sources):
    source, waveforms = sources
    store = make_store(tmp_path / "store", source, list(waveforms))
    assert store.fnames == list(waveforms)
    for clip, waveform in enumerate(waveforms.values()):
        trimmed = trim(waveform)
        assert store.n_samples[clip] == len(trimmed)
        np.testing.assert_array_equal(store.waveform(clip, 0, len(trimmed)), trimmed)
        np.testing.assert_array_equal(store.features[clip], global_features(waveform))
        assert store.lengths[clip] == pytest.approx(len(trimmed) / 441_000)
    assert store.waveform(0, 0, 5).dtype == np.float32


def test_clips_of_more_than_16_bits_keep_their_level(tmp_path):
    waveform = np.random.default_rng(0).uniform(-0.01, 0.01, 9000).astype(np.float32)
    sf.write(tmp_path / "quiet.wav", waveform, RATE, subtype="FLOAT")
    store = make_store(tmp_path / "store", tmp_path, ["quiet"])
    np.testing.assert_allclose(store.waveform(0, 0, 9000), waveform, atol=0.01 / 32767)


def test_a_window_beyond_the_clip_is_silence(tmp_path, sources):
    source, waveforms = sources
    store = make_store(tmp_path / "store", source, ["short", "long"])
    trimmed = trim(waveforms["short"])
    window = store.waveform(0, -100, len(trimmed) + 300)
    np.testing.assert_array_equal(window, np.pad(trimmed, (100, 200)))
    np.testing.assert_array_equal(store.waveform(0, 1000, 50), trimmed[1000:1050])
    assert (store.waveform(1, 10**6, 10) == 0).all()


@pytest.mark.parametrize("content", [b"", b"no audio at all"])
def test_an_unreadable_clip_is_silence_and_says_why(tmp_path, sources, content):
    source, _ = sources
    (source / "broken.wav").write_bytes(content)
    store = make_store(tmp_path / "store", source, ["short", "broken", "long"])
    assert store.faults[0] == store.faults[2] == ""
    assert "cannot be decoded" in store.faults[1]
    assert (store.waveform(1, 0, 100) == 0).all()
    assert (store.features[1] == 0).all()
    assert store.lengths[1] == 0


def test_a_silent_clip_keeps_its_length(tmp_path):
    stream = io.BytesIO()
    sf.write(stream, np.zeros(3000), RATE, format="WAV")
    (tmp_path / "silent.wav").write_bytes(stream.getvalue())
    store = make_store(tmp_path / "store", tmp_path, ["silent"])
    assert store.faults == [""]
    assert store.n_samples[0] == 3000


class TestInterruptedWriter:
    """A writer goes on after its last whole batch, with the same result to the bit."""

    names = ("tiny", "short", "long", "short2", "long2", "tiny2", "last")

    @pytest.fixture
    def source(self, sources, monkeypatch):
        folder, waveforms = sources
        for name, like in (
            ("short2", "short"),
            ("long2", "long"),
            ("tiny2", "tiny"),
            ("last", "long"),
        ):
            sf.write(folder / f"{name}.wav", -waveforms[like], RATE, subtype="PCM_16")
        monkeypatch.setattr(clipstore, "CLIPS_BETWEEN_SAVES", 2)
        return folder

    def interrupt(self, folder, source, after):
        def write():
            with open_writer(folder, SETTINGS) as writer:
                for name in self.names[len(writer) : after]:
                    clip = prepare(ClipFile(source, f"{name}.wav"), SETTINGS)
                    writer.append(name, clip)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write()

    def contents(self, folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    @pytest.mark.parametrize("after", [0, 1, 2, 5, 7])
    def test_goes_on(self, tmp_path, source, after):
        make_store(tmp_path / "whole", source, self.names)
        self.interrupt(tmp_path / "store", source, after)
        with open_writer(tmp_path / "store", SETTINGS) as writer:
            assert len(writer) == after // 2 * 2
            for name in self.names[len(writer) :]:
                writer.append(name, prepare(ClipFile(source, f"{name}.wav"), SETTINGS))
            # Killed before the store is sealed, all of it would be there to go on with.
        assert len(open_writer(tmp_path / "store", SETTINGS)) == len(self.names)
        (tmp_path / "store" / "store.checkpoint").unlink()
        assert self.contents(tmp_path / "store") == self.contents(tmp_path / "whole")

    def test_what_another_source_began_is_not_continued(self, tmp_path, source):
        self.interrupt(tmp_path / "store", source, 5)
        writer = open_writer(tmp_path / "store", SETTINGS, "#other")
        assert len(writer) == 0
        # Not even when the first source comes back.
        assert len(open_writer(tmp_path / "store", SETTINGS)) == 0

    @pytest.mark.parametrize("damage", ["truncated", "flipped"])
    @pytest.mark.parametrize("name", clipstore.STORE_FILES)
    def test_damaged_files_are_named_and_started_again(
        self, tmp_path, source, name, damage, capsys
    ):
        self.interrupt(tmp_path / "store", source, 5)
        path = tmp_path / "store" / name
        content = bytearray(path.read_bytes())
        if damage == "flipped":
            content[20] ^= 1
        path.write_bytes(content if damage == "flipped" else content[: len(content) // 3])
        assert len(open_writer(tmp_path / "store", SETTINGS)) == 0
        assert f"{name} is damaged: starting again" in capsys.readouterr().out

    def test_a_damaged_checkpoint_is_started_again(self, tmp_path, source, capsys):
        self.interrupt(tmp_path / "store", source, 5)
        path = tmp_path / "store" / "store.checkpoint"
        content = bytearray(path.read_bytes())
        content[content.index(b"progress") + 170] ^= 1  # in the array
        path.write_bytes(content)
        assert len(open_writer(tmp_path / "store", SETTINGS)) == 0
        assert "store.checkpoint is damaged and not used" in capsys.readouterr().out


def test_an_empty_split_makes_an_empty_store(tmp_path):
    store = make_store(tmp_path / "store", tmp_path, [])
    assert len(store) == 0
    assert store.features.shape == (0, 128, 12)


def test_two_hours_go_in_and_can_be_cut_anywhere(tmp_path):
    settings = {**SETTINGS, "sample_rate": 4000}
    rng = np.random.default_rng(0)
    waveform = rng.integers(-9000, 9000, 2 * 3600 * 4000).astype(np.int16)
    sf.write(tmp_path / "long.wav", waveform, 4000, subtype="PCM_16")
    with open_writer(tmp_path / "store", settings) as writer:
        writer.append("long", prepare(ClipFile(tmp_path, "long.wav"), settings))
    store = clipstore.ClipStore(tmp_path / "store")
    assert store.n_samples[0] == len(waveform)
    last = store.waveform(0, len(waveform) - 100, 100)
    np.testing.assert_array_equal(last * 32768, waveform[-100:])
