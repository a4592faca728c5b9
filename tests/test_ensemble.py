"""The stacker: its initial output, its constraint, and that it never sees what it is scored on."""

import dataclasses

import numpy as np
import pytest

import ensemble
import metrics
from config import Config

N_CLASSES, N_MODELS = 5, 3


@pytest.fixture
def data():
    """Scores of three models of different merit."""
    rng = np.random.default_rng(0)
    truth = np.eye(N_CLASSES, dtype=np.int8)[np.arange(100) % N_CLASSES]
    scores = [
        np.clip(truth * merit + rng.uniform(0, 0.8, truth.shape), 0, 1) for merit in (0.2, 0.3, 0.4)
    ]
    return truth, ensemble.stacker_input(scores, [1.0, 1.9, 2.1])


def test_last_channel_is_the_weighted_average(data):
    _, inputs = data
    assert inputs.shape == (100, N_CLASSES, N_MODELS + 1)
    expected = (inputs[..., 0] + 1.9 * inputs[..., 1] + 2.1 * inputs[..., 2]) / 5
    np.testing.assert_allclose(inputs[..., 3], expected, rtol=1e-6)


def test_models_without_weight_count_alike():
    one = np.ones((2, 3))
    np.testing.assert_allclose(ensemble.stacker_input([one, 3 * one], [0, 0])[..., 2], 2)


def test_initial_output_is_the_shifted_sigmoid_of_the_average(data):
    _, inputs = data
    model = ensemble.build_stacker(N_CLASSES, N_MODELS + 1)
    expected = 1 / (1 + np.exp(-2 * (inputs[..., -1] - 1.6)))
    np.testing.assert_allclose(model.predict_on_batch(inputs), expected, rtol=1e-4)


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


def test_stacking_gives_finite_scores_for_all_and_no_less_than_the_average(data):
    truth, inputs = data
    config = dataclasses.replace(Config(), n_folds=4, stacker_epochs=30)
    stacked, submission = ensemble.stack(inputs, truth, inputs[:7], config)
    assert stacked.shape == truth.shape
    assert submission.shape == (7, N_CLASSES)
    for scores in (stacked, submission):
        assert np.isfinite(scores).all()
        assert 0 <= scores.min() <= scores.max() <= 1
    assert metrics.lrap(truth, stacked) >= metrics.lrap(truth, inputs[..., -1])


def test_stacking_is_reproducible(data):
    truth, inputs = data
    config = dataclasses.replace(Config(), n_folds=2, stacker_epochs=4)
    once, again = (ensemble.stack(inputs, truth, inputs, config) for _ in range(2))
    np.testing.assert_array_equal(once[1], again[1])


def test_validated_clips_are_not_trained_on(data, monkeypatch):
    truth, inputs = data
    config = dataclasses.replace(Config(), n_folds=5, stacker_epochs=2)
    seen = []
    original = ensemble._fit

    def spy(model, oof, truth, training, validated, *rest):
        seen.append((set(training), set(validated)))
        return original(model, oof, truth, training, validated, *rest)

    monkeypatch.setattr(ensemble, "_fit", spy)
    ensemble.stack(inputs, truth, inputs[:0], config)
    assert all(training.isdisjoint(validated) for training, validated in seen)
    assert sorted(clip for _, validated in seen for clip in validated) == list(range(100))
