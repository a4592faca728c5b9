"""The user's dataset: find and read its tables and clips in every layout, and assign the folds.

Layouts: that of the competition solution's README (`audio_train/`, `audio_test/`), Kaggle's
(`train_curated/`, `train_noisy/`, `test/`, or those as .zip files) and Zenodo's
(`FSDKaggle2019.audio_*`, `FSDKaggle2019.meta/`). They may be mixed: each table and each split's
clips are looked for on their own.
"""

import difflib
import functools
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from errors import SHOWN, InputError, UnreadableClip, first_few

SPLITS = ("curated", "noisy", "test")
TABLES = {
    "curated": ("train_curated.csv", "train_curated_post_competition.csv"),
    "noisy": ("train_noisy.csv", "train_noisy_post_competition.csv"),
    "test": ("test_post_competition.csv",),
    "submission": ("sample_submission.csv",),
}
TABLE_FOLDERS = ("", "FSDKaggle2019.meta")
CLIP_FOLDERS = {
    "curated": ("train_curated", "audio_train", "FSDKaggle2019.audio_train_curated"),
    "noisy": ("train_noisy", "audio_train", "FSDKaggle2019.audio_train_noisy"),
    "test": ("test", "audio_test", "FSDKaggle2019.audio_test"),
}
DEEPEST = 4  # folder below the one where a competition is looked for
LARGEST_MEMBER = 1 << 30  # bytes; two hours in one channel are less
# What damaged, encrypted or strangely compressed archives raise.
BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


@functools.cache
def _archive(path: Path) -> zipfile.ZipFile:
    """Opened once per process: reading the directory of a large archive takes its time."""
    return zipfile.ZipFile(path)


def _unpacked(archive: zipfile.ZipFile, member: str) -> BinaryIO:
    """A member in memory. Raises ValueError, and one of BAD_ARCHIVE, if that cannot be."""
    size = archive.getinfo(member).file_size
    if size > LARGEST_MEMBER:
        raise ValueError(
            f"it would take {size / 1e9:.1f} GB of memory: unpack the archive yourself"
        )
    with archive.open(member) as file:
        return io.BytesIO(file.read(size))  # so much at most, whatever the archive really holds


@dataclass(frozen=True)
class ClipFile:
    """Where one clip lies: a file in a folder, or a member of a zip archive."""

    container: Path
    name: str

    def open(self) -> BinaryIO:
        """A seekable binary file; archives are read without unpacking them.

        Raises
        ------
        UnreadableClip
            If the system, or a damaged or encrypted archive, refuses it.
        """
        try:
            if self.container.suffix != ".zip":
                return (self.container / self.name).open("rb")
            return _unpacked(_archive(self.container), self.name)
        except OSError as error:
            raise UnreadableClip(f"cannot be opened ({error.strerror})") from error
        except BAD_ARCHIVE as error:
            raise UnreadableClip(f"cannot be unpacked ({error})") from error

    def stamp(self) -> tuple[int, ...]:
        """Size, time and the like, of an archive as well; another or a mended clip has others."""
        if self.container.suffix != ".zip":
            status = (self.container / self.name).stat()
            return status.st_size, status.st_mtime_ns, status.st_mode
        status, member = self.container.stat(), _archive(self.container).getinfo(self.name)
        return member.file_size, member.CRC, status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Split:
    """Clips in the order of their table.

    fnames : file names; files : where they lie; labels : multi-hot int8 (clips, classes), None
    where unknown; usage : "Public" or "Private" per clip, None where unknown.
    """

    name: str
    fnames: list[str]
    files: list[ClipFile]
    labels: np.ndarray | None
    usage: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.fnames)


@dataclass(frozen=True)
class Dataset:
    """classes : in the order of the networks' outputs; the splits by name, empty ones included."""

    root: Path
    classes: list[str]
    splits: dict[str, Split]

    def __getitem__(self, name: str) -> Split:
        return self.splits[name]


def is_present(root: Path) -> bool:
    """Does `root` hold a dataset, complete or not?"""
    return _find(root, TABLES["curated"]) is not None


def load(root: Path) -> Dataset:
    """Read the tables of the dataset in `root`, find its clips, and check both.

    Returns
    -------
    Dataset
        Classes come from the sample submission or, without one, from the labels, sorted.

    Raises
    ------
    InputError
        If a table or column is missing, or rows have unknown labels, no label, a file name that was
        there before, or a clip that is not there. One message counts all faults of its kind.
    """
    root = Path(root)
    if _find(root, TABLES["curated"]) is None:
        raise InputError(
            f"no dataset in {root}: {' or '.join(TABLES['curated'])} is not there. "
            "README.md shows the layouts that are understood."
        )
    no_table = pd.DataFrame({"fname": [], "labels": []}, dtype=str)
    tables = {}
    for name in SPLITS:
        table = _read_table(root, name, columns=("fname", "labels"))
        tables[name] = no_table if table is None else table
    submission = _read_table(root, "submission", columns=("fname",))
    if submission is not None:
        classes = [column for column in submission.columns if column != "fname"]
        source = submission.attrs["path"].name
        if not classes:
            raise InputError(f"{submission.attrs['path']}: has no class columns beside 'fname'")
    else:
        classes = sorted({label for table in tables.values() for label in _labels_of(table)})
        source = "the labels"

    splits = {
        name: Split(
            name,
            list(tables[name]["fname"]),
            _locate(root, name, tables[name]),
            _multi_hot(tables[name], classes, source),
        )
        for name in ("curated", "noisy")
    }
    splits["test"] = _test_split(root, tables["test"], submission, classes, source)
    if not len(splits["curated"]):
        raise InputError(f"{tables['curated'].attrs['path']}: has no rows, so nothing to train on")
    if len(classes) < 2:
        raise InputError(f"{source} has one class only, {classes[0]!r}: there is nothing to rank")
    return Dataset(root, classes, splits)


def _test_split(root, table, submission, classes, source) -> Split:
    """Rows and order of the sample submission; else of the test table; else of the folder."""
    if submission is None and not len(table):
        clips = _clips_of(root, "test")
        return Split("test", sorted(clips), [clips[fname] for fname in sorted(clips)], labels=None)
    listed = table if submission is None else submission
    fnames, files = list(listed["fname"]), _locate(root, "test", listed)
    order = pd.Index(table["fname"]).get_indexer(fnames)
    if (order < 0).any():  # the labels of some clips only cannot score a submission
        return Split("test", fnames, files, labels=None)
    labels = _multi_hot(table, classes, source)[order]
    usage = table["usage"].to_numpy(str)[order] if "usage" in table else None
    return Split("test", fnames, files, labels, usage)


def find_test(root: Path, classes: list[str]) -> tuple[Split, list[str]]:
    """The test clips of a competition that lies somewhere below `root`.

    Parameters
    ----------
    root : Path
    classes : list of str
        By these the sample submission is known.

    Returns
    -------
    split : Split
        In the order of the sample. A clip that is missing cannot be opened: that costs its scores.
    columns : list of str
        The sample's columns, in its order.

    Raises
    ------
    InputError
        If no sample submission has these classes and any of its clips beside it.
    """
    others = []
    for folder in _folders_below(Path(root)):
        if _find(folder, TABLES["submission"]) is None:
            continue
        try:
            table = _read_table(folder, "submission", columns=("fname",))
            if set(table.columns) != {"fname", *classes}:
                raise InputError(f"{table.attrs['path']}: has {len(table.columns) - 1} others")
            clips = _clips_of(folder, "test", skip_damaged=True)
            if not clips.keys() & set(table["fname"]):
                places = ", ".join(f"{name}/" for name in CLIP_FOLDERS["test"])
                raise InputError(f"none of the test clips is in {places} (or .zip) of {folder}")
        except InputError as error:  # another competition's, perhaps
            others.append(str(error))
            continue
        missing = Path(folder, CLIP_FOLDERS["test"][0])
        files = [clips.get(fname, ClipFile(missing, fname)) for fname in table["fname"]]
        return Split("test", list(table["fname"]), files, labels=None), list(table.columns)
    raise InputError(
        f"no {TABLES['submission'][0]} with the ensemble's {len(classes)} classes and its clips "
        f"below {root}{''.join(f'; {other}' for other in others)}"
    )


def _folders_below(root: Path) -> Iterator[Path]:
    """`root` and the folders in it, some levels deep: mounts differ in how deep they lie."""
    for folder, subfolders, _ in os.walk(root, followlinks=True):
        subfolders.sort()
        if len(Path(folder).relative_to(root).parts) >= DEEPEST:
            subfolders.clear()
        yield Path(folder)


def assign_folds(labels: np.ndarray, n_folds: int = 10, seed: int = 66666) -> np.ndarray:
    """Multi-label iterative stratification, unshuffled.

    Parameters
    ----------
    labels : multi-hot (clips, classes)
    n_folds : int
    seed : int
        Breaks ties between equally good folds.

    Returns
    -------
    int (clips,): the fold in which each clip is validated, 0 to n_folds - 1.

    Raises
    ------
    InputError
        If there are fewer clips than folds.

    References
    ----------
    Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data, ECML PKDD 2011.
    """
    labels = np.asarray(labels)
    if len(labels) < n_folds:
        raise InputError(
            f"{len(labels)} curated clips cannot fill {n_folds} folds: take --profile small, or "
            "lower n_folds in code/config.py"
        )
    # Here, not above: where clips are only tagged, these packages may be missing.
    from iterstrat.ml_stratifiers import IterativeStratification
    from sklearn.utils import check_random_state

    # MultilabelStratifiedKFold refuses a random state without shuffling; this is its core.
    return IterativeStratification(
        labels=labels.astype(bool),
        r=np.full(n_folds, 1 / n_folds),
        random_state=check_random_state(seed),
    ).astype(int)


# --- tables ---------------------------------------------------------------------------------------


def _find(root: Path, names: Iterable[str]) -> Path | None:
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
        return _unpacked(archive, members[0])


def _read_table(root: Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame | None:
    """The table as text, indexed by its row in the file (the header is row 1); None if absent."""
    path = _find(root, TABLES[name])
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
    _raise_if(faults, path, "file names that an earlier row has already")
    return table


def _labels_of(table: pd.DataFrame) -> list[str]:
    return [label for labels in table["labels"] for label in _split_labels(labels)]


def _split_labels(labels: str) -> list[str]:
    return [label.strip() for label in labels.split(",") if label.strip()]


def _multi_hot(table: pd.DataFrame, classes: list[str], source: str) -> np.ndarray:
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
                near = difflib.get_close_matches(name, classes, n=1, cutoff=0) * (
                    len(unknown) < SHOWN  # it takes milliseconds, and rows may be many
                )
                hint = f" (nearest: {near[0]})" if near else ""
                unknown.append(f"row {row}: {name!r}{hint}")
    path = table.attrs.get("path")
    _raise_if(unknown, path, f"labels that {source} does not have")
    _raise_if(empty, path, "clips without a label")
    return labels


def _raise_if(faults: list[str], path, what: str) -> None:
    if faults:
        raise InputError(f"{path}: {len(faults)} {what}: {first_few(faults)}")


# --- clips ----------------------------------------------------------------------------------------


def _clips_of(root: Path, split: str, skip_damaged: bool = False) -> dict[str, ClipFile]:
    """Every file of the split's folders and archives, by file name."""
    clips = {}
    for folder in CLIP_FOLDERS[split]:
        path = root / folder
        if path.is_dir():
            clips.update(
                {
                    entry.name: ClipFile(path, entry.name)
                    for entry in path.iterdir()
                    if entry.is_file()
                }
            )
        archive = root / f"{folder}.zip"
        if archive.is_file():
            try:
                members = _archive(archive).namelist()
            except (OSError, *BAD_ARCHIVE) as error:
                if skip_damaged:
                    continue
                raise InputError(f"{archive}: is not a readable zip archive ({error})") from error
            for member in members:
                if not member.endswith("/"):
                    clips.setdefault(Path(member).name, ClipFile(archive, member))
    return clips


def _locate(root: Path, split: str, table: pd.DataFrame) -> list[ClipFile]:
    """The file of each row."""
    if not len(table):
        return []
    clips = _clips_of(root, split)
    missing = [f"row {row}: {fname}" for row, fname in table["fname"].items() if fname not in clips]
    places = ", ".join(f"{folder}/" for folder in CLIP_FOLDERS[split])
    _raise_if(missing, table.attrs["path"], f"clips that are not in {places} (or .zip) of {root}")
    return [clips[fname] for fname in table["fname"]]
