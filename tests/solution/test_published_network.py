"""The networks against their published description, written down a second time in NumPy."""

import dataclasses

import keras
import numpy as np
import pytest
from test_models import layers_by_name
from test_pooling import naive_pool

import config
from conftest import TINY
from solution.models import build_tagger

SECOND_POOLING = {  # by its name: what is done, to which axis; 1 is time, 2 is mel
    "avemax1": ((np.mean, 1), (np.max, 2)),
    "avemax3": ((np.max, 2), (np.mean, 1)),
}
FIRST_POOLING = ((np.max, 1), (np.max, 2))
SECOND_SIZES = (2, 2, 3, None)  # of the blocks; the last does not pool


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Published:
    """An experiment's network with the weights of `model`."""

    def __init__(self, chosen, model):
        self.chosen, self.layers = chosen, layers_by_name(model)

    def __call__(self, inputs):
        """Scores (batch, classes)."""
        x = self.of_sound(inputs["audio"][..., None])
        y = self.of_features(inputs["global_feat"])
        kernel, bias = self.weights("tags")
        return sigmoid(np.concatenate([x, y, inputs["length"]], axis=-1) @ kernel + bias)

    def of_sound(self, x):
        scales = [f"stem_conv{size}x{size}" for size in (3, 5, 7)]
        stem = scales if self.chosen.stem == "msc" else ["stem_conv"]
        x = self.activated(np.concatenate([self.convolved(x, name) for name in stem], -1), "stem")
        for number, size in enumerate(SECOND_SIZES, 1):
            x = self.of_block(x, f"block{number}", size)
        batch, frames, bands, channels = x.shape
        x = x.reshape(batch, frames, bands // 2, 2 * channels)  # the pixel shuffle
        return x.max(axis=1).mean(axis=1)

    def of_block(self, x, name, size):
        highway = self.activated(self.convolved(x, f"{name}a_conv"), f"{name}a")
        if size:
            highway = self.pooled(highway, FIRST_POOLING, 3, 1)
        x = self.activated(self.convolved(highway, f"{name}b_conv"), f"{name}b")
        if self.chosen.cat:
            x = self.convolved(np.concatenate([highway, x], axis=-1), f"{name}_conv1x1")
        return self.pooled(x, SECOND_POOLING[self.chosen.pooling[1]], size, 2) if size else x

    def of_features(self, x):
        x = self.normed(x, "global_norm")
        for name in ("global_gru1", "global_gru2"):
            weights = self.weights(name)
            x = gru(x, *weights[:3]) + gru(x[:, ::-1], *weights[3:])[:, ::-1]
        return x.max(axis=1)

    def convolved(self, x, name):
        kernel, *bias = self.weights(name)
        size = len(kernel)
        x = np.pad(x, ((0, 0), *[((size - 1) // 2, size // 2)] * 2, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        return np.einsum("btmcij,ijcf->btmf", windows, kernel, optimize=True) + sum(bias)

    def activated(self, x, name):
        x = np.maximum(self.normed(x, f"{name}_norm"), 0)
        if not self.chosen.squeeze_excite:
            return x
        (kernel1, bias1), (kernel2, bias2) = map(self.weights, (f"{name}_reduce", f"{name}_excite"))
        scale = np.maximum(x.mean(axis=(1, 2)) @ kernel1 + bias1, 0) @ kernel2 + bias2
        return x * sigmoid(scale)[:, None, None]

    def normed(self, x, name):
        gamma, beta, mean, variance = self.weights(name)
        return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta

    def pooled(self, x, steps, size, stride):
        for over, axis in steps:
            x = naive_pool(x, over, axis, size, stride)
        return x

    def weights(self, name):
        return [array.astype(np.float64) for array in self.layers[name].get_weights()]


def gru(x, kernel, recurrent, bias):
    """cuDNN's variant, which resets after the matrix product: all states (batch, steps, units)."""
    state, states = np.zeros((len(x), len(recurrent))), []
    for step in np.moveaxis(x, 1, 0):
        update, reset, new = np.split(step @ kernel + bias[0], 3, axis=-1)
        of_state = np.split(state @ recurrent + bias[1], 3, axis=-1)
        update, reset = sigmoid(update + of_state[0]), sigmoid(reset + of_state[1])
        state = update * state + (1 - update) * np.tanh(new + reset * of_state[2])
        states.append(state)
    return np.stack(states, axis=1)


def with_weights_of_a_trained_one(model, rng):
    """Those of a new network would hide what batch norm and biases do."""
    for layer in layers_by_name(model).values():
        weights = [weight + rng.normal(0, 0.1, weight.shape) for weight in layer.get_weights()]
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma_and_variance = rng.uniform(0.5, 1.5, (2, *layer.gamma.shape))
            weights[0], weights[3] = gamma_and_variance
        layer.set_weights(weights)
    return model


@pytest.mark.parametrize("name", config.EXPERIMENTS)
def test_scores_are_those_of_the_published_network(name):
    chosen = config.EXPERIMENTS[name]
    chosen = dataclasses.replace(chosen, **TINY, frontend="logmel", precision="float32")
    rng = np.random.default_rng(0)
    model = with_weights_of_a_trained_one(build_tagger(chosen, n_classes=3), rng)
    inputs = {
        "audio": rng.normal(0, 1, (4, 23, 64)).astype(np.float32),
        "length": rng.uniform(0, 3, (4, 1)).astype(np.float32),
        "global_feat": rng.normal(0, 1, (4, 128, 12)).astype(np.float32),
    }
    scores = model.predict_on_batch(inputs)
    assert np.ptp(scores, axis=0).max() > 0.02  # the clips differ
    np.testing.assert_allclose(scores, Published(chosen, model)(inputs), atol=1e-4)


@pytest.mark.parametrize("name", config.EXPERIMENTS)
def test_settings_of_the_networks_are_the_published_ones(name):
    chosen = config.EXPERIMENTS[name]
    assert chosen.pooling == ("max", "avemax3" if name == "max3exam" else "avemax1")
    model = build_tagger(dataclasses.replace(chosen, **TINY), 3)
    norms = [
        layer
        for layer in layers_by_name(model).values()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [norm.momentum for norm in norms]
    assert momenta == [0.85] * 9 + [0.99]  # of nine layers, and of the global features
    assert [norm.epsilon for norm in norms] == [1e-3] * 10  # some of those vary by less


def initial(settings: dict) -> dict[str, str]:
    """What the weights of a layer start from, by the settings of it or of the layer in it."""
    found = {}
    for name, value in settings.items():
        if name.endswith("_initializer") and value is not None:
            found[name.removesuffix("_initializer")] = value["class_name"]
        elif name in ("layer", "backward_layer"):
            found |= initial(value["config"])
    return found


@pytest.mark.parametrize("name", ["v1mix", "se_cat", "msc_1.0"])
def test_initial_weights_are_drawn_as_published(name):
    # The defaults of Keras 2.1.5: no layer of the solution names its own.
    kernels = {"kernel": "GlorotUniform", "bias": "Zeros"}
    averages = {"moving_mean": "Zeros", "moving_variance": "Ones"}
    published = {
        "Conv2D": kernels,
        "Dense": kernels,
        "Bidirectional": {**kernels, "recurrent": "Orthogonal"},
        "BatchNormalization": {"gamma": "Ones", "beta": "Zeros", **averages},
    }
    published["FusedBatchNormalization"] = published["BatchNormalization"]
    model = build_tagger(dataclasses.replace(config.EXPERIMENTS[name], **TINY), 3)
    drawn = [layer for layer in layers_by_name(model).values() if layer.weights]
    assert {type(layer).__name__ for layer in drawn} == published.keys()
    for layer in drawn:
        assert initial(layer.get_config()) == published[type(layer).__name__], layer.name
