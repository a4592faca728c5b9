"""The output folder: its names, known here only, and how files in it are written whole and checked.

clips/{curated,noisy,test}/    the clip stores that preprocess.py writes
folds.csv                      fname,fold: the one fold table
models/EXPERIMENT/             weights, histories and out-of-fold scores, one set per fold
predictions/EXPERIMENT/        oof.csv and test.csv, shaped like a submission
stacker/                       weights and out-of-fold scores of the stackers, one set per fold
submission.csv  oof.csv  scores.csv  per_class.csv
trained.json                   what was trained, for tag.py and kernel.py
kaggle/{dataset,kernel}/       what kernel.py makes for upload
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

import messages

BLOCK_BYTES = 1 << 22
SECONDS_BETWEEN = 10  # of what is not saved after every epoch or batch of clips
HEAD_BYTES = 128  # a .npy file's header, for any array that is stored here
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # of some network disks


@dataclass(frozen=True)
class OutputFolder:
    root: Path

    def clips(self, split: str) -> Path:
        return self.root / "clips" / split

    @property
    def folds(self) -> Path:
        return self.root / "folds.csv"

    def model(self, experiment: str, part: str, kind: str) -> Path:
        """`part` is "pretrained" or "fold3"; `kind` is "weights.h5", "history.csv", ..."""
        return self.root / "models" / experiment / f"{part}.{kind}"

    def predictions(self, experiment: str, part: str) -> Path:
        """`part` is "oof" or "test"."""
        return self.root / "predictions" / experiment / f"{part}.csv"

    def stacker(self, fold: int, kind: str) -> Path:
        """`kind` is "weights.h5", "scores.csv", ..."""
        return self.root / "stacker" / f"fold{fold}.{kind}"

    @property
    def trained(self) -> Path:
        return self.root / "trained.json"

    def kaggle(self, part: str) -> Path:
        """`part` is "dataset" or "kernel"."""
        return self.root / "kaggle" / part

    def size(self, experiments: list[str]) -> int:
        """Bytes of the clips, and of these experiments' models and predictions, that are there."""
        parts = ("models", "predictions")
        folders = {self.root / part / name for part in parts for name in experiments}
        folders.add(self.root / "clips")
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*"))

    @property
    def lock_file(self) -> Path:
        return self.root / ".lock"

    @property
    def demo_input(self) -> Path:
        return self.root / "demo_input"

    def table(self, name: str) -> Path:
        return self.root / f"{name}.csv"


def lock(descriptor: int, operation: int) -> bool:
    """`fcntl.flock`; False where the file system has no locks, so that nothing is held."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to; it takes the name `path` when the block ends without an error.

    By then it is on the disk: a power failure leaves the old file or the new.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: Keras and pandas go by it.
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_scores(path: Path, fnames: list[str], classes: list[str], scores: np.ndarray) -> None:
    """A table shaped like a submission: fname, then one column per class."""
    table = pd.DataFrame(scores, columns=classes)
    table.insert(0, "fname", fnames)
    with written_whole(path) as part:
        table.to_csv(part, index=False)


def read_scores(path: Path) -> pd.DataFrame:
    """What `write_scores` wrote, indexed by fname."""
    options = {"keep_default_na": False, "float_precision": "round_trip"}
    table = pd.read_csv(path, dtype={"fname": str}, **options)
    return table.set_index("fname")


def write_json(path: Path, record: dict) -> None:
    with written_whole(path) as part:
        part.write_text(json.dumps(record, indent=1) + "\n")


def size_and_checksum_of(path: Path) -> list:
    """Size, and CRC-32 of all bytes, of which the first 128 come last.

    Those of a .npy file change whenever rows are appended. So this checksum can be known of a file
    that has just been written, however large, without reading it again (`Appender`).
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        size, checksum = size_and_checksum(file, path.stat().st_size - len(head))
    return with_head(head, size, checksum)


def with_head(head: bytes, size: int, checksum: int) -> list:
    """What `size_and_checksum_of` gives, from the head, and size and CRC-32 of what follows."""
    return [len(head) + size, f"{zlib.crc32(head, checksum):08x}"]


def size_and_checksum(file: BinaryIO, n_bytes: int) -> tuple[int, int]:
    """How many of the next `n_bytes` there are, and their CRC-32; ends behind them."""
    checksum, size = 0, 0
    # Clip stores are large: whoever waits for seconds sees what for.
    label = f"checking {Path(file.name).name}"
    with messages.progress_bar(label, n_bytes, "B", unit_scale=True, delay=2) as bar:
        while block := file.read(min(BLOCK_BYTES, n_bytes - size)):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
            bar.update(len(block))
    return size, checksum


class Checkpoint:
    """A file of arrays, and the fingerprint of what they come from.

    Parameters
    ----------
    path : Path
    source : str
        Arrays of another source are not loaded.
    """

    def __init__(self, path: Path, source: str):
        self.path, self.source = path, source
        self._saved_at = time.monotonic()

    def save(self, arrays: dict[str, np.ndarray]) -> None:
        """Write the arrays in the place of the former ones."""
        with written_whole(self.path) as part, part.open("wb") as file:
            np.savez(file, source=self.source, names=sorted(arrays), **arrays)
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Has nothing been saved for `SECONDS_BETWEEN`?"""
        return time.monotonic() - self._saved_at > SECONDS_BETWEEN

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays, or None if there are none, or they come from something else.

        A damaged checkpoint (each array carries a checksum) is named, and not used.
        """
        if not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            # Each array has a checksum, their list has none.
            if set(arrays.pop("names").tolist()) != set(arrays) - {"source"}:
                raise ValueError("arrays are missing")
            same = arrays.pop("source") == self.source
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            print(f"warning: {self.path} is damaged and not used ({error})")
            return None
        return arrays if same else None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Rows:
    """The rows of an array in a .npy file, read when they are asked for.

    Not mapped: what is read of a mapped file counts as this process's memory until another needs
    it, so that it would seem to grow with the number of clips.

    Attributes
    ----------
    shape : tuple of int
    """

    def __init__(self, path: Path):
        self._file = path.open("rb", buffering=0)
        np.lib.format.read_magic(self._file)
        self.shape, _, self._dtype = np.lib.format.read_array_header_1_0(self._file)
        self._first_byte = self._file.tell()
        self._row_bytes = self._dtype.itemsize * math.prod(self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | int | np.ndarray) -> np.ndarray:
        """Rows first:last, one row, or the rows of an integer array, in its order."""
        if isinstance(index, slice):
            return self._read(*index.indices(len(self))[:2])
        index = np.asarray(index)
        rows = np.empty((index.size, *self.shape[1:]), self._dtype)
        for row, i in zip(rows, index.ravel(), strict=True):
            row[...] = self._read(int(i), int(i) + 1)[0]
        return rows.reshape(*index.shape, *self.shape[1:])

    def _read(self, first: int, last: int) -> np.ndarray:
        n_rows = max(last - first, 0)
        offset = self._first_byte + first * self._row_bytes
        content = os.pread(self._file.fileno(), n_rows * self._row_bytes, offset)
        return np.frombuffer(content, self._dtype).reshape(n_rows, *self.shape[1:])


class Appender:
    """Appends along the first axis of a .npy file, from row `n_rows` on; later rows are cut off.

    Raises ValueError unless the rows before have the given checksum (CRC-32).
    """

    def __init__(self, path: Path, dtype: type, row_shape: tuple, n_rows: int, checksum: int):
        self._dtype, self._row_shape, self._n_rows = np.dtype(dtype), row_shape, n_rows
        self._path = path
        self._file = path.open("r+b" if n_rows else "w+b")
        self._write_header()
        n_bytes = self._n_bytes()
        self._checksum = checksum
        if size_and_checksum(self._file, n_bytes) != (n_bytes, checksum):
            raise ValueError(f"{path} is damaged")
        self._file.truncate()

    def append(self, rows: np.ndarray) -> int:
        """Returns the index of the first appended row."""
        first = self._n_rows
        content = np.ascontiguousarray(rows, self._dtype).tobytes()
        self._file.write(content)
        self._checksum = zlib.crc32(content, self._checksum)
        self._n_rows += len(rows)
        return first

    def commit(self) -> int:
        """Bring the header up to date, and everything onto the disk; returns the checksum."""
        end = self._file.tell()
        self._write_header()
        self._file.seek(end)
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._checksum

    def close(self) -> None:
        self._file.close()

    def written(self) -> dict[Path, list]:
        """The file as it was last committed, and what `size_and_checksum_of` gives for it."""
        with self._path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        return {self._path: with_head(head, self._n_bytes(), self._checksum)}

    def _n_bytes(self) -> int:
        """Of all rows."""
        return self._n_rows * self._dtype.itemsize * math.prod(self._row_shape)

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._n_rows, *self._row_shape),
        }
        self._file.seek(0)
        # NumPy leaves room for the first axis to grow, so that the header keeps its size.
        np.lib.format.write_array_header_1_0(self._file, header)
