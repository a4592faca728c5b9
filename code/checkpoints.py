"""Work in progress: shown, and saved now and then, so that the same command goes on from there."""

import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from outputs import written_whole

SECONDS_BETWEEN = 10  # of what is not saved after every epoch or batch of clips


def save(path: Path, source: str, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays, and the fingerprint of what they come from; replaces the former checkpoint."""
    with written_whole(path) as part, part.open("wb") as file:
        np.savez(file, source=source, names=sorted(arrays), **arrays)


def load(path: Path, source: str) -> dict[str, np.ndarray] | None:
    """The arrays, or None if there are none, or they come from something else.

    A damaged checkpoint (each array carries a checksum) is named, and not used.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        # Each array has a checksum, their list has none.
        if set(arrays.pop("names").tolist()) != set(arrays) - {"source"}:
            raise ValueError("arrays are missing")
        same = arrays.pop("source") == source
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        print(f"warning: {path} is damaged and not used ({error})")
        return None
    return arrays if same else None


def progress(label: str, n_clips: int, n_done: int = 0) -> tqdm:
    """A bar that goes when it is done, and is not there where nobody watches."""
    return tqdm(total=n_clips, initial=n_done, desc=label, unit="clip", leave=False, disable=None)
