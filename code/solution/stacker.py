"""The stacking network: what several networks say of a clip becomes one score per class."""

from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np

from config import Config
from solution import metrics
from solution.crops import random_generator, split
from solution.training import Kept, Nadam, without_optimiser

SHIFT = 1.6


def build_stacker(n_classes: int, n_channels: int, learning_rate: float = 1e-4) -> keras.Model:
    """The stacking network, compiled: (batch, n_classes, n_channels) -> (batch, n_classes).

    Per class a weight vector over the channels, of unit L2 norm, at first 1 on the last channel;
    then a dense layer between the classes, at first the identity; then (tanh(x - 1.6) + 1) / 2.
    So its first output is sigmoid(2 (last channel - 1.6)).

    n_channels : models + 1: the last channel is the models' weighted average
    learning_rate : of Keras 2's Nadam, as for the networks
    """
    scores = keras.Input((n_classes, n_channels), name="scores")
    x = keras.layers.EinsumDense(  # Keras 2's LocallyConnected1D(1, 1): a vector per class
        "bpc,pcf->bpf",
        output_shape=(n_classes, 1),
        kernel_initializer=keras.initializers.Constant(np.eye(n_channels)[-1][:, None]),
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
        Nadam(learning_rate),
        loss="binary_crossentropy",
        jit_compile=keras.backend.backend() == "jax",  # as in training.py
    )
    return model


def stacker_input(scores: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Each model's scores, (clips, classes), then their weighted average: (..., models + 1)."""
    return np.stack([*scores, weighted_average(scores, weights)], axis=-1).astype(np.float32)


def weighted_average(scores: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Of the models' scores, (clips, classes) each; where all weights are 0 they count alike."""
    return np.average(scores, axis=0, weights=weights if any(weights) else None)


def read_weights(path: Path, n_classes: int, n_channels: int) -> list[np.ndarray]:
    """The weights in a file: (classes, channels, 1) and (classes, classes)."""
    stacker = without_optimiser(build_stacker(n_classes, n_channels))
    stacker.load_weights(path)
    return stacker.get_weights()


def stack(inputs: np.ndarray, weights: list[list[np.ndarray]]) -> np.ndarray:
    """The mean over stackers with these weights: (clips, classes, channels) -> (clips, classes)."""
    # What `build_stacker` computes, without a network that would have to be built first.
    # Of each stacker (clips, classes).
    sums = [np.einsum("bpc,pcf->bp", inputs, models) @ classes for models, classes in weights]
    return np.mean([(np.tanh(x - SHIFT) + 1) / 2 for x in sums], axis=0)


def train_stacker(
    inputs: np.ndarray,
    truth: np.ndarray,
    learnt: np.ndarray,
    validated: np.ndarray,
    config: Config,
    part: str,
    watch: Callable[[Iterable], Iterable] = iter,
) -> Kept:
    """Train a stacker; the epoch with the best LRAP on the validated clips is kept.

    inputs : (clips, classes, channels), out-of-fold scores as `stacker_input` gives
    truth : multi-hot (clips, classes)
    learnt, validated : bool (clips,), what it learns from, and what chooses the epoch
    part : by which its order of clips is drawn
    watch : (epochs) -> the same epochs, for a progress bar
    """
    stacker = build_stacker(*inputs.shape[1:], config.stacker_learning_rate)
    learnt, kept = np.flatnonzero(learnt), None
    for epoch in watch(range(config.stacker_epochs)):
        scores = stacker.predict_on_batch(inputs[validated])
        score = metrics.lrap(truth[validated], scores)
        if kept is None or score > kept.lrap:
            kept = Kept(epoch, score, stacker.get_weights(), scores)
        elif epoch - kept.epoch >= config.stacker_patience:
            break
        # Not `fit`: with a seed, Keras shuffles arrays into the same order in every epoch.
        order = random_generator(config, part, epoch).permutation(learnt)
        for batch in split(order, config.stacker_batch_size):
            stacker.train_on_batch(inputs[batch], truth[batch])
    return kept
