"""Keras' layers, made faster: they give what Keras' own give."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fast import gpus, layers
from fast.layers import FEWEST_CHANNELS, FEWEST_POSITIONS, Conv2D, FusedBatchNormalization


class TestFusedBatchNormalization:
    x = np.random.default_rng(1).normal(3, 2, (4, 5, 6, 7)).astype(np.float32)

    def test_equals_keras_layer_in_training_and_prediction(self):
        fused, plain = (
            FusedBatchNormalization(momentum=0.85),
            keras.layers.BatchNormalization(momentum=0.85),
        )
        np.testing.assert_allclose(
            fused(self.x, training=True), plain(self.x, training=True), atol=1e-4
        )
        np.testing.assert_allclose(fused.moving_mean, plain.moving_mean, rtol=1e-5)
        n = self.x[..., 0].size  # the fused kernel keeps the unbiased variance
        unbiased = 0.85 + (plain.moving_variance.numpy() - 0.85) * n / (n - 1)
        np.testing.assert_allclose(fused.moving_variance, unbiased, rtol=1e-4)
        plain.moving_variance.assign(fused.moving_variance)
        np.testing.assert_allclose(fused(self.x), plain(self.x), atol=1e-4)

    def test_frozen_it_keeps_its_statistics(self):
        layer = FusedBatchNormalization()
        layer.trainable = False
        layer(self.x, training=True)
        np.testing.assert_array_equal(layer.moving_mean, 0)


class TestConv2D:
    """Gradients, where they are computed as matrix products and where they are Keras' own."""

    @pytest.mark.parametrize("kernel_size", [3, 5, 2, (3, 1), (1, 3), (2, 5), 1])
    @pytest.mark.parametrize("shape", [(3, 40, 26, FEWEST_CHANNELS), (1, 33, 32, 48)])
    def test_gradients_equal_those_of_keras_layer(self, kernel_size, shape):
        self.compare(shape, kernel_size=kernel_size, padding="same")

    @pytest.mark.parametrize(
        "options",
        [
            {"padding": "valid"},
            {"padding": "same", "strides": 2},
            {"padding": "same", "dilation_rate": 2},
            {"padding": "same", "groups": 2},
            {"padding": "same", "activation": "relu"},
            {"padding": "same", "use_bias": False},
        ],
    )
    def test_takes_all_arguments_of_keras_layer(self, options):
        self.compare((2, 32, 32, FEWEST_CHANNELS), kernel_size=3, **options)

    def compare(self, shape, **options):
        rng = np.random.default_rng(0)
        x = tf.constant(rng.standard_normal(shape), tf.float32)
        results, initial = [], None
        for kind in (Conv2D, keras.layers.Conv2D):
            layer = kind(8, **options)
            layer.build(shape)
            initial = initial or layer.get_weights()
            layer.set_weights(initial)
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = layer(x)
                loss = tf.reduce_sum(outputs**2)
            results.append([outputs, *tape.gradient(loss, [x, *layer.trainable_weights])])
        for ours, keras_ in zip(*results, strict=True):
            scale = np.abs(keras_).max()
            np.testing.assert_allclose(ours / scale, keras_ / scale, atol=1e-5)

    @pytest.mark.parametrize(
        ("shape", "dtype", "on_gpu", "expected"),
        [
            ((2, FEWEST_POSITIONS // 32, 32, FEWEST_CHANNELS), "float32", False, True),
            ((2, FEWEST_POSITIONS // 32 - 1, 32, FEWEST_CHANNELS), "float32", False, False),
            ((2, FEWEST_POSITIONS // 32, 32, FEWEST_CHANNELS - 1), "float32", False, False),
            ((2, FEWEST_POSITIONS // 32, 32, FEWEST_CHANNELS), "bfloat16", False, False),
            ((2, FEWEST_POSITIONS // 32, 32, FEWEST_CHANNELS), "float32", True, False),
        ],
    )
    def test_matrix_products_only_where_they_pay(self, monkeypatch, shape, dtype, on_gpu, expected):
        monkeypatch.setattr(gpus, "capabilities", lambda: [(8, 0)] * on_gpu)
        called = []
        monkeypatch.setattr(layers, "_convolution", lambda x, _: called.append(1) or x)
        layer = Conv2D(4, 3, padding="same", use_bias=False, dtype=dtype)
        layer(tf.zeros(shape, dtype))
        assert bool(called) is expected


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_mean_over_a_map_is_that_of_keras(dtype, keepdims):
    """Without its wide copies in bfloat16. The sums are beyond what half width can count to."""
    rng = np.random.default_rng(0)
    maps = tf.constant(rng.normal(100, 1, (2, 300, 64, 16)), dtype)
    slopes = tf.constant(rng.normal(0, 1, (2, 1, 1, 16) if keepdims else (2, 16)), dtype)

    def graph_and_results(layer):
        @tf.function
        def results(maps):
            mean = layer(maps)
            return mean, tf.gradients(mean, maps, slopes)[0]

        operations = results.get_concrete_function(maps).graph.get_operations()
        outputs = [output for operation in operations for output in operation.outputs]
        wide = [x for x in outputs if x.dtype == tf.float32 and x.shape == maps.shape]
        return len(wide), [np.asarray(x, np.float32) for x in results(maps)]

    options = {"keepdims": keepdims, "dtype": dtype}
    n_wide, (mean, gradient) = graph_and_results(layers.GlobalAveragePooling2D(**options))
    n_of_keras, expected = graph_and_results(keras.layers.GlobalAveragePooling2D(**options))
    assert n_of_keras > 0
    assert n_wide == (0 if dtype == "bfloat16" else n_of_keras)
    assert np.isfinite(mean).all()
    np.testing.assert_array_equal(mean, expected[0])
    np.testing.assert_array_equal(gradient, expected[1])
