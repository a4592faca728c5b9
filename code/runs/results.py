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
from storage import Checkpoint, size_and_checksum_of, write_json

# Raise a number when a change of the code changes that stage's results.
REVISIONS = {"preprocess": 5, "views": 3, "pretrain": 4, "train": 4, "predict": 2, "ensemble": 5}
MARK = "#"  # begins every fingerprint


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

    name: str  # as messages call it
    made_by: str  # the stage
    record: Path
    files: dict[str, Path]  # by what they hold, in the same folder
    made_from: Callable[[], dict]  # or MissingResult, where some of what it comes from is not there

    @functools.cached_property
    def source(self) -> dict:
        """What it comes from, and the code's revision, as they were when first asked for."""
        return {**self.made_from(), "revision": REVISIONS[self.made_by]}

    @property
    def checkpoint(self) -> Checkpoint:
        """Of work on the way to the result."""
        return Checkpoint(self.record.with_suffix(".checkpoint"), fingerprint(self.source))

    def seal(self, known: dict[Path, list] | None = None) -> None:
        """Write the record: the result is whole from now on, and its checkpoint not needed.

        known : what `size_and_checksum_of` gives, of files that need not be read for it
        """
        known = known or {}
        files = {
            path.name: known.get(path) or size_and_checksum_of(path) for path in self.files.values()
        }
        write_json(self.record, {"from": self.source, "files": files})
        self.checkpoint.remove()

    def unseal(self) -> None:
        """Remove the record, before the files are written anew."""
        self.record.unlink(missing_ok=True)

    def fault(self) -> str | None:
        """None if the result is there, whole, and made from its source; else what is wrong."""
        source, record = json.loads(json.dumps(self.source)), self._read()
        if record is None:
            return "not there"
        changes = differences(record["from"], source)
        if changes:
            return f"made from something else ({', '.join(changes)})"
        for path in self.files.values():
            if not path.is_file():
                return f"{path} is missing"
            if size_and_checksum_of(path) != record["files"].get(path.name):
                return f"{path} is damaged: not the file that was written"
        return None

    def is_there(self) -> bool:
        """Was the result finished once, from whatever source?"""
        return self._read() is not None

    def require(self) -> None:
        """Raise MissingResult, with the remedy, unless the result is as it should be."""
        fault = self.fault()
        self._require_record()
        if fault is not None:
            raise MissingResult(f"run {self.made_by} again: {self.name}: {fault}")

    def content(self, *names: str) -> str:
        """Fingerprint of the files, or of some of them, for what is made from them.

        Raises
        ------
        MissingResult
            If the result is not there.
        """
        recorded = self._require_record()["files"]
        paths = [self.files[name] for name in names or self.files]
        return fingerprint([recorded.get(path.name) for path in paths])

    def checksums(self) -> dict[str, list]:
        """Size and checksum of each file, by what it holds, as the record of the result has it."""
        recorded = self._require_record()["files"]
        return {what: recorded[path.name] for what, path in self.files.items()}

    def _require_record(self) -> dict:
        record = self._read()
        if record is None:
            raise MissingResult(f"run {self.made_by} first: no {self.name} in {self.record.parent}")
        return record

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
