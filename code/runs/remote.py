"""What Dask's workers do for `tasks`: they look whether they are like the client, and make results.

What they work on, a `Run`, lies in the output folder, in a file that also shows that a worker sees
this folder. A worker holds a lock while it makes a result, so that no two make it at once: neither
one that was taken for dead nor one of a run that was killed.
"""

import contextlib
import dataclasses
import fcntl
import functools
import importlib.metadata
import io
import os
import pickle
import platform
import random
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from messages import PipelineError
from runs.results import differences, fingerprint
from runs.run import Run
from storage import lock

CODE = Path(__file__).resolve().parents[1]
# Of the environment: they make other results, or none.
DECIDING = ("KERAS_BACKEND", "TF_DETERMINISTIC_OPS", "NVIDIA_TF32_OVERRIDE")


@contextlib.contextmanager
def left_for_workers(run: Run, folder: Path) -> Iterator[Path]:
    """A file that says what workers work on, and on what they have to agree before."""
    files = [file for split in run.dataset.splits.values() for file in split.files]
    with tempfile.NamedTemporaryFile(dir=folder, prefix="run-", delete=False) as file:
        pickle.dump({"folders": {file.container for file in files}, "traits": _traits()}, file)
        # Already forced, where anything was; and a task that another worker takes over goes on.
        pickle.dump(dataclasses.replace(run, root=run.root.resolve(), force=False), file)
    path = Path(file.name)
    try:
        yield path
    finally:
        path.unlink()


def _traits() -> dict[str, str]:
    """What has to be the same in all processes, for the same results."""
    pins = re.findall(r"^[\w-]+", (CODE.parent / "requirements.txt").read_text(), re.MULTILINE)
    found = {"Python": platform.python_version()}
    for name in dict.fromkeys(pins):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    modules = sorted(CODE.rglob("*.py"))
    found["code"] = fingerprint(*[path.read_bytes() for path in modules])
    return found | {name: os.environ.get(name, "") for name in DECIDING}


_at_work = set()  # the output folders that this process makes a result in


def call(path: Path, function: Callable, *args):
    """`function(run, *args)`, on a worker that is like the client."""
    return function(_run_of(path), *args)


def make(run: Run, task) -> None:
    """Make a `Task`'s result, unless another worker did, which was taken for dead or killed."""
    if task.result(run, *task.args).fault() is not None:
        task.function(run, *task.args)


def run_alone(path: Path, name: str, alone: str, function: Callable, *args) -> tuple:
    """The address of this worker, and what `function(run, *args)` gives.

    name : by which what it prints goes to the client
    alone : the name of a lock that is held meanwhile
    """
    from distributed import get_worker

    run = _run_of(path)
    _end_with_worker()
    _draw_by_thread()
    with _told(name, path.name), _alone(path.with_name(f"{alone}.lock")):
        return get_worker().address, function(run, *args)


def look(path: Path) -> tuple[Path, bool]:
    """A file that was written beside this one, and whether this process is at work there."""
    _run_of(path)
    probe = path.with_name(f"{path.name}-{socket.gethostname()}-{os.getpid()}")
    try:
        probe.touch()
    except OSError as error:
        raise PipelineError(
            f"worker {_here()} cannot write into {path.parent}: {error.strerror}"
        ) from error
    return probe, path.parent in _at_work


@functools.lru_cache(maxsize=1)
def _run_of(path: Path) -> Run:
    """What the client left for the workers, where this one sees what it sees, and is like it."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise PipelineError(
            f"worker {_here()} does not see {path.parent}, where this run writes "
            f"({error.strerror}): it takes a file system that all machines share"
        ) from error
    with file:
        seen = pickle.load(file)
        for folder in seen["folders"]:
            if not folder.exists():
                raise PipelineError(
                    f"worker {_here()} does not see {folder}, where clips lie: it takes a file "
                    "system that all machines share"
                )
        if changes := differences(seen["traits"], _traits()):
            raise PipelineError(
                f"worker {_here()} is not like this process ({', '.join(changes)}): start it anew "
                "with the same Python, packages, code and environment"
            )
        return pickle.load(file)


@functools.cache
def _end_with_worker() -> None:
    """From now on this process ends where Dask's worker does, at its task or not.

    One that has lost its scheduler, or is to stop, would wait for the end of the training.
    """
    from distributed import get_worker
    from distributed.core import Status

    def watch(worker) -> None:
        while worker.status not in (Status.closing, Status.closed, Status.failed):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, args=(get_worker(),), daemon=True).start()


@functools.cache
def _draw_by_thread() -> None:
    """From now on Python's `random` has a generator for each thread of this process.

    Keras draws the seeds of initial weights from it, after `set_random_seed`; Dask's threads draw
    from it too, in between.
    """
    generators = threading.local()

    def drawn(name: str, *args, **options):
        if not hasattr(generators, "own"):
            generators.own = random.Random()
        return getattr(generators.own, name)(*args, **options)

    for name, method in [*vars(random).items()]:
        if isinstance(getattr(method, "__self__", None), random.Random):
            setattr(random, name, functools.partial(drawn, name))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock; it goes with the process, however that ends."""
    _at_work.add(path.parent)
    with path.open("a") as file:
        try:
            lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waits for another process that is still at it")
            lock(file.fileno(), fcntl.LOCK_EX)
        try:
            yield
        finally:
            _at_work.discard(path.parent)


@contextlib.contextmanager
def _told(name: str, topic: str) -> Iterator[None]:
    """What this block prints goes to the client, line by line, instead of this worker's log."""
    from distributed import get_worker

    def send(stream: str, line: str | None) -> None:
        get_worker().log_event(topic, (name, _here(), stream, line))

    out, err = (_Lines(functools.partial(send, stream)) for stream in ("stdout", "stderr"))
    send("stdout", f"on {_here()}")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            send("stdout", None)


class _Lines(io.TextIOBase):
    """A stream that gives each line to a function; no terminal, so that there are no bars."""

    def __init__(self, send: Callable[[str], None]):
        self._send, self._begun = send, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._send(line)
        return len(text)


def _here() -> str:
    return f"{socket.gethostname()} (process {os.getpid()})"
