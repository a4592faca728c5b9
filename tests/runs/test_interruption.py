"""Every stage killed at random moments, and started again: the same submission, to the byte."""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from runs import command_line

STARTED = "clips/curated/samples.i16"  # preprocessing is at work
CHECKPOINTS = {"pretrain": "pretrained.checkpoint", "train": "fold?.checkpoint"}


def run_in_process(stage, arguments, log):
    """A stage as the command line runs it, in a process of its own."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import importlib

    import config
    import storage
    from clips import prepare, store
    from conftest import TINY

    # Small steps, so that there is much to be interrupted. From stored log-mels, for once.
    longer = config.Schedule(4, milestones=(2,), mixup_prob=0.6)
    settings = {**TINY, "frontend": "logmel", "pretraining": longer, "training": longer}
    config.PROFILES["tiny"] = config.Profile(("v1mix",), settings)
    store.BATCH_CLIPS, prepare.CLIPS_IN_ROUND = 3, 4
    storage.SECONDS_BETWEEN = 0
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


def test_killed_at_random_moments(context, make_clips, tmp_path):
    root = make_clips(sizes={"curated": 16, "noisy": 16, "test": 16}).write(tmp_path / "in")
    rng = random.Random(20261123)

    def start(stage, output):
        arguments = ["--input", str(root), "--output", str(output), "--profile", "tiny"]
        process = context.Process(
            target=run_in_process, args=(stage, arguments, str(tmp_path / "log"))
        )
        process.start()
        return process

    def finish(stage, output):
        """Run to the end; gives the seconds that took."""
        started = time.monotonic()
        process = start(stage, output)
        process.join(120)
        assert process.exitcode == 0, (tmp_path / "log").read_text()[-3000:]
        return time.monotonic() - started

    def kill(stage, output, seconds):
        """At a random moment; where there are epochs, after the first or later."""
        process = start(stage, output)
        if stage in CHECKPOINTS:
            while process.is_alive() and not list(output.rglob(CHECKPOINTS[stage])):
                time.sleep(0.01)
            seconds = rng.uniform(0, 0.5)
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode == -signal.SIGKILL

    for stage in command_line.STAGES:
        seconds = finish(stage, tmp_path / "whole")
        moments = [rng.uniform(0.2, 0.9) * seconds for _ in range(3)]
        killed = [kill(stage, tmp_path / "killed", moment) for moment in moments]
        assert any(killed), stage  # a later attempt may be through before its moment
        finish(stage, tmp_path / "killed")
    whole, killed = (
        (tmp_path / name / "submission.csv").read_bytes() for name in ("whole", "killed")
    )
    assert whole == killed
    assert "going on after epoch" in (tmp_path / "log").read_text()
    assert not list((tmp_path / "killed").rglob("*.checkpoint"))


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
