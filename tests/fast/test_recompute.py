"""Training with maps that are made again: what it learns is what the same layers learn without."""

import dataclasses

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the recomputation is TensorFlow's", allow_module_level=True)

import tensorflow as tf

import config
from fast import gpus, recompute
from fast.recompute import FrugalNetwork
from solution.models import build_tagger

N_CLASSES = 3
SMALL = {
    "frontend": "logmel",
    "crop_samples": 20_000,
    "n_hop": 1000,
    "n_mels": 32,
    "stem_filters": 8,
    "block_filters": (8, 12, 16, 24),
    "gru_units": 4,
    "precision": "float32",
}
KINDS = {"v1mix": {}, "se_cat": {"stem": "msc", "pooling": ("conv", "avemax2")}}


def pair(name="v1mix", **overrides):
    """The same layers as a network that keeps all maps, and as one that makes them again."""
    keras.utils.set_random_seed(1)
    small = dataclasses.replace(config.EXPERIMENTS[name], **{**SMALL, **overrides})
    network = build_tagger(small, N_CLASSES)
    assert not isinstance(network, FrugalNetwork)
    return network, FrugalNetwork(network.input, network.output)


def batch(n_clips, frames=20, n_mels=32):
    rng = np.random.default_rng(n_clips)
    inputs = {
        "audio": rng.normal(-40, 15, (n_clips, frames, n_mels)),
        "length": rng.random((n_clips, 1)),
        "global_feat": rng.normal(0, 0.1, (n_clips, 128, 12)),
    }
    labels = rng.integers(0, 2, (n_clips, N_CLASSES)).astype(np.float32)
    return {name: tf.constant(x, tf.float32) for name, x in inputs.items()}, labels


def learner(network):
    """A step without its update: loss, gradients by name, and then the averages of batch norm."""

    @tf.function(reduce_retracing=True)
    def step(inputs, labels):
        with tf.GradientTape() as tape:
            tags = network(inputs, training=True)
            loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels, tags))
        return loss, tape.gradient(loss, [w.value for w in network.trainable_variables])

    def learn(inputs, labels):
        former = network.get_weights()
        loss, gradients = step(inputs, labels)
        averages = {w.path: w.numpy() for w in network.non_trainable_variables}
        network.set_weights(former)
        names = [w.path for w in network.trainable_variables]
        return loss.numpy(), dict(zip(names, [g.numpy() for g in gradients], strict=True)), averages

    return learn


@pytest.fixture
def two_at_once(monkeypatch):
    monkeypatch.setattr(recompute, "NUMBERS_AT_ONCE", 1)


@pytest.mark.parametrize("name", KINDS)
def test_loss_gradients_and_averages_are_those_of_the_whole_batch(two_at_once, name):
    plain, frugal = map(learner, pair(name, **KINDS[name]))
    for n_clips in (5, 4, 1):
        example = batch(n_clips)
        loss, gradients, averages = plain(*example)
        our_loss, ours, our_averages = frugal(*example)
        assert our_loss == pytest.approx(loss, rel=1e-5)
        assert ours.keys() == gradients.keys()
        for path, expected in gradients.items():
            if path.endswith("conv/bias"):  # batch norm takes it away: what is left is rounding
                assert abs(ours[path]).max() < 1e-5
            else:
                atol = 2e-4 * abs(expected).max()
                np.testing.assert_allclose(ours[path], expected, rtol=0, atol=atol, err_msg=path)
        for path, expected in averages.items():
            np.testing.assert_allclose(our_averages[path], expected, rtol=1e-4, atol=1e-5)


def test_maps_are_the_same_in_every_run():
    # Of published size: what the order of operations leaves to chance does not show in small maps.
    published = dataclasses.replace(config.EXPERIMENTS["v1mix"], frontend="logmel")
    segment, *_ = recompute._parts(build_tagger(published, N_CLASSES))[1]
    logmels = batch(6, frames=441, n_mels=64)[0]["audio"][..., None]
    forward = tf.function(lambda: segment([logmels])[0])
    first = forward().numpy()
    for _ in range(24):
        np.testing.assert_array_equal(forward(), first)


def test_trains_and_scores_as_any_keras_model():
    plain, frugal = pair()
    inputs, labels = batch(4)
    former, histories = plain.get_weights(), []
    for network in (plain, frugal):
        network.set_weights(former)
        network.compile(keras.optimizers.SGD(0.01), loss="binary_crossentropy", jit_compile=False)
        losses = [float(network.train_on_batch(inputs, labels)) for _ in range(3)]
        histories.append([*losses, *network.predict_on_batch(inputs).ravel()])
    np.testing.assert_allclose(*histories, rtol=1e-4)


class TestWhere:
    @pytest.fixture
    def segments(self, monkeypatch):
        """The number of segments that a network was trained with, in a list."""
        used, parts = [], recompute._parts

        def counted(network):
            result = parts(network)
            used.append(len(result[1]))
            return result

        monkeypatch.setattr(recompute, "_parts", counted)
        return used

    def test_in_training_for_every_batch_norm_but_the_last(self, segments):
        _, frugal = pair()
        frugal(batch(2)[0], training=True)
        assert segments == [8]

    def test_not_for_scores(self, segments):
        plain, frugal = pair()
        inputs, _ = batch(2)
        np.testing.assert_array_equal(frugal(inputs), plain(inputs))
        assert not segments

    def test_not_on_a_gpu(self, segments, monkeypatch):
        monkeypatch.setattr(gpus, "capabilities", lambda: [(8, 0)])
        _, frugal = pair()
        frugal(batch(2)[0], training=True)
        assert not segments

    def test_not_in_half_precision(self, segments):
        _, frugal = pair(precision="bfloat16")
        frugal(batch(2)[0], training=True)
        assert not segments

    def test_not_with_frozen_batch_norm(self, segments):
        plain, frugal = pair()
        plain.get_layer("block2a_norm").trainable = False
        frugal(batch(2)[0], training=True)
        assert not segments

    def test_published_networks_but_not_those_of_small_and_demo(self):
        for profile, expected in (("published", True), ("small", False), ("demo", False)):
            for experiment in config.experiments(profile):
                assert experiment.has_large_maps == expected
        tagger = build_tagger(config.EXPERIMENTS["v1mix"], N_CLASSES)
        assert isinstance(tagger, FrugalNetwork)
