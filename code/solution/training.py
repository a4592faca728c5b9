"""The epoch loop that pretraining and fold-wise training share."""

import time
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd

import messages
from config import Config, Schedule
from messages import PipelineError
from runs.results import Result
from runs.resume import Kept, TrainingState
from solution import metrics
from solution.crops import Examples, prefetch, random_generator, training_batches
from solution.models import build_tagger
from solution.scoring import Predictor
from storage import Checkpoint, write_scores, written_whole

HISTORY = ("epoch", "loss", "lrap", "lwlrap", "learning_rate", "seconds")


@dataclass(frozen=True)
class Job:
    """One training: its name ("pretrained", "fold3"), what it learns from, and where it starts.

    The validation examples have views.
    """

    part: str
    examples: Examples
    validation: Examples
    schedule: Schedule
    start: Result | None = None  # pretrained weights; None for the network's initial ones


class Trainer:
    """A network that can be trained again from its initial state.

    Building and compiling takes longer than a short epoch, so one `Trainer` serves all folds of an
    experiment. Its initial weights derive from (seed, experiment).
    """

    def __init__(self, config: Config, n_classes: int):
        rng = random_generator(config, "initial weights", epoch=0)
        keras.utils.set_random_seed(int(rng.integers(2**31)))
        self.config = config
        self.model = build_tagger(config, n_classes)
        self.model.compile(
            keras.optimizers.Nadam(config.learning_rate),
            loss="binary_crossentropy",
            # XLA is four times slower on CPUs, but JAX without it runs operation by operation.
            jit_compile=keras.backend.backend() == "jax",
        )
        self.state = TrainingState(self.model)
        self._predictor = Predictor(config, n_classes)

    def fit(self, job: Job, checkpoint: Checkpoint | None = None) -> tuple[Kept, pd.DataFrame]:
        """Train by the job's schedule; after every epoch score the validation clips.

        Parameters
        ----------
        job : Job
        checkpoint : Checkpoint, optional
            Where to save the state after every epoch. If there is one, training goes on after its
            epoch, and ends as if it had not been interrupted.

        Returns
        -------
        kept : Kept
            The epoch with the best LRAP among those from `schedule.keep_from` on.
        history : DataFrame with one row per epoch and the columns HISTORY

        Raises
        ------
        PipelineError
            If the loss is not finite.
        """
        kept, history = self.state.resume(checkpoint)
        if history:
            print(f"{self.config.name} {job.part}: going on after epoch {len(history)}")
        elif job.start:
            self.state.load_weights(job.start.files["weights"])
        for epoch in range(len(history), job.schedule.epochs):
            if history and is_over(job.schedule, epoch - 1, kept):
                break
            row, scores = self._epoch(job, epoch)
            history.append(list(row.values()))
            if epoch >= job.schedule.keep_from and (kept is None or row["lrap"] > kept.lrap):
                kept = Kept(epoch, row["lrap"], self.model.get_weights(), scores)
            self._print(job, row, best=kept is not None and kept.epoch == epoch)
            if checkpoint:
                self.state.save(checkpoint, kept, history)
        table = pd.DataFrame(history, columns=HISTORY)
        return kept, table.astype({"epoch": int})

    def _epoch(self, job: Job, epoch: int) -> tuple[dict, np.ndarray]:
        """Train and score once: the row of the history, and the scores (clips, classes)."""
        started = time.perf_counter()
        rate = learning_rate(self.config.learning_rate, job.schedule, epoch)
        self.model.optimizer.learning_rate = rate
        loss = self._train(job, epoch)
        self._predictor.set_weights(self.model.get_weights())
        scores = self._predictor.predict(job.validation, f"{job.part} scoring")
        if not np.isfinite(scores).all():
            raise self._diverged(job, epoch, "scores are not finite")
        truth = job.validation.labels[job.validation.clips]
        lrap, lwlrap = metrics.lrap(truth, scores), metrics.lwlrap(truth, scores)
        row = (epoch, loss, lrap, lwlrap, rate, time.perf_counter() - started)
        return dict(zip(HISTORY, row, strict=True)), scores

    def _train(self, job: Job, epoch: int) -> float:
        """One pass over the examples; the mean loss."""
        rng = random_generator(self.config, job.part, epoch)
        batches = prefetch(training_batches(job.examples, self.config, job.schedule, epoch, rng))
        total = 0.0
        with messages.progress_bar(f"{job.part} training", len(job.examples)) as bar:
            for inputs, labels in batches:
                loss = float(self.model.train_on_batch(inputs, labels))
                if not np.isfinite(loss):
                    raise self._diverged(job, epoch, f"loss became {loss}")
                # train_on_batch reports the mean since the last reset.
                self.model.reset_metrics()
                total += loss * len(labels)
                bar.update(len(labels))
        return total / len(job.examples)

    def _diverged(self, job: Job, epoch: int, what: str) -> PipelineError:
        return PipelineError(
            f"{self.config.name} {job.part}: the {what} in epoch {epoch + 1}. "
            "Lower learning_rate in code/config.py."
        )

    def _print(self, job: Job, row: dict, best: bool) -> None:
        print(
            f"{self.config.name} {job.part} epoch {row['epoch'] + 1:2d}/{job.schedule.epochs}"
            f"  loss {row['loss']:.4f}  LRAP {row['lrap']:.4f}  lwlrap {row['lwlrap']:.4f}"
            f"  lr {row['learning_rate']:.2e}  {row['seconds']:.1f} s{'  *' * best}",
            flush=True,
        )


def make(result: Result, trainer: Trainer, job: Job, classes: list[str]) -> None:
    """Train, and write the files of the result: weights, history, and validation scores."""
    result.unseal()
    kept, history = trainer.fit(job, result.checkpoint)
    with written_whole(result.files["history"]) as path:
        history.to_csv(path, index=False)
    fnames = [job.validation.store.fnames[clip] for clip in job.validation.clips]
    write_scores(result.files["scores"], fnames, classes, kept.scores)
    trainer.state.write_weights(result.files["weights"], kept)
    result.seal()
    print(f"wrote {result.files['weights']} (epoch {kept.epoch + 1}, LRAP {kept.lrap:.4f})")


def learning_rate(base: float, schedule: Schedule, epoch: int) -> float:
    """Halved at every milestone that the epoch has reached."""
    return base * 0.5 ** sum(epoch >= milestone for milestone in schedule.milestones)


def is_over(schedule: Schedule, epoch: int, kept: Kept | None) -> bool:
    """From `stop_from` on: does the best epoch lie more than `patience` back?"""
    if schedule.stop_from is None or epoch < schedule.stop_from or kept is None:
        return False
    return epoch - kept.epoch > schedule.patience
