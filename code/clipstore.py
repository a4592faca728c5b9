"""The clip store: what preprocess.py made of one split, in flat memory-mapped arrays.

    samples.npy   int16 (all samples,)            trimmed clips, one after the other
    logmel.npy    float16 (all frames, mel bands) their log-mels, dB, not normalised
    features.npy  float32 (clips, 128, 12)        global features of the untrimmed clips
    clips.csv     one row per clip: fname, where its samples and frames start, how many there are,
                  the scale of its samples, and why it could not be read, if so
    store.json    the settings it was made with; written last, so its presence means a whole store

Memory does not grow with the number of clips: the writer appends, the reader maps.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import audio
import logmel
from config import Config
from dataset import ClipFile
from errors import MissingResult, UnreadableClip
from features import N_FEATURES, global_features
from outputs import write_json

NUM_STEPS = 128
SECONDS_PER_LENGTH_UNIT = 10  # the length feature is in tens of seconds
COLUMNS = ("fname", "first_sample", "n_samples", "first_frame", "n_frames", "scale", "fault")
SETTINGS = ("sample_rate", "n_dft", "n_hop", "n_mels")


@dataclass(frozen=True)
class PreparedClip:
    """One clip as it goes into the store. `fault` says why it could not be read, or is empty."""

    samples: np.ndarray  # int16 (trimmed samples,)
    scale: float  # samples * scale is the waveform
    logmel: np.ndarray  # float16 (frames, n_mels), dB
    features: np.ndarray  # float32 (128, 12)
    fault: str = ""


def settings_of(config: Config) -> dict:
    """The settings that a clip store depends on."""
    return {name: getattr(config, name) for name in SETTINGS}


def prepare(clip: ClipFile, settings: dict) -> PreparedClip:
    """Decode a clip, compute its global features, trim it, and compute its log-mel.

    A clip that cannot be read becomes one without samples: silence, at any length.
    """
    try:
        with clip.open() as file:
            waveform = audio.read_clip(file, settings["sample_rate"])
    except (UnreadableClip, OSError) as error:
        nothing = np.empty(0, np.int16), np.empty((0, settings["n_mels"]), np.float16)
        features = np.zeros((NUM_STEPS, N_FEATURES), np.float32)
        return PreparedClip(nothing[0], audio.INT16_SCALE, nothing[1], features, str(error))
    features = global_features(waveform, NUM_STEPS)
    trimmed = audio.trim(waveform)
    decibels = logmel.log_mel(trimmed, **settings)
    samples, scale = audio.to_int16(trimmed)
    return PreparedClip(samples, scale, decibels.astype(np.float16), features)


def write(
    folder: Path, fnames: Iterable[str], clips: Iterable[PreparedClip], settings: dict
) -> None:
    """Write a store from clips as they come; replaces what is in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = []
    with (
        _NpyAppender(folder / "samples.npy", np.int16) as samples,
        _NpyAppender(folder / "logmel.npy", np.float16, settings["n_mels"]) as frames,
        _NpyAppender(folder / "features.npy", np.float32, NUM_STEPS, N_FEATURES) as features,
    ):
        for fname, clip in zip(fnames, clips, strict=True):
            first_sample, first_frame = samples.append(clip.samples), frames.append(clip.logmel)
            sizes = first_sample, len(clip.samples), first_frame, len(clip.logmel)
            rows.append((fname, *sizes, clip.scale, clip.fault))
            features.append(clip.features[None])
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "clips.csv", index=False)
    write_json(folder / "store.json", settings)


class ClipStore:
    """A store, opened for reading.

    Attributes
    ----------
    fnames : list of str
    faults : list of str, one per clip: why it could not be read, or ""
    features : float32 (clips, 128, 12), mapped
    lengths : float32 (clips,), trimmed length in tens of seconds
    """

    def __init__(self, folder: Path):
        if not is_whole(folder):
            raise MissingResult(f"run preprocess first: there are no clips in {folder}")
        self.settings = json.loads((folder / "store.json").read_text())
        table = pd.read_csv(folder / "clips.csv", dtype={"fname": str}, keep_default_na=False)
        self.fnames = list(table["fname"])
        self.faults = list(table["fault"])
        self.features = _open(folder / "features.npy")
        self._samples = _open(folder / "samples.npy")
        self._frames = _open(folder / "logmel.npy")
        self._first_sample = table["first_sample"].to_numpy()
        self._first_frame = table["first_frame"].to_numpy()
        self._scale = table["scale"].to_numpy(np.float32)
        self.n_samples = table["n_samples"].to_numpy()
        self.n_frames = table["n_frames"].to_numpy()
        seconds = self.n_samples / self.settings["sample_rate"]
        self.lengths = (seconds / SECONDS_PER_LENGTH_UNIT).astype(np.float32)

    def __len__(self) -> int:
        return len(self.fnames)

    def waveform(self, clip: int, start: int, length: int) -> np.ndarray:
        """Samples start to start + length, zeros outside the clip: float32 (length,)."""
        stop = self._first_sample[clip] + self.n_samples[clip]
        samples = self._samples[self._first_sample[clip] : stop]
        return _window(samples, start, length, 0) * self._scale[clip]

    def decibels(self, clip: int, start: int, length: int) -> np.ndarray:
        """Log-mel frames start to start + length, -100 dB outside: float32 (length, n_mels)."""
        stop = self._first_frame[clip] + self.n_frames[clip]
        frames = self._frames[self._first_frame[clip] : stop]
        return _window(frames, start, length, logmel.FLOOR_DB)


def is_whole(folder: Path) -> bool:
    """Was the store in `folder` written to its end?"""
    return (folder / "store.json").is_file()


def _open(path: Path) -> np.ndarray:
    """Map an array of the store; an empty one, which cannot be mapped, is read."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, *_ = np.lib.format.read_array_header_1_0(file)
    return np.load(path, mmap_mode="r" if np.prod(shape) else None)


def _window(array: np.ndarray, start: int, length: int, fill: float) -> np.ndarray:
    """array[start : start + length] as float32, filled up where it reaches beyond the ends."""
    window = np.full((length, *array.shape[1:]), fill, np.float32)
    first, last = max(start, 0), min(start + length, len(array))
    if first < last:
        window[first - start : last - start] = array[first:last]
    return window


class _NpyAppender:
    """Appends along the first axis of a .npy file; the header gets its shape on closing."""

    def __init__(self, path: Path, dtype: type, *row_shape: int):
        self._path, self._dtype, self._row_shape = path, np.dtype(dtype), row_shape
        self._n_rows = 0

    def __enter__(self):
        self._file = self._path.open("wb")
        self._write_header()
        return self

    def append(self, rows: np.ndarray) -> int:
        """Returns the index of the first appended row."""
        first = self._n_rows
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._n_rows += len(rows)
        return first

    def __exit__(self, *error):
        self._file.seek(0)
        self._write_header()  # NumPy leaves room for the first axis to grow
        self._file.close()

    def _write_header(self):
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._n_rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
