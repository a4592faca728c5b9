"""The clip store: what preprocess.py made of one split, in flat arrays.

    samples.i16   int16 (all samples,)            trimmed clips, one after the other
    features.f32  float32 (clips, 128, 12)        global features of the untrimmed clips
    clips.csv     one row per clip: fname, where its samples start, how many there are, its length,
                  the scale of its samples, and why it could not be read, if so
    store.json    what it was made from (`runs`); written last, so without it nothing is whole

The arrays are raw: rows in C order, without a header, as `np.fromfile` reads them. Memory does not
grow with the number of clips: the writer appends, and each crop is read by itself. A few clips can
be held in memory instead (`in_memory`).
"""

import contextlib
import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

import storage
from clips.prepare import PreparedClip
from solution.crops import Clips
from solution.features import N_FEATURES, NUM_STEPS
from storage import Checkpoint

SECONDS_PER_LENGTH_UNIT = 10  # the length feature is in tens of seconds
CLIPS_BETWEEN_SAVES = 256  # after an interruption, they and what was being prepared are done again
TABLE = "clips.csv"
ARRAYS = {  # dtype and shape of a row
    "samples.i16": (np.int16, ()),
    "features.f32": (np.float32, (NUM_STEPS, N_FEATURES)),
}
STORE_FILES = (*ARRAYS, TABLE)


class ClipRow(NamedTuple):
    """A row of clips.csv."""

    fname: str
    first_sample: int
    n_samples: int
    length: float  # the trimmed length, in tens of seconds
    scale: float  # of the samples
    fault: str  # why it could not be read, or empty


class Writer:
    """Fills a store clip by clip; one that was interrupted goes on after its last whole batch.

    settings : `PREPROCESSING_SETTINGS` with their values
    checkpoint : where sizes and checksums of the files are saved after every batch; what came from
        another source, or is not as it was written, is started anew

    Use as a context manager; `len` is the number of clips that are in already.
    """

    def __init__(self, folder: Path, settings: dict, checkpoint: Checkpoint):
        folder.mkdir(parents=True, exist_ok=True)
        self._settings, self._checkpoint = settings, checkpoint
        layout = ARRAYS | {TABLE: (np.uint8, ())}
        layout = {folder / name: kind for name, kind in layout.items()}
        self._files = storage.open_appenders(layout, checkpoint)
        *_, table = self._files
        if not len(table):
            table.append(_csv_line(ClipRow._fields))

    def __len__(self) -> int:
        _, features, _ = self._files
        return len(features)

    def append(self, fname: str, clip: PreparedClip) -> None:
        samples, features, table = self._files
        features.append(clip.features[None])
        table.append(_csv_line(_row(fname, clip, samples.append(clip.samples), self._settings)))
        if len(self) % CLIPS_BETWEEN_SAVES == 0:
            storage.commit(self._files, self._checkpoint)

    def __enter__(self):
        return self

    def __exit__(self, error_type, *_):
        with contextlib.ExitStack() as closing:  # all of them, though one fails on a full disk
            for file in self._files:
                closing.callback(file.close)
            if error_type is None:
                storage.commit(self._files, self._checkpoint)

    def written(self) -> dict[Path, list]:
        """Size and checksum of each file, as `Result.seal` takes them."""
        return {path: known for file in self._files for path, known in file.written().items()}


def _csv_line(values: tuple) -> np.ndarray:
    """Of bytes, uint8 (n,)."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(values)
    return np.frombuffer(text.getvalue().encode(), np.uint8)


def _row(fname: str, clip: PreparedClip, first_sample: int, settings: dict) -> ClipRow:
    length = len(clip.samples) / settings["sample_rate"] / SECONDS_PER_LENGTH_UNIT
    return ClipRow(fname, first_sample, len(clip.samples), length, clip.scale, clip.fault)


class ClipStore(Clips):
    """A store that `Writer` filled; what is asked for is read from its files."""

    def __init__(self, folder: Path):
        arrays = (storage.Rows(folder / name, *kind) for name, kind in ARRAYS.items())
        texts = {"fname": str, "fault": str}
        table = pd.read_csv(folder / TABLE, dtype=texts, **storage.AS_WRITTEN)
        super().__init__(table, *arrays)


def in_memory(prepared: list[PreparedClip], settings: dict) -> Clips:
    """A few clips, at least one, without files; they are named by their number."""
    rows, first_sample = [], 0
    for number, clip in enumerate(prepared):
        rows.append(_row(str(number), clip, first_sample, settings))
        first_sample += len(clip.samples)
    samples = np.concatenate([clip.samples for clip in prepared])
    features = np.stack([clip.features for clip in prepared])
    return Clips(pd.DataFrame(rows, columns=ClipRow._fields), samples, features)
