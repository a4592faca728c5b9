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
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

import progress

BLOCK_BYTES = 1 << 22
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
    that has just been written, however large, without reading it again (`npy.Appender`).
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
    with progress.bar(label, n_bytes, "B", unit_scale=True, delay=2) as bar:
        while block := file.read(min(BLOCK_BYTES, n_bytes - size)):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
            bar.update(len(block))
    return size, checksum
