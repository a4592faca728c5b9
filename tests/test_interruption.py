"""Every stage killed at random moments, and started again: the same submission, to the byte."""

import multiprocessing
import os
import random
import signal
import sys
import time

import pytest

import command_line

STARTED = {  # what a stage writes once it is at work, below the output folder
    "preprocess": "clips/curated/samples.npy",
    "pretrain": "models/v1mix/pretrained.checkpoint",
    "train": "models/v1mix/fold*.checkpoint",
    "predict": "models/v1mix/fold*.test.checkpoint",
    "ensemble": ".lock",
}
LONGEST_DELAY = 2.0  # seconds after that


def run_in_process(stage, arguments, log):
    """A stage as the command line runs it, in a process of its own."""
    sys.path.insert(0, os.path.dirname(__file__))
    import importlib

    import clipstore
    import config
    import training
    from conftest import TINY

    # Small steps, so that there is much to be interrupted.
    longer = config.Schedule(4, milestones=(2,), mixup_prob=0.6)
    settings = {**TINY, "pretraining": longer, "training": longer}
    config.PROFILES["tiny"] = config.Profile(("v1mix",), settings)
    clipstore.BATCH_CLIPS = 3
    training.SECONDS_BETWEEN_CHECKPOINTS = 0
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
    context.set_forkserver_preload(["command_line", "training", "time_frequency", "report"])
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
        process = start(stage, output)
        process.join(120)
        assert process.exitcode == 0, (tmp_path / "log").read_text()[-3000:]

    def kill(stage, output):
        process = start(stage, output)
        while process.is_alive() and not list(output.glob(STARTED[stage])):
            time.sleep(0.01)
        process.join(rng.uniform(0, LONGEST_DELAY))
        process.kill()
        process.join()
        return process.exitcode == -signal.SIGKILL

    for stage in command_line.STAGES:
        finish(stage, tmp_path / "whole")
        killed = [kill(stage, tmp_path / "killed") for _ in range(3)]
        assert any(killed), stage
        finish(stage, tmp_path / "killed")
    whole, killed = (
        (tmp_path / name / "submission.csv").read_bytes() for name in ("whole", "killed")
    )
    assert whole == killed
    log = (tmp_path / "log").read_text()
    for what in ("going on after the first", "going on after epoch"):
        assert what in log
    # Nothing unfinished is left.
    leftovers = [
        p for ending in ("*.checkpoint", ".part-*") for p in (tmp_path / "killed").rglob(ending)
    ]
    assert [path for path in leftovers if path.suffix == ".checkpoint"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_is_one_line_and_releases_the_folder(context, make_clips, tmp_path, number):
    root = make_clips(sizes={"curated": 40, "noisy": 40, "test": 4}).write(tmp_path / "in")
    log = tmp_path / "log"
    arguments = ["--input", str(root), "--output", str(tmp_path / "out"), "--profile", "tiny"]
    process = context.Process(target=run_in_process, args=("preprocess", arguments, str(log)))
    process.start()
    while process.is_alive() and not (tmp_path / "out" / STARTED["preprocess"]).exists():
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 130
    text = log.read_text()
    assert "stopped; the same command goes on from here" in text
    assert "Traceback" not in text
