"""The networks: parameter counts as published, shapes, and that weights carry over."""

import dataclasses

import numpy as np
import pytest

import config
from conftest import TINY
from solution.models import build_tagger

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


def layers_by_name(model) -> dict:
    """Those of the three networks that a tagger is made of."""
    parts = [model.get_layer(name) for name in ("crop_branch", "clip_branch", "head")]
    return {layer.name: layer for part in parts for layer in part.layers}


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
    assert layers_by_name(model)["pixel_shuffle"].input.shape == (
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
    ("setting", "name"), [("global_features", "global_feat"), ("clip_length", "length")]
)
def test_the_head_is_not_to_see_what_a_setting_leaves_out(setting, name):
    rng, small = np.random.default_rng(0), {**TINY, "frontend": "logmel", "precision": "float32"}
    inputs = {
        "audio": rng.uniform(-80, 0, (2, 23, 64)),
        "length": rng.uniform(0, 3, (2, 1)),
        "global_feat": rng.normal(0, 1, (2, 128, 12)),
    }
    other = inputs | {name: inputs[name][::-1]}
    for sees in (True, False):
        chosen = dataclasses.replace(config.EXPERIMENTS["v1mix"], **small, **{setting: sees})
        score = build_tagger(chosen, 5).predict_on_batch
        assert np.allclose(score(inputs), score(other), atol=1e-6) != sees


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
