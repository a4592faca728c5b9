"""What workers do for preprocessing; without Keras, like all of that."""

import functools
from collections.abc import Callable

import numpy as np

from clips import prepare
from clips.files import ClipFile
from clips.prepare import PreparedClip
from config import Config
from runs.run import Run

_store = functools.lru_cache(maxsize=1)(Run.store)


def prepare_clips(run: Run, files: list[ClipFile]) -> list[PreparedClip]:
    """Make clips ready for the store, one after the other."""
    return [prepare.prepare(file, run.settings) for file in files]


def make_of_clips(run: Run, batch: np.ndarray, of: tuple, config: Config, function: Callable):
    """`function(store, batch, config)` of some clips of `run.store(*of)`."""
    return function(_store(run, *of), batch, config)
