"""The user's dataset: its classes, splits and folds, from tables and clips in every layout.

Layouts: that of the competition solution's README (`audio_train/`, `audio_test/`), Kaggle's
(`train_curated/`, `train_noisy/`, `test/`, or those as .zip files) and Zenodo's
(`FSDKaggle2019.audio_*`, `FSDKaggle2019.meta/`). They may be mixed: each table and each split's
clips are looked for on their own.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clips.files import CLIP_FOLDERS, ClipFile, clips_of, locate, places, same_name
from clips.tables import TABLES, find, labels_of, multi_hot, read_table
from messages import InputError, raise_if

SPLITS = ("curated", "noisy", "test")
DEEPEST = 4  # folder below the one where a competition is looked for


@dataclass(frozen=True)
class Split:
    """Clips in the order of their table."""

    fnames: list[str]
    files: list[ClipFile]  # where they lie
    labels: np.ndarray | None  # multi-hot int8 (clips, classes), None where unknown
    usage: np.ndarray | None = None  # "Public" or "Private" per clip, None where unknown

    def __len__(self) -> int:
        return len(self.fnames)


@dataclass(frozen=True)
class Dataset:
    """What the user's tables and clips hold."""

    classes: list[str]  # in the order of the networks' outputs
    splits: dict[str, Split]  # by name, empty ones included

    def __getitem__(self, name: str) -> Split:
        return self.splits[name]


def is_present(root: Path) -> bool:
    """Does `root` hold a dataset, or anything else but README.md and what is hidden?"""
    others = (path.name for path in root.iterdir()) if root.is_dir() else ()
    return any(name != "README.md" and not name.startswith(".") for name in others)


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
    if find(root, TABLES["curated"]) is None:
        raise InputError(
            f"no dataset in {root}: {' or '.join(TABLES['curated'])} is not there. "
            "README.md shows the layouts that are understood."
        )
    no_table = pd.DataFrame({"fname": [], "labels": []}, dtype=str)
    tables = {}
    for name in SPLITS:
        table = read_table(root, name, columns=("fname", "labels"))
        tables[name] = no_table if table is None else table
    submission = read_table(root, "submission", columns=("fname",))
    if submission is not None:
        classes = [column for column in submission.columns if column != "fname"]
        source = submission.attrs["path"].name
        if not classes:
            raise InputError(f"{submission.attrs['path']}: has no class columns beside 'fname'")
    else:
        classes = sorted({label for table in tables.values() for label in labels_of(table)})
        source = "the labels"

    splits = {
        name: Split(
            list(tables[name]["fname"]),
            locate(root, name, tables[name]),
            multi_hot(tables[name], classes, source),
        )
        for name in ("curated", "noisy")
    }
    splits["test"] = _test_split(root, tables["test"], submission, classes, source)
    if not len(splits["curated"]):
        raise InputError(f"{tables['curated'].attrs['path']}: has no rows, so nothing to train on")
    _require_apart(tables["noisy"], splits["curated"], splits["noisy"])
    if "fname" in classes:
        raise InputError(f"a class of {source} is called 'fname', like the column of file names")
    if len(classes) < 2:
        raise InputError(f"{source} has one class only, {classes[0]!r}: there is nothing to rank")
    return Dataset(classes, splits)


def _require_apart(table: pd.DataFrame, curated: Split, noisy: Split) -> None:
    """InputError if pretraining would see clips that out-of-fold scores are of."""
    held_out = set(curated.files)
    both = [
        f"row {row}: {fname}"
        for row, fname, file in zip(table.index, noisy.fnames, noisy.files, strict=True)
        if file in held_out
    ]
    raise_if(both, table.attrs.get("path"), "clips that are in the curated table too")


def _test_split(root, table, submission, classes, source) -> Split:
    """Rows and order of the sample submission; else of the test table; else of the folder."""
    listed = table if submission is None or not len(submission) else submission
    if not len(listed):
        clips = clips_of(root, "test")
        fnames = sorted(fname for fname in clips if not fname.startswith("."))  # .DS_Store
        odd = [repr(fname) for fname in fnames if not _is_text(fname)]
        raise_if(odd, places(root, "test"), "file names that are not UTF-8: rename them")
        return Split(fnames, [clips[fname] for fname in fnames], labels=None)
    fnames, files = list(listed["fname"]), locate(root, "test", listed)
    order = pd.Index(table["fname"]).get_indexer(fnames)
    if (order < 0).any():  # the labels of some clips only cannot score a submission
        return Split(fnames, files, labels=None)
    labels = multi_hot(table, classes, source)[order]
    usage = table["usage"].to_numpy(str)[order] if "usage" in table else None
    return Split(fnames, files, labels, usage)


def _is_text(fname: str) -> bool:
    """Names that the system could not decode hold surrogates, which no table can."""
    return not any("\ud800" <= character <= "\udfff" for character in fname)


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
        if find(folder, TABLES["submission"]) is None:
            continue
        try:
            table = read_table(folder, "submission", columns=("fname",))
            if set(table.columns) != {"fname", *classes}:
                raise InputError(f"{table.attrs['path']}: has other classes than the ensemble")
            clips = clips_of(folder, "test", skip_damaged=True)
            if not clips.keys() & set(map(same_name, table["fname"])):
                raise InputError(f"none of the test clips is in {places(folder, 'test')}")
        except InputError as error:  # another competition's, perhaps
            others.append(str(error))
            continue
        missing = Path(folder, CLIP_FOLDERS["test"][0])
        files = [clips.get(same_name(fname), ClipFile(missing, fname)) for fname in table["fname"]]
        return Split(list(table["fname"]), files, labels=None), list(table.columns)
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
    # Here, not above: where clips are only tagged, it may be missing.
    from iterstrat.ml_stratifiers import IterativeStratification

    # MultilabelStratifiedKFold refuses a random state without shuffling; this is its core.
    return IterativeStratification(
        labels=labels.astype(bool),
        r=np.full(n_folds, 1 / n_folds),
        random_state=np.random.RandomState(seed),
    ).astype(int)
