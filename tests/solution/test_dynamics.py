"""What training does step by step, against its formulas in float64 and against fixed sequences.

Where Keras changes a default, or the order in which chance is drawn changes, something here fails.
"""

import dataclasses

import keras
import numpy as np
import pytest
from scipy.signal import correlate2d

from config import EXPERIMENTS, Schedule
from solution import crops
from solution.crops import Examples
from solution.stacker import build_stacker
from solution.training import Learner, Nadam, Training
from trainings import CONFIG, ONCE, Clips

PUBLISHED = EXPERIMENTS["v1mix"]
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
# Of seed 2019, `v1mix`, "fold0": learning rate, clips in the batch, mixed or not.
SEQUENCE = [
    *((3e-3, 6, True), (3e-3, 6, True), (3e-3, 4, True)),
    *((3e-3, 4, False), (3e-3, 6, False), (3e-3, 6, False)),
    *((1.5e-3, 6, False), (1.5e-3, 6, False), (1.5e-3, 4, False)),
    *((7.5e-4, 4, False), (7.5e-4, 6, False), (7.5e-4, 6, False)),
]


def nadam(weights, gradients, learning_rate, schedule_decay):
    """Keras 2.1.5's Nadam in float64: the weights after each step."""
    m, v, product, found = 0.0, 0.0, 1.0, []
    for t, gradient in enumerate(gradients, start=1):
        now = BETA_1 * (1 - 0.5 * 0.96 ** (t * schedule_decay))
        later = BETA_1 * (1 - 0.5 * 0.96 ** ((t + 1) * schedule_decay))
        product *= now
        m = BETA_1 * m + (1 - BETA_1) * gradient
        v = BETA_2 * v + (1 - BETA_2) * gradient**2
        mean = (1 - now) * gradient / (1 - product) + later * m / (1 - product * later)
        step = learning_rate * mean / (np.sqrt(v / (1 - BETA_2**t)) + EPSILON)
        weights = weights - step
        found.append(weights)
    return np.array(found)


@pytest.mark.parametrize("schedule_decay", [0.004, 1.0])
def test_nadam_is_that_of_keras_2_over_300_steps(schedule_decay):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(4, 3)), rng.normal(0.1, 1, (300, 4, 3))
    optimiser = Nadam(0.01, schedule_decay)
    variable = keras.Variable(start.astype(np.float32))
    found = []
    for gradient in gradients:
        optimiser.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
        found.append(keras.ops.convert_to_numpy(variable).copy())
    np.testing.assert_allclose(found, nadam(start, gradients, 0.01, schedule_decay), atol=1e-5)


def test_with_a_decay_of_1_it_is_that_of_keras_3():
    rng = np.random.default_rng(0)
    start = rng.normal(size=5).astype(np.float32)
    ours, theirs = keras.Variable(start), keras.Variable(start)
    optimisers = Nadam(0.01, schedule_decay=1.0), keras.optimizers.Nadam(0.01)
    for _ in range(50):
        gradient = keras.ops.convert_to_tensor(rng.normal(size=5), "float32")
        for optimiser, variable in zip(optimisers, (ours, theirs), strict=True):
            optimiser.apply([gradient], [variable])
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (ours, theirs)), atol=1e-5)


def test_networks_and_stacker_have_it_as_published():
    networks = Learner(CONFIG, 2).model, build_stacker(2, 3)
    for network, rate in zip(networks, (CONFIG.learning_rate, 1e-4), strict=True):
        optimiser = getattr(network.optimizer, "inner_optimizer", network.optimizer)
        assert optimiser.__class__ is Nadam
        settings = optimiser.get_config()
        assert (settings["schedule_decay"], settings["beta_1"]) == (0.004, BETA_1)
        assert (settings["beta_2"], settings["epsilon"]) == (BETA_2, EPSILON)
        assert settings["learning_rate"] == pytest.approx(rate)
        for name in ("weight_decay", "clipnorm", "global_clipnorm", "clipvalue"):
            assert settings[name] is None
        assert not settings["use_ema"]


def test_momentum_grows_over_thousands_of_steps():
    """The first step, the end of a fold (40 epochs of 140 batches), of pretraining (35 of 620)."""
    momenta = [float(Nadam().momentum(float(step))) for step in (1, 5600, 21_700)]
    np.testing.assert_allclose(momenta, [0.450073, 0.719662, 0.886988], atol=1e-5)


@pytest.mark.parametrize(("n_clips", "n_batches", "small"), [(19_815, 620, 7), (4473, 140, 25)])
def test_sizes_of_the_published_batches(n_clips, n_batches, small):
    sizes = [len(clips) for clips in crops.split(np.arange(n_clips), PUBLISHED.batch_size)]
    assert (len(sizes), sizes[-1], set(sizes[:-1])) == (n_batches, small, {32})


def test_rates_sizes_and_mixed_batches_of_a_training(make_training):
    schedule = dataclasses.replace(PUBLISHED.training, epochs=4, milestones=(2, 3), stop_from=None)
    training = make_training(schedule, config=dataclasses.replace(CONFIG, batch_size=6))
    found = []
    for number, (_, labels) in enumerate(
        crops.training_batches(training.examples, training.config, schedule, "fold0")
    ):
        mixed = len(np.unique(labels.round(3))) > 2
        found.append((training.learning_rate(number // 3), len(labels), mixed))
    assert found == SEQUENCE


@pytest.fixture
def learnt():
    """Clips with global features that are far from those batch norm begins with."""
    clips = Clips()
    features = np.random.default_rng(0).normal(3, 2, (24, 128, 12)).astype(np.float32)
    lengths = np.zeros((24, 1), np.float32)
    clips.inputs = lambda which: {"length": lengths[which], "global_feat": features[which]}
    return Examples(clips, np.arange(24), clips.labels, crops.views(clips, np.arange(24), CONFIG))


@pytest.mark.parametrize("interrupted", [False, True])
def test_averages_are_those_of_keras_2_after_each_epoch(learnt, tmp_path, interrupted):
    """What came before, here a pretraining, leaves no trace in them."""
    config, schedule = dataclasses.replace(CONFIG, precision="float32"), Schedule(3, (1,), 0.0)
    learner, found = Learner(config, 2), []
    norm = learner.model.get_layer("clip_branch").get_layer("global_norm")
    norm.set_weights([*norm.get_weights()[:2], np.full(12, -50.0), np.full(12, 900.0)])
    learner.network.save_weights(tmp_path / "pretrained.weights.h5")

    def noting(epoch, _):
        found.append(norm.get_weights()[2:])

    begun = Training(learner, "fold0", learnt, learnt, schedule, tmp_path / "pretrained.weights.h5")
    if interrupted:  # after the first epoch, which is all that its schedule has
        begun.schedule = dataclasses.replace(schedule, epochs=1)
        begun.fit(keras.callbacks.LambdaCallback(on_epoch_end=noting))
        begun.schedule = schedule
    begun.fit(keras.callbacks.LambdaCallback(on_epoch_end=noting))
    assert len(found) == 3
    kept, weights = begun.scoring.kept, learner.model.weights
    place = next(i for i, weight in enumerate(weights) if weight is norm.moving_mean)
    np.testing.assert_array_equal(kept.weights[place], found[kept.epoch][0])  # as it was scored
    biased, n = np.zeros((2, 12)), 0  # as TensorFlow's `assign_moving_average`, in float64
    for inputs, _ in crops.training_batches(learnt, config, schedule, "fold0"):
        features = inputs["global_feat"].astype(float).reshape(-1, 12)
        biased, n = 0.99 * biased + 0.01 * np.array([features.mean(0), features.var(0)]), n + 1
        if n % begun.n_batches == 0:
            expected = biased / (1 - 0.99**n)
            np.testing.assert_allclose(found[n // begun.n_batches - 1], expected, rtol=1e-4)
    assert n == 3 * begun.n_batches


def test_no_average_remembers_what_was_before(learnt, tmp_path):
    """Those of the convolutions neither."""
    learner = Learner(dataclasses.replace(CONFIG, precision="float32"), 2)
    branches = map(learner.model.get_layer, ("crop_branch", "clip_branch"))
    norms = [
        layer
        for branch in branches
        for layer in branch.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) == 10
    learner.restart("fold0")
    start, path, ends = learner.network.get_weights(), tmp_path / "start.weights.h5", []
    for mean, variance in ((0.0, 1.0), (-50.0, 900.0)):
        learner.network.set_weights(start)
        for norm in norms:
            norm.moving_mean.assign(np.full(norm.moving_mean.shape, mean))
            norm.moving_variance.assign(np.full(norm.moving_variance.shape, variance))
        learner.network.save_weights(path)
        Training(learner, "fold0", learnt, learnt, ONCE, path).fit()
        ends.append([average for norm in norms for average in norm.get_weights()[2:]])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_running_averages_after_three_steps(learnt):
    config = dataclasses.replace(CONFIG, precision="float32")
    model = Learner(config, 2).model
    stem, norm = (model.get_layer("crop_branch").get_layer(f"stem_{n}") for n in ("conv", "norm"))
    of_clips = model.get_layer("clip_branch").get_layer("global_norm")
    averages = {norm: [0.0, 1.0], of_clips: [0.0, 1.0]}
    for inputs, labels in crops.training_batches(learnt, config, ONCE, "fold0"):
        kernels = np.moveaxis(stem.get_weights()[0][..., 0, :].astype(float), -1, 0)
        maps = [[correlate2d(x, kernel, "same") for x in inputs["audio"]] for kernel in kernels]
        model.train_on_batch(inputs, labels)
        of_filters = np.reshape(maps, (len(kernels), -1))  # (filters, batch * time * mel)
        of_features = inputs["global_feat"].astype(float).reshape(-1, 12).T
        for layer, values, momentum, unbiased in (
            (norm, of_filters, 0.85, 1),  # as TensorFlow's fused kernel has it
            (of_clips, of_features, 0.99, 0),
        ):
            for number, value in enumerate((values.mean(1), values.var(1, ddof=unbiased))):
                former = averages[layer][number]
                averages[layer][number] = momentum * former + (1 - momentum) * value
    for layer, expected in averages.items():
        *_, mean, variance = layer.get_weights()
        np.testing.assert_allclose(mean, expected[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(variance, expected[1], rtol=1e-4)
