"""Tables of the dataset as text, and their labels; what is wrong with them is named by row."""

import difflib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from clips.files import BAD_ARCHIVE, unpacked
from messages import SHOWN, InputError, raise_if

TABLES = {
    "curated": ("train_curated.csv", "train_curated_post_competition.csv"),
    "noisy": ("train_noisy.csv", "train_noisy_post_competition.csv"),
    "test": ("test_post_competition.csv",),
    "submission": ("sample_submission.csv",),
}
TABLE_FOLDERS = ("", "FSDKaggle2019.meta")


def find(root: Path, names: Iterable[str]) -> Path | None:
    """The first of the names that exists, also zipped, as Kaggle serves large tables."""
    for name in names:
        for folder in TABLE_FOLDERS:
            for path in (root / folder / name, root / folder / f"{name}.zip"):
                if path.is_file():
                    return path
    return None


def _open_table(path: Path) -> BinaryIO:
    if path.suffix != ".zip":
        return path.open("rb")
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".csv")]
        if len(members) != 1:
            raise ValueError(f"it holds {len(members)} tables")
        return unpacked(archive, members[0])


def read_table(root: Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame | None:
    """The table as text, indexed by its row in the file (the header is row 1); None if absent.

    Raises
    ------
    InputError
        If it cannot be read, lacks one of the columns, or names a clip twice.
    """
    path = find(root, TABLES[name])
    if path is None:
        return None
    options = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
    try:
        with _open_table(path) as file:
            header = pd.read_csv(file, header=None, nrows=1, **options).iloc[0]
            file.seek(0)
            table = pd.read_csv(file, skip_blank_lines=False, **options)
    except (OSError, *BAD_ARCHIVE) as error:
        raise InputError(f"{path}: is not a readable CSV file ({str(error).strip()})") from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(
            f"{path}: needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}, "
            f"but has {', '.join(map(str, table.columns[:SHOWN]))}"
        )
    nameless = [str(i + 1) for i, column in enumerate(header) if not column.strip()]
    if nameless and name == "submission":
        raise InputError(
            f"{path}: column {', '.join(nameless[:SHOWN])} has no name, and columns are classes: "
            "pandas writes such a one for its index, without `index=False`"
        )
    twice = list(header[header.duplicated()])  # pandas renames them
    if any(twice):
        raise InputError(f"{path}: has columns twice: {', '.join(twice[:SHOWN])}")
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(f"{path}: rows have more fields than the header: quote several labels")
    table.index = range(2, len(table) + 2)
    table = table[(table != "").any(axis=1)]
    table.attrs["path"] = path
    repeated = table["fname"][table["fname"].duplicated()]
    faults = [f"row {row}: {fname}" for row, fname in repeated.items()]
    raise_if(faults, path, "file names that an earlier row has already")
    return table


def labels_of(table: pd.DataFrame) -> list[str]:
    """All labels of all rows, one after the other."""
    return [label for labels in table["labels"] for label in _split_labels(labels)]


def _split_labels(labels: str) -> list[str]:
    return [label.strip() for label in labels.split(",") if label.strip()]


def multi_hot(table: pd.DataFrame, classes: list[str], source: str) -> np.ndarray:
    """The labels as int8 (clips, classes), 1 where a clip has the class.

    source : where the classes come from, for messages

    Raises
    ------
    InputError
        If a row has no label, or one that is not a class.
    """
    column = {label: i for i, label in enumerate(classes)}
    labels = np.zeros((len(table), len(classes)), np.int8)
    unknown, empty = [], []
    for i, (row, text) in enumerate(table["labels"].items()):
        names = _split_labels(text)
        if not names:
            empty.append(f"row {row}: {table['fname'][row]}")
        for name in names:
            if name in column:
                labels[i, column[name]] = 1
            else:
                fault = f"row {row}: {name!r}"
                if len(unknown) < SHOWN:  # only those that are shown: it takes milliseconds
                    for near in difflib.get_close_matches(name, classes, n=1, cutoff=0):
                        fault += f" (nearest: {near})"
                unknown.append(fault)
    path = table.attrs.get("path")
    raise_if(unknown, path, f"labels that {source} does not have")
    raise_if(empty, path, "clips without a label")
    return labels
