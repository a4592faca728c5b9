"""Where clips lie: files in folders, or members of zip archives, which are read as they are."""

import functools
import io
import lzma
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from messages import InputError, UnreadableClip, raise_if

CLIP_FOLDERS = {
    "curated": ("train_curated", "audio_train", "FSDKaggle2019.audio_train_curated"),
    "noisy": ("train_noisy", "audio_train", "FSDKaggle2019.audio_train_noisy"),
    "test": ("test", "audio_test", "FSDKaggle2019.audio_test"),
}
LARGEST_MEMBER = 1 << 30  # bytes; two hours in one channel are less
# What damaged, encrypted or strangely compressed archives raise.
BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


@functools.cache
def _archive(path: Path) -> zipfile.ZipFile:
    """Opened once per process: reading the directory of a large archive takes its time."""
    return zipfile.ZipFile(path)


def unpacked(archive: zipfile.ZipFile, member: str) -> BinaryIO:
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
            return unpacked(_archive(self.container), self.name)
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


def same_name(fname: str) -> str:
    """One spelling of a file name: "ö" is one character in most tables, two on some disks."""
    return unicodedata.normalize("NFC", fname)


def clips_of(root: Path, split: str, skip_damaged: bool = False) -> dict[str, ClipFile]:
    """Every file of the split's folders and archives, by `same_name`.

    Raises
    ------
    InputError
        If an archive cannot be read; with `skip_damaged` it counts as absent.
    """
    clips = {}
    for folder in CLIP_FOLDERS[split]:
        path = root / folder
        if path.is_dir():
            names = [entry.name for entry in path.iterdir() if entry.is_file()]
            clips.update({same_name(name): ClipFile(path, name) for name in names})
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
                    clips.setdefault(same_name(Path(member).name), ClipFile(archive, member))
    return clips


def places(root: Path, split: str) -> str:
    """The folders and archives of a split, in words."""
    folders = ", ".join(f"{folder}/" for folder in CLIP_FOLDERS[split])
    return f"{folders} (or .zip) of {root}"


def locate(root: Path, split: str, table: pd.DataFrame) -> list[ClipFile]:
    """The file of each row.

    Raises
    ------
    InputError
        If some are not there, or an archive cannot be read.
    """
    if not len(table):
        return []
    clips = clips_of(root, split)
    missing = [
        f"row {row}: {fname}"
        for row, fname in table["fname"].items()
        if same_name(fname) not in clips
    ]
    raise_if(missing, table.attrs["path"], f"clips that are not in {places(root, split)}")
    return [clips[same_name(fname)] for fname in table["fname"]]
