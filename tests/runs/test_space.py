"""Disk space: estimated before the work, and a full disk leaves a state to go on from."""

import contextlib
import dataclasses
import errno
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import tensorflow as tf
from joblib.externals.loky.process_executor import TerminatedWorkerError

import config
import storage
from clips import prepare
from clips.files import ClipFile
from clips.store import STORE_FILES
from conftest import open_writer, run_of
from fast import gpus
from messages import PipelineError
from runs import command_line, remote, space
from solution import models


@pytest.mark.parametrize("name", config.EXPERIMENTS)
def test_size_of_weights_is_estimated_well(name):
    chosen = config.EXPERIMENTS[name]
    actual = 4 * models.build_tagger(chosen, 80).count_params()
    assert space.weights_bytes(chosen) == pytest.approx(actual, rel=0.1)


def test_size_of_a_store_is_estimated_well(clips, tmp_path):
    clips.write_clips(tmp_path, "curated")
    chosen = config.EXPERIMENTS["v1mix"]
    files = [ClipFile(tmp_path, name) for name in clips.tables["curated"].fname]
    settings = chosen.values(config.PREPROCESSING_SETTINGS)
    with open_writer(tmp_path / "store", settings) as writer:
        for file in files:
            writer.append(file.name, prepare.prepare(file, settings))
    actual = sum(path.stat().st_size for path in (tmp_path / "store").iterdir())
    assert space.store_bytes(files, chosen) == pytest.approx(actual, rel=0.1)
    assert space.store_bytes([], chosen) == 0


@pytest.mark.parametrize(
    ("profile", "name", "batch_size", "measured"),
    [
        ("published", "v1mix", 16, 3.34),
        ("published", "v1mix", 32, 5.53),
        ("published", "msc_1.0", 8, 2.51),
        ("published", "msc_1.0", 24, 5.33),
        ("published", "msc_2.0", 8, 4.35),
        ("published", "msc_2.0", 32, 11.54),
        ("small", "v1mix", 16, 1.19),
        ("small", "msc_1.0", 16, 1.32),
    ],
)
def test_memory_of_training_is_estimated_well(profile, name, batch_size, measured):
    """Peak resident memory in GB of two training steps, measured on two CPU cores."""
    (chosen,) = config.experiments(profile, [name])
    chosen = dataclasses.replace(chosen, batch_size=batch_size)
    assert space.training_memory(chosen) / 1e9 == pytest.approx(measured, rel=0.12)


def test_too_little_memory_is_warned_of(arguments, tmp_path, run_stage, monkeypatch, capsys):
    monkeypatch.setattr(space, "machine_memory", lambda: 5e8)
    warning = "GB of memory, and this machine has 0.5 GB: take --profile small"
    for gpu in ("", "0"):  # which has memory of its own
        monkeypatch.setenv(gpus.VISIBLE, gpu)
        run_stage("preprocess", *arguments, tmp_path / "out")
        assert (warning in capsys.readouterr().err) == (gpu == "")


@pytest.fixture
def arguments(clips, tmp_path, tiny_profile, decoded_here):
    clips.write(tmp_path / "in")
    return ["--input", tmp_path / "in", "--profile", tiny_profile, "--output"]


def test_preprocessing_asks_for_space_first(arguments, tmp_path, run_stage, monkeypatch):
    monkeypatch.setattr(space, "RESERVE", 1e18)
    with pytest.raises(SystemExit, match="error: .* of disk space left"):
        run_stage("preprocess", *arguments, tmp_path / "out")
    assert not (tmp_path / "out" / "clips").exists()


def test_views_of_another_front_end_are_not_there_already(finished_run, tmp_path):
    (tmp_path / "mine.json").write_text('{"n_hop": 100}')
    run = run_of(*finished_run[2])
    other = run_of(*finished_run[2], "--settings", tmp_path / "mine.json")
    views = [run.views(split, run.configs[0]).path(".f32") for split in ("curated", "test")]
    taken = [path.stat().st_size for path in views]
    assert sum(taken) > 0
    difference = space.present_bytes(run) - space.present_bytes(other)
    assert sum(taken) <= difference < 1.1 * sum(taken)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 2 TiB"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),  # JAX's
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_too_little_memory_is_one_line(error):
    with (
        pytest.raises(SystemExit, match="error: there is not enough memory: end .*; go on"),
        command_line.errors_in_one_line("go on"),
    ):
        raise error


@pytest.mark.parametrize("victim", ["folds.csv", "clips.csv", "store.json"])
def test_a_full_disk_ends_with_one_line_and_the_same_command_goes_on(
    arguments, tmp_path, run_stage, monkeypatch, victim
):
    original = os.fsync

    def full(descriptor):
        if victim in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", full)
        with pytest.raises(SystemExit, match="error: No space left on device.* goes on from here"):
            run_stage("preprocess", *arguments, tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".part-*"))
    run_stage("preprocess", *arguments, tmp_path / "out")
    run_stage("preprocess", *arguments, tmp_path / "other")
    for name in STORE_FILES:
        path = f"clips/curated/{name}"
        assert (tmp_path / "out" / path).read_bytes() == (tmp_path / "other" / path).read_bytes()


def test_a_killed_process_ends_with_one_line_and_the_same_command_goes_on(
    arguments, tmp_path, run_stage, monkeypatch
):
    original, killed = prepare.prepare_all, []

    def dying(files, settings):
        for number, clip in enumerate(original(files, settings)):
            if number == 5 and not killed:
                killed.append(clip)
                raise TerminatedWorkerError("killed")
            yield clip

    monkeypatch.setattr(prepare, "prepare_all", dying)
    with pytest.raises(SystemExit, match="error: the system killed .* goes on from here"):
        run_stage("preprocess", *arguments, tmp_path / "out")
    run_stage("preprocess", *arguments, tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out" / "clips" / "curated" / "clips.csv")) == 12


@pytest.fixture
def small_disk(tmp_path):
    """A disk of any size, such as "300k", in the folder `disk`; called again, it has another."""
    disk, again = tmp_path / "disk", []

    def resize(size: str):
        disk.mkdir(exist_ok=True)
        options = f"{'remount,' * len(again)}size={size}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk is not allowed here")
        again[:] = [True]

    yield resize
    if again:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_really_is_full(arguments, tmp_path, run_stage, monkeypatch, small_disk):
    small_disk("300k")
    disk = tmp_path / "disk"
    monkeypatch.setattr(space, "require", lambda *_: None)
    with pytest.raises(SystemExit, match="error: No space left on device"):
        run_stage("preprocess", *arguments, disk)
    small_disk("50m")
    run_stage("preprocess", *arguments, disk)
    assert len(pd.read_csv(disk / "clips" / "curated" / "clips.csv")) == 12


WRITING = """
import sys
from pathlib import Path
import keras
from runs import command_line, resume

network = keras.Sequential([keras.Input((100,)), keras.layers.Dense(500)])
with command_line.errors_in_one_line("go on"):
    resume.write_weights(Path(sys.argv[1]), network)
"""


@pytest.mark.parametrize("size", ["40k", "140k", "240k"])  # of 200 kB at least
def test_weights_on_a_disk_that_is_full(tmp_path, small_disk, size):
    small_disk(size)
    done = subprocess.run(
        [sys.executable, "-c", WRITING, str(tmp_path / "disk" / "fold0.weights.h5")],
        env={**os.environ, "PYTHONPATH": os.path.dirname(config.__file__)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == "error: No space left on device; mend that, and go on\n"
    assert done.returncode == 1
    assert not list((tmp_path / "disk").iterdir())


def test_an_output_folder_that_cannot_be_written(arguments, tmp_path, run_stage):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="error: "):
        run_stage("preprocess", *arguments, tmp_path / "file")


def test_two_runs_on_one_folder(arguments, tmp_path, run_stage):
    with (
        command_line.locked(tmp_path / "out"),
        pytest.raises(SystemExit, match=f"out is in use by process {os.getpid()} on .*, since"),
    ):
        run_stage("preprocess", *arguments, tmp_path / "out")
    run_stage("preprocess", *arguments, tmp_path / "out")


def test_a_stage_ends_with_the_run_sh_that_started_it(clips, tmp_path):
    """However that ends: killed, it cannot end its stage, which would hold the folder."""
    waiting = (
        "import sys, time; from runs import command_line; "
        "begin = lambda run, args: (print('begun', flush=True), time.sleep(60)); "
        "command_line.start(command_line.parser(''), 'predict', begin)"
    )
    line = (
        f"export RUN_SH_PROCESS=$$; exec 9>>{tmp_path}/out/.lock; "
        f'\'{sys.executable}\' -c "{waiting}" "$@" & wait'
    )
    clips.write(tmp_path / "in")
    (tmp_path / "out").mkdir()
    options = ["--input", f"{tmp_path}/in", "--profile", "small", "--output", f"{tmp_path}/out"]
    environment = {**os.environ, "RUN_SH_LOCK": "9", "PYTHONPATH": str(remote.CODE)}
    shell = subprocess.Popen(
        ["sh", "-c", line, "run.sh", *options], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert "begun" in shell.stdout.readline()
    shell.kill()
    shell.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(PipelineError), command_line.locked(tmp_path / "out"):
            return
        time.sleep(0.1)
    pytest.fail("the stage still holds the folder")


def test_all_of_a_run_is_counted_but_what_is_there(finished_run, tmp_path, monkeypatch):
    run = run_of(*finished_run[2])
    scored = [run.views(split, run.configs[0]).path(".f32") for split in ("curated", "test")]
    n = len(run.dataset["curated"]) + len(run.dataset["test"])
    assert space.views_bytes(n, run.configs[0]) == sum(path.stat().st_size for path in scored)
    (tmp_path / "mine.json").write_text('{"frontend": "logmel"}')
    other = run_of(*finished_run[2], "--settings", tmp_path / "mine.json")
    samples = sum(run.store(split).n_samples.sum() for split in run.dataset.splits)
    more = space.needed_bytes(other) - space.needed_bytes(run)
    assert more == pytest.approx(2 * 64 * samples / 1000, rel=0.15)  # float16, 64 bands, hop 1000
    left = space.needed_bytes(run) - space.present_bytes(run)
    for free in (left, left - 1):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(space.shutil, "disk_usage", lambda _, usage=usage: usage)
        with (
            contextlib.nullcontext()
            if free == left
            else pytest.raises(PipelineError, match="of disk space left")
        ):
            space.require(run)
