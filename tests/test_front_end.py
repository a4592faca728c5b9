"""A run whose front end is learned: all scores are those of the network on waveforms."""

import dataclasses
import json

import keras
import numpy as np
import pandas as pd
import pytest
import soundfile as sf

import config
from conftest import run_of
from messages import InputError
from runs import command_line
from solution import crops
from solution.models import build_tagger
from solution.time_frequency import Melspectrogram
from trained import submission
from trained.tagger import Tagger

SETTINGS = {
    "trainable_kernel": True,
    "trainable_fb": True,
    "htk": True,
    "n_mels": 32,
    "n_dft": 512,
    "precision": "float32",
    "training": {"epochs": 3},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_clips, tiny_profile, run_stage):
    """The folder of a whole run, and its arguments."""
    root = tmp_path_factory.mktemp("trained")
    make_clips(sizes={"curated": 12, "noisy": 6, "test": 4}).write(root / "input")
    (root / "settings.json").write_text(json.dumps(SETTINGS))
    arguments = ("--input", root / "input", "--output", root / "out", "--profile", tiny_profile)
    arguments += ("--settings", root / "settings.json", "--experiments", "v1mix")
    for stage in command_line.STAGES:
        run_stage(stage, *arguments)
    return root, arguments


@pytest.fixture(scope="module")
def network(trained):
    """That of the first fold, as training builds it."""
    run = run_of(*trained[1])
    network = build_tagger(run.configs[0], 3)
    network.load_weights(run.fold(run.configs[0], 0).path(".weights.h5"))
    return network


def by_hand(network, examples, clips):
    """The mean over three calls, with waveforms from the store."""
    store, calls, length = examples.store, [], 22_050  # of crops
    for number in range(3):
        starts = [crops.view_starts(store.n_samples[clip], length)[number] for clip in clips]
        audio = [store.waveform(i, start, length) for i, start in zip(clips, starts, strict=True)]
        calls.append(network.predict_on_batch({"audio": np.stack(audio), **store.inputs(clips)}))
    return np.mean(calls, axis=0)


def scores_in(path):
    return pd.read_csv(path, index_col="fname").to_numpy()


def test_it_has_learned(trained, network):
    fresh = Melspectrogram(
        n_dft=512, n_hop=1000, n_mels=32, htk=True, trainable_kernel=True, trainable_fb=True
    )
    fresh.build((None, 22_050))
    weights = network.get_layer("melspectrogram").get_weights()
    assert len(weights) == 3
    for before, after in zip(fresh.get_weights(), weights, strict=True):
        assert before.shape == after.shape
        assert np.abs(before - after).max() > 1e-4


def test_log_mels_are_nowhere_on_the_disk(trained):
    found = {path.name for path in (trained[0] / "out" / "clips" / "curated").iterdir()}
    assert found == {"samples.i16", "features.f32", "clips.csv", "store.json"}


def test_validation_is_by_the_network_itself(trained, network):
    run = run_of(*trained[1])
    examples = run.examples("curated", run.configs[0])
    clips = np.flatnonzero(run.clip_folds() == 0)
    scores = scores_in(trained[0] / "out" / "models" / "v1mix" / "fold0.scores.csv")
    np.testing.assert_allclose(scores, by_hand(network, examples, clips), atol=1e-4)


def test_prediction_is_by_the_network_itself(trained, network):
    run = run_of(*trained[1])
    expected = by_hand(network, run.examples("test", run.configs[0]), np.arange(4))
    assert np.ptp(expected, axis=0).max() > 1e-3
    scores = scores_in(trained[0] / "out" / "models" / "v1mix" / "fold0.test.csv")
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_tags_and_kernels_are_those_of_the_run(trained, tmp_path):
    root, _ = trained
    waveforms = [sf.read(root / "input" / "audio_test" / f"test0{i}.wav")[0] for i in range(4)]
    one = Tagger(root / "out", experiments="v1mix", folds=0)
    expected = scores_in(root / "out" / "models" / "v1mix" / "fold0.test.csv")
    np.testing.assert_allclose(one.scores(waveforms, 44100), expected, atol=1e-4)
    submission.make(root / "out", root / "input", tmp_path / "submission.csv")
    expected = scores_in(root / "out" / "submission.csv")
    np.testing.assert_allclose(scores_in(tmp_path / "submission.csv"), expected, atol=1e-4)


def test_other_backends_are_refused_for_predictions_too(trained, run_stage, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    message = "v1mix starts from waveforms, which takes TensorFlow"
    with pytest.raises(SystemExit, match=f"error: {message}"):
        run_stage("predict", *trained[1])
    with pytest.raises(InputError, match=message):
        Tagger(trained[0] / "out")


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"trainable_fb": True}, "trainable_fb"),
        ({"stem": "msc"}, "stem"),
        ({"gru_units": 6}, "gru_units"),
        ({"pooling": ("max", "conv")}, "learned_pooling"),
    ],
)
def test_an_experiment_goes_on_from_the_front_end_and_the_layers_it_was_pretrained_with(
    trained, run_stage, monkeypatch, setting, name
):
    other = dataclasses.replace(config.EXPERIMENTS["v1mix"], name="mine", **setting)
    monkeypatch.setitem(config.EXPERIMENTS, "mine", other)
    arguments = trained[1][:6]
    with pytest.raises(SystemExit, match=rf"differ in {name} \(.*pretrained_by"):
        run_stage("preprocess", *arguments, "--experiments", "mine")
