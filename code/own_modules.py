"""This project's modules, and those of the same name of whoever imports it.

Scripts that use `Tagger` may have a `config.py` beside them: then neither is taken for the other.
"""

import contextlib
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
NAMES = {path.stem for path in HERE.iterdir() if path.is_dir() or path.suffix == ".py"}
_hidden: dict[str, ModuleType] = {}  # ours, where the importer has one of that name


@contextlib.contextmanager
def first() -> Iterator[None]:
    """What is imported in this block is ours; before and after it, what the importer would get."""
    theirs = _take_out(lambda name, module: not _is_ours(getattr(module, "__file__", None)))
    sys.modules |= _hidden
    sys.path.insert(0, str(HERE))
    try:
        yield
    finally:
        sys.path.remove(str(HERE))
        _hidden.update(_take_out(lambda name, module: name in theirs or not _is_ours(_found(name))))
        sys.modules |= theirs


def _take_out(which) -> dict[str, ModuleType]:
    """Remove modules that share a name with one of ours from those that are imported."""
    top = {name for name in NAMES & sys.modules.keys() if which(name, sys.modules[name])}
    taken = [name for name in sys.modules if name.partition(".")[0] in top]
    return {name: sys.modules.pop(name) for name in taken}


def _found(name: str) -> str | None:
    """The file that an import would find now; ours where it would find none."""
    spec = PathFinder.find_spec(name)
    return spec.origin if spec else str(HERE)


def _is_ours(file: str | None) -> bool:
    return file is not None and Path(file).resolve().is_relative_to(HERE.resolve())
