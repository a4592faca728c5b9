"""Real clips from Freesound (ESC-10), laid out as the competition's data. Skipped without them."""

import subprocess
import sys

import numpy as np
import pytest

from clips.decoding import read_clip
from conftest import run_of
from solution import logmel
from solution.features import global_features
from solution.time_frequency import Melspectrogram


def test_ogg_clips_give_the_same_log_mel_in_numpy_and_in_the_network(needs_esc10):
    for path in sorted((needs_esc10 / "audio").iterdir())[::80]:
        waveform = read_clip(path, 44100)
        assert abs(len(waveform) / 44100 - 5) < 0.1  # Vorbis ends with a whole block
        assert np.abs(waveform).max() > 0
        in_network = Melspectrogram()(waveform[None])[0, ..., 0]
        in_numpy = logmel.normalise(logmel.log_mel(waveform, 44100, 1024, 500, 64))
        np.testing.assert_allclose(in_network, in_numpy, atol=0.02)
        assert np.isfinite(global_features(waveform)).all()


@pytest.fixture
def laid_out(needs_esc10, tmp_path):
    script = needs_esc10 / "make_input.py"
    subprocess.run([sys.executable, script, tmp_path / "in", "--small"], check=True)
    return tmp_path


def test_preprocessing_of_the_laid_out_set(laid_out, tiny_profile, run_stage):
    arguments = [
        "--input",
        laid_out / "in",
        "--output",
        laid_out / "out",
        "--profile",
        tiny_profile,
    ]
    run_stage("preprocess", *arguments)
    run = run_of(*arguments)
    assert len(run.dataset.classes) == 10
    for split, n_clips in {"curated": 60, "noisy": 40, "test": 20}.items():
        examples = run.examples(split)
        assert len(examples) == n_clips
        store = examples.store
        assert set(store.faults) == {""}
        # ESC-10 pads short recordings with digital silence, which trimming takes away again.
        assert 0 < store.n_samples.min() < 5 * 44100 <= store.n_samples.max() <= 8 * 44100
    assert set(run.dataset["test"].usage) == {"Public", "Private"}
    assert sorted(set(run.clip_folds())) == [0, 1]
