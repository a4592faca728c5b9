"""Clips made ready for the store: decoded, trimmed, with global features; on all cores.

`settings` are those that all of it depends on: `PREPROCESSING_SETTINGS` with their values.
"""

import collections
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import joblib
import numpy as np

from clips.decoding import read_clip
from clips.files import ClipFile
from fast import processes
from messages import UnreadableClip
from solution import audio
from solution.features import N_FEATURES, NUM_STEPS, global_features

CLIPS_IN_ROUND = 64
ROUNDS_AT_ONCE = 2  # so many rounds of clips at most wait in memory to be written
CLIPS_AT_ONCE = 2  # a process is sent so many together


@dataclass(frozen=True)
class PreparedClip:
    """One clip as it goes into the store. `fault` says why it could not be read, or is empty."""

    samples: np.ndarray  # int16 (trimmed samples,)
    scale: float  # samples * scale is the waveform
    features: np.ndarray  # float32 (128, 12)
    fault: str = ""


def prepare_all(files: list[ClipFile], settings: dict) -> Iterator[PreparedClip]:
    """Prepare clips on all cores; they come in order, and as they are ready.

    BrokenProcessPool (of concurrent.futures.process) if one of the processes is killed.
    """
    # joblib's remark on unused results follows every interruption.
    warnings.filterwarnings("ignore", module="joblib")
    options = {"n_jobs": -1, "return_as": "generator", "batch_size": CLIPS_AT_ONCE}
    # joblib does not wait for the writer: what is faster piles up, until the round is over. The
    # next round is under way by then, so that no core waits for the last clips of this one.
    under_way, stage = collections.deque(), processes.this()
    try:
        for first in range(0, len(files), CLIPS_IN_ROUND):
            files_of_round = files[first : first + CLIPS_IN_ROUND]
            tasks = (joblib.delayed(_task)(stage, file, settings) for file in files_of_round)
            under_way.append(joblib.Parallel(**options)(tasks))
            if len(under_way) == ROUNDS_AT_ONCE:
                yield from under_way.popleft()
        for prepared in under_way:
            yield from prepared
    finally:
        for prepared in under_way:
            prepared.close()


def _task(stage: processes.Process, clip: ClipFile, settings: dict) -> PreparedClip:
    processes.end_with(stage)
    return prepare(clip, settings)


def prepare(clip: ClipFile, settings: dict) -> PreparedClip:
    """Decode a clip, and prepare its waveform; one that cannot be read becomes `silence`."""
    try:
        with clip.open() as file:
            waveform = read_clip(file, settings["sample_rate"])
        return prepare_waveform(waveform)
    except UnreadableClip as error:
        return silence(str(error))
    except MemoryError:
        return silence("takes more memory than there is")


def prepare_waveform(waveform: np.ndarray) -> PreparedClip:
    """Global features, then trimming of float32 (samples,)."""
    features = global_features(waveform)
    samples, scale = audio.to_int16(audio.trim(waveform))
    return PreparedClip(samples, scale, features)


def silence(fault: str) -> PreparedClip:
    """A clip without samples: silence, at any length."""
    features = np.zeros((NUM_STEPS, N_FEATURES), np.float32)
    return PreparedClip(np.empty(0, np.int16), audio.INT16_SCALE, features, fault)
