"""Scores with three views: those of the trained network, with batch norm in the convolutions."""

import dataclasses

import keras
import numpy as np
import pytest

import config
import storage
from clips import store as clipstore
from conftest import TINY, open_writer
from solution.crops import Examples
from solution.models import build_tagger
from solution.scoring import Predictor
from storage import Checkpoint

NETWORK = ("crop_samples", "n_hop", "stem_filters", "block_filters", "gru_units", "batch_size")
SMALL = {name: TINY[name] for name in NETWORK} | {"precision": "float32"}
N_CLASSES = 5


def experiment(name, **settings):
    return dataclasses.replace(config.EXPERIMENTS[name], **SMALL, **settings)


def views(n_clips=4):
    """Log-mels of three views that differ, as do the clips, in the bands that are loud."""
    rng = np.random.default_rng(2)
    loudness = rng.uniform(-80, 0, (n_clips, 3, 1, 64)) + rng.uniform(-9, 9, (n_clips, 3, 23, 64))
    return {
        "views": np.clip(loudness, -80, 0).astype(np.float32),
        "length": rng.uniform(0, 3, (n_clips, 1)).astype(np.float32),
        "global_feat": rng.normal(0, 1, (n_clips, 128, 12)).astype(np.float32),
    }


def view(clips, number):
    return {"audio": clips["views"][:, number], **{k: clips[k] for k in ("length", "global_feat")}}


def train_norms(model, clips):
    """As training would: batch norms that have seen something, scale and shift."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(rng.normal(0, 0.3, layer.beta.shape))
    convolutional = keras.Model(model.input["audio"], model.get_layer("concatenate").input[0])
    for _ in range(30):
        convolutional(clips["views"][:, 0], training=True)


@pytest.mark.parametrize("name", config.EXPERIMENTS)
def test_equals_the_mean_of_the_three_views(name, tmp_path):
    model, clips = build_tagger(experiment(name, frontend="logmel"), N_CLASSES), views()
    train_norms(model, clips)
    scores = [model.predict_on_batch(view(clips, number)) for number in range(3)]
    assert np.ptp(scores, axis=0).max() > 0.02  # the views differ
    assert np.ptp(scores, axis=1).max() > 0.02  # and so do the clips

    predictor = Predictor(experiment(name), N_CLASSES)
    assert np.abs(predictor.predict_on_batch(clips) - np.mean(scores, axis=0)).max() > 0.02
    predictor.set_weights(model.get_weights())
    predicted = predictor.predict_on_batch(clips)
    np.testing.assert_allclose(predicted, np.mean(scores, axis=0), atol=1e-5)

    # The file of a network that starts from waveforms.
    trained = build_tagger(experiment(name), N_CLASSES)
    trained.set_weights(model.get_weights())
    trained.save_weights(tmp_path / "a.weights.h5")
    loaded = Predictor(experiment(name), N_CLASSES)
    loaded.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(loaded.predict_on_batch(clips), predicted)


def test_has_no_batch_norm_but_that_of_the_global_features():
    predictor = Predictor(experiment("msc_1.0"), N_CLASSES)
    norms = [
        layer.name
        for layer in predictor._merged.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert norms == ["global_norm"]


@pytest.fixture
def examples(tmp_path):
    """Ten clips whose views and features differ."""
    rng = np.random.default_rng(0)
    settings = clipstore.settings_of(experiment("v1mix"))
    with open_writer(tmp_path, settings) as writer:
        for i in range(10):
            silence = np.zeros(100, np.int16), 1.0, np.zeros((1, 64), np.float16)
            features = np.full((128, 12), i / 10, np.float32)
            writer.append(str(i), clipstore.PreparedClip(*silence, features))
    views = rng.uniform(-80, 0, (10, 3, 23, 64)).astype(np.float32)
    return Examples(clipstore.ClipStore(tmp_path), np.arange(10), None, views)


def test_each_clip_has_its_own_scores_whatever_the_batches(examples):
    predictor = Predictor(experiment("v1mix"), N_CLASSES)
    whole = predictor.predict(examples, "test")
    assert len(np.unique(whole[:, 0])) == 10
    few = dataclasses.replace(examples, clips=np.array([7, 2, 5]))
    np.testing.assert_allclose(predictor.predict(few, "test"), whole[[7, 2, 5]], atol=1e-6)


def test_goes_on_after_the_last_saved_batch(examples, tmp_path, monkeypatch, capsys):
    predictor = Predictor(experiment("v1mix"), N_CLASSES)
    whole = predictor.predict(examples, "test")
    predictor.predict(examples, "test", Checkpoint(tmp_path / "b.checkpoint", "#a"))
    assert not (tmp_path / "b.checkpoint").exists()  # it took less than ten seconds
    monkeypatch.setattr(storage, "SECONDS_BETWEEN", 0)
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", "#a")
    calls, original = [], predictor.predict_on_batch

    def failing(inputs):
        calls.append(len(inputs["views"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(inputs)

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "predict_on_batch", failing)
        with pytest.raises(KeyboardInterrupt):
            predictor.predict(examples, "test", checkpoint)
    assert calls == [2, 2, 2]  # 8 // 3 clips of three views each
    resumed = predictor.predict(examples, "test", checkpoint)
    assert "test: going on after the first 4 clips" in capsys.readouterr().out
    np.testing.assert_allclose(resumed, whole, atol=1e-6)
    other = predictor.predict(examples, "test", Checkpoint(checkpoint.path, "#b"))
    assert "going on" not in capsys.readouterr().out
    np.testing.assert_allclose(other, whole, atol=1e-6)
