"""What a training goes on from: variables of the network and its optimiser, and the best epoch."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from runs.results import fingerprint
from storage import Checkpoint, written_whole

HDF5_BYTES = 1_000_000  # of a weight file, beside the weights


@dataclass
class Kept:
    """The best epoch of a training: its number, LRAP, weights, and scores (clips, classes)."""

    epoch: int
    lrap: float
    weights: list[np.ndarray]
    scores: np.ndarray


class TrainingState:
    """The state of a compiled model, which can start again, be saved, and go on.

    Building and compiling takes longer than a short training, so one model serves many.
    """

    def __init__(self, model: keras.Model):
        # Float16's loss scaling wraps Nadam. Unless that is built first, its product of momenta is
        # missing from the variables of both.
        for optimizer in (getattr(model.optimizer, "inner_optimizer", None), model.optimizer):
            if optimizer is not None:
                optimizer.build(model.trainable_variables)
        self._variables = [*model.variables, *model.optimizer.variables]
        self._network = without_optimiser(model)
        self._initial = self._values()
        # Loss scaling has variables of its own: precision="auto" may have them on one machine only.
        self._layout = fingerprint([value.shape for value in self._initial])

    def restart(self) -> None:
        """Back to where the model was when this object was made."""
        self._assign(self._initial)

    def load_weights(self, path: Path) -> None:
        """Start from weights of another training; the optimiser starts anew."""
        self._network.load_weights(path)

    def write_weights(self, path: Path, kept: Kept) -> None:
        """Write the weights of the best epoch, and leave the network with them."""
        self._network.set_weights(kept.weights)
        with written_whole(path) as part:
            # Where the disk is full, HDF5 ends the process. This is refused like any other file.
            part.write_bytes(bytes(sum(array.nbytes for array in kept.weights) + HDF5_BYTES))
            self._network.save_weights(part)

    def save(self, checkpoint: Checkpoint, kept: Kept | None, history: list[list]) -> None:
        """Write the present state, the best epoch, and a row of numbers per epoch."""
        arrays = {f"state{i}": value for i, value in enumerate(self._values())}
        arrays["history"] = np.array(history)
        if kept:
            arrays |= {f"kept{i}": value for i, value in enumerate(kept.weights)}
            arrays |= {"kept": np.array([kept.epoch, kept.lrap]), "scores": kept.scores}
        self._of_layout(checkpoint).save(arrays)

    def resume(self, checkpoint: Checkpoint | None) -> tuple[Kept | None, list[list]]:
        """Back to the saved state, if there is one, else to the initial one.

        Returns
        -------
        The best epoch so far, and the rows of the epochs that are done: None and [] at the start.
        """
        saved = self._of_layout(checkpoint).load() if checkpoint else None
        if saved is None:
            self.restart()
            return None, []
        self._assign([saved[f"state{i}"] for i in range(len(self._variables))])
        kept = None
        if "kept" in saved:
            epoch, lrap = saved["kept"].tolist()
            weights = [saved[f"kept{i}"] for i in range(len(self._network.weights))]
            kept = Kept(int(epoch), lrap, weights, saved["scores"])
        return kept, saved["history"].tolist()

    def _of_layout(self, checkpoint: Checkpoint) -> Checkpoint:
        """The same, not loaded where the variables are others."""
        return Checkpoint(checkpoint.path, checkpoint.source + self._layout)

    def _values(self) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(variable) for variable in self._variables]

    def _assign(self, values: list[np.ndarray]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)


def without_optimiser(model: keras.Model) -> keras.Model:
    """The same layers, not compiled: weight files of a compiled model hold its optimiser too."""
    return keras.Model(model.inputs, model.outputs)
