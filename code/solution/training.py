"""Training as published: the optimiser, the batches of an epoch, and the epoch that is kept."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np
from keras import ops

from config import Config, Schedule
from solution import crops, metrics
from solution.crops import Examples
from solution.models import build_tagger
from solution.scoring import Scorer

HISTORY = ("epoch", "loss", "lrap", "lwlrap", "learning_rate", "seconds")


@dataclasses.dataclass
class Kept:
    """The best epoch of a training: its number, LRAP, weights, and scores (clips, classes)."""

    epoch: int
    lrap: float
    weights: list[np.ndarray]
    scores: np.ndarray


class Learner:
    """A network with its optimiser, which learns anew for each fold of an experiment.

    Not one for each: Keras takes some ten seconds to trace a network, and keeps its memory.

    loss_q : of `Lq`, as schedules have it; by default the loss is cross-entropy, as published

    Attributes: `model`, compiled; `network`, the same layers without the optimiser, whose weight
    files hold weights only; `scorer`, of the network.
    """

    def __init__(self, config: Config, n_classes: int, loss_q: float | None = None):
        self.config, self.n_classes = config, n_classes
        self.model = build_tagger(config, n_classes)
        self.model.compile(
            Nadam(config.learning_rate, config.schedule_decay),
            loss=Lq(loss_q) if loss_q else cross_entropy,
            # XLA is four times slower on CPUs, but JAX without it runs operation by operation.
            jit_compile=keras.backend.backend() == "jax",
        )
        # Float16's loss scaling wraps Nadam. Unless that is built first, its product of momenta is
        # missing from the variables of both.
        optimizer = self.model.optimizer
        for part in (getattr(optimizer, "inner_optimizer", optimizer), optimizer):
            part.build(self.model.trainable_variables)
        self._untouched = [keras.ops.convert_to_numpy(value) for value in optimizer.variables]
        self.network = without_optimiser(self.model)
        self.scorer = Scorer(config, n_classes, self.network)

    def restart(self, part: str, weights: Path | None = None) -> None:
        """Forget all: new initial weights, or those of a file, and an optimiser as at first.

        part : "pretrained" or "fold3"; initial weights derive from (seed, experiment, part)
        """
        if weights:
            self.network.load_weights(weights)
        else:
            rng = crops.random_generator(self.config, f"{part} initial weights")
            keras.utils.set_random_seed(int(rng.integers(2**31)))
            self.network.set_weights(build_tagger(self.config, self.n_classes).get_weights())
        for variable, value in zip(self.model.optimizer.variables, self._untouched, strict=True):
            variable.assign(value)


@dataclasses.dataclass(eq=False)
class Training:
    """What a network learns from, and how. `scoring` has its history and the kept epoch.

    Initial weights, crops and mixup derive from (seed, experiment, part, epoch).
    """

    learner: Learner  # restarted here
    part: str  # "pretrained" or "fold3"
    examples: Examples  # what it learns from
    validation: Examples  # what it is scored on after every epoch, with views
    schedule: Schedule
    start: Path | None = None  # weights to start from, as of the pretraining; or initial ones
    # (batches of scores, their label, number of clips) -> the same batches, for a bar
    watch: Callable[[Iterable, str, int], Iterable] = lambda batches, label, n: batches

    def __post_init__(self):
        self.config, self.scoring = self.learner.config, Scoring(self)
        self.learner.restart(self.part, self.start)

    def fit(self, *callbacks: keras.callbacks.Callback) -> Kept:
        """Train from the first epoch that the history does not have; the epoch that is kept.

        FloatingPointError if loss or scores are not finite.
        """
        first = len(self.scoring.history)
        if not self.scoring.is_over(first):
            batches = crops.training_batches(
                self.examples, self.config, self.schedule, self.part, first
            )
            # Not as a PyDataset: between two epochs Keras' workers may hand out of order what they
            # have prepared, and a training that goes on would differ from one that was never
            # interrupted.
            self.learner.model.fit(
                crops.prefetch(batches),
                steps_per_epoch=self.n_batches,
                initial_epoch=first,
                epochs=self.schedule.epochs,
                callbacks=[
                    keras.callbacks.LearningRateScheduler(self.learning_rate),
                    UnbiasedAverages(),
                    self.scoring,
                    *callbacks,  # what saves the state comes last
                ],
                verbose=0,
            )
        return self.scoring.kept

    @property
    def n_batches(self) -> int:
        """Of an epoch."""
        return -(-len(self.examples) // self.config.batch_size)

    def learning_rate(self, epoch: int, *_) -> float:
        """Halved at every milestone that the epoch has reached."""
        milestones = sum(epoch >= milestone for milestone in self.schedule.milestones)
        return self.config.learning_rate * 0.5**milestones


def cross_entropy(labels, scores):
    """Binary cross-entropy, mean over classes: (batch, classes), (batch, classes) -> (batch,)

    A score within 1e-7 of 0 or 1 gives no gradient. Published setting: the default of Keras 2.1.5;
    Keras 3, on TensorFlow, would look for what the sigmoid was taken of.
    """
    return keras.losses.binary_crossentropy(labels, _off_the_ends(scores))


def _off_the_ends(scores):
    return ops.clip(scores, keras.config.epsilon(), 1 - keras.config.epsilon())


class Lq(keras.losses.Loss):
    """The Lq loss: (1 - p^q) / q, where p is the score of what the label says; mean over classes.

    Between cross-entropy (q towards 0) and the absolute error (1). A label that the network is sure
    to be wrong moves it less than with cross-entropy. Published setting: none.

    Zhang and Sabuncu: Generalized cross entropy loss for training deep neural networks with noisy
    labels, NeurIPS 2018; on sounds, Fonseca et al., ICASSP 2019.
    """

    def __init__(self, q: float, name: str = "lq"):
        super().__init__(name=name)
        self.q = q

    def call(self, labels, scores):
        """(batch, classes), (batch, classes) -> (batch,)"""
        p = _off_the_ends(scores)
        there, absent = ((1 - p_right**self.q) / self.q for p_right in (p, 1 - p))
        return ops.mean(labels * there + (1 - labels) * absent, axis=-1)


class Nadam(keras.optimizers.Nadam):
    """Nadam as Keras 2 had it. Published setting: the default of Keras 2.1.5.

    The momentum of step t is 0.9 (1 - 0.96^(schedule_decay t) / 2), which with Keras 2's own decay
    of 0.004 grows from 0.45 over thousands of steps. Keras 3 dropped the factor, as if it were 1:
    there it is 0.89 from step 100 on, and steps on noisy gradients are half as large.

    Dozat: Incorporating Nesterov momentum into Adam, ICLR 2016 workshop.
    """

    def __init__(self, learning_rate=0.001, schedule_decay=0.004, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.schedule_decay = schedule_decay

    def momentum(self, step):
        """That of a step, counted from 1."""
        return self.beta_1 * (1 - 0.5 * ops.power(0.96, self.schedule_decay * step))

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        # The same for all variables, so once a step.
        step = ops.cast(self.iterations + 1, self._u_product.dtype)
        now, later = self.momentum(step), self.momentum(step + 1)
        product = self._u_product * now
        self._factors = (
            learning_rate * (1 - now) / (1 - product),  # of the gradient
            learning_rate * later / (1 - product * later),  # of the mean gradient
            1 - ops.power(self.beta_2, step),
        )
        self.assign(self._u_product, product)
        # Keras' own would compute the product with its decay.
        super(keras.optimizers.Nadam, self)._backend_update_step(
            grads, trainable_variables, learning_rate
        )

    def update_step(self, gradient, variable, learning_rate):
        of_gradient, of_mean, bias = (ops.cast(x, variable.dtype) for x in self._factors)
        gradient, index = ops.cast(gradient, variable.dtype), self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        change = of_gradient * gradient + of_mean * m
        self.assign_sub(variable, change / (ops.sqrt(v / bias) + self.epsilon))

    def get_config(self):
        return {**super().get_config(), "schedule_decay": self.schedule_decay}


class UnbiasedAverages(keras.callbacks.Callback):
    """Batch norm's moving averages as Keras 2.1.5 has them: of this training's batches only.

    Neither their initial 0 and 1 nor those of the pretraining count, which at a momentum of 0.99
    would do so for hundreds of batches. While the network learns, which needs no averages, they
    begin at zero: after n batches their weights add up to 1 - momentum^n, by which they are divided
    before the network is scored or saved. Published setting: `zero_debias` of Keras 2.1.5.

    Kingma and Ba: Adam, ICLR 2015, section 3.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._scale(epoch, lambda average, weight: average * weight)

    def on_epoch_end(self, epoch, logs=None):
        self._scale(epoch + 1, lambda average, weight: average / weight)

    def _scale(self, n_epochs: int, scaled: Callable) -> None:
        for branch in ("crop_branch", "clip_branch"):
            for layer in self.model.get_layer(branch).layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    weight = 1 - layer.momentum ** (n_epochs * self.params["steps"])
                    for average in (layer.moving_mean, layer.moving_variance):
                        average.assign(scaled(average, weight))


class Scoring(keras.callbacks.Callback):
    """After every epoch scores the validation clips with three views each; keeps the best epoch.

    `history` has a row of HISTORY per epoch, `kept` is the epoch with the best LRAP among those
    from `schedule.keep_from` on, or None.
    """

    def __init__(self, training: Training):
        super().__init__()
        self._training, self.history, self.kept = training, [], None

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        if not np.isfinite(logs["loss"]):
            raise FloatingPointError(f"the loss became {logs['loss']} in epoch {epoch + 1}")
        training, clips = self._training, self._training.validation
        scorer = training.learner.scorer
        scorer.refold()
        batches = training.watch(scorer.scores(clips), f"{training.part} scoring", len(clips))
        scores = np.concatenate([scores for _, scores in batches])  # (clips, classes)
        if not np.isfinite(scores).all():
            raise FloatingPointError(f"the scores are not finite in epoch {epoch + 1}")
        truth = clips.labels[clips.clips]
        logs |= {"lrap": metrics.lrap(truth, scores), "lwlrap": metrics.lwlrap(truth, scores)}
        logs |= {"epoch": epoch, "seconds": time.perf_counter() - self._began}
        self.history.append([float(logs[name]) for name in HISTORY])
        best = self.kept is None or logs["lrap"] > self.kept.lrap
        if epoch >= training.schedule.keep_from and best:
            self.kept = Kept(epoch, logs["lrap"], self.model.get_weights(), scores)
        self.model.stop_training = self.is_over(epoch + 1)

    def is_over(self, epoch: int) -> bool:
        """Before this epoch: were there enough, or is the best one too far back?"""
        schedule = self._training.schedule
        if epoch >= schedule.epochs:
            return True
        if schedule.stop_from is None or epoch < schedule.stop_from or self.kept is None:
            return False
        return epoch - self.kept.epoch > schedule.patience


def without_optimiser(model: keras.Model) -> keras.Model:
    """The same layers, not compiled: weight files of a compiled model hold its optimiser too."""
    return keras.Model(model.inputs, model.outputs)
