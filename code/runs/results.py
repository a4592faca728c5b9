"""What a result came from: done work is recognised, and only when it is the same work.

Beside the files of a result lies a record, written last: what they came from (settings, data,
weights, revision of the code), and the size and checksum of each file. A result without a record is
not finished; one whose record differs from what would be made now is made again; one whose files
differ from the record is damaged.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from messages import MissingResult
from storage import Checkpoint, size_and_checksum, write_json

# Raise a number when a change of the code changes that stage's results.
REVISIONS = {
    "preprocess": 8,
    "pretrain": 7,
    "train": 7,
    "predict": 3,
    "ensemble": 10,
    "report": 3,
    "search": 2,
}
MARK = "#"  # begins every fingerprint
ASIDE = ".history.csv"  # holds seconds: nothing is made from it, and no two are the same


def fingerprint(*values) -> str:
    """A short name of anything that JSON or bytes can express; equal values have the same."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        if not isinstance(value, bytes):
            value = json.dumps(value, sort_keys=True).encode()
        digest.update(len(value).to_bytes(8, "little") + value)
    return MARK + digest.hexdigest()


@dataclass(frozen=True)
class Result:
    """Files that one step makes together."""

    root: Path  # the output folder
    name: str  # as messages call it; with ".json", the path of its record below the root
    made_by: str  # the stage
    files: tuple[str, ...]  # beside the record; those that begin with a dot continue its name
    made_from: Callable[[], dict]  # what it comes from; MissingResult where some is not there

    @functools.cached_property
    def source(self) -> dict:
        """What it comes from, and the code's revision, as they were when first asked for."""
        source = {**self.made_from(), "revision": REVISIONS[self.made_by]}
        return json.loads(json.dumps(source))  # as the record will have it

    @property
    def record(self) -> Path:
        return self.root / f"{self.name}.json"

    @property
    def checkpoint(self) -> Checkpoint:
        """Of work on the way to the result."""
        return Checkpoint(self._checkpoint_path, fingerprint(self.source))

    @property
    def _checkpoint_path(self) -> Path:
        return self.root / f"{self.name}.checkpoint"

    def path(self, file: str) -> Path:
        """Where one of its files lies."""
        if file not in self.files:
            raise KeyError(f"{self.name} has no {file}; it has {', '.join(self.files)}")
        beside = self.root / self.name
        return Path(f"{beside}{file}") if file.startswith(".") else beside.parent / file

    def seal(self, known: dict[Path, list] | None = None) -> None:
        """Write the record: the result is whole from now on, and its checkpoint not needed.

        known : what `size_and_checksum` gives, of files that need not be read for it
        """
        paths, known = {file: self.path(file) for file in self.files}, known or {}
        files = {file: known.get(path) or size_and_checksum(path) for file, path in paths.items()}
        write_json(self.record, {"from": self.source, "files": files})
        self.checkpoint.remove()

    def unseal(self) -> None:
        """Remove the record, before the files are written anew."""
        self.record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Neither finished nor begun; what it comes from may be still to be made."""
        self._checkpoint_path.unlink(missing_ok=True)
        self.unseal()

    def fault(self, whole: bool = True) -> str | None:
        """None if the result is there, whole, and made from its source; else what is wrong.

        whole : read its files for it; else its record counts
        """
        source, record = self.source, self._read()
        if record is None:
            return "not there"
        changes = differences(record["from"], source)
        if changes:
            return f"made from something else ({', '.join(changes)})"
        for file in self.files if whole else ():
            path = self.path(file)
            if not path.is_file():
                return f"{path} is missing"
            if size_and_checksum(path) != record["files"].get(file):
                return f"{path} is damaged: not the file that was written"
        return None

    def is_there(self) -> bool:
        """Was the result finished once, from whatever source?"""
        return self._read() is not None

    def require(self, whole: bool = True) -> None:
        """Raise MissingResult, with the remedy, unless the result is as it should be (`fault`)."""
        fault = self.fault(whole)
        self.checksums()
        if fault is not None:
            raise MissingResult(f"run {self.made_by} again: {self.name}: {fault}")

    def content(self) -> str:
        """Fingerprint of the files, for what is made from them.

        MissingResult if it, or what it comes from, is not there or made from something else.
        """
        self.require(whole=False)
        checksums = self.checksums()
        return fingerprint([checksums.get(file) for file in self.files if file != ASIDE])

    def checksums(self) -> dict[str, list]:
        """Size and checksum of each file, as the record of the result has it."""
        record = self._read()
        if record is None:
            raise MissingResult(f"run {self.made_by} first: no {self.name} in {self.root}")
        return record["files"]

    def _read(self) -> dict | None:
        try:
            record = json.loads(self.record.read_text())
            whole = isinstance(record["from"], dict) and isinstance(record["files"], dict)
            return record if whole else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """What changed between two sources, in words: "settings.seed 7 -> 8", "labels changed"."""
    changes = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            opaque = any(str(value).startswith(MARK) for value in (before, after))
            changes.append(
                f"{prefix}{key} changed" if opaque else f"{prefix}{key} {before} -> {after}"
            )
    return changes
