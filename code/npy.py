"""Arrays in .npy files that are larger than memory: appended to, and mapped."""

import math
import os
import zlib
from pathlib import Path

import numpy as np

from outputs import size_and_checksum


def mapped(path: Path) -> np.ndarray:
    """Map the array for reading; an empty one, which cannot be mapped, is read."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, *_ = np.lib.format.read_array_header_1_0(file)
    return np.load(path, mmap_mode="r" if np.prod(shape) else None)


class Appender:
    """Appends along the first axis of a .npy file, from row `n_rows` on; later rows are cut off.

    Raises ValueError unless the rows before have the given checksum (CRC-32).
    """

    def __init__(self, path: Path, dtype: type, row_shape: tuple, n_rows: int, checksum: int):
        self._dtype, self._row_shape, self._n_rows = np.dtype(dtype), row_shape, n_rows
        self._file = path.open("r+b" if n_rows else "w+b")
        self._write_header()
        n_bytes = n_rows * self._dtype.itemsize * math.prod(row_shape)
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

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._n_rows, *self._row_shape),
        }
        self._file.seek(0)
        # NumPy leaves room for the first axis to grow, so that the header keeps its size.
        np.lib.format.write_array_header_1_0(self._file, header)
