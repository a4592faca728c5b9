"""Dask's schedulers and workers, as users start them."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import config

HERE = Path(__file__).parent
PYTHONPATH = os.pathsep.join(map(str, (Path(config.__file__).parent, HERE, HERE / "runs")))


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def processes():
    """`start` processes in this block; they end with it."""
    started = []

    def start(*command, **options):
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
        options = {"env": environment, "stderr": subprocess.DEVNULL, **options}
        started.append(subprocess.Popen([*map(str, command)], **options))
        return started[-1]

    try:
        yield start
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def start_scheduler(start, folder: Path, host: str = "127.0.0.1") -> Path:
    file = folder / "scheduler.json"
    command = [sys.executable, "-m", "dask", "scheduler", "--no-show", "--scheduler-file", file]
    start(*command, "--host", host, "--port", 0, "--dashboard-address", f"{host}:0", cwd=folder)
    wait_until(file.exists)
    return file


def worker(file: Path, *options) -> list:
    """The command that starts workers of that scheduler."""
    command = [sys.executable, "-m", "dask", "worker", "--scheduler-file", file, "--no-dashboard"]
    folder = file.parent / "workers"
    return [*command, "--nthreads", "1", "--local-directory", folder, *options]
