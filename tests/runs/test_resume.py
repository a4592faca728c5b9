"""A training that was interrupted goes on, and ends like one that was not."""

import dataclasses

import keras
import numpy as np
import pytest

from config import Schedule
from messages import PipelineError
from runs import resume
from runs.results import Result
from runs.resume import SavedState
from solution.training import HISTORY
from storage import Checkpoint
from trainings import CONFIG, ONCE

SCHEDULE = Schedule(5, milestones=(2,), mixup_prob=0.5, keep_from=1, stop_from=4, patience=3)
CLASSES = ["a", "b"]


@pytest.fixture
def result(tmp_path):
    files = (".weights.h5", ".scores.csv", ".history.csv")
    return Result(tmp_path, "models/v1mix/fold0", "train", files, lambda: {"seed": 1})


class Interruption(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def interrupt(training, checkpoint, epoch):
    """Train up to that epoch."""
    with pytest.raises(KeyboardInterrupt):
        training.fit(Interruption(epoch), SavedState(training, checkpoint))


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "a.checkpoint", "#a")


@pytest.mark.parametrize("precision", ["float32", "float16"])  # which scales the loss
@pytest.mark.parametrize("epoch", [1, 3])
def test_going_on_gives_what_an_uninterrupted_training_gives(
    make_training, checkpoint, epoch, precision
):
    config = dataclasses.replace(CONFIG, precision=precision)
    whole = make_training(SCHEDULE, config=config)
    kept = whole.fit()
    interrupt(make_training(SCHEDULE, config=config), checkpoint, epoch)
    resumed = make_training(SCHEDULE, config=config)
    state = SavedState(resumed, checkpoint)
    assert state.restore()
    assert len(resumed.scoring.history) == epoch
    again = resumed.fit(state)
    n = HISTORY.index("seconds")
    np.testing.assert_allclose(
        np.array(resumed.scoring.history)[:, :n], np.array(whole.scoring.history)[:, :n], rtol=1e-5
    )
    assert again.epoch == kept.epoch
    np.testing.assert_allclose(again.scores, kept.scores, atol=1e-5)
    for one, other in zip(again.weights, kept.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_one_that_was_over_when_it_was_killed_trains_no_more(make_training, checkpoint):
    over = Schedule(4, milestones=(1,), mixup_prob=0, stop_from=1, patience=0)
    first = make_training(over)
    first.fit(SavedState(first, checkpoint))
    resumed = make_training(over)
    state = SavedState(resumed, checkpoint)
    state.restore()
    assert len(resumed.scoring.history) == 1
    assert resumed.fit(state).epoch == 0
    assert len(resumed.scoring.history) == 1


def test_another_source_is_not_continued(make_training, checkpoint):
    interrupt(make_training(SCHEDULE), checkpoint, 2)
    assert not SavedState(make_training(SCHEDULE), Checkpoint(checkpoint.path, "#b")).restore()


def test_that_of_an_optimiser_with_other_variables_is_not_continued(make_training, checkpoint):
    """precision="auto" may mean float16, which scales the loss, on one machine only."""
    for precisions in (("float32", "float16"), ("float16", "float32")):
        one, other = (dataclasses.replace(CONFIG, precision=precision) for precision in precisions)
        interrupt(make_training(SCHEDULE, config=one), checkpoint, 1)
        assert SavedState(make_training(SCHEDULE, config=one), checkpoint).restore()
        assert not SavedState(make_training(SCHEDULE, config=other), checkpoint).restore()


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_named_and_not_used(make_training, checkpoint, capsys, damage):
    interrupt(make_training(SCHEDULE), checkpoint, 2)
    path = checkpoint.path
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    assert not SavedState(make_training(SCHEDULE), checkpoint).restore()
    assert f"{path} is damaged and not used" in capsys.readouterr().out


def test_the_files_of_a_training(make_training, result, capsys):
    training = make_training(Schedule(3, milestones=(1,), mixup_prob=0.5))
    resume.complete(result, training, CLASSES)
    assert result.fault() is None
    assert not result.checkpoint.path.exists()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for word in ("v1mix fold0 epoch  1/3", "loss", "LRAP", "lwlrap", "lr 3.00e-03", " s"):
        assert word in lines[0]
    best = [number for number, line in enumerate(lines[:3]) if line.endswith("*")]
    assert best[-1] == training.scoring.kept.epoch
    history = result.path(".history.csv").read_text().splitlines()
    assert history[0] == ",".join(HISTORY)
    assert len(history) == 4
    scores = result.path(".scores.csv").read_text().splitlines()
    assert scores[0] == "fname,a,b"
    assert [line.split(",")[0] for line in scores[1:]] == [f"{i}.wav" for i in range(16, 24)]
    network = make_training(ONCE).learner.network
    network.load_weights(result.path(".weights.h5"))
    for weight, expected in zip(network.get_weights(), training.scoring.kept.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_diverged_training_is_one_line_with_the_remedy(make_training, result):
    training = make_training(ONCE)
    network = training.learner.network
    network.set_weights([weight * np.nan for weight in network.get_weights()])
    with pytest.raises(PipelineError, match="v1mix fold0: the loss became nan in epoch 1. Lower"):
        resume.complete(result, training, CLASSES)
