"""The stacker: its initial output, its constraint, and that it never sees what it is scored on."""

import dataclasses

import numpy as np
import pytest

import ensemble
from clips import dataset
from config import Config
from solution import metrics
from solution.stacker import StackerTrainer, predict, stacker_input
from storage import Checkpoint

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
    np.testing.assert_allclose(predict(inputs, weights), np.mean(scores, axis=0), atol=1e-6)


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


def folds(truth, config):
    return dataset.assign_folds(truth, config.n_folds, config.fold_seed)


def test_stacking_scores_no_less_than_the_average(data):
    truth, inputs = data
    config = dataclasses.replace(Config(), n_folds=4, stacker_epochs=30)
    fold_of = folds(truth, config)
    trainer = StackerTrainer(inputs, truth, fold_of, config)
    for fold in range(4):
        kept, validated = trainer.fit(fold), fold_of == fold
        assert 0 <= kept.scores.min() <= kept.scores.max() <= 1
        assert kept.lrap == metrics.lrap(truth[validated], kept.scores)
        assert kept.lrap >= metrics.lrap(truth[validated], inputs[validated, :, -1])


def test_the_kept_weights_are_of_the_kept_scores(data):
    truth, inputs = data
    config = dataclasses.replace(Config(), n_folds=4, stacker_epochs=9, stacker_learning_rate=0.01)
    fold_of = folds(truth, config)
    trainer = StackerTrainer(inputs, truth, fold_of, config)
    kept = trainer.fit(1)
    trainer.model.set_weights(kept.weights)
    scores = trainer.model.predict_on_batch(inputs[fold_of == 1])
    np.testing.assert_allclose(scores, kept.scores, rtol=1e-6)


def test_stacking_stops_when_the_best_epoch_lies_patience_back(data, monkeypatch):
    truth, inputs = data
    config = dataclasses.replace(Config(), n_folds=2, stacker_patience=3)
    lraps = iter([0.1, 0.5, 0.2, 0.3, 0.5, 0.9])
    monkeypatch.setattr(metrics, "lrap", lambda *_: next(lraps))
    kept = StackerTrainer(inputs, truth, folds(truth, config), config).fit(0)
    assert (kept.epoch, kept.lrap, next(lraps)) == (1, 0.5, 0.9)


def test_each_fold_starts_anew_and_is_reproducible(data):
    truth, inputs = data
    config = dataclasses.replace(Config(), n_folds=2, stacker_epochs=4)
    trainer = StackerTrainer(inputs, truth, folds(truth, config), config)
    first = trainer.fit(1)
    trainer.fit(0)
    again = trainer.fit(1)
    for one, other in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_learns_in_batches_of_forty_in_another_order_each_epoch(data, monkeypatch):
    truth, inputs = data
    config = dataclasses.replace(Config(), n_folds=4, stacker_epochs=2)
    trainer, seen = StackerTrainer(inputs, truth, folds(truth, config), config), []
    monkeypatch.setattr(trainer.model, "train_on_batch", lambda x, _: seen.append(x))
    trainer.fit(0)
    assert [len(x) for x in seen] == [40, 35, 40, 35]
    assert not np.array_equal(seen[0], seen[2])


def test_clips_of_the_fold_are_not_trained_on(data):
    """What they are, and their labels, changes nothing but which epoch is the best."""
    truth, inputs = data
    config = dataclasses.replace(Config(), n_folds=5, stacker_epochs=2, stacker_learning_rate=0.01)
    fold_of = folds(truth, config)
    last = []
    for change in (False, True):
        trainer = StackerTrainer(inputs.copy(), truth.copy(), fold_of, config)
        if change:
            trainer._inputs[fold_of == 3] = 0.5
            trainer._truth[fold_of == 3] = 1
        trainer.fit(3)
        last.append(trainer.model.get_weights())
        assert np.abs(last[-1][1] - np.eye(N_CLASSES)).max() > 1e-3  # it did learn
    for one, other in zip(*last, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("after", [1, 4])
def test_goes_on_where_it_was_interrupted(data, tmp_path, monkeypatch, after, capsys):
    truth, inputs = data
    config = dataclasses.replace(Config(), n_folds=2, stacker_epochs=8, stacker_learning_rate=0.01)
    fold_of = folds(truth, config)
    whole = StackerTrainer(inputs, truth, fold_of, config).fit(0)

    epochs = []
    original = StackerTrainer._train

    def train(trainer, fold, epoch):
        if len(epochs) == after and after not in epochs:
            epochs.append(None)
            raise KeyboardInterrupt
        epochs.append(epoch)
        original(trainer, fold, epoch)

    monkeypatch.setattr(StackerTrainer, "_train", train)
    checkpoint = Checkpoint(tmp_path / "checkpoint", "#a")
    with pytest.raises(KeyboardInterrupt):
        StackerTrainer(inputs, truth, fold_of, config).fit(0, checkpoint)
    resumed = StackerTrainer(inputs, truth, fold_of, config).fit(0, checkpoint)
    assert epochs == [*range(after), None, *range(after, 8)]
    assert (resumed.epoch, resumed.lrap) == (whole.epoch, whole.lrap)
    np.testing.assert_array_equal(resumed.scores, whole.scores)
    for one, other in zip(resumed.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(one, other)
