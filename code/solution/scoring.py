"""Scores with three views per clip (3-TTA).

They start from log-mels that networks share, or from waveforms, where the front end is learned.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from config import Config
from fast import folding
from solution.crops import Examples, prefetch, split
from solution.features import N_FEATURES, NUM_STEPS
from solution.models import build_tagger


class Scorer:
    """A network as it is used for scores only.

    The same scores as the mean over three calls of `models.build_tagger`'s network, in less time:
    it starts from log-mels, unless it learned to make its own, batch norm is folded into the
    convolutions, all views of a clip go through in one batch, and the recurrent branch, which sees
    the whole clip, runs once.

    network : one of `build_tagger` in training that is to be scored, of whatever front end: call
        `refold` when it has learned. By default one of its own.
    """

    def __init__(self, config: Config, n_classes: int, network: keras.Model | None = None):
        self.config = config
        if network is None:
            network = build_tagger(_scored(config), n_classes)
        self._network, self._crop_branch = network, network.get_layer("crop_branch")
        self._folded = folding.folded(self._crop_branch)
        parts = [self._folded, network.get_layer("clip_branch"), network.get_layer("head")]
        front_end = [network.get_layer("melspectrogram")] if config.trains_front_end else []
        self._scoring = _all_views(config, *parts, *front_end)

    def load_weights(self, path: Path) -> None:
        """Take over weights that training wrote, of whatever front end."""
        self._network.load_weights(path)
        self.refold()

    def refold(self) -> None:
        """Take over what the network has learned since."""
        folding.refold(self._crop_branch, self._folded)

    @property
    def weights(self) -> list[np.ndarray]:
        """What scores are computed with: batch norm is in the weights of the convolutions."""
        return self._scoring.get_weights()

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Compute scores with what `weights` gave. Clip branch and head are the network's own."""
        self._scoring.set_weights(weights)

    def score(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """`views`, as of `crops.views`, `length`, `global_feat` -> (batch, n_classes)."""
        return self._scoring.predict_on_batch({**inputs, "views": inputs["views"][:]})

    def scores(self, examples: Examples, first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Scores of the examples from the first one on, batch by batch.

        Yields positions among the examples, int (batch,), and scores, float32 (batch, n_classes).
        """

        def prepared(positions):
            clips = examples.clips[positions]
            return positions, {"views": examples.views[clips], **examples.store.inputs(clips)}

        # As many crops at once as training has.
        size = max(1, self.config.batch_size // self.config.n_views)
        batches = split(np.arange(first, len(examples)), size)
        for positions, inputs in prefetch(map(prepared, batches)):
            yield positions, self.score(inputs)


def _scored(config: Config) -> Config:
    """The experiment as it is scored: one whose front end is fixed, from log-mels."""
    if config.trains_front_end:
        return config
    # These two were used in making the log-mels; networks that start there are to have no other.
    made_with = {"power_melgram": 2.0, "return_decibel_melgram": True}
    return dataclasses.replace(config, frontend="logmel", **made_with)


def _all_views(config, crop_branch, clip_branch, head, front_end=None) -> keras.Model:
    """The network for whole clips: the mean over their views."""
    shape = (config.crop_samples,) if front_end else (config.crop_frames, config.n_mels)
    views = keras.Input((config.n_views, *shape), name="views")
    length = keras.Input((1,), name="length")
    global_feat = keras.Input((NUM_STEPS, N_FEATURES), name="global_feat")
    crops = ops.reshape(views, (-1, *shape))  # (batch * 3, ...)
    logmel = front_end(crops) if front_end else ops.expand_dims(crops, -1)  # (..., 441, 64, 1)
    x = crop_branch(logmel)  # (batch * 3, 1024)
    of_clips = clip_branch(global_feat), length  # (batch, 128), (batch, 1)
    y, z = (ops.repeat(part, config.n_views, axis=0) for part in of_clips)
    tags = head([x, y, z])  # (batch * 3, classes)
    tags = ops.reshape(tags, (-1, config.n_views, tags.shape[-1]))  # (batch, 3, classes)
    inputs = {"views": views, "length": length, "global_feat": global_feat}
    return keras.Model(inputs, ops.mean(tags, axis=1))  # (batch, classes)
