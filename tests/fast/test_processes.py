"""Processes that a stage started, after it was killed."""

import fcntl
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import config
from clips import prepare
from clips.dataset import SPLITS, Dataset, Split
from fast import gpus, processes
from messages import KilledProcess
from runs import tasks
from runs.run import Run


def linger(folder: Path, _=None):
    """Hold a file of this process's own, as long as it lives; that is for ever."""
    with (folder / f"{os.getpid()}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        while True:
            time.sleep(1)


@dataclass
class LingeringClip:
    folder: Path

    def open(self):
        linger(self.folder)


def on_two_gpus(folder: Path):
    gpus.usable = lambda: ["0", "1"]
    splits = {name: Split([], [], None) for name in SPLITS}
    run = Run(Dataset([], splits), folder.parent / "out", "tiny", {}, [], [])
    run.root.mkdir()
    tasks.run_all(run, [tasks.Task(name, linger_in_task, never, (folder,)) for name in "ab"])


def linger_in_task(_, folder: Path):
    linger(folder)


def never(run: Run, *_):
    return run.result("never", "train", ())


def on_all_cores(folder: Path):
    list(prepare.prepare_all([LingeringClip(folder)] * 40, {}))


def is_held(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def within(seconds: float, condition) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.mark.parametrize("work", [on_two_gpus, on_all_cores])
def test_end_soon_after(work, tmp_path):
    tmp_path = tmp_path / "held"
    tmp_path.mkdir()
    stage = multiprocessing.get_context("spawn").Process(target=work, args=(tmp_path,))
    stage.start()
    n_processes = min(2, len(os.sched_getaffinity(0)))
    assert within(60, lambda: sum(map(is_held, tmp_path.iterdir())) >= n_processes)
    stage.kill()
    stage.join()
    assert within(10, lambda: not any(map(is_held, tmp_path.iterdir())))


@pytest.mark.parametrize(
    ("machine", "living", "ends"),
    [(processes.this()[0], False, True), (processes.this()[0], True, False), ("a", False, False)],
)
def test_end_at_once_where_the_stage_was_killed_before(machine, living, ends):
    stage = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    if not living:
        stage.kill()
        stage.wait()
    program = f"from fast import processes; processes.end_with({(machine, stage.pid)})"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(config.__file__)}
    done = subprocess.run([sys.executable, "-c", program], env=environment)
    stage.kill()
    stage.communicate()
    assert done.returncode == int(ends)


def test_work_that_is_done_apart_gives_its_result_or_says_what_happened():
    assert processes.apart(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        processes.apart(int, "x")
    with pytest.raises(KilledProcess, match="the system killed a process"):
        processes.apart(os.abort)
