"""Training: schedule, kept epoch, stopping rule, and what a training starts from."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from config import EXPERIMENTS, Schedule
from solution import crops, metrics
from solution.scoring import Scorer
from solution.training import HISTORY, Kept, Learner, Lq, Scoring, cross_entropy
from trainings import CONFIG, ONCE, learner


def test_learns_and_keeps_the_best_epoch(make_training, examples):
    training = make_training(Schedule(20, milestones=(10, 15), mixup_prob=0.5, keep_from=2))
    kept = training.fit()
    history = np.array(training.scoring.history)  # (epochs, columns)
    epoch, loss, lrap, _, rate, _ = history.T
    assert len(HISTORY) == history.shape[1]
    assert list(epoch) == list(range(20))
    np.testing.assert_allclose(rate, [3e-3] * 10 + [1.5e-3] * 5 + [7.5e-4] * 5)
    assert loss[-1] < loss[0]
    assert kept.epoch == 2 + lrap[2:].argmax()
    assert kept.lrap == lrap[2:].max() > 0.9
    # The kept weights give the kept scores.
    training.learner.network.set_weights(kept.weights)
    scorer = Scorer(CONFIG, 2, training.learner.network)
    scorer.refold()
    validation = dataclasses.replace(examples, clips=examples.clips[16:])
    scores = np.concatenate([scores for _, scores in scorer.scores(validation)])
    np.testing.assert_allclose(scores, kept.scores, atol=1e-5)


class TestStart:
    def test_each_part_of_each_experiment_has_initial_weights_of_its_own(self):
        def weights(part, **settings):
            made = learner(dataclasses.replace(CONFIG, **settings))
            made.restart(part)
            return made.network.get_weights()[0]

        first = weights("fold0")
        np.testing.assert_array_equal(weights("fold0"), first)
        for other in (weights("fold1"), weights("fold0", seed=7), weights("fold0", name="se")):
            assert not np.array_equal(other, first)

    def test_learns_anew_as_if_it_never_had(self, make_training):
        twice = Schedule(2, milestones=(1,), mixup_prob=0.5)
        kept = [
            make_training(twice).fit(),
            make_training(ONCE, "fold1").fit(),
            make_training(twice).fit(),
        ]
        for weight, expected in zip(kept[2].weights, kept[0].weights, strict=True):
            np.testing.assert_allclose(weight, expected, atol=1e-5)

    def test_starts_from_the_weights_that_it_is_given(self, make_training, tmp_path):
        trained, path = make_training(ONCE, "pretrained"), tmp_path / "pretrained.weights.h5"
        trained.fit()
        network = trained.learner.network
        weights = network.get_weights()
        network.save_weights(path)
        assert path.stat().st_size < 8 * network.count_params() + 200_000  # without its moments
        training = make_training(ONCE, start=path)
        for weight, expected in zip(training.learner.model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(weight, expected)
        assert int(training.learner.model.optimizer.iterations) == 0


class TestEpochs:
    """The scores of an epoch are given here; which is kept, and when it is over, is decided."""

    def fit(self, training, lraps, monkeypatch):
        """A training whose epochs get these scores, LRAP by LRAP; lwlrap does not count."""
        lwlraps = iter([0.1, 0.9, 0.2, 0.3, 0.8, 0.7, 0.6] * 10)
        found = iter(lraps)
        monkeypatch.setattr(metrics, "lrap", lambda *_: next(found))
        monkeypatch.setattr(metrics, "lwlrap", lambda *_: next(lwlraps))
        return training.fit()

    @pytest.mark.parametrize(
        ("lraps", "best"), [([0.9, 0.5, 0.7, 0.7, 0.6], 2), ([0.9, 0.8, 0.7, 0.7, 0.6], 1)]
    )
    def test_the_first_of_the_best_lrap_from_keep_from_on_is_kept(
        self, make_training, monkeypatch, lraps, best
    ):
        training = make_training(Schedule(5, milestones=(1,), mixup_prob=0, keep_from=1))
        kept = self.fit(training, lraps, monkeypatch)
        assert (kept.epoch, kept.lrap) == (best, lraps[best])
        assert [row[HISTORY.index("lrap")] for row in training.scoring.history] == lraps

    def test_ends_where_the_best_epoch_is_too_far_back(self, make_training, monkeypatch):
        training = make_training(
            Schedule(7, milestones=(1,), mixup_prob=0, stop_from=2, patience=2)
        )
        self.fit(training, [0.1, 0.9, 0.7, 0.7, 0.6, 0.5, 0.4], monkeypatch)
        assert len(training.scoring.history) == 4  # epoch 4 lies more than 2 after the best, 1

    def test_as_published_best_24_gives_35_rows(self, make_training, monkeypatch):
        training = make_training(EXPERIMENTS["v1mix"].training)
        self.fit(training, [0.1] * 24 + [0.9] + [0.5] * 15, monkeypatch)
        assert len(training.scoring.history) == 35

    @pytest.mark.parametrize(
        ("epoch", "best", "over"),
        [(34, 0, False), (35, 25, False), (35, 24, True), (39, 30, False), (40, 39, True)],
    )
    def test_over_before_an_epoch(self, epoch, best, over):
        scoring = Scoring(SimpleNamespace(schedule=EXPERIMENTS["v1mix"].training))
        scoring.kept = Kept(best, 0.5, [], np.empty(0))
        assert scoring.is_over(epoch) == over

    def test_pretraining_has_all_its_epochs(self):
        scoring = Scoring(SimpleNamespace(schedule=EXPERIMENTS["v1mix"].pretraining))
        scoring.kept = Kept(0, 0.5, [], np.empty(0))
        assert not scoring.is_over(34)
        assert scoring.is_over(35)

    def test_a_row_of_the_history_is_what_its_columns_say(
        self, make_training, examples, monkeypatch
    ):
        labels = examples.labels.copy()
        labels[[17, 20]] = 1  # where each clip has one label, LRAP and lwlrap are the same
        scores, truth = np.random.default_rng(0).random((8, 2)), labels[16:]
        chosen = dataclasses.replace(examples, labels=labels)
        training = make_training(ONCE, examples=chosen)
        monkeypatch.setattr(Scorer, "scores", lambda *_: iter([(np.arange(8), scores)]))
        training.fit()
        ((epoch, _, lrap, lwlrap, rate, seconds),) = training.scoring.history
        assert (epoch, rate) == (0, pytest.approx(CONFIG.learning_rate))
        assert lrap == metrics.lrap(truth, scores) != lwlrap
        assert lwlrap == metrics.lwlrap(truth, scores)
        assert seconds > 0

    def test_the_loss_is_the_mean_over_the_clips_not_the_batches(self, make_training):
        # Batches of 12 and 4; nothing is learnt, so that each has its loss again.
        training = make_training(
            ONCE, config=dataclasses.replace(CONFIG, batch_size=12, learning_rate=1e-12)
        )
        training.fit()
        total = 0.0
        for inputs, labels in crops.training_batches(
            training.examples, training.config, ONCE, "fold0"
        ):
            training.learner.model.reset_metrics()
            total += len(labels) * float(training.learner.model.train_on_batch(inputs, labels))
        assert training.scoring.history[0][1] == pytest.approx(total / 16, rel=1e-3)

    def test_scores_that_are_no_numbers_end_training(self, make_training, monkeypatch):
        scores = np.full((8, 2), np.nan)
        monkeypatch.setattr(Scorer, "scores", lambda *_: iter([(np.arange(8), scores)]))
        with pytest.raises(FloatingPointError, match="the scores are not finite in epoch 1"):
            make_training(ONCE).fit()

    def test_a_loss_that_is_no_number_ends_training(self, make_training):
        training = make_training(ONCE)
        network = training.learner.network
        network.set_weights([weight * np.nan for weight in network.get_weights()])
        with pytest.raises(FloatingPointError, match="the loss became nan in epoch 1"):
            training.fit()


class TestCrossEntropy:
    @staticmethod
    def step(logit: float, label: float) -> tuple[float, float]:
        """The loss of one score, and how much a step of gradient descent changes the logit."""
        score = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")])
        score.set_weights([np.array([[logit]]), np.zeros(1)])
        score.compile(keras.optimizers.SGD(1.0), loss=cross_entropy)
        loss = score.train_on_batch(np.ones((1, 1)), np.array([[label]]))
        return float(loss), float(score.get_weights()[0].item()) - logit

    @pytest.mark.parametrize("logit", [-4.6, 0.0, 1.5, 9.0])
    def test_formula(self, logit):
        p, label = 1 / (1 + np.exp(-logit)), 0.99
        loss, change = self.step(logit, label)
        assert loss == pytest.approx(-label * np.log(p) - 0.01 * np.log(1 - p), rel=1e-3)
        assert change == pytest.approx(label - p, rel=1e-3)

    @pytest.mark.parametrize(("logit", "label"), [(17, 0.01), (-17, 0.99), (30, 0.01), (-30, 0.5)])
    def test_what_is_nearer_to_0_or_1_than_1e_7_moves_nothing_as_in_keras_2(self, logit, label):
        loss, change = self.step(logit, label)
        assert change == 0
        assert loss < -np.log(5e-8)


class TestLq:
    labels = np.array([[1.0, 0.0, 0.3], [0.99, 0.01, 0.5]], np.float32)
    scores = np.array([[0.9, 0.2, 0.6], [0.0, 1.0, 0.5]], np.float32)

    def loss(self, q):
        return float(Lq(q)(self.labels, self.scores))

    def test_lies_between_cross_entropy_and_the_absolute_error(self):
        cross_entropy = float(keras.losses.BinaryCrossentropy()(self.labels, self.scores))
        error = self.labels * (1 - self.scores) + (1 - self.labels) * self.scores
        assert self.loss(1e-3) == pytest.approx(cross_entropy, rel=0.02)
        assert self.loss(1.0) == pytest.approx(error.mean(), rel=1e-3)
        assert self.loss(0.2) > self.loss(0.5) > self.loss(1.0)

    def test_a_score_that_is_surely_not_the_label_moves_the_network_less(self):
        """By p^q of what cross-entropy would: the derivative by the logit, of numbers."""
        logits = np.array([-4.0, 0.0, 4.0])
        step = 1e-2
        there = np.ones((3, 1), np.float32)

        def by_logit(logits):
            scores = 1 / (1 + np.exp(-logits[:, None]))
            return np.asarray(Lq(0.5).call(there, keras.ops.convert_to_tensor(scores, "float32")))

        slopes = (by_logit(logits + step) - by_logit(logits - step)) / (2 * step)
        p = 1 / (1 + np.exp(-logits))
        np.testing.assert_allclose(slopes, -(p**0.5) * (1 - p), rtol=0.01, atol=1e-3)

    def test_schedules_have_it(self):
        assert isinstance(Learner(CONFIG, 2, 0.5).model.loss, Lq)
        for impossible in (0.0, 1.5):
            with pytest.raises(ValueError, match="loss_q must be above 0 and at most 1"):
                dataclasses.replace(ONCE, loss_q=impossible)
