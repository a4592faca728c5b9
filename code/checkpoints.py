"""Work in progress, saved now and then, so that the same command goes on from there."""

import time
import zipfile
from pathlib import Path

import numpy as np

from outputs import written_whole

SECONDS_BETWEEN = 10  # of what is not saved after every epoch or batch of clips


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
