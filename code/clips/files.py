"""Where clips lie: files in folders, or members of zip archives, which are read as they are."""

import codecs
import contextlib
import functools
import io
import lzma
import os
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import soundfile as sf

from clips.decoding import holds_sound
from clips.names import nearest, same, shown, strip
from messages import SHOWN, InputError, UnreadableClip, raise_if

SHARED = "audio_train"  # by two splits: another clip in a split's own folder counts before
CLIP_FOLDERS = {
    "curated": ("train_curated", SHARED, "FSDKaggle2019.audio_train_curated"),
    "noisy": ("train_noisy", SHARED, "FSDKaggle2019.audio_train_noisy"),
    "test": ("test", "audio_test", "FSDKaggle2019.audio_test"),
}
# Cameras call their pictures .raw.
AUDIO_SUFFIXES = {f".{name.lower()}" for name in sf.available_formats().keys() - {"RAW"}} | {
    *(".aif", ".aifc", ".oga", ".opus", ".m4a", ".m4b", ".aac", ".amr", ".wma", ".mka", ".mp2"),
    *(".3gp", ".3gpp", ".3g2", ".mp4", ".m4r", ".m4v", ".mov", ".mkv", ".webm", ".weba"),
    *(".ac3", ".eac3", ".ape", ".wv", ".tta", ".asf", ".wmv", ".avi", ".flv", ".mpg", ".mpeg"),
}
BEGINNING = 1 << 16  # bytes of clips of one size that are compared
DEEPEST = 8  # folder below the one where files are looked for
UTF8_FLAG = 0x800  # of a member of a zip archive
LARGEST_MEMBER = 1 << 30  # bytes; two hours in one channel are less
# What damaged, encrypted or strangely compressed archives raise.
BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


@functools.lru_cache(maxsize=16)
def _opened(path: Path, *version: int) -> zipfile.ZipFile:
    """Once per process: reading the directory of a large archive takes its time."""
    return zipfile.ZipFile(path)


def _archive(path: Path) -> zipfile.ZipFile:
    """As it is now: Dask's workers outlive runs, and archives are mended in between."""
    status = path.stat()
    return _opened(path, status.st_mtime_ns, status.st_size, status.st_ino)


@dataclass(frozen=True)
class ClipFile:
    """Where one clip lies: a file in a folder, or a member of a zip archive."""

    container: Path
    name: str

    @property
    def is_packed(self) -> bool:
        return self.container.suffix.lower() == ".zip"

    @property
    def folder(self) -> str:
        """The name of the folder that it lies in, or that its archive is of."""
        return self.container.stem if self.is_packed else self.container.name

    @property
    def is_shared(self) -> bool:
        """May it be of another split?"""
        return self.folder.casefold() == SHARED

    def open(self) -> BinaryIO:
        """A seekable binary file. UnreadableClip if the system, or a faulty archive, refuses it."""
        try:
            if not self.is_packed:
                return (self.container / self.name).open("rb")
            archive = _archive(self.container)
            size = archive.getinfo(self.name).file_size
            if size > LARGEST_MEMBER:
                size = f"{size / 1e9:.1f} GB of memory"
                raise UnreadableClip(f"would take {size}: unpack the archive yourself")
            with archive.open(self.name) as file:
                return io.BytesIO(file.read(size))  # no more, whatever there really is
        except OSError as error:
            raise UnreadableClip(f"cannot be opened ({error.strerror or error})") from error
        except (KeyError, *BAD_ARCHIVE) as error:
            raise UnreadableClip(f"cannot be unpacked ({error})") from error

    def beginning(self) -> tuple[int, bytes]:
        """Its size and its first bytes, as copies have them; of what cannot be read, its place."""
        data = bytes(self.container)
        with contextlib.suppress(OSError, *BAD_ARCHIVE):
            if self.is_packed:  # no more is unpacked than is read
                opened = _archive(self.container).open(self.name)
            else:
                opened = (self.container / self.name).open("rb")
            with opened as file:
                data = file.read(BEGINNING)
        return self.stamp()[0], data

    def stamp(self) -> tuple[int, ...]:
        """Size, time and the like, of an archive as well; another or a mended clip has others."""
        if not self.is_packed:
            status = (self.container / self.name).stat()
            return status.st_size, status.st_mtime_ns, status.st_mode
        status, member = self.container.stat(), _archive(self.container).getinfo(self.name)
        return member.file_size, member.CRC, status.st_size, status.st_mtime_ns


def in_any_case(root: Path, name: str) -> Path:
    """What has this name in a folder; where nothing has, the like in upper or lower case."""
    path = root / name
    if path.exists() or not root.is_dir():
        return path
    alike = [other for other in os.listdir(root) if other.casefold() == name.casefold()]
    return root / alike[0] if len(alike) == 1 else path


def same_name(fname: str) -> str:
    """One spelling of a file name and of the folders before it, whichever system wrote them."""
    parts = same(fname).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def is_hidden(path: str) -> bool:
    """Is this, or a folder that it is in, none of the user's? .DS_Store, ._clip.wav"""
    parts = same_name(path).split("/")
    return any(part.startswith(".") or part in ("__MACOSX", "lost+found") for part in parts)


def walk(
    root: Path, deepest: float = DEEPEST, onerror: Callable | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """`root` and the folders in it, some levels deep, each with the names of its files.

    Links are followed, but not to where the walk has been or goes anyway, nor to what `root` is in.
    `onerror` is called with the error of each folder that cannot be read; else these are left out.
    """
    top = root.resolve()
    seen = {top, *top.parents}
    for folder, subfolders, names in os.walk(root, onerror=onerror, followlinks=True):
        deep, kept = len(Path(folder).relative_to(root).parts) >= deepest, []
        for name in sorted(subfolders):
            path = Path(folder, name)
            real = path.resolve()
            inside = real.is_relative_to(top) and not is_hidden(str(real.relative_to(top)))
            again = real in seen or (path.is_symlink() and inside)
            if not (deep or is_hidden(name) or again):
                seen.add(real)
                kept.append(name)
        subfolders[:] = kept
        yield Path(folder), names


def _raise(error: OSError) -> None:
    raise error


def files_in(container: Path, skip_damaged: bool = False) -> Iterator[tuple[str, str]]:
    """Each file of a folder or an archive: its name there, and its path as people wrote it.

    `skip_damaged` leaves out sub-folders that cannot be read, which are an error else.
    """
    if container.is_dir():
        walked = walk(container, onerror=None if skip_damaged else _raise)
        paths = (folder / name for folder, names in walked for name in names)
        names = [str(path.relative_to(container)) for path in paths if path.is_file()]
        for name in names:
            text = name
            with contextlib.suppress(UnicodeError):  # as tables have it, whatever the locale
                text = os.fsencode(name).decode()
            yield name, text
        return
    members = _archive(container).infolist()
    for info in {info.filename: info for info in members}.values():  # added again: the last counts
        name = info.filename
        if not info.flag_bits & UTF8_FLAG:  # zipfile takes it for cp437
            with contextlib.suppress(UnicodeError):
                name = name.encode("cp437").decode()  # Finder's UTF-8 does not say what it is
        if not name.endswith(("/", "\\")):
            yield info.filename, name


class ClipIndex:
    """Every file of a split's folders and archives, by its path there: InputError if one cannot be
    read; with `skip_damaged` it counts as absent. Of an archive and its folder the folder counts.

    `paths` has the path of each ClipFile, `find` the files that a table may mean by a name,
    `places` the folders and archives in words.
    """

    def __init__(self, root: Path, split: str, skip_damaged: bool = False):
        self.paths, self._folders = {}, CLIP_FOLDERS[split]
        self.find = functools.cache(self._find)  # which goes with the index
        self.places = f"{', '.join(f'{name}/' for name in self._folders)} (or .zip) of {root}"
        self._index = defaultdict(list)  # end of a path, with and without suffix -> files
        folders = [in_any_case(root, name) for name in reversed(self._folders)]
        archives = [in_any_case(root, f"{name}.zip") for name in self._folders]
        folders = [path for path in folders if path.is_dir()]
        for container in folders + [path for path in archives if path.is_file()]:
            try:
                self._add(container, skip_damaged)
            except (OSError, *BAD_ARCHIVE) as error:
                kind = "folder" if container in folders else "zip archive"
                if not skip_damaged:
                    raise InputError(f"{container}: is not a readable {kind} ({error})") from error

    def _add(self, container: Path, skip_damaged: bool) -> None:
        for name, text in files_in(container, skip_damaged):
            path = same_name(text)
            if is_hidden(os.path.dirname(path)):
                continue
            file = ClipFile(container, name)
            parts = f"{file.folder}/{path}".casefold().split("/")
            for end in ("/".join(parts[i:]) for i in range(len(parts))):
                self._index[strip(end)].append(file)
                stem, suffix = os.path.splitext(end)
                if suffix in AUDIO_SUFFIXES:
                    self._index[strip(stem)].append(file)
            for folder in self._folders:  # within the archive, or unpacked into its like
                path = path.removeprefix(f"{folder}/")
            self.paths[file] = path

    def _find(self, fname: str) -> list[ClipFile]:
        """The files that a table may mean by this: several, where it does not say which."""
        # What is before the folder is another machine's.
        path = same_name(fname)
        wanted = re.sub(f"(?i).*/({'|'.join(self._folders)})/", r"\1/", path)
        found = self._index.get(wanted.casefold(), [])
        by_name = [file for file in found if file.name == fname]
        by_path = [file for file in found if self.paths[file] in (path, wanted)]
        by_end = [file for file in found if f"/{self.paths[file]}".endswith(f"/{wanted}")]
        return _counting(by_name or by_path or by_end or found)

    def in_words(self, found: list[ClipFile]) -> str:
        """Two of the files that a name may mean, with what tells them apart of their paths."""
        paths = [self.paths[file] for file in found]
        if len({*paths}) < len(paths):
            paths = [f"{file.folder}/{path}" for file, path in zip(found, paths, strict=True)]
        return " or ".join(sorted(paths)[:2])

    def nearest(self, fname: str) -> str:
        """In words: the clip in another folder, of another format, or that is spelt like this."""
        wanted = same_name(fname).casefold()
        base = os.path.basename(wanted)
        found = self._index.get(base) or self._index.get(os.path.splitext(base)[0]) or ()
        if found:
            return nearest(wanted, [self.paths[file] for file in found])
        return nearest(base, map(os.path.basename, self.paths.values()), cutoff=0.7)

    def listed(self) -> tuple[dict[str, ClipFile], list[str]]:
        """All clips by name, with folders where several have one name; and what is no audio."""
        clips, others = {}, []
        for file, path in self.paths.items():
            if is_hidden(path) or all(file.container != one.container for one in self.find(path)):
                continue  # what was unpacked, or is a copy, is there already
            names = (os.path.basename(path), path, f"{file.folder}/{path}")
            if is_audio(file):
                clips[next((name for name in names if self.find(name) == [file]), file.name)] = file
            else:
                others.append(shown(path))
        return clips, sorted(others)


def _counting(found: list[ClipFile]) -> list[ClipFile]:
    """Those of one folder or archive, where all are copies of one clip; else all that may be meant.

    Folders come before archives.
    """
    if len({file.container for file in found}) < 2:
        return found
    unpacked = {file.is_shared for file in found if not file.is_packed}  # and perhaps mended since
    rest = [file for file in found if not (file.is_packed and file.is_shared in unpacked)]
    if rest != found:
        return _counting(rest)
    if len({file.beginning() for file in found}) == 1:
        return [file for file in found if file.container == found[0].container]
    own = [file for file in found if not file.is_shared]
    if own and own != found and len({file.is_packed for file in found}) == 1:
        return _counting(own)
    return found


def is_named_as_audio(path: str | Path) -> bool:
    """By its suffix."""
    return os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES


def is_audio(file: ClipFile) -> bool:
    """By its suffix or, where that says nothing, by its content."""
    if is_named_as_audio(file.name):
        return True
    with contextlib.suppress(UnreadableClip, OSError), file.open() as stream:
        if stream.read(2) != codecs.BOM_UTF16_LE:  # text, which libsndfile takes for MP3
            return holds_sound(stream)
    return False


def locate(clips: ClipIndex, table: pd.DataFrame, curated=()) -> tuple[list, list]:
    """The name and the ClipFile of each row. InputError if one is not there, is not one file, or is
    among the curated: pretraining would see clips that out-of-fold scores are of."""
    rows = {}  # of each file, the row that has it
    names, missing, unclear, held_out = [], [], [], []
    for row, fname in table["fname"].items():
        found, fault = clips.find(fname), f"row {row}: {shown(fname)}"
        if not found:
            missing.append(fault + (clips.nearest(fname) if len(missing) < SHOWN else ""))
        elif len(found) > 1:
            unclear.append(f"{fault} ({clips.in_words(found)})")
        elif rows.setdefault(found[0], row) != row:
            unclear.append(f"{fault} (which row {rows[found[0]]} has)")
        elif found[0] in curated:
            held_out.append(fault)
        # Spaces that cannot be seen are no part of a name, unless the file has them.
        names.append(fname if found and found[0].name == fname else strip(fname))
    path = table.attrs["path"]
    raise_if(missing, path, f"clips that are not in {clips.places}")
    raise_if(unclear, path, "clips that are not one file each: write their names in full")
    raise_if(held_out, path, "clips that are in the curated table too")
    return names, list(rows)
