"""The stacking network: what several networks say of a clip becomes one score per class."""

from pathlib import Path

import keras
import numpy as np

import messages
from config import Config
from runs.resume import Kept, TrainingState, without_optimiser
from solution import metrics
from solution.crops import random_generator, split
from storage import Checkpoint

SHIFT = 1.6


def build_stacker(n_classes: int, n_channels: int, learning_rate: float = 1e-4) -> keras.Model:
    """The stacking network, compiled.

    Per class a weight vector over the channels, of unit L2 norm, at first 1 on the last channel;
    then a dense layer between the classes, at first the identity; then (tanh(x - 1.6) + 1) / 2.
    So its first output is sigmoid(2 (last channel - 1.6)).

    Parameters
    ----------
    n_classes : int
    n_channels : int
        Models + 1: the last channel is the models' weighted average.
    learning_rate : float
        Of Nadam.

    Returns
    -------
    keras.Model: (batch, n_classes, n_channels) -> (batch, n_classes)
    """
    scores = keras.Input((n_classes, n_channels), name="scores")
    x = keras.layers.EinsumDense(  # what LocallyConnected1D(1, 1) was in Keras 2
        "bpc,pcf->bpf",
        (n_classes, 1),
        kernel_initializer=last_channel,
        kernel_constraint=keras.constraints.UnitNorm(axis=1),  # over the channels
        name="models",
    )(scores)  # (classes, 1)
    x = keras.layers.Flatten()(x)  # (classes,)
    x = keras.layers.Dense(
        n_classes, use_bias=False, kernel_initializer="identity", name="classes"
    )(x)
    x = (keras.ops.tanh(x - SHIFT) + 1) / 2
    model = keras.Model(scores, x, name="stacker")
    model.compile(
        keras.optimizers.Nadam(learning_rate),
        loss="binary_crossentropy",
        jit_compile=keras.backend.backend() == "jax",  # as in training.py
    )
    return model


def last_channel(shape: tuple[int, int, int], dtype=None) -> np.ndarray:
    """1 on the last channel, 0 on the others, for kernels (classes, channels, filters)."""
    kernel = np.zeros(shape, dtype)
    kernel[:, -1] = 1
    return kernel


def stacker_input(scores: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Each model's scores, then their weighted average: (clips, classes, models + 1).

    Parameters
    ----------
    scores : one (clips, classes) per model
    weights : one per model
    """
    return np.stack([*scores, weighted_average(scores, weights)], axis=-1).astype(np.float32)


def weighted_average(scores: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Of the models' scores, (clips, classes) each; where all weights are 0 they count alike."""
    return np.average(scores, axis=0, weights=weights if any(weights) else None)


def read_weights(path: Path, n_classes: int, n_channels: int) -> list[np.ndarray]:
    """The weights that `StackerTrainer` wrote: (classes, channels, 1) and (classes, classes)."""
    stacker = without_optimiser(build_stacker(n_classes, n_channels))
    stacker.load_weights(path)
    return stacker.get_weights()


def predict(inputs: np.ndarray, weights: list[list[np.ndarray]]) -> np.ndarray:
    """The mean over stackers with these weights: (clips, classes, channels) -> (clips, classes)."""
    # What `build_stacker` computes, without a network that would have to be built first.
    sums = [np.einsum("bpc,pcf->bp", inputs, models) @ classes for models, classes in weights]
    return np.mean([(np.tanh(x - SHIFT) + 1) / 2 for x in sums], axis=0)


class StackerTrainer:
    """Trains one stacker per fold, each from the same start.

    Parameters
    ----------
    inputs : (clips, classes, channels), out-of-fold scores as `stacker_input` gives
    truth : multi-hot (clips, classes)
    fold_of : int (clips,)
    """

    def __init__(self, inputs: np.ndarray, truth: np.ndarray, fold_of: np.ndarray, config: Config):
        self._inputs, self._truth, self._fold_of, self._config = inputs, truth, fold_of, config
        self.model = build_stacker(*inputs.shape[1:], config.stacker_learning_rate)
        self.state = TrainingState(self.model)

    def fit(self, fold: int, checkpoint: Checkpoint | None = None) -> Kept:
        """Train on the other folds' clips; keep the epoch with the best LRAP on this fold's.

        Parameters
        ----------
        fold : int
        checkpoint : Checkpoint, optional
            Where to save the state after every epoch, and to go on from.
        """
        config, validated = self._config, np.flatnonzero(self._fold_of == fold)
        kept, history = self.state.resume(checkpoint)
        epochs = range(len(history), config.stacker_epochs)
        label = f"stacker fold {fold}"
        for epoch in messages.progress_bar(label, len(epochs), "epoch", iterable=epochs):
            scores = self.model.predict_on_batch(self._inputs[validated])
            score = metrics.lrap(self._truth[validated], scores)
            if kept is None or score > kept.lrap:
                kept = Kept(epoch, score, self.model.get_weights(), scores)
            elif epoch - kept.epoch >= config.stacker_patience:
                break
            self._train(fold, epoch)
            history.append([score])
            if checkpoint:
                self.state.save(checkpoint, kept, history)
        return kept

    def _train(self, fold: int, epoch: int) -> None:
        rng = random_generator(self._config, f"stacker fold{fold}", epoch)
        order = rng.permutation(np.flatnonzero(self._fold_of != fold))
        for batch in split(order, self._config.stacker_batch_size):
            self.model.train_on_batch(self._inputs[batch], self._truth[batch])
