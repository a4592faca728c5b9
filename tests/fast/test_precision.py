"""Half-width numbers where the hardware has them, float32 where it matters; the same scores."""

import dataclasses

import keras
import numpy as np
import pytest

import config
from conftest import TINY
from fast import gpus, precision
from solution.models import build_tagger

SMALL = {"crop_samples": 8000, "n_hop": TINY["n_hop"], "gru_units": TINY["gru_units"]}
WIDER = {**SMALL, "stem_filters": 16, "block_filters": (16, 16, 32, 32)}


def compiled(kind):
    keras.utils.set_random_seed(0)
    chosen = dataclasses.replace(config.EXPERIMENTS["se"], **WIDER, precision=kind)
    model = build_tagger(chosen, 3)
    model.compile(keras.optimizers.Nadam(1e-3), loss="binary_crossentropy", jit_compile=False)
    return model


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
def test_half_width_trains_like_float32(batch, kind):
    scores, losses = [], []
    for model in (compiled(kind), compiled("float32")):
        scores.append(model.predict_on_batch(batch[0]))
        assert scores[-1].dtype == np.float32
        losses.append([])
        for _ in range(5):
            losses[-1].append(model.train_on_batch(*batch))
            model.reset_metrics()
    assert 0 < np.abs(scores[0] - scores[1]).max() < 0.02  # another precision, and not far off
    np.testing.assert_allclose(*losses, rtol=0.1)
    assert losses[0][-1] < 0.8 * losses[0][0]  # both learn


def test_float32_where_it_matters():
    model = compiled("bfloat16")
    crop, clip, head = map(model.get_layer, ("crop_branch", "clip_branch", "head"))
    in_float32 = [model.get_layer("melspectrogram"), *clip.layers, *head.layers]
    in_float32 = [layer for layer in in_float32 if not isinstance(layer, keras.layers.InputLayer)]
    assert {layer.compute_dtype for layer in in_float32} == {"float32"}
    for name in ("stem_conv", "stem_norm", "block4b_conv", "block4b_excite"):
        assert crop.get_layer(name).compute_dtype == "bfloat16"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert {part.output.dtype for part in (crop, clip, head)} == {"float32"}


def test_float16_scales_the_loss():
    assert type(compiled("float16").optimizer).__name__ == "LossScaleOptimizer"
    assert type(compiled("bfloat16").optimizer).__name__ == "Nadam"


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


def test_the_policy_is_that_of_the_network_only():
    with pytest.raises(KeyError), precision.used("bfloat16"):
        raise KeyError
    assert precision.keras.config.dtype_policy().name == "float32"
