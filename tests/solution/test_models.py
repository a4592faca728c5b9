"""The networks: parameter counts as published, shapes, poolings, and that weights carry over."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import config
from conftest import TINY
from fast import gpus, layers
from fast.layers import FEWEST_CHANNELS, FEWEST_POSITIONS, Conv2D, FusedBatchNormalization
from solution.models import build_tagger, pool

PARAMETERS = {
    "v1mix": 5_230_288,
    "max3exam": 5_230_288,
    "msc_1.0": 5_620_632,
    "msc_2.0": 21_151_752,
    "msc_1.5": 12_106_704,
    "se": 5_588_176,
    "cat": 5_937_840,
    "se_cat": 6_295_728,
}


@pytest.mark.parametrize("name", config.EXPERIMENTS)
def test_parameter_counts_are_the_published_ones(name):
    model = build_tagger(config.EXPERIMENTS[name], 80)
    assert model.count_params() == PARAMETERS[name]
    shapes = {name: tensor.shape for name, tensor in model.input.items()}
    assert shapes == {
        "audio": (None, 220500),
        "length": (None, 1),
        "global_feat": (None, 128, 12),
    }
    assert model.output_shape == (None, 80)
    assert model.get_layer("pixel_shuffle").input.shape == (
        None,
        56,
        8,
        config.EXPERIMENTS[name].scaled_block_filters[-1],
    )


def test_learned_pooling_adds_one_kernel_per_block():
    chosen = dataclasses.replace(config.EXPERIMENTS["v1mix"], pooling=("max", "conv"))
    assert build_tagger(chosen, 80).count_params() == 5_230_305


def test_log_mel_front_end_has_the_same_network():
    chosen = dataclasses.replace(config.EXPERIMENTS["v1mix"], frontend="logmel")
    model = build_tagger(chosen, 80)
    assert model.input["audio"].shape == (None, 441, 64)
    assert model.count_params() == PARAMETERS["v1mix"]


@pytest.mark.parametrize(
    "setting", [{"frontend": "mfcc"}, {"stem": "wide"}, {"pooling": ("x", "x")}]
)
def test_unknown_settings_are_refused(setting):
    chosen = dataclasses.replace(config.EXPERIMENTS["v1mix"], **setting)
    with pytest.raises(ValueError, match="must be"):
        build_tagger(chosen, 80)


def naive_pool(x, over, axis, size, stride):
    """'same' pooling of one axis, window by window; averages leave the padding out."""
    x = np.moveaxis(x, axis, 0)
    n_out = -(-len(x) // stride)
    left = max((n_out - 1) * stride + size - len(x), 0) // 2
    starts = [i * stride - left for i in range(n_out)]
    return np.moveaxis(
        np.stack([over(x[max(0, start) : start + size], axis=0) for start in starts]), 0, axis
    )


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1), ((3, 2), (2, 1))])
@pytest.mark.parametrize(
    ("mode", "steps"),
    [
        ("avemax1", [(np.mean, 1), (np.max, 2)]),
        ("avemax2", [(np.mean, 2), (np.max, 1)]),
        ("avemax3", [(np.max, 2), (np.mean, 1)]),
        ("avemax4", [(np.max, 1), (np.mean, 2)]),
        ("max", [(np.max, 1), (np.max, 2)]),
        ("ave", [(np.mean, 1), (np.mean, 2)]),
        ("conv", [(np.sum, 1), (np.sum, 2)]),
    ],
)
def test_pooling_modes(mode, steps, size, stride):
    x = np.random.default_rng(0).standard_normal((2, 9, 8, 3)).astype(np.float32)
    expected = x
    for over, axis in steps:
        one_size, one_stride = (
            value if isinstance(value, int) else value[axis - 1] for value in (size, stride)
        )
        expected = naive_pool(expected, over, axis, one_size, one_stride)
        if mode == "conv":  # which starts as an average that counts the padding
            expected = expected / one_size
    np.testing.assert_allclose(pool(x, mode, (size, stride)), expected, atol=1e-5)


def test_no_pooling():
    x = np.ones((1, 4, 4, 2), np.float32)
    assert pool(x, "none", (2, 2)) is x
    assert pool(x, "max", None) is x


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


@pytest.mark.parametrize("name", ["max3exam", "se_cat", "msc_1.5"])
def test_weights_survive_saving_and_max3exam_takes_those_of_v1mix(tmp_path, name):
    chosen = dataclasses.replace(config.EXPERIMENTS[name], **TINY)
    source = config.EXPERIMENTS["v1mix" if name == "max3exam" else name]
    source = build_tagger(dataclasses.replace(source, **TINY), 3)
    source.save_weights(tmp_path / "a.weights.h5")
    model = build_tagger(chosen, 3)
    model.load_weights(tmp_path / "a.weights.h5")
    for one, other in zip(source.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
