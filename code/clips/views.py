"""The log-mels that scoring starts from: three views per clip (3-TTA), the same for all networks.

In NumPy: the values of the `Melspectrogram` layer, without TensorFlow.
"""

import dataclasses
import fcntl
from collections.abc import Callable
from pathlib import Path

import numpy as np

import messages
import storage
from clips.store import Clips
from config import PREPROCESSING_SETTINGS, Config
from runs.results import Result
from solution import logmel
from solution.crops import Examples, crops_of, prefetch, split
from storage import Checkpoint, lock

N_VIEWS = 3
CLIPS_AT_ONCE = 8


def with_views(examples: Examples, config: Config, result: Result) -> Examples:
    """The same examples with the views of all clips of their store, made if they are not there."""
    with result.record.with_suffix(".lock").open("w") as file:
        lock(file.fileno(), fcntl.LOCK_EX)  # where several GPUs are at work, one makes them
        if result.fault() is not None:
            result.unseal()
            path = result.files["views"]
            result.seal(write(examples.store, config, path, result.checkpoint, result.name))
    shape = (N_VIEWS, config.crop_frames, config.n_mels)
    return dataclasses.replace(
        examples, views=storage.Rows(result.files["views"], np.float32, shape)
    )


def write(
    store: Clips,
    config: Config,
    path: Path,
    checkpoint: Checkpoint,
    label: str,
    is_late: Callable[[], bool] = lambda: False,
) -> dict[Path, list]:
    """Write the views of all clips of a store, or of the first ones until `is_late`.

    Goes on after the clips of the checkpoint. Returns size and checksum of the file, as
    `Result.seal` takes them.
    """
    saved = checkpoint.load()
    n_done, checksum = saved["progress"].tolist() if saved else (0, 0)
    shape = (N_VIEWS, config.crop_frames, config.n_mels)
    try:
        array = storage.Appender(path, np.float32, shape, n_done, checksum)
    except (OSError, ValueError):
        n_done, array = 0, storage.Appender(path, np.float32, shape, 0, 0)
    batches = split(np.arange(n_done, len(store)), CLIPS_AT_ONCE)
    with messages.progress_bar(label, len(store), done=n_done) as bar:
        for decibels in prefetch(of_clips(store, batch, config) for batch in batches):
            n_done = array.append(decibels) + len(decibels)
            bar.update(len(decibels))
            if is_late():
                break
            if checkpoint.is_due():
                checkpoint.save({"progress": np.array([n_done, array.commit()], np.int64)})
    array.commit()
    array.close()
    return array.written()


def of_clips(store: Clips, clips: np.ndarray, config: Config) -> np.ndarray:
    """The first, middle and last crop of each clip.

    Parameters
    ----------
    store : Clips
    clips : int (n,)
        Which clips of the store.

    Returns
    -------
    float32 (n, 3, frames, n_mels), decibels in [-80, 0]
    """
    cut, sizes, length = crops_of(store, config)
    views = np.empty((len(clips), N_VIEWS, config.crop_frames, config.n_mels), np.float32)
    for view, clip in zip(views, clips, strict=True):
        for number, start in enumerate(view_starts(sizes[clip], length)):
            crop = cut(clip, start, length)
            if config.frontend == "waveform":
                crop = logmel.log_mel(crop, **config.values_of(PREPROCESSING_SETTINGS))
            view[number] = crop
    return logmel.normalise(views)


def view_starts(n: int, length: int) -> tuple[int, int, int]:
    """Starts of the three test-time views: first, middle and last crop (or left padding)."""
    room = n - length
    return 0, int(room / 2), room
