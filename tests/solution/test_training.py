"""The epoch loop: schedule, kept epoch, stopping rule, and reproducibility."""

import dataclasses

import keras
import numpy as np
import pytest

import storage
from clips import store as clipstore
from clips import views
from config import EXPERIMENTS, Schedule
from conftest import TINY, open_writer
from messages import PipelineError
from runs.results import Result
from runs.resume import TrainingState
from solution import metrics, training
from solution.crops import Examples
from solution.scoring import Predictor
from solution.training import Kept
from storage import Checkpoint

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
    with open_writer(folder, clipstore.settings_of(CONFIG)) as writer:
        for i, clip in enumerate(clips):
            writer.append(str(i), clip)
    store, path = clipstore.ClipStore(folder), folder / "views.npy"
    views.write(store, CONFIG, path, Checkpoint(folder / "views.checkpoint", "#source"), "views")
    return Examples(store, np.arange(24), labels, storage.Rows(path))


@pytest.fixture(scope="module")
def trainer():
    return training.Trainer(CONFIG, n_classes=2)


def fit(trainer, examples, schedule, **options):
    first = dataclasses.replace(examples, clips=examples.clips[:16])
    second = dataclasses.replace(examples, clips=examples.clips[16:])
    return trainer.fit(training.Job("fold0", first, second, schedule), **options)


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
    predictor = Predictor(CONFIG, n_classes=2)
    predictor.set_weights(kept.weights)
    validation = dataclasses.replace(examples, clips=examples.clips[16:])
    scores = predictor.predict(validation, "test")
    np.testing.assert_allclose(scores, kept.scores, atol=1e-5)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 20
    for word in ("v1mix fold0 epoch  1/20", "loss", "LRAP", "lwlrap", "lr 3.00e-03", " s"):
        assert word in lines[0]


def test_training_again_from_the_start_gives_the_same(trainer, examples):
    schedule = Schedule(2, milestones=(1,), mixup_prob=0.5)
    (_, once), (_, again) = (fit(trainer, examples, schedule) for _ in range(2))
    np.testing.assert_allclose(once["loss"], again["loss"], rtol=1e-4)


def test_starts_from_pretrained_weights_with_a_new_optimiser(trainer, examples, tmp_path):
    kept, _ = fit(trainer, examples, Schedule(2, milestones=(1,), mixup_prob=0))
    path = tmp_path / "pretrained.weights.h5"
    trainer.state.write_weights(path, kept)
    optimiser = trainer.model.optimizer
    assert path.stat().st_size < 8 * trainer.model.count_params() + 200_000  # without its moments
    fresh = training.Trainer(CONFIG, n_classes=2)
    initial = [variable.numpy() for variable in fresh.model.optimizer.variables]
    fresh.state.load_weights(path)
    for weight, expected in zip(fresh.model.get_weights(), kept.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    for variable, value in zip(fresh.model.optimizer.variables, initial, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert int(optimiser.iterations) == 4 != int(fresh.model.optimizer.iterations)


def test_scores_that_are_not_finite_end_training_with_the_remedy(trainer, examples, monkeypatch):
    monkeypatch.setattr(Predictor, "predict", lambda *_: np.full((8, 2), np.nan))
    with pytest.raises(PipelineError, match="the scores are not finite in epoch 1. Lower"):
        fit(trainer, examples, Schedule(1, milestones=(1,), mixup_prob=0))


def test_a_loss_that_is_not_finite_ends_training_with_the_remedy(trainer, examples, monkeypatch):
    monkeypatch.setattr(trainer.model, "train_on_batch", lambda *_: float("nan"))
    with pytest.raises(PipelineError, match="the loss became nan in epoch 1. Lower learning_rate"):
        fit(trainer, examples, Schedule(1, milestones=(1,), mixup_prob=0))


def test_a_wrapped_optimiser_starts_anew_too(tmp_path):
    """float16 scales the loss: a training must not go on with the moments of the one before."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    nadam = keras.optimizers.Nadam(0.1)
    model.compile(keras.optimizers.LossScaleOptimizer(nadam), "mse", jit_compile=False)
    state, x = TrainingState(model), np.eye(3, dtype=np.float32)

    def train(n_steps):
        for _ in range(n_steps):
            model.train_on_batch(x, x[:, :2])
        return np.concatenate([array.ravel() for array in model.get_weights()])

    first = train(5)
    state.restart()
    np.testing.assert_array_equal(train(5), first)
    state.restart()
    train(2)
    checkpoint = Checkpoint(tmp_path / "checkpoint", "#source")
    state.save(checkpoint, None, [[0.0]])
    train(4)
    state.resume(checkpoint)
    np.testing.assert_array_equal(train(3), first)


class TestLoop:
    """What an epoch gives is decided here; which one is kept, and when it is over, by the loop."""

    def history_of(self, trainer, examples, schedule, lraps, monkeypatch):
        lwlraps = iter([0.1, 0.9, 0.2, 0.3, 0.8, 0.7, 0.6])  # which do not count

        def epoch(job, number):
            row = (number, 0.1, lraps[number], next(lwlraps), 1e-3, 0.0)
            scores = np.full((len(job.validation), 2), lraps[number])
            return dict(zip(training.HISTORY, row, strict=True)), scores

        monkeypatch.setattr(trainer, "_epoch", epoch)
        return fit(trainer, examples, schedule)

    @pytest.mark.parametrize(
        ("lraps", "best"), [([0.9, 0.5, 0.7, 0.7, 0.6], 2), ([0.9, 0.8, 0.7, 0.7, 0.6], 1)]
    )
    def test_keeps_the_first_of_the_best_lrap_from_keep_from_on(
        self, trainer, examples, monkeypatch, lraps, best
    ):
        schedule = Schedule(5, milestones=(1,), mixup_prob=0, keep_from=1)
        kept, history = self.history_of(trainer, examples, schedule, lraps, monkeypatch)
        assert (kept.epoch, kept.lrap, kept.scores[0, 0]) == (best, lraps[best], lraps[best])
        assert history["lrap"].tolist() == lraps

    def test_stops_when_it_is_over(self, trainer, examples, monkeypatch):
        schedule = Schedule(7, milestones=(1,), mixup_prob=0, stop_from=2, patience=2)
        lraps = [0.1, 0.9, 0.7, 0.7, 0.6, 0.5, 0.4]
        _, history = self.history_of(trainer, examples, schedule, lraps, monkeypatch)
        assert len(history) == 5  # epoch 4 is the first that the best, 1, lies more than 2 before

    def test_starts_from_the_pretrained_weights(self, trainer, examples, tmp_path, monkeypatch):
        files = {"weights": tmp_path / "a.weights.h5"}
        start = Result("w", "pretrain", tmp_path / "a.json", files, made_from=dict)
        once = Schedule(1, milestones=(1,), mixup_prob=0)
        kept, _ = fit(trainer, examples, once)
        trainer.state.write_weights(start.files["weights"], kept)
        found, original = [], trainer._epoch

        def epoch(job, number):
            found.extend(trainer.model.get_weights())
            return original(job, number)

        monkeypatch.setattr(trainer, "_epoch", epoch)
        trainer.fit(training.Job("fold0", examples, examples, once, start))
        for weight, expected in zip(found, kept.weights, strict=True):
            np.testing.assert_array_equal(weight, expected)

    def test_the_optimiser_has_the_rate_of_the_schedule(self, trainer, examples, monkeypatch):
        rates, original = [], trainer._train

        def train(*arguments):
            rates.append(float(trainer.model.optimizer.learning_rate))
            return original(*arguments)

        monkeypatch.setattr(trainer, "_train", train)
        fit(trainer, examples, Schedule(3, milestones=(1, 2), mixup_prob=0))
        np.testing.assert_allclose(np.array(rates) / CONFIG.learning_rate, [1, 0.5, 0.25])

    def test_each_epoch_has_chance_of_its_own(self, trainer, examples, monkeypatch):
        parts, original = [], training.random_generator

        def generator(config, *part):
            parts.append(part)
            return original(config, *part)

        monkeypatch.setattr(training, "random_generator", generator)
        fit(trainer, examples, Schedule(2, milestones=(1,), mixup_prob=0))
        assert parts == [("fold0", 0), ("fold0", 1)]

    def test_a_row_of_the_history_is_what_its_columns_say(self, trainer, examples, monkeypatch):
        labels = examples.labels.copy()
        labels[[17, 20]] = 1  # where each clip has one label, LRAP and lwlrap are the same
        scores, truth = np.random.default_rng(0).random((8, 2)), labels[16:]
        monkeypatch.setattr(training.Predictor, "predict", lambda *_: scores)
        monkeypatch.setattr(trainer.model, "train_on_batch", lambda _, y: float(len(y)))
        trained, scored = (
            dataclasses.replace(examples, labels=labels, clips=clips)
            for clips in (np.arange(12), np.arange(16, 24))
        )
        once = Schedule(1, milestones=(1,), mixup_prob=0)
        _, history = trainer.fit(training.Job("fold0", trained, scored, once))
        row = history.loc[0]
        assert row["loss"] == pytest.approx((8 * 8 + 4 * 4) / 12)  # over the clips, not the batches
        assert row["lrap"] == metrics.lrap(truth, scores) != row["lwlrap"]
        assert row["lwlrap"] == metrics.lwlrap(truth, scores)


class TestCheckpoints:
    schedule = Schedule(5, milestones=(2,), mixup_prob=0.5, keep_from=1, stop_from=3, patience=1)

    @pytest.fixture
    def checkpoint(self, tmp_path):
        return Checkpoint(tmp_path / "a.checkpoint", "#a")

    def interrupted(self, trainer, examples, checkpoint, after):
        """Train, and fall over after some epochs."""
        epochs = []
        original = trainer._epoch

        def epoch(job, number):
            if len(epochs) == after:
                raise KeyboardInterrupt
            epochs.append(number)
            return original(job, number)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "_epoch", epoch)
            with pytest.raises(KeyboardInterrupt):
                fit(trainer, examples, self.schedule, checkpoint=checkpoint)

    @pytest.mark.parametrize("after", [1, 3])
    def test_going_on_gives_what_an_uninterrupted_training_gives(
        self, trainer, examples, checkpoint, after, capsys
    ):
        kept, history = fit(trainer, examples, self.schedule)
        self.interrupted(trainer, examples, checkpoint, after)
        fit(trainer, examples, Schedule(1, milestones=(1,), mixup_prob=0))  # another in between
        capsys.readouterr()
        resumed, resumed_history = fit(trainer, examples, self.schedule, checkpoint=checkpoint)
        assert f"going on after epoch {after}" in capsys.readouterr().out
        columns = ["epoch", "loss", "lrap", "lwlrap", "learning_rate"]
        np.testing.assert_allclose(resumed_history[columns], history[columns], rtol=1e-5)
        assert resumed.epoch == kept.epoch
        np.testing.assert_allclose(resumed.scores, kept.scores, atol=1e-5)
        for one, other in zip(resumed.weights, kept.weights, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)

    def test_another_source_is_not_continued(self, trainer, examples, checkpoint, capsys):
        self.interrupted(trainer, examples, checkpoint, 2)
        capsys.readouterr()
        one = Schedule(1, milestones=(1,), mixup_prob=0)
        other = Checkpoint(checkpoint.path, "#b")
        _, history = fit(trainer, examples, one, checkpoint=other)
        assert "going on" not in capsys.readouterr().out
        assert len(history) == 1

    def test_that_of_an_optimiser_with_other_variables_is_not_continued(self, checkpoint):
        """precision="auto" may mean float16, which scales the loss, on one machine only."""
        states = []
        for scaled in (False, True):
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
            nadam = keras.optimizers.Nadam()
            model.compile(keras.optimizers.LossScaleOptimizer(nadam) if scaled else nadam, "mse")
            states.append(TrainingState(model))
        for one, other in (states, states[::-1]):
            one.save(checkpoint, None, [[0.5]])
            assert one.resume(checkpoint) == (None, [[0.5]])
            assert other.resume(checkpoint) == (None, [])

    @pytest.mark.parametrize("damage", ["truncated", "flipped"])
    def test_a_damaged_checkpoint_is_named_and_not_used(
        self, trainer, examples, checkpoint, capsys, damage
    ):
        self.interrupted(trainer, examples, checkpoint, 2)
        path = checkpoint.path
        content = bytearray(path.read_bytes())
        if damage == "truncated":
            content = content[: len(content) // 2]
        else:
            content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
        one = Schedule(1, milestones=(1,), mixup_prob=0)
        _, history = fit(trainer, examples, one, checkpoint=checkpoint)
        assert f"{path} is damaged and not used" in capsys.readouterr().out
        assert len(history) == 1

    def test_no_flipped_bit_goes_unnoticed(self, checkpoint, capsys):
        arrays = {"state0": np.arange(4.0), "kept": np.arange(2.0), "history": np.zeros((1, 6))}
        checkpoint.save(arrays)
        path, whole = checkpoint.path, checkpoint.path.read_bytes()
        for at in range(0, len(whole), 3):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            loaded = checkpoint.load()
            if loaded is not None:  # a field that nobody reads, such as the time of writing
                assert set(loaded) == set(arrays)
                for name, value in arrays.items():
                    np.testing.assert_array_equal(loaded[name], value)
