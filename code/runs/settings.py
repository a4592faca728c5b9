"""Settings files: JSON of what differs from a profile, for every experiment of a run."""

import collections
import json
import types
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_origin

from clips.names import nearest
from config import Config, Schedule
from messages import InputError

FIXED = ("name", "pretrained_by", "stack_weight")  # what tells experiments apart
KINDS = {field.name: field.type for field in fields(Config) if field.name not in FIXED}
SCHEDULE_KINDS = {field.name: field.type for field in fields(Schedule)}


def read(path: Path) -> dict:
    """Settings by name, as `config.overridden` takes them.

    InputError if the file cannot be read, or holds what is no setting or no value of one.
    """
    try:
        settings = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=_each_once)
    except OSError as error:
        raise InputError(f"--settings {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"--settings {path} is no JSON of settings: {error}") from error
    _check(settings, KINDS, f"--settings {path}: ")
    return settings


def _each_once(pairs: list[tuple]) -> dict:
    """A JSON object. ValueError if it has a name twice."""
    for name, n in collections.Counter(name for name, _ in pairs).items():
        if n > 1:
            raise ValueError(f"{name} is there twice")
    return dict(pairs)


def _check(settings: dict, kinds: dict, where: str) -> None:
    if not isinstance(settings, dict):
        raise InputError(f'{where}expected settings by name, as {{"n_hop": 512}}')
    for name, value in settings.items():
        if name not in kinds:
            known = f"; there are {', '.join(kinds)}"
            raise InputError(f"{where}there is no setting {name!r}{nearest(name, kinds) or known}")
        if kinds[name] is Schedule and isinstance(value, dict):
            _check(value, SCHEDULE_KINDS, f"{where}{name}.")
        elif not is_a(value, kinds[name]):
            raise InputError(
                f"{where}{name} must be {called(kinds[name])}; got {json.dumps(value)}"
            )


def called(kind) -> str:
    """A type in words: "int", "tuple[str, str]", "float | None"."""
    if kind is Schedule:
        return 'settings by name, as {"epochs": 40}'
    return kind.__name__ if type(kind) is type else str(kind)


def is_a(value, kind: type) -> bool:
    """Is a value of JSON one of an annotated type? Lists are tuples, and 1 is a float."""
    kinds = get_args(kind)
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        kinds = kinds[:1] * len(value) if Ellipsis in kinds else kinds
        return len(value) == len(kinds) and all(map(is_a, value, kinds))
    if isinstance(kind, types.UnionType):
        return any(is_a(value, one) for one in kinds)
    return type(value) in ((int, float) if kind is float else (kind,))
