"""The published settings, and that a profile only overrides them."""

import dataclasses

import keras
import pytest

import config
from fast import precision
from solution.pooling import pool


def test_defaults_are_the_published_settings():
    v1mix = config.EXPERIMENTS["v1mix"]
    assert (v1mix.sample_rate, v1mix.crop_samples, v1mix.n_dft, v1mix.n_hop) == (
        44100,
        220500,
        1024,
        500,
    )
    assert (v1mix.crop_frames, v1mix.n_mels) == (441, 64)
    assert (v1mix.batch_size, v1mix.learning_rate) == (32, 5e-4)
    assert (v1mix.label_smoothing, v1mix.mixup_rate) == (0.01, 0.7)
    assert (v1mix.n_folds, v1mix.fold_seed) == (10, 66666)
    pretraining, training = v1mix.pretraining, v1mix.training
    assert (pretraining.epochs, pretraining.milestones) == (35, (8, 12, 16))
    assert (pretraining.mixup_prob, pretraining.keep_from) == (0.7, 28)
    assert (training.epochs, training.milestones) == (40, (14, 21, 28))
    assert (training.mixup_prob, training.stop_from, training.patience) == (0.6, 35, 10)
    assert (v1mix.stacker_learning_rate, v1mix.stacker_batch_size) == (1e-4, 40)
    assert (v1mix.stacker_epochs, v1mix.stacker_patience) == (1000, 15)


def test_the_published_ensemble_and_its_weights():
    weights = {name: config.EXPERIMENTS[name].stack_weight for name in config.EXPERIMENTS}
    published = {
        "msc_1.0": 1.0,
        "max3exam": 1.9,
        "v1mix": 2.1,
        "msc_2.0": 1.0,
        "msc_1.5": 1.0,
        "se": 0,
    }
    assert config.PROFILES["published"].experiments == tuple(published)
    assert {name: weights[name] for name in published} == published


def test_pretraining_is_carried_over_as_published():
    starts = {name: chosen.pretrained_by for name, chosen in config.EXPERIMENTS.items()}
    assert starts.pop("max3exam") == "v1mix"
    assert all(name == start for name, start in starts.items())


def test_published_profile_changes_nothing():
    for chosen in config.experiments("published"):
        assert chosen == config.EXPERIMENTS[chosen.name]


def test_results_depend_on_all_settings_that_change_them():
    """A setting that is missing here would leave results as done that have to be made again."""
    known = {field.name for field in dataclasses.fields(config.Config)}
    of_stacker = {name for name in known if name.startswith("stacker_")}
    seen_otherwise = {"n_folds", "fold_seed", "pretrained_by", "pretraining", "training"}
    assert set(config.TRAINING_SETTINGS) == known - of_stacker - seen_otherwise - {"stack_weight"}
    assert set(config.STACKING_SETTINGS) == {*of_stacker, "n_folds", "fold_seed", "seed"}


@pytest.mark.parametrize("profile", config.PROFILES)
def test_profiles_override_known_settings_for_every_experiment(profile):
    known = {field.name for field in dataclasses.fields(config.Config)}
    assert set(config.PROFILES[profile].overrides) <= known - {"name", "pretrained_by"}
    chosen = config.experiments(profile, list(config.EXPERIMENTS))
    assert [one.name for one in chosen] == list(config.EXPERIMENTS)
    for one in chosen:
        # A milestone or first kept epoch beyond the last epoch would never come.
        for schedule in (one.pretraining, one.training):
            assert max(*schedule.milestones, schedule.keep_from) < schedule.epochs


IMPOSSIBLE = {
    "n_folds": [0, 1],
    "n_views": [2],
    "batch_size": [0],
    "crop_samples": [0, -5],
    "sample_rate": [0, 999, 1_000_001],
    "precision": ["half"],
    "pooling": [["max", "min"]],
    "stem": ["wide"],
    "frontend": ["mfcc"],
    "gru_units": [0],
    "w_ratio": [0.0, float("inf")],
    "mixup_beta": [0.0, -1.0, float("inf")],
    "mixup_rate": [1.1],
    "label_smoothing": [-0.1, 2.0],
    "masked_mels": [-1, 65],
    "masked_frames": [442],
    "learning_rate": [0.0, -1.0, float("nan")],
    "block_filters": [[], [0, 16, 16, 16], [16] * 3, [16] * 5],
    "stem_filters": [0],
    "seed": [-1],
    "fold_seed": [-1, 2**32],
    "stacker_epochs": [0, -1],
    "training": [
        *({"epochs": 0}, {"milestones": [-1]}, {"mixup_prob": 1.5}, {"patience": -1}),
        *({"keep_from": 40}, {"loss_q": 0.0}),
    ],
}


@pytest.mark.parametrize(("name", "values"), IMPOSSIBLE.items())
def test_impossible_settings_are_refused_by_name(name, values):
    for value in values:
        expected = f"{name}.{next(iter(value))} must be " if name == "training" else f"{name} must "
        frontend = "logmel" if name.startswith("masked") else "waveform"
        with pytest.raises(ValueError, match=expected):
            config.overridden(config.Config(), {"frontend": frontend, name: value})


def test_masks_are_of_log_mels():
    with pytest.raises(ValueError, match="frontend must be 'logmel' with masked_frames"):
        config.overridden(config.Config(), {"masked_mels": 1})


@pytest.mark.parametrize("settings", [{"squeeze_excite": True}, {"stem": "msc"}])
def test_parts_of_channels_are_whole(settings):
    channels = {"stem_filters": 1, "block_filters": [4, 4, 4, 4]}
    config.overridden(config.Config(), channels)
    with pytest.raises(ValueError, match="stem_filters must be more; got 1"):
        config.overridden(config.Config(), channels | settings)


def test_what_may_be_chosen_is_what_there_is():
    for mode in config.POOLINGS:
        assert pool(keras.Input((8, 8, 4)), mode, 3, 1).shape[1:3] == (8, 8)
    assert set(config.PRECISIONS) == {"auto", *precision.POLICIES}


def test_what_an_experiment_sets_itself_counts_before_the_profile(monkeypatch):
    mine = config.Config("mine", n_hop=441, block_filters=(32, 64, 128, 256))
    monkeypatch.setitem(config.EXPERIMENTS, "mine", mine)
    (found,) = config.experiments("small", ["mine"])
    assert (found.n_hop, found.block_filters) == (441, (32, 64, 128, 256))
    assert found.batch_size == config.PROFILES["small"].overrides["batch_size"]
    assert config.experiments("small", ["mine"], {"n_hop": 512})[0].n_hop == 512
    for name in config.PROFILES:  # what is published leaves to them what they set
        for one in config.experiments(name, list(config.EXPERIMENTS)[:-1]):
            changed = {key: getattr(one, key) for key in config.PROFILES[name].overrides}
            assert changed == config.PROFILES[name].overrides
