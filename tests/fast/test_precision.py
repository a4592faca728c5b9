"""Half-width numbers where the hardware has them, float32 where it matters; the same scores."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import config
from conftest import TINY
from fast import gpus, layers, precision
from solution.training import Trainer

SMALL = {"crop_samples": 8000, "n_hop": TINY["n_hop"], "gru_units": TINY["gru_units"]}
WIDER = {**SMALL, "stem_filters": 16, "block_filters": (16, 16, 32, 32), "learning_rate": 1e-3}


def trainer(kind):
    return Trainer(dataclasses.replace(config.EXPERIMENTS["se"], **WIDER, precision=kind), 3)


@pytest.fixture(scope="module")
def reference():
    return trainer("float32")


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    inputs = {
        "audio": rng.normal(0, 0.1, (6, 8000)).astype(np.float32),
        "length": np.full((6, 1), 0.05, np.float32),
        "global_feat": rng.normal(0, 0.1, (6, 128, 12)).astype(np.float32),
    }
    return inputs, np.eye(3, dtype=np.float32)[np.arange(6) % 3]


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_width_trains_like_float32(reference, batch, kind):
    narrow = trainer(kind)
    losses = {}
    for name, chosen in (("float32", reference), (kind, narrow)):
        chosen.state.restart()
        chosen.model.reset_metrics()
        scores = chosen.model.predict_on_batch(batch[0])
        assert scores.dtype == np.float32
        losses[name] = [scores]
        for _ in range(5):
            losses[name].append(chosen.model.train_on_batch(*batch))
            chosen.model.reset_metrics()
    (ours, *ours_losses), (theirs, *their_losses) = losses[kind], losses["float32"]
    assert 0 < np.abs(ours - theirs).max() < 0.02  # it is another precision, and not far off
    np.testing.assert_allclose(ours_losses, their_losses, rtol=0.1)
    assert ours_losses[-1] < 0.8 * ours_losses[0]  # both learn


def test_float32_where_it_matters():
    model = trainer("bfloat16").model
    in_float32 = ("melspectrogram", "global_norm", "global_gru1", "concatenate", "tags")
    assert {model.get_layer(name).compute_dtype for name in in_float32} == {"float32"}
    for name in ("stem_conv", "stem_norm", "block4b_conv", "block4b_excite"):
        assert model.get_layer(name).compute_dtype == "bfloat16"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert {tensor.dtype for tensor in model.get_layer("concatenate").input} == {"float32"}


def test_float16_scales_the_loss():
    assert type(trainer("float16").model.optimizer).__name__ == "LossScaleOptimizer"
    assert type(trainer("bfloat16").model.optimizer).__name__ == "Nadam"


@pytest.mark.parametrize(
    ("capabilities", "flags", "expected"),
    [
        ([], {"avx2"}, "float32"),
        ([], {"avx512_bf16"}, "bfloat16"),
        ([], {"amx_bf16", "avx2"}, "bfloat16"),
        ([(6, 0)], {"amx_bf16"}, "float32"),  # P100
        ([(7, 5)], set(), "float16"),  # T4
        ([(8, 0), (12, 0)], set(), "bfloat16"),
        ([(9, 0), (7, 5)], set(), "float16"),
        ([(0, 0)], {"amx_bf16"}, "float32"),  # not NVIDIA's
    ],
)
def test_auto_is_what_the_hardware_multiplies(monkeypatch, capabilities, flags, expected):
    monkeypatch.setattr(gpus, "capabilities", lambda: capabilities)
    monkeypatch.setattr(precision, "_processor_flags", lambda: flags)
    assert precision.resolve("auto") == expected
    for kind in precision.POLICIES:
        assert precision.resolve(kind) == kind


@pytest.mark.parametrize(
    ("backend", "onednn", "expected"),
    [
        ("tensorflow", "1", "bfloat16"),
        ("tensorflow", "0", "float32"),
        ("torch", "0", "bfloat16"),  # of its own
        ("jax", "1", "float32"),
    ],
)
def test_auto_on_a_processor_asks_for_kernels_too(monkeypatch, backend, onednn, expected):
    monkeypatch.setattr(gpus, "capabilities", list)
    monkeypatch.setattr(precision, "_processor_flags", lambda: {"amx_bf16"})
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
    assert precision.resolve("auto") == expected


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


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="must be auto, float32, bfloat16, float16; got 'half'"):
        precision.resolve("half")


def test_the_policy_is_that_of_the_network_only():
    with pytest.raises(KeyError), precision.used("bfloat16"):
        raise KeyError
    assert precision.keras.config.dtype_policy().name == "float32"
