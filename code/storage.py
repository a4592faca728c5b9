"""Files that are written whole, checked, appended to, and gone on from."""

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

import messages

BLOCK_BYTES = 1 << 22
SECONDS_BETWEEN = 10  # of what is not saved after every epoch or batch of clips
READERS = 4  # threads: a disk in the network takes as long for several rows as for one
# For pandas, whose default is off by a bit in the last place.
AS_WRITTEN = {"keep_default_na": False, "float_precision": "round_trip"}
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # of some network disks


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
    return pd.read_csv(path, dtype={"fname": str}, index_col="fname", **AS_WRITTEN)


def write_json(path: Path, record: dict) -> None:
    """Arrays become lists."""
    with written_whole(path) as part:
        part.write_text(json.dumps(record, indent=1, default=np.ndarray.tolist) + "\n")


def size_and_checksum(path: Path, n_bytes: int | None = None) -> list:
    """Size and CRC-32 of a file, or of its first `n_bytes`: [size, 8 hexadecimal digits].

    The size is that of what there is, if the file is shorter.
    """
    checksum, size = 0, 0
    n_bytes = path.stat().st_size if n_bytes is None else n_bytes
    # Clip stores are large: whoever waits for seconds sees what for.
    bar = messages.progress_bar(f"checking {path.name}", n_bytes, "B", unit_scale=True, delay=2)
    with path.open("rb") as file, bar:
        while block := file.read(min(BLOCK_BYTES, n_bytes - size)):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
            bar.update(len(block))
    return [size, f"{checksum:08x}"]


class Checkpoint:
    """A file of arrays, and the fingerprint of what they come from.

    source : arrays of another one are not loaded
    """

    def __init__(self, path: Path, source: str):
        self.path, self.source = path, source
        self._saved_at, self._took = time.monotonic(), 0.0

    def save(self, arrays: dict[str, np.ndarray]) -> None:
        """Write the arrays in the place of the former ones."""
        began = time.monotonic()
        with written_whole(self.path) as part, part.open("wb") as file:
            np.savez(file, source=self.source, names=sorted(arrays), **arrays)
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began

    def is_due(self) -> bool:
        """Has nothing been saved for `SECONDS_BETWEEN`, or for longer where saving takes seconds?

        The scores of millions of clips do: they take a twentieth of the time at most.
        """
        between = SECONDS_BETWEEN * max(1, 2 * self._took)
        return time.monotonic() - self._saved_at > between

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
    """The rows of an array in a raw file (C order, no header), read when they are asked for.

    Not mapped: what is read of a mapped file counts as this process's memory until another needs
    it, so that it would seem to grow with the number of clips. ValueError if the file, or what is
    asked for, does not consist of whole rows.
    """

    def __init__(self, path: Path, dtype: type, row_shape: tuple[int, ...] = ()):
        self._path, self._dtype = path, np.dtype(dtype)
        self._row_items = math.prod(row_shape)
        size, row_bytes = path.stat().st_size, self._row_items * self._dtype.itemsize
        if size % row_bytes:
            raise ValueError(f"{path}: expected rows of {row_bytes} bytes, got {size} bytes")
        self.shape = (size // row_bytes, *row_shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | int | np.ndarray) -> np.ndarray:
        """Rows first:last, one row, or the rows of an integer array, in its order."""
        if isinstance(index, slice):
            return self._read(*index.indices(len(self))[:2])
        index = np.asarray(index)
        with ThreadPoolExecutor(READERS) as threads:
            rows = [*threads.map(lambda i: self._read(i, i + 1), index.ravel().tolist())]
        return np.array(rows, self._dtype).reshape(*index.shape, *self.shape[1:])

    def _read(self, first: int, last: int) -> np.ndarray:
        n_rows = max(last - first, 0)
        offset = first * self._row_items * self._dtype.itemsize
        items = np.fromfile(self._path, self._dtype, n_rows * self._row_items, offset=offset)
        return items.reshape(n_rows, *self.shape[1:])


class Appender:
    """Appends rows to a raw file, from row `n_rows` on; later rows are cut off.

    `len` is the number of rows. Raises ValueError unless the rows before have the given checksum
    (CRC-32).
    """

    def __init__(
        self,
        path: Path,
        dtype: type,
        row_shape: tuple[int, ...] = (),
        n_rows: int = 0,
        checksum: int = 0,
    ):
        self._path, self._dtype, self._n_rows = path, np.dtype(dtype), n_rows
        self._row_bytes = self._dtype.itemsize * math.prod(row_shape)
        self._checksum = checksum
        if n_rows and size_and_checksum(path, self._n_bytes()) != self.written()[path]:
            raise ValueError(f"{path} is damaged")
        self._file = path.open("ab")
        self._file.truncate(self._n_bytes())

    def __len__(self) -> int:
        return self._n_rows

    def append(self, rows: np.ndarray) -> int:
        """Returns the index of the first appended row."""
        first, rows = self._n_rows, np.ascontiguousarray(rows, self._dtype)
        self._file.write(rows)
        self._checksum = zlib.crc32(rows, self._checksum)
        self._n_rows += len(rows)
        return first

    def commit(self) -> int:
        """Bring everything onto the disk; returns the checksum."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._checksum

    def close(self) -> None:
        self._file.close()

    def written(self) -> dict[Path, list]:
        """The file, and what `size_and_checksum` gives for it once all is committed."""
        return {self._path: [self._n_bytes(), f"{self._checksum:08x}"]}

    def _n_bytes(self) -> int:
        return self._n_rows * self._row_bytes


def open_appenders(
    layout: dict[Path, tuple[type, tuple[int, ...]]], checkpoint: Checkpoint
) -> list[Appender]:
    """Appenders that go on after what `commit` saved; else from nothing.

    layout : the files, and their dtypes and shapes of rows
    """
    saved = checkpoint.load()
    if saved:
        try:
            files = zip(layout.items(), saved["progress"].tolist(), strict=True)
            return [Appender(path, *kind, *progress) for (path, kind), progress in files]
        except (OSError, ValueError) as error:
            print(f"warning: {error}: starting again")
    checkpoint.remove()  # of another source, perhaps
    return [Appender(path, *kind) for path, kind in layout.items()]


def commit(appenders: list[Appender], checkpoint: Checkpoint) -> None:
    """First the files, then the checkpoint: it never speaks of rows that are not on the disk."""
    progress = [[len(appender), appender.commit()] for appender in appenders]
    checkpoint.save({"progress": np.array(progress, np.int64)})
