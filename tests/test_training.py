"""The epoch loop: schedule, kept epoch, stopping rule, and reproducibility."""

import dataclasses

import numpy as np
import pytest

import clipstore
import training
from batches import Examples
from config import EXPERIMENTS, Schedule
from conftest import TINY
from errors import PipelineError
from training import Kept

CONFIG = dataclasses.replace(EXPERIMENTS["v1mix"], frontend="logmel", **TINY)


def test_learning_rate_is_halved_at_each_milestone():
    schedule = EXPERIMENTS["v1mix"].training
    rates = [training.learning_rate(5e-4, schedule, epoch) for epoch in (0, 13, 14, 20, 21, 28, 39)]
    np.testing.assert_allclose(
        rates, [5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4, 6.25e-5, 6.25e-5], rtol=1e-9
    )


@pytest.mark.parametrize(
    ("epoch", "best", "over"),
    [(34, 0, False), (35, 25, False), (35, 24, True), (39, 30, False), (20, 5, False)],
)
def test_stops_once_the_best_epoch_is_more_than_ten_back(epoch, best, over):
    kept = Kept(best, 0.5, [], np.empty(0))
    assert training.is_over(EXPERIMENTS["v1mix"].training, epoch, kept) == over
    assert not training.is_over(EXPERIMENTS["v1mix"].pretraining, epoch, kept)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Two classes, told apart by the half of the spectrum that is loud."""
    rng = np.random.default_rng(0)
    labels = np.eye(2, dtype=np.int8)[np.arange(24) % 2]
    clips = []
    for label in labels.argmax(axis=1):
        decibels = rng.uniform(-90, -60, (23, 64))
        decibels[:, 32 * label : 32 * label + 32] += 50
        clips.append(
            clipstore.PreparedClip(
                np.zeros(22_050, np.int16), 1.0, decibels.astype(np.float16), np.zeros((128, 12))
            )
        )
    folder = tmp_path_factory.mktemp("store")
    clipstore.write(folder, [str(i) for i in range(24)], clips, clipstore.settings_of(CONFIG))
    return Examples(clipstore.ClipStore(folder), np.arange(24), labels)


@pytest.fixture(scope="module")
def trainer():
    return training.Trainer(CONFIG, n_classes=2)


def fit(trainer, examples, schedule):
    trainer.reset()
    first = dataclasses.replace(examples, clips=examples.clips[:16])
    second = dataclasses.replace(examples, clips=examples.clips[16:])
    return trainer.fit("fold0", first, second, schedule)


def test_learns_and_keeps_the_best_epoch(trainer, examples, capsys):
    schedule = Schedule(20, milestones=(10, 15), mixup_prob=0.5, keep_from=2)
    kept, history = fit(trainer, examples, schedule)
    assert list(history.columns) == list(training.HISTORY)
    assert list(history["epoch"]) == list(range(20))
    rates = [3e-3] * 10 + [1.5e-3] * 5 + [7.5e-4] * 5
    np.testing.assert_allclose(history["learning_rate"], rates)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    late = history[history["epoch"] >= 2]
    assert kept.epoch == late["epoch"][late["lrap"].idxmax()]
    assert kept.lrap == late["lrap"].max() > 0.9
    # The kept weights give the kept scores.
    trainer.model.set_weights(kept.weights)
    validation = dataclasses.replace(examples, clips=examples.clips[16:])
    scores = training.predict(trainer.model, validation, CONFIG, "test")
    np.testing.assert_allclose(scores, kept.scores, atol=1e-5)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 20
    for word in ("v1mix fold0 epoch  1/20", "loss", "LRAP", "lwlrap", "lr 3.00e-03", " s"):
        assert word in lines[0]


def test_training_again_from_the_start_gives_the_same(trainer, examples):
    schedule = Schedule(2, milestones=(1,), mixup_prob=0.5)
    (_, once), (_, again) = (fit(trainer, examples, schedule) for _ in range(2))
    np.testing.assert_allclose(once["loss"], again["loss"], rtol=1e-4)


def test_predictions_are_the_mean_of_the_three_views(trainer, examples):
    class Echo:
        output_shape = (None, 2)
        calls = 0

        def predict_on_batch(self, inputs):
            self.calls += 1
            return np.full((len(inputs["audio"]), 2), self.calls)

    model = Echo()
    eight = dataclasses.replace(examples, clips=examples.clips[:8])
    np.testing.assert_allclose(training.predict(model, eight, CONFIG, ""), 2)
    assert model.calls == 3


def test_a_loss_that_is_not_finite_ends_training_with_the_remedy(trainer, examples, monkeypatch):
    monkeypatch.setattr(trainer.model, "train_on_batch", lambda *_: float("nan"))
    with pytest.raises(PipelineError, match="the loss became nan in epoch 1. Lower learning_rate"):
        fit(trainer, examples, Schedule(1, milestones=(1,), mixup_prob=0))
