"""The clip store: what preprocess.py made of one split, in flat arrays.

    samples.i16   int16 (all samples,)            trimmed clips, one after the other
    features.f32  float32 (clips, 128, 12)        global features of the untrimmed clips
    clips.csv     one row per clip: fname, where its samples start, how many there are, its length
                  in tens of seconds, the scale of its samples, and why it could not be read, if so
    store.json    what it was made from (`runs`); written last, so without it nothing is whole

The arrays are raw: rows in C order, without a header, as `np.fromfile` reads them. Memory does not
grow with the number of clips: the writer appends, and each crop is read by itself. A few clips can
be held in memory instead (`in_memory`).
"""

import contextlib
import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd

import storage
from clips.prepare import PreparedClip
from config import FRONT_END_SETTINGS, Config
from solution import logmel
from solution.features import N_FEATURES, NUM_STEPS
from storage import Checkpoint

SECONDS_PER_LENGTH_UNIT = 10  # the length feature is in tens of seconds
CLIPS_BETWEEN_SAVES = 256  # after an interruption, they and what was being prepared are done again
TABLE = "clips.csv"
ARRAYS = {  # dtype and shape of a row
    "samples.i16": (np.int16, ()),
    "features.f32": (np.float32, (NUM_STEPS, N_FEATURES)),
}
COLUMNS = ("fname", "first_sample", "n_samples", "length", "scale", "fault")  # of the table
STORE_FILES = (*ARRAYS, TABLE)


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
            table.append(_csv_line(COLUMNS))

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


def _row(fname: str, clip: PreparedClip, first_sample: int, settings: dict) -> tuple:
    """The values of COLUMNS; the length is that of the trimmed clip."""
    length = len(clip.samples) / settings["sample_rate"] / SECONDS_PER_LENGTH_UNIT
    return fname, first_sample, len(clip.samples), length, clip.scale, clip.fault


class Clips:
    """Prepared clips, for reading: `solution.crops.Clips`.

    table : with COLUMNS
    samples, features : arrays, or rows that are read when they are asked for
    """

    def __init__(self, table: pd.DataFrame, samples, features):
        self.fnames, self.faults = list(table["fname"]), list(table["fault"])
        self.features, self._samples = features, samples  # features: float32 (clips, 128, 12)
        self._first_sample = table["first_sample"].to_numpy()
        self._scale = table["scale"].to_numpy(np.float32)
        self.n_samples = table["n_samples"].to_numpy()  # int (clips,), as is n_frames
        self.lengths = table["length"].to_numpy(np.float32)  # (clips,), trimmed, in tens of seconds

    def add_log_mels(self, frames, n_hop: int) -> None:
        """The log-mels of all clips, one after the other: float16 (all frames, n_mels)."""
        self._frames, self.n_frames = frames, -(-self.n_samples // n_hop)
        self._first_frame = np.cumsum(self.n_frames) - self.n_frames

    def log_mels(self, clips: np.ndarray, config: Config) -> np.ndarray:
        """Computes those of whole clips, one after the other: float16 (all frames, n_mels)."""
        front_end = config.values(FRONT_END_SETTINGS)
        whole = (self.waveform(clip, 0, self.n_samples[clip]) for clip in clips)
        return np.concatenate([logmel.log_mel(w, **front_end).astype(np.float16) for w in whole])

    def __len__(self) -> int:
        return len(self.fnames)

    def inputs(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """What networks take beside the sound: `length` (n, 1), `global_feat` (n, 128, 12)."""
        return {"length": self.lengths[clips, None], "global_feat": self.features[clips]}

    def waveform(self, clip: int, start: int, length: int) -> np.ndarray:
        """Samples start to start + length, zeros outside the clip: float32 (length,)."""
        clip_in_file = self._first_sample[clip], self.n_samples[clip]
        return _window(self._samples, *clip_in_file, start, length, 0) * self._scale[clip]

    def decibels(self, clip: int, start: int, length: int) -> np.ndarray:
        """Log-mel frames start to start + length, -100 dB outside: float32 (length, n_mels)."""
        clip_in_file = self._first_frame[clip], self.n_frames[clip]
        return _window(self._frames, *clip_in_file, start, length, logmel.FLOOR_DB)


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
    return Clips(pd.DataFrame(rows, columns=COLUMNS), samples, features)


def _window(rows, offset: int, n: int, start: int, length: int, fill: float) -> np.ndarray:
    """Rows start to start + length of the n from `offset` on, as float32; elsewhere `fill`."""
    window = np.full((length, *rows.shape[1:]), fill, np.float32)
    first, last = max(start, 0), min(start + length, n)
    if first < last:
        window[first - start : last - start] = rows[offset + first : offset + last]
    return window
