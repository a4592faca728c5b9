"""Scores with three views: those of the trained network, with batch norm in the convolutions."""

import dataclasses
import types

import keras
import numpy as np
import pytest
from test_models import layers_by_name

import config
from conftest import TINY
from solution.crops import Examples
from solution.models import build_tagger
from solution.scoring import Scorer

NETWORK = ("crop_samples", "n_hop", "stem_filters", "block_filters", "gru_units", "batch_size")
SMALL = {name: TINY[name] for name in NETWORK} | {"precision": "float32"}
N_CLASSES, REST = 5, ("length", "global_feat")


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
    return {"audio": clips["views"][:, number], **{k: clips[k] for k in REST}}


def train_norms(model, clips):
    """As training would: batch norms that have seen something, scale and shift."""
    rng = np.random.default_rng(1)
    for layer in layers_by_name(model).values():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(rng.normal(0, 0.3, layer.beta.shape))
    for _ in range(30):
        model.get_layer("crop_branch")(clips["views"][:, 0, ..., None], training=True)


LEARNED = {"pooling": ("max", "conv")}


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, {}) for name in config.EXPERIMENTS), ("v1mix", LEARNED)]
)
def test_equals_the_mean_of_the_three_views(name, settings, tmp_path):
    wanted, clips = experiment(name, **settings), views()
    trained = build_tagger(dataclasses.replace(wanted, frontend="logmel"), N_CLASSES)
    scorer = Scorer(wanted, N_CLASSES, trained)
    untrained = scorer.score(clips)
    train_norms(trained, clips)
    scores = [trained.predict_on_batch(view(clips, number)) for number in range(3)]
    assert np.ptp(scores, axis=0).max() > 0.02  # the views differ
    assert np.ptp(scores, axis=1).max() > 0.02  # and so do the clips
    assert np.abs(untrained - np.mean(scores, axis=0)).max() > 0.02

    scorer.refold()
    scored = scorer.score(clips)
    np.testing.assert_allclose(scored, np.mean(scores, axis=0), atol=1e-5)

    # From the file of a network that starts from waveforms, and from weights in memory.
    on_waveforms = build_tagger(wanted, N_CLASSES)
    on_waveforms.set_weights(trained.get_weights())
    on_waveforms.save_weights(tmp_path / "a.weights.h5")
    loaded, other = (Scorer(wanted, N_CLASSES) for _ in range(2))
    loaded.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(loaded.score(clips), scored)
    other.set_weights(loaded.weights)
    np.testing.assert_array_equal(other.score(clips), scored)


def test_each_clip_has_its_own_scores_whatever_the_batches():
    scorer, inputs = Scorer(experiment("v1mix"), N_CLASSES), views(10)
    store = types.SimpleNamespace(inputs=lambda i: {k: inputs[k][i] for k in REST})
    clips = np.array([7, 2, 5, 0, 9])
    examples = Examples(store, clips, None, inputs["views"])
    expected = scorer.score({name: array[clips] for name, array in inputs.items()})
    assert len(np.unique(expected[:, 0])) == 5
    for first in (0, 3):
        positions, scores = zip(*scorer.scores(examples, first), strict=True)
        assert max(map(len, positions)) == 2  # 8 // 3 clips of three views each
        assert np.concatenate(positions).tolist() == [*range(first, 5)]
        np.testing.assert_allclose(np.concatenate(scores), expected[first:], atol=1e-6)


@pytest.mark.parametrize("trained", ["trainable_kernel", "trainable_fb"])
def test_a_trained_front_end_scores_the_waveforms(trained, tmp_path):
    chosen, rng = experiment("v1mix", **{trained: True}), np.random.default_rng(0)
    network = build_tagger(chosen, N_CLASSES)
    scorer, clips = Scorer(chosen, N_CLASSES, network), views(2)
    train_norms(network, clips)  # or it would hardly tell sounds apart
    clips["views"] = rng.normal(0, 0.1, (2, 3, chosen.crop_samples)).astype(np.float32)
    untrained = scorer.score(clips)
    front_end = network.get_layer("melspectrogram")
    for weight in front_end.trainable_weights:
        weight.assign(weight * 10 ** rng.uniform(-3, 3, weight.shape))
    scorer.refold()
    scored = scorer.score(clips)
    assert np.abs(scored - untrained).max() > 0.02
    expected = [network.predict_on_batch(view(clips, number)) for number in range(3)]
    np.testing.assert_allclose(scored, np.mean(expected, axis=0), atol=1e-6)

    network.save_weights(tmp_path / "a.weights.h5")
    loaded, other = (Scorer(chosen, N_CLASSES) for _ in range(2))
    loaded.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(loaded.score(clips), scored, atol=1e-6)
    other.set_weights(loaded.weights)
    np.testing.assert_allclose(other.score(clips), scored, atol=1e-6)
