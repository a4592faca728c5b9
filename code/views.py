"""The log-mels that scoring starts from: three views per clip, computed once for all networks."""

import dataclasses
import fcntl
import time
from pathlib import Path

import keras
import numpy as np

import checkpoints
import npy
from batches import N_VIEWS, Examples, prefetch, view_batches
from clipstore import ClipStore
from config import Config
from models import front_end
from prediction import SECONDS_BETWEEN_CHECKPOINTS, progress
from run import Run


def with_views(examples: Examples, run: Run, split: str, config: Config) -> Examples:
    """The same examples with the views of all clips of their split, made if they are not there."""
    result, source = run.views(split), run.views_source(split, config)
    with result.record.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # where several GPUs are at work, one makes them
        if result.fault(source) is not None:
            result.unseal()
            path, fingerprint = result.files["views"], result.fingerprint(source)
            write(examples.store, config, path, result.checkpoint, fingerprint, result.name)
            result.seal(source)
    return dataclasses.replace(examples, views=npy.Rows(result.files["views"]))


def write(
    store: ClipStore, config: Config, path: Path, checkpoint: Path, source: str, label: str
) -> None:
    """Write float32 (clips, 3, frames, n_mels): decibels in [-80, 0], first, middle and last crop.

    Goes on after the clips of a checkpoint of the same source.
    """
    saved = checkpoints.load(checkpoint, source)
    n_done, checksum = saved["progress"].tolist() if saved else (0, 0)
    shape = (N_VIEWS, config.crop_frames, config.n_mels)
    try:
        array = npy.Appender(path, np.float32, shape, n_done, checksum)
    except (OSError, ValueError):
        n_done, array = 0, npy.Appender(path, np.float32, shape, 0, 0)
    to_decibels = keras.Model(*front_end(config))
    rest = Examples(store, np.arange(n_done, len(store)), None)
    saved_at = time.monotonic()
    with progress(label, len(store), n_done) as bar:
        for sound in prefetch(view_batches(rest, config)):
            decibels = to_decibels.predict_on_batch(sound)  # (batch * 3, frames, n_mels, 1)
            decibels = decibels.reshape(-1, *shape)
            n_done = array.append(decibels) + len(decibels)
            bar.update(len(decibels))
            if time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS:
                progress_so_far = np.array([n_done, array.commit()], np.int64)
                checkpoints.save(checkpoint, source, {"progress": progress_so_far})
                saved_at = time.monotonic()
    array.commit()
    array.close()
