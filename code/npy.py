"""Arrays in .npy files that are larger than memory: appended to, and read row by row."""

import math
import os
import zlib
from pathlib import Path

import numpy as np

from outputs import HEAD_BYTES, size_and_checksum, with_head


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
