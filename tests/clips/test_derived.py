"""Views and log-mels of a store: what they are, and that writing them goes on."""

import dataclasses

import numpy as np
import pytest

import storage
from clips.derived import LOG_MELS, VIEWS
from clips.prepare import PreparedClip
from clips.store import ClipStore
from config import PREPROCESSING_SETTINGS, VIEW_SETTINGS, Config
from conftest import RATE, open_writer
from solution import crops, logmel
from storage import Checkpoint

CONFIG = Config(crop_samples=22_050, n_hop=1000)


@pytest.fixture
def store(tmp_path):
    settings = CONFIG.values(PREPROCESSING_SETTINGS)
    rng = np.random.default_rng(0)
    with open_writer(tmp_path / "store", settings) as writer:
        for n in (1, 5000, 22_050, 60_000, 70_000, 30_000, 0):
            samples = rng.integers(-9000, 9000, n).astype(np.int16)
            clip = PreparedClip(samples, 1 / 32768, np.zeros((128, 12), np.float32))
            writer.append(f"{n}.wav", clip)
    return ClipStore(tmp_path / "store")


def write(kind, store, folder, source="#source"):
    path = folder / kind.stem(CONFIG)
    checkpoint = Checkpoint(folder / "views.checkpoint", source)
    written = kind.write(store, CONFIG, path, checkpoint, "views")
    assert written == {path: storage.size_and_checksum(path)}
    return kind.read(path, CONFIG)


@pytest.mark.parametrize("damage", [None, VIEWS.stem(CONFIG), "views.checkpoint"])
def test_views_go_on_where_they_were_interrupted(store, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(storage, "SECONDS_BETWEEN", 0)
    began_with, interrupt_at = [], [4]

    def spying(store, clips, config):
        began_with.append(clips[0])
        if clips[0] in interrupt_at:
            interrupt_at.clear()
            raise KeyboardInterrupt
        return crops.views(store, clips, config)

    views = dataclasses.replace(VIEWS, make=spying, at_once=2)
    with pytest.raises(KeyboardInterrupt):
        write(views, store, tmp_path)
    if damage:
        content = bytearray((tmp_path / damage).read_bytes())
        content[200] ^= 1
        (tmp_path / damage).write_bytes(content)
    began_with.clear()
    written = write(views, store, tmp_path)
    assert began_with[0] == (0 if damage else 4)
    np.testing.assert_array_equal(written[:], crops.views(store, np.arange(7), CONFIG))
    began_with.clear()
    write(views, store, tmp_path, source="#other")
    assert began_with[0] == 0


@pytest.mark.parametrize("change", [{"crop_samples": 9}, {"frontend": "logmel"}, {"htk": True}])
def test_views_depend_on_what_changes_them(change):
    other = dataclasses.replace(CONFIG, **change)
    assert other.values(VIEW_SETTINGS) != CONFIG.values(VIEW_SETTINGS)
    assert VIEWS.stem(other) != VIEWS.stem(CONFIG)


@pytest.mark.parametrize("interrupted_at", [0, 2, 5])
def test_log_mels_are_those_of_every_clip(store, tmp_path, monkeypatch, interrupted_at):
    monkeypatch.setattr(storage, "SECONDS_BETWEEN", 0)
    path, made = tmp_path / "a.f16", []

    def interrupting(store, clips, config):
        made.extend(clips)
        if made == [*range(interrupted_at + 1)]:
            raise KeyboardInterrupt
        return LOG_MELS.make(store, clips, config)

    kind = dataclasses.replace(LOG_MELS, make=interrupting)
    arguments = store, CONFIG, path, Checkpoint(tmp_path / "c", "#source"), "log-mels"
    with pytest.raises(KeyboardInterrupt):
        kind.write(*arguments)
    written = kind.write(*arguments)
    assert written == {path: storage.size_and_checksum(path)}
    assert made == [*range(interrupted_at + 1), *range(interrupted_at, 7)]
    store.add_log_mels(LOG_MELS.read(path, CONFIG), CONFIG.n_hop)
    for clip, n in enumerate(store.n_samples):
        expected = logmel.log_mel(store.waveform(clip, 0, n), RATE, 1024, 1000, 64)
        assert store.n_frames[clip] == len(expected) == -(-n // 1000)
        stored = store.decibels(clip, 0, len(expected))
        np.testing.assert_allclose(stored, expected, atol=0.04)  # float16
        assert stored.dtype == np.float32
        assert (store.decibels(clip, -3, 3) == -100).all()
        assert (store.decibels(clip, len(expected), 3) == -100).all()
