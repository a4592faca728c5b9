"""Batch norm is folded where the graph has convolutions before it, whatever they are called."""

import keras
import numpy as np
from keras import layers

from fast import folding


def network():
    """Two convolutions side by side, an unnormed one, one without bias, and dense features."""
    x = image = keras.Input((6, 5, 3))
    sides = [layers.Conv2D(2, 3, padding="same", name="z"), layers.Conv2D(4, 1, name="a")]
    x = layers.Concatenate()([side(x) for side in sides])
    x = layers.ReLU()(layers.BatchNormalization(name="n")(x))
    x = layers.Conv2D(3, 3, name="plain")(x)
    x = layers.ReLU()(x)
    x = layers.BatchNormalization(name="after ReLU")(x)
    x = layers.Conv2D(2, 3, use_bias=False, name="n_conv")(x)
    x = layers.BatchNormalization(epsilon=0.1, name="b")(x)
    return keras.Model(image, layers.BatchNormalization(name="of means")(keras.ops.mean(x, (1, 2))))


def test_same_results_with_fewer_layers_and_after_learning_too():
    rng, model = np.random.default_rng(0), network()
    small = folding.folded(model)
    norms = [layer for layer in small.layers if isinstance(layer, layers.BatchNormalization)]
    assert [norm.name for norm in norms] == ["after ReLU", "of means"]
    x = rng.normal(0, 1, (4, 6, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(small(x), model(x), atol=1e-5)
    model.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in model.get_weights()])
    assert np.abs(small(x) - model(x)).max() > 0.1
    folding.refold(model, small)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4)
