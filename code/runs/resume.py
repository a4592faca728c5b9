"""Trainings that go on where they were interrupted, and the files that they leave."""

import functools

import keras
import numpy as np
import pandas as pd

import messages
from messages import PipelineError
from runs.results import Result, fingerprint
from solution.training import HISTORY, Kept, Training
from storage import Checkpoint, write_scores, written_whole

HDF5_BYTES = 1_000_000  # of a weight file, beside the weights


# The batches of scores, with a bar: (batches, label, number of clips) -> the same batches.
watch = functools.partial(messages.watched, size=lambda batch: len(batch[0]))


def complete(result: Result, training: Training, classes: list[str]) -> None:
    """Train to the end, and write the files of the result: history, validation scores, weights.

    PipelineError if loss or scores are not finite.
    """
    state = SavedState(training, result.checkpoint)
    name = f"{training.config.name} {training.part}"
    if state.restore():
        print(f"{name}: going on after epoch {len(training.scoring.history)}")
    try:
        kept = training.fit(Progress(training, name), state)
    except FloatingPointError as error:
        raise PipelineError(f"{name}: {error}. Lower learning_rate by --settings.") from error
    result.unseal()
    history = pd.DataFrame(training.scoring.history, columns=HISTORY).astype({"epoch": int})
    with written_whole(result.path(".history.csv")) as path:
        history.to_csv(path, index=False)
    validation = training.validation
    fnames = [validation.store.fnames[clip] for clip in validation.clips]
    write_scores(result.path(".scores.csv"), fnames, classes, kept.scores)
    training.learner.network.set_weights(kept.weights)
    write_weights(result.path(".weights.h5"), training.learner.network)
    result.seal()
    print(f"wrote {result.path('.weights.h5')} (epoch {kept.epoch + 1}, LRAP {kept.lrap:.4f})")


def write_weights(path, network: keras.Model) -> None:
    """Write the weights of a network that is not compiled."""
    with written_whole(path) as part:
        # Where the disk is full, HDF5 ends the process. This is refused like any other file.
        part.write_bytes(bytes(sum(array.nbytes for array in network.get_weights()) + HDF5_BYTES))
        network.save_weights(part)


class Progress(keras.callbacks.Callback):
    """A bar in each epoch, a line after it."""

    def __init__(self, training: Training, name: str):
        super().__init__()
        self._training, self._name = training, name

    def on_epoch_begin(self, epoch, logs=None):
        part, n_batches = self._training.part, self._training.n_batches
        self._bar = messages.progress_bar(f"{part} training", n_batches, "batch")

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update()
        if self._bar.n == self._bar.total:  # scoring has a bar of its own
            self._bar.close()

    def on_epoch_end(self, epoch, logs):
        best = self._training.scoring.kept
        print(
            f"{self._name} epoch {epoch + 1:2d}/{self._training.schedule.epochs}"
            f"  loss {logs['loss']:.4f}  LRAP {logs['lrap']:.4f}  lwlrap {logs['lwlrap']:.4f}"
            f"  lr {logs['learning_rate']:.2e}  {logs['seconds']:.1f} s"
            f"{'  *' * (best is not None and best.epoch == epoch)}",
            flush=True,
        )


class SavedState(keras.callbacks.Callback):
    """Saves network, optimiser, history and best epoch after every epoch.

    Keras' `BackupAndRestore` forgets the best epoch (keras#17012).
    """

    def __init__(self, training: Training, checkpoint: Checkpoint):
        super().__init__()
        model = training.learner.model
        self._scoring, self._n_weights = training.scoring, len(model.weights)
        self._variables = [*model.variables, *model.optimizer.variables]
        # Loss scaling has variables of its own: precision="auto" may have them on one machine only.
        layout = fingerprint([tuple(variable.shape) for variable in self._variables])
        self._checkpoint = Checkpoint(checkpoint.path, checkpoint.source + layout)

    def restore(self) -> bool:
        """Back to the saved state, if there is one of this training."""
        saved = self._checkpoint.load()
        if saved is None:
            return False
        for i, variable in enumerate(self._variables):
            variable.assign(saved[f"state{i}"])
        self._scoring.history = saved["history"].tolist()
        if "kept" in saved:
            epoch, lrap = saved["kept"].tolist()
            weights = [saved[f"kept{i}"] for i in range(self._n_weights)]
            self._scoring.kept = Kept(int(epoch), lrap, weights, saved["scores"])
        return True

    def on_epoch_end(self, epoch, logs=None):
        values = map(keras.ops.convert_to_numpy, self._variables)
        arrays = {f"state{i}": value for i, value in enumerate(values)}
        arrays["history"] = np.array(self._scoring.history)
        if kept := self._scoring.kept:
            arrays |= {f"kept{i}": value for i, value in enumerate(kept.weights)}
            arrays |= {"kept": np.array([kept.epoch, kept.lrap]), "scores": kept.scores}
        self._checkpoint.save(arrays)
