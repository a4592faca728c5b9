"""The user's dataset: its classes and splits, from tables and clips in every layout.

The layouts, which README.md lists, may be mixed: each table and each split's clips are looked for
on their own.
"""

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clips.files import (
    CLIP_FOLDERS,
    ClipFile,
    ClipIndex,
    is_hidden,
    is_named_as_audio,
    locate,
    walk,
)
from clips.names import nearest, same, shown
from clips.tables import TABLES, find, multi_hot, read_labels, read_table
from messages import InputError, first_few, raise_if

SPLITS = ("curated", "noisy", "test")
PACKED = (".zip", ".7z", ".rar", ".tar", "gz", "xz", "bz2")  # ends of names
MOST, FEW = 30, 8  # classes that are shown one by one; of more: first, last and rarest


@dataclass(frozen=True)
class Split:
    """Clips in the order of their table."""

    fnames: list[str]
    files: list[ClipFile]  # where they lie
    labels: np.ndarray | None  # multi-hot int8 (clips, classes), None where unknown
    usage: np.ndarray | None = None  # "Public" or "Private" per clip, None where unknown
    groups: np.ndarray | None = None  # of each clip the name of its group, None where unknown

    def __len__(self) -> int:
        return len(self.fnames)

    @functools.cached_property
    def stamps(self) -> list[tuple]:
        """Name, size, time and the like of each clip, as they were when first asked for."""
        named = zip(self.fnames, self.files, strict=True)
        return [(name, *file.stamp()) for name, file in named]


@dataclass(frozen=True)
class Dataset:
    """What the user's tables and clips hold."""

    classes: list[str]  # in the order of the networks' outputs
    splits: dict[str, Split]  # by name, empty ones included
    warnings: tuple[str, ...] = ()  # what was read, and may be a mistake

    def __getitem__(self, name: str) -> Split:
        return self.splits[name]


def is_present(root: Path) -> bool:
    """Does `root` hold a dataset, or anything else but README.md and what is hidden?"""
    others = (path.name for path in root.iterdir()) if root.is_dir() else ()
    return any(name != "README.md" and not name.startswith(".") for name in others)


def load(root: Path) -> Dataset:
    """Read the tables of the dataset in `root`, find its clips, and check both.

    Classes come from the sample submission or, without one, from the labels of the clips to train
    on, sorted. InputError if a table or column is missing, or rows have unknown labels, no label, a
    file name that was there before, or a clip that is not there. One message counts all faults of
    its kind.
    """
    root = _dataset_folder(Path(root))
    no_table = pd.DataFrame({"fname": [], "labels": []}, dtype=str)
    tables = {}
    for name in SPLITS:
        table = read_table(root, name, columns=("fname", "labels"), optional=("group", "usage"))
        tables[name] = no_table if table is None else table
    submission, warnings = read_table(root, "submission", columns=("fname",)), []
    if submission is not None:
        classes = [column for column in submission.columns if column != "fname"]
        source = submission.attrs["path"].name
        if not classes:
            raise InputError(f"{submission.attrs['path']}: has no class columns beside 'fname'")
    else:
        classes, warnings = read_labels([tables["curated"], tables["noisy"]])
        source = "the training set"

    splits, located, present = {}, set(), {}
    for name in ("curated", "noisy"):
        fnames, files, clips = [], [], ClipIndex(root, name, skip_damaged=not len(tables[name]))
        if len(tables[name]):
            fnames, files = locate(clips, tables[name], located)
        present |= clips.paths
        labels, groups = multi_hot(tables[name], classes, source), _groups(tables[name])
        splits[name] = Split(fnames, files, labels, groups=groups)
        located.update(files)
    warnings += _unnamed(present, located)
    splits["test"] = _test_split(root, tables["test"], submission, classes, source, warnings)
    if not len(splits["curated"]):
        raise InputError(f"{tables['curated'].attrs['path']}: has no rows, so nothing to train on")
    for name in ("noisy", "test"):
        warnings += _heard_before(tables["curated"], tables[name], name)
    if "fname" in classes:
        raise InputError(f"a class of {source} is called 'fname', like the column of file names")
    names = [*classes, *(fname for split in splits.values() for fname in split.fnames)]
    raise_if(
        [repr(name) for name in names if "\r" in name],
        root,
        "clips or classes with a carriage return in their names, which ends a line: rename them",
    )
    if len(classes) < 2:
        raise InputError(f"{source} has one class only, {classes[0]!r}: there is nothing to rank")
    return Dataset(classes, splits, tuple(warnings))


def _dataset_folder(root: Path) -> Path:
    """`root` or, where no dataset is there, the one folder in it that holds one."""
    if find(root, TABLES["curated"]):
        return root
    folders = [folder for folder, _ in walk(root) if folder.suffix != ".meta"]  # Zenodo's
    found = [folder for folder in folders if find(folder, TABLES["curated"])]
    if len(found) == 1 and found[0].parent == root:
        return found[0]
    present = sorted(os.listdir(root)) if root.is_dir() else [root.name]
    packed = [name for name in present if name.lower().endswith(PACKED)]
    hint = nearest(TABLES["curated"][0], present, cutoff=0.7)
    hint += f"; there is one in {first_few([*map(str, found)])}" if found else ""
    hint += f"; unpack it, if it is in {first_few(packed)}" if packed else ""
    raise InputError(
        f"no dataset in {root}: {' or '.join(TABLES['curated'])} is not there{hint}. "
        "README.md shows the layouts that are understood."
    )


def describe(dataset: Dataset) -> str:
    """What was read, as lines: the splits, and the classes with their numbers of clips."""
    sizes = {name: f"{len(dataset[name]):,} {name}" for name in SPLITS}
    if (groups := dataset["curated"].groups) is not None:
        sizes["curated"] += f" (in {len(set(groups)):,} groups)"
    curated, noisy = (dataset[name].labels.sum(axis=0) for name in ("curated", "noisy"))
    counts = zip(map(shown, dataset.classes), curated, noisy, strict=True)
    lines = [f"  {label}  {n} + {m}" for label, n, m in counts]
    if len(lines) > MOST:
        rarest = [lines[i] for i in np.argsort(curated + noisy, kind="stable")[:FEW]]
        lines = [*lines[:FEW], "  ...", *lines[-FEW:], "the rarest:", *rarest]
    sizes, n = ", ".join(sizes.values()), len(dataset.classes)
    head = f"read: {sizes} clips; {n} classes, with curated + noisy clips:"
    return "\n".join([head, *lines])


def _heard_before(curated: pd.DataFrame, table: pd.DataFrame, name: str) -> list[str]:
    """A warning of clips that are of one recording with curated ones, and in another table."""
    known, groups = (one.get("group", pd.Series(dtype=str)).map(same) for one in (curated, table))
    n = groups.isin({*known} - {""}).sum()
    told = {"noisy": "pretraining hears what is then scored out of fold", "test": "scores flatter"}
    return [f"{n} {name} clips are of groups of curated ones: {told[name]}"] if n else []


def _groups(table: pd.DataFrame) -> np.ndarray | None:
    """Of each clip the name of its group; a clip without one is a group of its own."""
    if "group" not in table:
        return None
    names = table["group"].map(same)
    return names.where(names != "", table["fname"]).to_numpy(str)


def _unnamed(present: dict[ClipFile, str], located: Iterable[ClipFile]) -> list[str]:
    """A warning of clips that are there and that no table names: perhaps they were forgotten."""
    named = {os.path.basename(present[file]) for file in located}
    others = {path for path in present.values() if os.path.basename(path) not in named}
    clips = sorted(path for path in others if is_named_as_audio(path) and not is_hidden(path))
    return [f"{len(clips)} clips are in no table: {first_few(clips)}"] if clips else []


def _test_split(root, table, submission, classes, source, warnings) -> Split:
    """Rows and order of the sample submission; else of the test table; else of the folder."""
    listed = table if submission is None or not len(submission) else submission
    clips = ClipIndex(root, "test")
    if not len(listed):
        found, others = clips.listed()
        if others:
            warnings.append(f"{len(others)} test files are no audio: {first_few(others)}")
        fnames = sorted(found)
        odd = [repr(fname) for fname in fnames if fname.encode(errors="ignore").decode() != fname]
        raise_if(odd, clips.places, "file names that are not UTF-8: rename them")
        return Split(fnames, [found[fname] for fname in fnames], labels=None)
    fnames, files = locate(clips, listed)
    warnings += _unnamed(clips.paths, files)
    if not len(table):
        return Split(fnames, files, labels=None)
    rows = {tuple(clips.find(fname)): i for i, fname in enumerate(table["fname"])}
    order = [rows.get((file,), -1) for file in files]
    if min(order) < 0:  # the labels of some clips only cannot score a submission
        n, name = order.count(-1), table.attrs["path"].name
        warnings.append(f"{name} lacks {n} of {len(files)} test clips: labels are left out")
        return Split(fnames, files, labels=None)
    labels = multi_hot(table, classes, source)[order]
    usage = table["usage"].to_numpy(str)[order] if "usage" in table else None
    return Split(fnames, files, labels, usage)


def find_test(root: Path, classes: list[str]) -> tuple[Split, list[str]]:
    """The test clips of a competition somewhere below `root`, known by the names of its classes.

    In the order of the sample, whose columns are given too, in theirs. A clip that is missing
    cannot be opened: that costs its scores. InputError if no sample submission has these classes
    and any of its clips beside it.
    """
    others, spelt = [], {"fname": "fname"} | {same(label): label for label in classes}
    for folder, _ in walk(Path(root)):
        if find(folder, TABLES["submission"]) is None:
            continue
        try:
            table = read_table(folder, "submission", columns=("fname",))
            columns = [spelt.get(same(column)) for column in table.columns]
            if len(columns) != len(spelt) or None in columns:
                raise InputError(f"{table.attrs['path']}: has other classes than the ensemble")
            clips = ClipIndex(folder, "test", skip_damaged=True)
            found = [clips.find(fname) for fname in table["fname"]]
            if not any(found):
                raise InputError(f"none of the test clips is in {clips.places}")
        except InputError as error:  # another competition's, perhaps
            others.append(str(error))
            continue
        fnames, missing = list(table["fname"]), Path(folder, CLIP_FOLDERS["test"][0])
        pairs = zip(found, fnames, strict=True)
        files = [one[0] if len(one) == 1 else ClipFile(missing, fname) for one, fname in pairs]
        return Split(fnames, files, labels=None), columns
    raise InputError(
        f"no {TABLES['submission'][0]} with the ensemble's {len(classes)} classes and its clips "
        f"below {root}{''.join(f'; {other}' for other in others)}"
    )
