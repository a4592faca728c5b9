"""What stages cost: a row of stages.csv each time one ends, however it ends."""

import contextlib
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from fast import gpus
from runs.run import Run

TABLE = "stages.csv"
COMPUTING = ("pretrain", "train", "predict")  # stages of networks, which have a precision
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


@contextlib.contextmanager
def recorded(run: Run, stage: str) -> Iterator[None]:
    """Append what this block costs; a process that is killed appends nothing."""
    started = time.time()
    try:
        yield
    finally:
        row = {
            "stage": stage,
            "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started)),
            "minutes": (time.time() - started) / 60,
            "gigabytes": _peak_memory() / 1e9,  # of its largest process
            "machine": machine(),
            "precision": _precision(run) if stage in COMPUTING else "",
        }
        with (run.root / TABLE).open("a", newline="") as file:
            new = file.tell() == 0  # or empty, as a full disk leaves it
            pd.DataFrame([row]).to_csv(file, header=new, index=False)


def totals(folder: Path) -> pd.DataFrame:
    """By stage: minutes of all its runs together, the most memory, and where it ran last; empty
    where nothing was recorded."""
    kinds = {"minutes": "sum", "gigabytes": "max", "machine": "last", "precision": "last"}
    try:
        rows = pd.read_csv(folder / TABLE, on_bad_lines="skip", keep_default_na=False)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        rows = pd.DataFrame()
    rows = rows.reindex(columns=["stage", *kinds])  # a file that lost its header has none of them
    for name in ("minutes", "gigabytes"):
        rows[name] = pd.to_numeric(rows[name], errors="coerce")
    return rows.groupby("stage", sort=False).agg(kinds).reset_index()


def machine() -> str:
    """Its GPUs, or its processor, in words."""
    if names := gpus.names():
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    return f"{os.cpu_count()} cores, {model}"


def _peak_memory() -> int:
    """Bytes of this process or of the largest that it has seen end, whichever are more."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return RSS_UNIT * max(resource.getrusage(process).ru_maxrss for process in who)


def _precision(run: Run) -> str:
    """Empty where the backend was refused, as it is not there."""
    from fast import precision  # here, not above: preprocessing does without Keras

    with contextlib.suppress(ImportError):
        return ", ".join(dict.fromkeys(precision.resolve(one.precision) for one in run.configs))
    return ""
