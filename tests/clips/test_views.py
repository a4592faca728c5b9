"""The log-mels that scoring starts from are those that the network makes of the same crops."""

import dataclasses

import keras
import numpy as np
import pytest

import storage
from clips import store as clipstore
from clips import views
from clips.prepare import PreparedClip
from config import PREPROCESSING_SETTINGS, VIEW_SETTINGS, Config
from conftest import TINY, open_writer
from solution import logmel
from solution.models import front_end
from storage import Checkpoint

CONFIG = dataclasses.replace(
    Config(), crop_samples=TINY["crop_samples"], n_hop=TINY["n_hop"], batch_size=6
)


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    with open_writer(tmp_path / "store", CONFIG.values_of(PREPROCESSING_SETTINGS)) as writer:
        for n in (1, 5000, 22_050, 60_000, 70_000, 30_000, 0):
            samples = rng.integers(-9000, 9000, n).astype(np.int16)
            decibels = rng.uniform(-90, 0, (-(-n // 1000), 64)).astype(np.float16)
            features = np.zeros((128, 12), np.float32)
            clip = PreparedClip(samples, 1 / 32768, decibels, features)
            writer.append(f"{n}.wav", clip)
    return clipstore.ClipStore(tmp_path / "store", CONFIG.values_of(PREPROCESSING_SETTINGS))


def write(store, folder, config=CONFIG, source="#source"):
    path = folder / "views.f32"
    views.write(store, config, path, Checkpoint(folder / "views.checkpoint", source), "views")
    return storage.Rows(path, np.float32, (3, 23, 64))


def crops_of(cut, sizes, length):
    """First, middle and last crop, or zeros in front of a short clip: (clips * 3, ...)."""
    rooms = [size - length for size in sizes]
    return np.stack(
        [
            cut(clip, start, length)
            for clip, room in enumerate(rooms)
            for start in (0, int(room / 2), room)
        ]
    )


@pytest.mark.parametrize(
    ("n", "starts"),
    [(1500, (0, 250, 500)), (1501, (0, 250, 501)), (1000, (0, 0, 0)), (995, (0, -2, -5))],
)
def test_view_starts(n, starts):
    assert views.view_starts(n, 1000) == starts


@pytest.mark.parametrize("frontend", ["waveform", "logmel"])
def test_are_what_the_front_end_makes_of_each_crop(store, tmp_path, frontend):
    config = dataclasses.replace(CONFIG, frontend=frontend)
    written = write(store, tmp_path, config)
    assert written.shape == (7, 3, 23, 64)
    written = written[:]
    assert written.dtype == np.float32
    to_decibels = keras.Model(*front_end(config))
    if frontend == "logmel":
        crops = logmel.normalise(crops_of(store.decibels, store.n_frames, 23))
    else:
        crops = crops_of(store.waveform, store.n_samples, CONFIG.crop_samples)
    expected = to_decibels.predict_on_batch(crops).reshape(7, 3, 23, 64)
    np.testing.assert_allclose(written, expected, atol=1e-3)
    assert np.ptp(written[3], axis=0).max() > 1  # the views of a long clip differ


@pytest.mark.parametrize(
    "setting", [{"crop_samples": 1000}, {"frontend": "logmel"}, {"n_hop": 700}]
)
def test_depend_on_what_changes_them(setting):
    other = dataclasses.replace(CONFIG, **setting)
    assert other.values_of(VIEW_SETTINGS) != CONFIG.values_of(VIEW_SETTINGS)


@pytest.mark.parametrize("damage", [None, "views.f32", "views.checkpoint"])
def test_go_on_where_they_were_interrupted(store, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(views, "CLIPS_AT_ONCE", 2)
    whole, of_clips = write(store, tmp_path / "..")[:], views.of_clips
    monkeypatch.setattr(storage, "SECONDS_BETWEEN", 0)
    done = []

    def failing(store, clips, config):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(clips))
        return of_clips(store, clips, config)

    with monkeypatch.context() as patch:
        patch.setattr(views, "of_clips", failing)
        with pytest.raises(KeyboardInterrupt):
            write(store, tmp_path)
    if damage:
        content = bytearray((tmp_path / damage).read_bytes())
        content[200] ^= 1
        (tmp_path / damage).write_bytes(content)
    began_with = []

    def spying(store, clips, config):
        began_with.append(clips[0])
        return of_clips(store, clips, config)

    monkeypatch.setattr(views, "of_clips", spying)
    np.testing.assert_array_equal(write(store, tmp_path)[:], whole)
    assert began_with[0] == (0 if damage else 4)
    began_with.clear()
    write(store, tmp_path, source="#other")
    assert began_with[0] == 0
