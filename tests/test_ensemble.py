"""The stacker: its initial output, its constraint, and that it never sees what it is scored on."""

import dataclasses
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

import ensemble
from clips.dataset import Dataset, Split
from config import Config
from solution import folds, metrics
from solution.stacker import stack, stacker_input, train_stacker
from solution.training import Kept
from storage import read_scores
from trained import calibration
from trained import ensemble as trained

N_CLASSES, N_MODELS = 5, 3


@pytest.fixture
def data():
    """Scores of three models of different merit."""
    rng = np.random.default_rng(0)
    truth = np.eye(N_CLASSES, dtype=np.int8)[np.arange(100) % N_CLASSES]
    scores = [
        np.clip(truth * merit + rng.uniform(0, 0.8, truth.shape), 0, 1) for merit in (0.2, 0.3, 0.4)
    ]
    return truth, stacker_input(scores, [1.0, 1.9, 2.1])


def test_last_channel_is_the_weighted_average(data):
    _, inputs = data
    assert inputs.shape == (100, N_CLASSES, N_MODELS + 1)
    expected = (inputs[..., 0] + 1.9 * inputs[..., 1] + 2.1 * inputs[..., 2]) / 5
    np.testing.assert_allclose(inputs[..., 3], expected, rtol=1e-6)


def test_models_without_weight_count_alike():
    one = np.ones((2, 3))
    np.testing.assert_allclose(stacker_input([one, 3 * one], [0, 0])[..., 2], 2)


def test_initial_output_is_the_shifted_sigmoid_of_the_average(data):
    _, inputs = data
    model = ensemble.build_stacker(N_CLASSES, N_MODELS + 1)
    expected = 1 / (1 + np.exp(-2 * (inputs[..., -1] - 1.6)))
    np.testing.assert_allclose(model.predict_on_batch(inputs), expected, rtol=1e-4)


def test_scores_are_the_mean_over_the_trained_networks(data):
    _, inputs = data
    model, rng = ensemble.build_stacker(N_CLASSES, N_MODELS + 1), np.random.default_rng(0)
    weights, scores = [], []
    for _ in range(2):
        weights.append([rng.uniform(0, 1, weight.shape) for weight in model.weights])
        model.set_weights(weights[-1])
        scores.append(model.predict_on_batch(inputs))
    assert np.abs(scores[0] - scores[1]).max() > 0.01
    np.testing.assert_allclose(stack(inputs, weights), np.mean(scores, axis=0), atol=1e-6)


def test_has_one_vector_per_class_and_one_matrix_between_classes():
    model = ensemble.build_stacker(80, 7)
    assert [tuple(weight.shape) for weight in model.weights] == [(80, 7, 1), (80, 80)]


def test_is_compiled_as_published():
    model = ensemble.build_stacker(N_CLASSES, 4, learning_rate=3e-4)
    assert type(model.optimizer).__name__ == "Nadam"
    assert float(model.optimizer.learning_rate) == pytest.approx(3e-4)
    assert model.loss == "binary_crossentropy"


def test_weights_stay_of_unit_norm_over_the_models(data):
    truth, inputs = data
    model = ensemble.build_stacker(N_CLASSES, N_MODELS + 1, learning_rate=0.05)
    for _ in range(5):
        model.train_on_batch(inputs, truth)
    kernel = model.get_layer("models").get_weights()[0]  # (classes, models + 1, 1)
    assert np.abs(kernel[:, :-1]).max() > 0.01
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=1), 1, atol=1e-3)


def train(truth, inputs, fold, **settings):
    config = dataclasses.replace(Config(), **{"n_folds": 4, "stacker_epochs": 30, **settings})
    validated = folds.assign_folds(truth, config.n_folds) == fold
    part = f"stacker fold {fold}"
    return train_stacker(inputs, truth, ~validated, validated, config, part), validated


def test_stacking_scores_no_less_than_the_average(data):
    truth, inputs = data
    for fold in range(4):
        kept, validated = train(truth, inputs, fold)
        assert 0 <= kept.scores.min() <= kept.scores.max() <= 1
        assert kept.lrap == metrics.lrap(truth[validated], kept.scores)
        assert kept.lrap >= metrics.lrap(truth[validated], inputs[validated, :, -1])


def test_the_kept_weights_are_of_the_kept_scores(data):
    truth, inputs = data
    kept, validated = train(truth, inputs, 1, stacker_epochs=9, stacker_learning_rate=0.01)
    model = ensemble.build_stacker(N_CLASSES, N_MODELS + 1)
    model.set_weights(kept.weights)
    scores = model.predict_on_batch(inputs[validated])
    np.testing.assert_allclose(scores, kept.scores, rtol=1e-6)


def test_stacking_stops_when_the_best_epoch_lies_patience_back(data, monkeypatch):
    truth, inputs = data
    lraps = iter([0.1, 0.5, 0.2, 0.3, 0.5, 0.9])
    monkeypatch.setattr(metrics, "lrap", lambda *_: next(lraps))
    kept, _ = train(truth, inputs, 0, stacker_patience=3)
    assert (kept.epoch, kept.lrap, next(lraps)) == (1, 0.5, 0.9)


def test_its_start_counts_as_an_epoch(data, monkeypatch):
    truth, inputs = data
    lraps = iter([0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(metrics, "lrap", lambda *_: next(lraps))
    kept, _ = train(truth, inputs, 0, stacker_epochs=3)
    assert (kept.epoch, next(lraps)) == (2, 0.4)


def test_each_fold_starts_anew_and_is_reproducible(data):
    truth, inputs = data
    first, _ = train(truth, inputs, 1, stacker_learning_rate=0.01)
    train(truth, inputs, 0)
    again, _ = train(truth, inputs, 1, stacker_learning_rate=0.01)
    assert first.epoch > 0
    for one, other in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def seen_by(inputs, truth, validated, **settings):
    """The batches that a stacker learns from: (inputs, truth) each."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "train_on_batch", lambda _, x, y: seen.append((x, y)))
        config = dataclasses.replace(Config(), **settings)
        train_stacker(inputs, truth, ~validated, validated, config, "a")
    return seen


def test_learns_in_batches_of_forty_in_another_order_each_epoch(data):
    truth, inputs = data
    validated = np.arange(100) < 25
    seen = [x for x, _ in seen_by(inputs, truth, validated, stacker_epochs=2)]
    assert [len(x) for x in seen] == [40, 35, 40, 35]
    assert not np.array_equal(seen[0], seen[2])


def test_clips_of_the_fold_are_not_trained_on(data):
    truth, inputs = data
    validated = np.arange(100) % 5 == 3
    inputs[validated], truth[validated] = 0.5, 1
    for x, y in seen_by(inputs, truth, validated, stacker_epochs=3):
        assert not (x == 0.5).all(axis=(1, 2)).any()
        assert not y.all(axis=1).any()


def test_classes_without_labels_have_no_lwlrap():
    truth, scores = np.array([[1, 0, 0], [1, 1, 0]]), np.array([[0.9, 0.5, 0.1]] * 2)
    test = Split(["a.wav", "b.wav"], [], np.array([[1, 0, 0], [0, 0, 1]]))
    run = SimpleNamespace(dataset=Dataset(["Bark", "Meow", "Purr"], {"test": test}))
    table = ensemble.class_table(run, truth, {"ensemble": scores}, {"ensemble": scores})
    assert table["OOF labels"].tolist() == [2, 1, 0]
    assert table["test labels"].tolist() == [1, 0, 1]
    np.testing.assert_allclose(table["OOF lwlrap"], [1, 1, np.nan])
    np.testing.assert_allclose(table["test lwlrap"], [1, np.nan, 1 / 3])


def test_what_the_labels_of_test_clips_told_goes_with_them(finished_run, run_stage, tmp_path):
    root, _, arguments, _ = finished_run
    shutil.copytree(root, tmp_path / "run")
    folders = ("--input", tmp_path / "run/input", "--output", tmp_path / "run/out")
    assert (tmp_path / "run/out/calibration.csv").is_file()
    (tmp_path / "run/input/test_post_competition.csv").unlink()
    run_stage("ensemble", *folders, *arguments[4:])
    assert (tmp_path / "run/out/submission.csv").is_file()
    assert not (tmp_path / "run/out/calibration.csv").exists()


def test_tables_and_weights_are_of_the_stackers_they_are_called_after(
    finished_run, run_stage, tmp_path, monkeypatch
):
    """With stackers that differ: so few clips leave them all as they began."""
    root, made, arguments, _ = finished_run
    out = shutil.copytree(root / "out", tmp_path / "out")
    rng, kept, fitted, fit = np.random.default_rng(0), [], [], calibration.fit

    def drawn(inputs, truth, learnt, validated, *_):
        weights = [rng.uniform(0, 1, shape) for shape in ((3, 3, 1), (3, 3))]
        kept.append(Kept(1, 0.5, weights, stack(inputs[validated], [weights])))
        return kept[-1]

    monkeypatch.setattr(ensemble, "train_stacker", drawn)
    monkeypatch.setattr(calibration, "fit", lambda *one: fitted.append(one[0]) or fit(*one))
    run_stage("ensemble", *arguments[:2], "--output", out, *arguments[4:], "--force")
    for ours, theirs in zip(kept[::2], trained.read(out).stacker_weights, strict=True):
        for one, other in zip(ours.weights, theirs, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-6)
    of_folds = pd.read_csv(out / "folds.csv")["fold"].to_numpy()
    parts = [read_scores(out / f"predictions/{name}/oof.csv") for name in ("v1mix", "max3exam")]
    inputs = stacker_input([part.to_numpy() for part in parts], [2.1, 1.9])
    oof = read_scores(out / "oof.csv").to_numpy()
    for fold in (0, 1):
        own, (validated, held_out) = of_folds == fold, kept[2 * fold : 2 * fold + 2]
        np.testing.assert_allclose(oof[own], validated.scores, rtol=1e-5)
        expected = stack(inputs[own], [held_out.weights])  # probabilities are learnt from these
        np.testing.assert_allclose(fitted[-1][own], expected, rtol=1e-5)
    table = pd.read_csv(out / "scores.csv", index_col="model")
    scores, labels = read_scores(out / "submission.csv"), made.tables["test"]["labels"]
    truth = labels.str.get_dummies(",")[scores.columns].to_numpy()
    for first, usage in enumerate(("Public", "Private")):  # by turns
        expected = metrics.lwlrap(truth[first::2], scores.to_numpy()[first::2])
        assert table.loc["ensemble", f"test lwlrap {usage}"] == pytest.approx(expected)


def test_lifts_the_average_of_real_scores(needs_fsdkaggle2019):
    """Three networks' scores of 1,120 clips and 80 classes; each clip held out of its stacker."""
    tables = [
        pd.read_csv(path, index_col="fname").sort_index()
        for path in sorted((needs_fsdkaggle2019 / "scores").glob("model?.csv"))
    ]
    labels = pd.read_csv(needs_fsdkaggle2019 / "test_post_competition.csv", index_col="fname")
    labels = labels["labels"].loc[tables[0].index].str.get_dummies(",")
    truth = labels[tables[0].columns].to_numpy()
    scores = [table.to_numpy() for table in tables]
    average = np.mean(scores, axis=0)
    assert metrics.lwlrap(truth, average) == pytest.approx(0.5716, abs=1e-4)
    inputs, fold_of = stacker_input(scores, [1, 1, 1]), folds.assign_folds(truth)
    held_out, chosen = np.empty(truth.shape), fold_of < 3  # all ten folds: 0.5908
    for fold in range(3):
        scored, other = fold_of == fold, fold_of == fold + 1
        kept = train_stacker(inputs, truth, ~(scored | other), other, Config(), f"fold {fold}")
        held_out[scored] = stack(inputs[scored], [kept.weights])
    gain = metrics.lwlrap(truth[chosen], held_out[chosen]) - metrics.lwlrap(
        truth[chosen], average[chosen]
    )
    assert gain > 0.01
