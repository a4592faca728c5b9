"""Scores with three views per clip (3-TTA), from log-mels that all networks share (`views`)."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
from keras import ops

import messages
from clips.views import N_VIEWS
from config import Config
from fast.layers import FusedBatchNormalization
from solution.crops import Examples, prefetch, split
from solution.models import build_tagger
from storage import Checkpoint


class Predictor:
    """The network of an experiment as it is used for scores only.

    The same scores as the mean over three calls of `models.build_tagger`'s network, in less time:
    it starts from log-mels, batch norm is merged into the convolutions, all views of a clip go
    through in one batch, and its recurrent branch, which sees the whole clip, runs once.

    Parameters
    ----------
    config : Config
    n_classes : int
    """

    def __init__(self, config: Config, n_classes: int):
        self.config = config
        self._network = build_tagger(dataclasses.replace(config, frontend="logmel"), n_classes)
        self._merged = _without_batch_norm(self._network)
        self._of_views = _of_views(self._merged)
        self._merge()

    def load_weights(self, path: Path) -> None:
        """Take over weights that training wrote."""
        self._network.load_weights(path)
        self._merge()

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Take over the weights of a network of `models.build_tagger`, of whatever front end."""
        self._network.set_weights(weights)
        self._merge()

    def merged_weights(self) -> list[np.ndarray]:
        """The weights that scores are computed with: batch norm is in those of the convolutions."""
        return self._merged.get_weights()

    def set_merged_weights(self, weights: list[np.ndarray]) -> None:
        """Take over what `merged_weights` gave."""
        self._merged.set_weights(weights)

    def predict_on_batch(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """`views` (batch, 3, frames, n_mels), `length`, `global_feat` -> (batch, n_classes)."""
        return self._of_views.predict_on_batch(inputs)

    def predict(
        self, clips: Examples, label: str, checkpoint: Checkpoint | None = None
    ) -> np.ndarray:
        """Scores of all clips: float32 (clips, classes).

        With a checkpoint, scores are saved every ten seconds, and prediction goes on after those
        that it has.
        """
        n_classes = self._network.output_shape[-1]
        scores, n_done = np.zeros((len(clips), n_classes), np.float32), 0
        saved = checkpoint.load() if checkpoint else None
        if saved:
            n_done = int(saved["n_done"])
            scores[:n_done] = saved["scores"][:n_done]
            print(f"{label}: going on after the first {n_done} clips")
        with messages.progress_bar(label, len(clips), done=n_done) as bar:
            for positions, inputs in prefetch(_batches(clips, n_done, self.config)):
                scores[positions] = self.predict_on_batch(inputs)
                bar.update(len(positions))
                if checkpoint and checkpoint.is_due():
                    checkpoint.save({"scores": scores, "n_done": np.array(positions[-1] + 1)})
        return scores

    def _merge(self) -> None:
        """Give the merged network the scale and offset that batch norm would apply."""
        convolutions = _normed_convolutions(self._network)
        normed = {name for names in convolutions.values() for name in names}
        for layer in self._merged.layers:
            if layer.weights and layer.name not in normed:
                layer.set_weights(self._network.get_layer(layer.name).get_weights())
        for norm, names in convolutions.items():
            norm = self._network.get_layer(norm)
            gamma, beta, mean, variance = norm.get_weights()
            scale, first = gamma / np.sqrt(variance + norm.epsilon), 0
            for name in names:
                kernel, *bias = self._network.get_layer(name).get_weights()
                part = slice(first, first + kernel.shape[-1])
                offset = beta[part] + (sum(bias) - mean[part]) * scale[part]
                self._merged.get_layer(name).set_weights([kernel * scale[part], offset])
                first = part.stop


def _normed_convolutions(network: keras.Model) -> dict[str, list[str]]:
    """Names of the convolutions that feed each batch norm, in the order of its channels.

    `models` names them alike: "stem_conv3x3", "stem_conv5x5" and "stem_conv7x7" feed "stem_norm".
    """
    convolutions = sorted(
        layer.name for layer in network.layers if isinstance(layer, keras.layers.Conv2D)
    )
    return {
        layer.name: [
            name for name in convolutions if name.startswith(f"{layer.name[: -len('norm')]}conv")
        ]
        for layer in network.layers
        if isinstance(layer, FusedBatchNormalization)
    }


def _without_batch_norm(network: keras.Model) -> keras.Model:
    """The same network with biased convolutions, and nothing in the place of batch norm."""
    normed = {name for names in _normed_convolutions(network).values() for name in names}

    def clone(layer):
        config = layer.get_config()
        if layer.name in normed:
            # Keras' own: TensorFlow fuses it with bias and ReLU.
            return keras.layers.Conv2D.from_config({**config, "use_bias": True})
        if isinstance(layer, FusedBatchNormalization):
            return keras.layers.Identity(name=layer.name, dtype=config["dtype"])
        return layer.__class__.from_config(config)

    return keras.models.clone_model(network, clone_function=clone)


def _of_views(network: keras.Model) -> keras.Model:
    """The network for whole clips: the mean over their views."""
    audio, length, global_feat = (
        network.get_layer(name).output for name in ("audio", "length", "global_feat")
    )
    x, y, _ = network.get_layer("concatenate").input
    of_crops, of_clips = keras.Model(audio, x), keras.Model(global_feat, y)

    views = keras.Input((N_VIEWS, *audio.shape[1:]), name="views")
    crops = ops.reshape(views, (-1, *audio.shape[1:]))  # (batch * 3, frames, n_mels)
    x = of_crops(crops)  # (batch * 3, 1024)
    rest = ops.concatenate([of_clips(global_feat), length], axis=-1)  # (batch, 129)
    x = ops.concatenate([x, ops.repeat(rest, N_VIEWS, axis=0)], axis=-1)  # (batch * 3, 1153)
    tags = network.get_layer("tags")(x)  # (batch * 3, classes)
    tags = ops.mean(ops.reshape(tags, (-1, N_VIEWS, tags.shape[-1])), axis=1)  # (batch, classes)
    inputs = {"views": views, "length": length, "global_feat": global_feat}
    return keras.Model(inputs, tags, name=f"{network.name}_of_views")


def _batches(clips: Examples, n_done: int, config: Config):
    """Positions and inputs; as many crops at once as training has."""
    for positions in split(np.arange(n_done, len(clips)), max(1, config.batch_size // N_VIEWS)):
        batch = clips.clips[positions]
        yield positions, {"views": clips.views[batch], **clips.store.inputs(batch)}
