"""Tables of the dataset as text, and their labels; what is wrong with them is named by row."""

import collections
import contextlib
import io
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from clips.files import BAD_ARCHIVE, ClipFile, files_in, in_any_case, is_hidden
from clips.names import INVISIBLE, nearest, same, shown, strip
from messages import SHOWN, InputError, UnreadableClip, first_few, raise_if

TABLES = {
    "curated": ("train_curated.csv", "train_curated_post_competition.csv"),
    "noisy": ("train_noisy.csv", "train_noisy_post_competition.csv"),
    "test": ("test_post_competition.csv",),
    "submission": ("sample_submission.csv",),
}
TABLE_FOLDERS = ("", "FSDKaggle2019.meta")
SEPARATORS = ",;\t|"
JOINED = "labels are joined by commas"
SAVE_AS = "save it as UTF-8 with commas (in Excel: CSV UTF-8)"
# "['Bark', 'Meow']", "[]"
LIST = re.compile(r"""[\[({]\s*((['"]).*\2,?\s*)?[\])}]""", re.DOTALL)
QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
# Brackets, quotes, other separators, line breaks, UTF-8 that was read as something else.
MISTAKEN = re.compile(
    rf"""[\[\]{{}}"“”„,;|\ufffd]|(?! ){INVISIBLE}|^['‘’]|['‘’]$|Ã[\x80-\xff]|â€"""
)


def find(root: Path, names: Iterable[str]) -> Path | None:
    """The first of the names that exists, also zipped, as Kaggle serves large tables."""
    places = itertools.product(names, TABLE_FOLDERS, ("", ".zip"))
    paths = (in_any_case(root / folder, f"{name}{end}") for name, folder, end in places)
    return next(filter(Path.is_file, paths), None)


def _content(path: Path) -> bytes:
    if path.suffix.lower() != ".zip":
        return path.read_bytes()
    there = [(name, text) for name, text in files_in(path) if not is_hidden(text)]
    names = [name for name, text in there if text.lower().endswith(".csv")]
    if len(names) != 1:
        raise ValueError(f"it holds {len(names)} tables")
    return ClipFile(path, names[0]).open().read()


def _decoded(content: bytes) -> str:
    """UTF-8, UTF-16, or Windows-1252 where other code pages say the same. Else ValueError."""
    zero = content[:8].find(0)  # in UTF-16 half of each character of ASCII, as headers are
    if zero >= 0:
        return content.decode("utf-16-le" if zero % 2 else "utf-16-be").lstrip("\ufeff")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Letters that all Windows in Latin script share; those of DOS and old Macs lie below 0xC0.
        text = content.decode("cp1252", "replace")
        others = {content.decode(page, "replace") for page in ("cp1250", "cp1254", "cp1257")}
        if re.fullmatch(rb"[\0-\x7f\xc0-\xff]+", content) and others == {text}:
            return text
        row = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"row {row}: byte 0x{content[error.start]:x} is not UTF-8") from error


def _parsed(text: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """All rows, the header among them, by their number in the file."""
    options = {"header": None, "dtype": str, "keep_default_na": False, "skip_blank_lines": False}
    # Perhaps Excel's own line that tells the separator, then the header.
    told, header = re.match(r'(?:"?sep=(.)"?\r?\n)?([^\r\n]*)', text).groups()
    header = header.replace('"', "")
    fits = [c for c in SEPARATORS if {*columns} <= {strip(n).casefold() for n in header.split(c)}]
    separator = told or "".join(fits)[:1] or ","
    spaces = re.search(rf'{re.escape(separator)} +"', text)  # before quotes, which count as such
    options |= {"skiprows": int(told is not None), "skipinitialspace": spaces is not None}
    table = pd.read_csv(io.StringIO(text), sep=separator, **options).fillna("")
    if len(table.columns) == 1 and "," in table[0][0]:  # all of it was one column of a spreadsheet
        return _parsed("\n".join(table[0]), columns)
    table.index += 2 if told else 1
    return table[[column for column in table if any(map(strip, table[column]))]]


def read_table(
    root: Path, name: str, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> pd.DataFrame | None:
    """The table as text, indexed by its row in the file (the header is row 1); None if absent.
    InputError if it cannot be read, lacks one of the columns, or names a clip twice. Columns that
    are known by name, optional ones too, are found in any case."""
    path = find(root, TABLES[name])
    if path is None:
        return None
    try:
        table = _parsed(_decoded(_content(path)), columns)
    except (OSError, UnreadableClip, *BAD_ARCHIVE) as error:
        reason = str(error).strip()
        if "saw" in reason:  # pandas: Expected 2 fields in line 3, saw 4
            reason += "; rows have more fields than the header: quote several labels"
        raise InputError(f"{path}: is not a readable CSV file ({reason}): {SAVE_AS}") from error
    header, table = [strip(text) for text in table.iloc[0]], table[1:]
    absent = {*columns, *optional} - {*header}
    names = [text.casefold() if text.casefold() in absent else text for text in header]
    missing = [column for column in columns if column not in names]
    if missing:
        raise InputError(
            f"{path}: needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}, but has "
            f"{shown(', '.join(header[:SHOWN]))}: name them in its first row, and {SAVE_AS}"
        )
    in_file = [column + 1 for column in table.columns]  # empty ones are left out
    table.columns = names
    found = zip(in_file, header, strict=True)
    nameless = [i for i, text in found if not text or "Unnamed: " in text]
    if nameless and name == "submission":
        raise InputError(
            f"{path}: column {', '.join(map(str, nameless[:SHOWN]))} has no name, and columns are "
            "classes: pandas writes such a one for its index, without `index=False`"
        )
    beside = in_file[names.index("labels")] + 1 if "labels" in names else None
    if beside in nameless:
        raise InputError(
            f"{path}: column {beside}, beside the labels, has no name: several labels of a clip "
            f"stand in one column, where {JOINED}; name or remove others"
        )
    spelt = pd.Index(map(same, names))
    twice = list(spelt[spelt.duplicated()])
    if any(twice):
        raise InputError(f"{path}: has columns twice: {', '.join(twice[:SHOWN])}")
    table = table[(table != "").any(axis=1)]
    table.attrs["path"] = path
    repeated = table["fname"][table["fname"].duplicated()]
    faults = [f"row {row}: {shown(fname)}" for row, fname in repeated.items()]
    raise_if(faults, path, "file names that an earlier row has already")
    return table


def split_labels(text: str) -> list[str]:
    """ "Bark, Meow" -> ["Bark", "Meow"]; lists as Python writes them are read too."""
    parts = text.split(",")
    if LIST.fullmatch(strip(text)):
        parts = [_unescaped(single or double) for single, double in QUOTED.findall(text)]
    return [label for label in map(same, parts) if label]


def _unescaped(text: str) -> str:
    """With letters in the place of JSON's escapes, such as \\u00e9."""
    if "\\" in text:
        with contextlib.suppress(ValueError):
            return json.loads(f'"{text}"').encode().decode()
    return text


def multi_hot(table: pd.DataFrame, classes: list[str], source: str) -> np.ndarray:
    """The labels as int8 (clips, classes), 1 where a clip has the class. InputError if a row has no
    label, or one that is no class; `source` says where these come from."""
    column = {same(label): i for i, label in enumerate(classes)}
    labels = np.zeros((len(table), len(classes)), np.int8)
    unknown, empty = [], []
    for i, (row, text) in enumerate(table["labels"].items()):
        names = split_labels(text)
        if not names:
            empty.append(f"row {row}: {shown(table['fname'][row])}")
        for name in names:
            if name in column:
                labels[i, column[name]] = 1
            else:
                near = nearest(name, classes) if len(unknown) < SHOWN else ""  # milliseconds
                unknown.append(f"row {row}: {name!r}{near}")
    path, what = table.attrs.get("path"), f"labels that {source} does not have ({JOINED}"
    for label in [label for label in classes if "," in label][:1]:
        what += f"; rename classes with one, as {label!r}, wherever they are"
    raise_if(unknown, path, f"{what})")
    raise_if(empty, path, "clips without a label")
    return labels


def read_labels(tables: Iterable[pd.DataFrame]) -> tuple[list[str], list[str]]:
    """All labels, sorted; and those that look like a mistake, as warnings that name a row."""
    first, spelt, twins = {}, {}, []  # label -> where it is first; spelling -> label
    counts, pairs = collections.Counter(), collections.Counter()
    for table in tables:
        for row, text in table["labels"].drop_duplicates().items():
            labels = split_labels(text)
            for label in labels:
                first.setdefault(label, f"{table.attrs['path'].name}, row {row}: {label!r}")
            counts.update(labels)
            pairs.update(pair for pair in itertools.pairwise(labels) if ", ".join(pair) in text)
    odd = [place for label, place in first.items() if MISTAKEN.search(label)]
    for label, place in first.items():
        plain = re.sub(f"{INVISIBLE}|_", "", unicodedata.normalize("NFKC", label).casefold())
        if (other := spelt.setdefault(plain, label)) != label:
            twins.append(f"{place} and {first[other]}")
    together = [
        f"{first[a]} and {b!r}" for (a, b), n in pairs.items() if n == counts[a] == counts[b]
    ]
    found = (
        (f"labels look mistaken ({JOINED})", odd),
        ("labels differ in case or spaces", twins),
        ("pairs of labels never come apart (a class name must not hold a comma)", together),
    )
    warnings = [f"{len(faults)} {what}: {first_few(faults)}" for what, faults in found if faults]
    return sorted(first), warnings
