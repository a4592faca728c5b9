"""Clips are prepared on all cores, in order, whatever happens to a process."""

import os
import signal
import warnings
from concurrent.futures.process import BrokenProcessPool

import joblib
import numpy as np
import pytest

from clips import prepare
from clips.files import ClipFile
from config import PREPROCESSING_SETTINGS, Config

SETTINGS = Config().values(PREPROCESSING_SETTINGS)


@pytest.fixture
def files(clips, tmp_path):
    clips.write_clips(tmp_path, "curated")
    return [ClipFile(tmp_path, fname) for fname in clips.tables["curated"]["fname"][:9]]


def test_clips_are_prepared_in_order_and_wait_for_the_writer(files, monkeypatch):
    asked_for = []

    class Files(list):
        def __getitem__(self, part):
            asked_for.append(part)
            return super().__getitem__(part)

    monkeypatch.setattr(prepare, "CLIPS_IN_ROUND", 4)
    clips = prepare.prepare_all(Files(files), SETTINGS)
    for i, (file, clip) in enumerate(zip(files, clips, strict=True)):
        assert len(asked_for) == min(i // 4 + 2, 3)
        np.testing.assert_array_equal(clip.samples, prepare.prepare(file, SETTINGS).samples)
    assert list(prepare.prepare_all([], SETTINGS)) == []


@pytest.mark.parametrize("peak", [1e-45, 2.9e-41, 1e-38, 1e-30, 1e4])
@pytest.mark.parametrize("n", [1, 3000])
def test_clips_of_any_level_are_prepared_without_a_warning(peak, n):
    waveform = np.random.default_rng(0).uniform(-peak, peak, n).astype(np.float32)
    waveform[-1] = peak
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = prepare.prepare_waveform(waveform)
    error = clip.samples * np.float64(clip.scale) - waveform
    assert np.abs(error).max() <= max(peak / 60_000, 1.2e-38)
    assert np.isfinite(clip.features).all()


class Fatal:
    """A clip that kills the process which decodes it."""

    def open(self):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(joblib.cpu_count() == 1, reason="one core decodes in this process")
def test_after_a_killed_process_the_next_call_works(files):
    with pytest.raises(BrokenProcessPool):
        list(prepare.prepare_all([files[0], Fatal(), files[1]], SETTINGS))
    assert len(list(prepare.prepare_all(files[:2], SETTINGS))) == 2
