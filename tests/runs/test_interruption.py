"""Every stage killed at random moments, and started again: the same submission, to the byte."""

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

import config
import storage
from clips import prepare, store
from cluster import processes, start_scheduler, wait_until, worker
from conftest import TINY
from runs import command_line

STARTED = "clips/curated/samples.i16"  # preprocessing is at work
CHECKPOINTS = {"pretrain": "pretrained.checkpoint", "train": "fold?.checkpoint"}


def dask_setup(worker=None):
    """The profile `tiny` of these tests: small steps, so that there is much to be interrupted.

    In this process; Dask's workers call this where this module is their preload.
    """
    # From stored log-mels, for once.
    longer = config.Schedule(4, milestones=(2,), mixup_prob=0.6)
    settings = {**TINY, "frontend": "logmel", "pretraining": longer, "training": longer}
    config.PROFILES["tiny"] = config.Profile(("v1mix",), settings)
    store.CLIPS_BETWEEN_SAVES, prepare.CLIPS_IN_ROUND = 3, 4
    storage.SECONDS_BETWEEN = 0


def run_in_process(stage, arguments, log, stages=""):
    """A stage as the command line runs it, in a process of its own."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import importlib

    dask_setup()
    os.environ["RUN_SH_STAGES"] = stages
    sys.stdout = sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115
    sys.argv = [stage, *arguments]
    status = 0
    try:
        importlib.import_module(stage).main()
    except SystemExit as stop:
        status = stop.code
        print(status)
    # Not through multiprocessing's exit, which waits for joblib's idle workers.
    os._exit(status if isinstance(status, int) else 1)


@pytest.fixture(scope="module")
def context():
    """Processes that start with TensorFlow imported, and not yet used."""
    os.environ["TF_DETERMINISTIC_OPS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["runs.command_line", "solution.training", "solution.time_frequency", "trained.ensemble"]
    )
    yield context
    del os.environ["TF_DETERMINISTIC_OPS"]


class Stages:
    """Starts stages on sixteen clips of each split, in processes."""

    def __init__(self, context, root, make_clips):
        self.context, self.root, self.log = context, root, root / "log"
        make_clips(sizes={"curated": 16, "noisy": 16, "test": 16}).write(root / "in")

    def start(self, stage, output, *options, **environment):
        arguments = ["--input", str(self.root / "in"), "--output", str(self.root / output)]
        arguments += ["--profile", "tiny", *options]
        process = self.context.Process(
            target=run_in_process, args=(stage, arguments, str(self.log)), kwargs=environment
        )
        process.start()
        return process

    def finish(self, process):
        process.join(150)
        assert process.exitcode == 0, self.log.read_text()[-3000:]

    def submission(self, output):
        return (self.root / output / "submission.csv").read_bytes()


@pytest.fixture(scope="module")
def stages(context, make_clips, tmp_path_factory):
    """With one run that nothing happened to, in the folder `whole`; and how long each took."""
    stages, stages_took = Stages(context, tmp_path_factory.mktemp("runs"), make_clips), {}
    for stage in command_line.STAGES:
        started = time.monotonic()
        stages.finish(stages.start(stage, "whole"))
        stages_took[stage] = time.monotonic() - started
    stages.seconds = stages_took
    return stages


def test_killed_at_random_moments(stages):
    rng, killed = random.Random(20261123), stages.root / "killed"

    def kill(stage, seconds, *options):
        """At a random moment; where there are epochs, after the first or later."""
        process = stages.start(stage, "killed", *options)
        if stage in CHECKPOINTS:
            while process.is_alive() and not list(killed.rglob(CHECKPOINTS[stage])):
                time.sleep(0.01)
            seconds = rng.uniform(0, 0.5)
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode == -signal.SIGKILL

    for stage in command_line.STAGES:
        moments = sorted(rng.uniform(0.1, 0.9) * stages.seconds[stage] for _ in range(3))
        hit = [kill(stage, moment) for moment in moments]
        while not any(hit):  # it was through before, as it takes less time than at first
            moments = [moments[0] / 2]
            hit = [kill(stage, moments[0], "--force")]
        stages.finish(stages.start(stage, "killed"))
    assert stages.submission("killed") == stages.submission("whole")
    assert "going on after epoch" in stages.log.read_text()
    assert not list(killed.rglob("*.checkpoint"))


def test_two_workers_that_are_killed_at_random_moments(stages, monkeypatch):
    """The bytes of a run without them. Of any task, two workers may be killed."""
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", '["test_interruption"]')
    rng, before = random.Random(20261128), len(stages.log.read_text())
    models = stages.root / "workers" / "models" / "v1mix"
    with processes() as start:
        file = start_scheduler(start, stages.root)
        nannies = psutil.Process(start(*worker(file, "--nworkers", 2), cwd=stages.root).pid)

        def spawned():
            with contextlib.suppress(psutil.NoSuchProcess):
                return [one for one in nannies.children() if "spawn_main" in str(one.cmdline())]
            return []

        for stage in ("preprocess", "pretrain", "train", "predict"):
            options = ("--scheduler-file", str(file))
            process = stages.start(stage, "workers", *options, stages="pretrain train")
            # All as soon as there is an epoch to go on from, of which there are few; then one.
            for n_workers, longest in ((2, 0), (1, 0.5)) if stage == "train" else ():
                wait_until(lambda: len(spawned()) == 2)
                found = spawned()
                while process.is_alive() and not [*models.glob("[a-z]*.checkpoint")]:
                    time.sleep(0.001)
                process.join(rng.uniform(0, longest))
                for one in rng.sample(found, n_workers):
                    one.kill()
            stages.finish(process)
    stages.finish(stages.start("ensemble", "workers"))
    assert stages.submission("workers") == stages.submission("whole")
    said = stages.log.read_text()[before:]
    for part in ("pretrain: in one go with train", "v1mix fold1: on ", "going on after epoch"):
        assert part in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_is_one_line_and_releases_the_folder(context, make_clips, tmp_path, number):
    root = make_clips(sizes={"curated": 40, "noisy": 40, "test": 4}).write(tmp_path / "in")
    log = tmp_path / "log"
    arguments = ["--input", str(root), "--output", str(tmp_path / "out"), "--profile", "tiny"]
    process = context.Process(target=run_in_process, args=("preprocess", arguments, str(log)))
    process.start()
    while process.is_alive() and not (tmp_path / "out" / STARTED).exists():
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 130
    text = log.read_text()
    assert "stopped; the same command goes on from here" in text
    assert "Traceback" not in text
    with command_line.locked(tmp_path / "out"):
        pass
