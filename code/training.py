"""The epoch loop that pretraining and fold-wise training share."""

import time
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

import metrics
from batches import N_VIEWS, Examples, prefetch, random_generator, training_batches, view_batches
from config import Config, Schedule
from errors import PipelineError
from models import build_tagger
from outputs import OutputFolder, written_whole

HISTORY = ("epoch", "loss", "lrap", "lwlrap", "learning_rate", "seconds")


@dataclass
class Kept:
    """The best epoch of a training: its number, LRAP, weights and 3-TTA scores (clips, classes)."""

    epoch: int
    lrap: float
    weights: list[np.ndarray]
    scores: np.ndarray


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
            jit_compile=False,  # XLA is four times slower on CPUs
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self._state = [*self.model.variables, *self.model.optimizer.variables]
        self._initial = [keras.ops.convert_to_numpy(variable) for variable in self._state]

    def reset(self) -> None:
        """Back to the initial weights and a fresh optimiser."""
        for variable, value in zip(self._state, self._initial, strict=True):
            variable.assign(value)

    def fit(
        self, part: str, examples: Examples, validation: Examples, schedule: Schedule
    ) -> tuple[Kept, pd.DataFrame]:
        """Train by the schedule; after every epoch score the validation clips.

        Parameters
        ----------
        part : str
            "pretrained" or "fold3": names the training in progress lines and random choices.
        examples, validation : Examples
        schedule : Schedule

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
        kept, history = None, []
        truth = validation.labels[validation.clips]
        for epoch in range(schedule.epochs):
            started = time.perf_counter()
            rate = learning_rate(self.config.learning_rate, schedule, epoch)
            self.model.optimizer.learning_rate = rate
            loss = self._train_epoch(part, examples, schedule, epoch)
            scores = predict(self.model, validation, self.config, f"{part} scoring")
            row = (epoch, loss, metrics.lrap(truth, scores), metrics.lwlrap(truth, scores), rate)
            history.append(dict(zip(HISTORY, (*row, time.perf_counter() - started), strict=True)))
            if epoch >= schedule.keep_from and (kept is None or row[2] > kept.lrap):
                kept = Kept(epoch, row[2], self.model.get_weights(), scores)
            print(
                f"{self.config.name} {part} epoch {epoch + 1:2d}/{schedule.epochs}  loss {loss:.4f}"
                f"  LRAP {row[2]:.4f}  lwlrap {row[3]:.4f}  lr {rate:.2e}"
                f"  {history[-1]['seconds']:.1f} s"
                + "  *"
                * (kept is not None and kept.epoch == epoch),
                flush=True,
            )
            if is_over(schedule, epoch, kept):
                break
        return kept, pd.DataFrame(history)

    def _train_epoch(self, part: str, examples: Examples, schedule: Schedule, epoch: int) -> float:
        """One pass over the examples; the mean loss."""
        rng = random_generator(self.config, part, epoch)
        batches = prefetch(training_batches(examples, self.config, schedule, epoch, rng))
        total = 0.0
        with progress(f"{part} training", len(examples)) as bar:
            for inputs, labels in batches:
                loss = float(self.model.train_on_batch(inputs, labels))
                if not np.isfinite(loss):
                    raise PipelineError(
                        f"{self.config.name} {part}: the loss became {loss} in epoch {epoch + 1}. "
                        "Lower learning_rate in code/config.py."
                    )
                # train_on_batch reports the mean since the last reset.
                self.model.reset_metrics()
                total += loss * len(labels)
                bar.update(len(labels))
        return total / len(examples)


def save(outputs: OutputFolder, trainer: Trainer, part: str, kept: Kept, history) -> None:
    """Write the history, then the weights: where weights are, the training was finished."""
    name = trainer.config.name
    with written_whole(outputs.model(name, part, "history.csv")) as path:
        history.to_csv(path, index=False)
    trainer.model.set_weights(kept.weights)
    weights = outputs.model(name, part, "weights.h5")
    with written_whole(weights) as path:
        trainer.model.save_weights(path)
    print(f"{name}: wrote {weights} (epoch {kept.epoch + 1}, LRAP {kept.lrap:.4f})")


def learning_rate(base: float, schedule: Schedule, epoch: int) -> float:
    """Halved at every milestone that the epoch has reached."""
    return base * 0.5 ** sum(epoch >= milestone for milestone in schedule.milestones)


def is_over(schedule: Schedule, epoch: int, kept: Kept | None) -> bool:
    """From `stop_from` on: does the best epoch lie more than `patience` back?"""
    if schedule.stop_from is None or epoch < schedule.stop_from or kept is None:
        return False
    return epoch - kept.epoch > schedule.patience


def predict(model: keras.Model, clips: Examples, config: Config, label: str) -> np.ndarray:
    """Scores with 3-TTA, the mean over the views: float32 (clips, classes)."""
    scores = np.zeros((len(clips), model.output_shape[-1]), np.float32)
    with progress(label, len(clips)) as bar:
        for positions, views in prefetch(view_batches(clips, config)):
            for inputs in views:
                scores[positions] += model.predict_on_batch(inputs) / N_VIEWS
            bar.update(len(positions))
    return scores


def progress(label: str, n_clips: int) -> tqdm:
    """A bar that goes when it is done, and is not there where nobody watches."""
    return tqdm(total=n_clips, desc=label, unit="clip", leave=False, disable=None)
