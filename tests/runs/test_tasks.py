"""Tasks on Dask's workers: real schedulers and workers, which make small files.

Trainings on workers that are killed: `test_interruption.py`.
"""

import dataclasses
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import distributed  # noqa: F401 (its settings, before any are changed)
import numpy as np
import psutil
import pytest

import config
from clips import prepare
from clips.dataset import SPLITS, Dataset, Split
from clips.files import ClipFile
from cluster import PYTHONPATH, processes, start_scheduler, wait_until, worker
from fast import gpus
from messages import InputError, KilledProcess, PipelineError
from runs import preparation, results, tasks
from runs.run import Run
from runs.tasks import Task


def make_run(root: Path, files=(), **scheduler) -> Run:
    """With no clips but these, of the test split, and no experiments."""
    splits = {name: Split([], [], None) for name in SPLITS}
    splits["test"] = Split([file.name for file in files], list(files), None)
    return Run(Dataset([], splits), root, "tiny", {}, [], [], scheduler=scheduler)


def result(run, name, *_) -> results.Result:
    return run.result(name, "train", (".txt",))


def write(run, name, seconds=0.0, after=None):
    """Make the result of that name, and count how often this was begun."""
    with (run.root / f"{name}.begun").open("a") as file:
        file.write(f"{os.getpid()} {os.environ.get(gpus.VISIBLE)} {time.time()}\n")
    print(f"{name} is made")
    time.sleep(seconds)
    if after:
        after(run)
    made = result(run, name)
    made.path(".txt").write_text(name)
    made.seal()


def begun(root: Path, name: str) -> list[str]:
    path = root / f"{name}.begun"
    return path.read_text().splitlines() if path.exists() else []


def task(name, *args, needs=()) -> Task:
    return Task(name, write, result, (name, *args), needs)


def die_at_first(run):
    if len(begun(run.root, "mortal")) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def die(run):
    os.kill(os.getpid(), signal.SIGKILL)


def find_fault(run):
    wait_until(lambda: begun(run.root, "long"))  # at the other worker, which may start late
    raise InputError("table.csv: row 3 is no clip")


def wait_for_of_a(run):
    wait_until(lambda: begun(run.root, "of a"))  # fails where that waits for `b` as well


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The file of a scheduler with two workers."""
    folder = tmp_path_factory.mktemp("cluster")
    with processes() as start:
        file = start_scheduler(start, folder)
        start(*worker(file, "--nworkers", 2, "--host", "127.0.0.1"), cwd=folder)
        yield file


@pytest.fixture
def run(scheduler, tmp_path):
    return make_run(tmp_path, scheduler_file=str(scheduler))


def test_a_task_starts_as_soon_as_what_it_needs_is_there(run, capsys):
    chain = [task("a"), task("b", 0.0, wait_for_of_a), task("of a", 0.0, needs=("a",))]
    tasks.run_all(run, [*chain, task("of b", needs=("b",))])
    times = {name: float(begun(run.root, name)[0].split()[2]) for name in ("of a", "of b")}
    assert times["of a"] < times["of b"]
    said = capsys.readouterr().out
    assert "of b is made\n" in said
    assert "Dask's workers of tcp://127.0.0.1:" in said
    left = {path.suffix for path in (run.root / tasks.FOLDER).iterdir()}
    assert left == {".lock"}


def test_one_after_the_other_in_this_process_where_there_is_one_device(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "usable", list)
    run = make_run(tmp_path)
    tasks.run_all(run, [task("a"), task("b", needs=("a",))])
    assert begun(tmp_path, "b")[0].split()[0] == str(os.getpid())
    assert not (tmp_path / tasks.FOLDER).exists()


def test_a_fault_of_the_data_is_said_once_and_ends_the_others(run, capfd):
    faulty = [task("a"), task("faulty", 0.0, find_fault), task("long", 60.0)]
    with pytest.raises(InputError, match=r"^table\.csv: row 3 is no clip$"):
        tasks.run_all(run, [*faulty, task("of faulty", needs=("faulty",))])
    assert len(begun(run.root, "faulty")) == 1
    assert not begun(run.root, "of faulty")
    assert "Traceback" not in capfd.readouterr().out
    (long,) = begun(run.root, "long")
    wait_until(lambda: not psutil.pid_exists(int(long.split()[0])), 10)
    tasks.run_all(run, [task("long")])  # what it had locked is free


def test_the_task_of_a_killed_worker_goes_on_at_another(run):
    tasks.run_all(run, [task("mortal", 0.0, die_at_first), task("other")])
    assert len({line.split()[0] for line in begun(run.root, "mortal")}) == 2
    assert result(run, "mortal").fault() is None


def test_a_task_that_takes_down_every_worker_is_given_up(run):
    with pytest.raises(KilledProcess, match="one worker after the other at deadly"):
        tasks.run_all(run, [task("deadly", 0.0, die)])


def test_other_threads_of_a_worker_do_not_draw_what_a_task_draws(run):
    """As Keras' initial weights, from Python's one generator."""
    tasks.run_all(run, [task("drawing", 0.0, draw)])
    expected = random.Random(1)
    drawn = (run.root / "drawn").read_text().split()
    assert drawn == [str(expected.randint(1, 10**9)) for _ in range(50)]


def draw(run):
    ended = threading.Event()

    def draw_too():
        while not ended.wait(0.001):
            random.random()

    threading.Thread(target=draw_too).start()
    random.seed(1)
    numbers = [(random.randint(1, 10**9), time.sleep(0.002))[0] for _ in range(50)]
    ended.set()
    (run.root / "drawn").write_text(" ".join(map(str, numbers)))


STAGE = """
import sys
from pathlib import Path
from runs.command_line import errors_in_one_line, locked
from runs import tasks
import test_tasks
root, file = map(Path, sys.argv[1:])
with errors_in_one_line("the same command goes on from here"), locked(root):
    run = test_tasks.make_run(root, scheduler_file=str(file))
    tasks.run_all(run, [test_tasks.task("long", 60.0), test_tasks.task("too", 60.0)])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_is_gone_on_with(run, scheduler, capsys, number):
    with processes() as start:
        stage = start(sys.executable, "-c", STAGE, run.root, scheduler, stderr=subprocess.PIPE)
        wait_until(lambda: begun(run.root, "long") and begun(run.root, "too"))
        stage.send_signal(number)
        _, said = stage.communicate(timeout=40)
    assert stage.returncode in (130, -signal.SIGKILL)
    assert said.decode().strip() in ("stopped; the same command goes on from here", "")
    first = [int(begun(run.root, name)[0].split()[0]) for name in ("long", "too")]
    if number == signal.SIGINT:
        assert not any(map(psutil.pid_exists, first))
    tasks.run_all(run, [task("long"), task("too")])
    assert not any(map(psutil.pid_exists, first))
    ending = "ending what an earlier run still does on tcp://"
    assert (ending in capsys.readouterr().out) == (number == signal.SIGKILL)


def test_a_lost_scheduler_is_one_line_and_ends_all(tmp_path, monkeypatch):
    with processes() as start:
        file = start_scheduler(start, tmp_path)
        start(*worker(file, "--nworkers", 2, "--host", "127.0.0.1"), cwd=tmp_path)
        monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "2s")
        stage = start(sys.executable, "-c", STAGE, tmp_path, file, stderr=subprocess.PIPE)
        wait_until(lambda: begun(tmp_path, "long") and begun(tmp_path, "too"))
        ours = [one for one in psutil.Process().children() if str(file) in one.cmdline()]
        next(one for one in ours if "scheduler" in one.cmdline()).kill()
        _, said = stage.communicate(timeout=40)
        first = [int(begun(tmp_path, name)[0].split()[0]) for name in ("long", "too")]
        wait_until(lambda: not any(map(psutil.pid_exists, first)))
    assert said.decode().startswith("error: the connection to Dask's scheduler is lost: start")
    assert len(said.splitlines()) == 1
    assert stage.returncode == 1


def test_workers_that_are_not_like_this_process_are_named(run, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(sys.modules["runs.remote"].platform, "python_version", lambda: "3.10.1")
    changes = r"KERAS_BACKEND jax -> , Python 3.10.1 -> 3\.\S+"
    with pytest.raises(PipelineError, match=rf"^worker \S.* is not like .* \({changes}\): start"):
        tasks.run_all(run, [task("a")])
    assert not begun(run.root, "a")


def test_workers_that_do_not_see_the_clips_are_named(run, tmp_path, monkeypatch):
    file = ClipFile(tmp_path / "elsewhere", "a.wav")
    run = make_run(tmp_path, [file], **run.scheduler)
    with pytest.raises(PipelineError, match=rf"^worker \S.* does not see {file.container}, "):
        tasks.run_all(run, [task("a")])


def test_workers_without_the_code_or_with_threads_are_named(tmp_path):
    with processes() as start:
        file = start_scheduler(start, tmp_path)
        run = make_run(tmp_path, scheduler_file=str(file))
        without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        bare = start(*worker(file), cwd=tmp_path, env=without)
        with pytest.raises(PipelineError, match="does not find .*/code: .* with PYTHONPATH=/"):
            tasks.run_all(run, [task("a")])
        bare.terminate()
        bare.wait(30)
        start(*worker(file, "--nthreads", 2), cwd=tmp_path)
        with pytest.raises(PipelineError, match="has 2 threads, .* with --nthreads 1"):
            tasks.run_all(run, [task("a")])


def test_no_scheduler_is_one_line(tmp_path):
    for scheduler in (
        {"address": "tcp://127.0.0.1:9"},
        {"address": "what is this"},
        {"scheduler_file": str(tmp_path / "none.json")},
    ):
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
            pytest.raises(PipelineError, match="^no Dask scheduler answers at "),
        ):
            tasks.run_all(make_run(tmp_path, **scheduler), [task("a")])


def not_to_be_called(*_, **options):
    raise AssertionError("a client was made")


@pytest.mark.parametrize("address", ["127.0.0.1", "http://127.0.0.1:8787", "tcp://host:x", ""])
def test_what_is_no_address_is_not_tried(tmp_path, monkeypatch, address):
    """A client of it would wait for a minute at its end."""
    monkeypatch.setattr("distributed.Client", not_to_be_called)
    with pytest.raises(PipelineError, match="^no Dask scheduler answers at "):
        tasks.run_all(make_run(tmp_path, address=address), [task("a")])


@pytest.mark.parametrize("content", ["", "{}", "[1]", "null", '{"address": null}', "\x00"])
def test_what_is_no_schedulers_file_is_not_tried(tmp_path, monkeypatch, content):
    monkeypatch.setattr("distributed.Client", not_to_be_called)
    (file := tmp_path / "scheduler.json").write_text(content)
    with pytest.raises(PipelineError, match=f"^no Dask scheduler answers at {file}: "):
        tasks.run_all(make_run(tmp_path, scheduler_file=str(file)), [task("a")])


def test_clips_come_in_order_and_few_wait(run):
    """Workers do not run ahead of the writer."""
    batches, taken, found = iter(range(40)), [], []
    for number in tasks.in_order(run, twice, (taken.append(n) or n for n in batches), 10):
        found.append(number)
        assert len(taken) <= len(found) + tasks.BATCHES_FOR_EACH * 2
        time.sleep(0.01)
    assert found == [2 * n for n in taken] == [2 * n for n in range(40)]


def test_no_two_processes_make_one_result_at_once(run, capsys):
    (run.root / tasks.FOLDER).mkdir()
    said = []

    def is_waiting():
        said.append(capsys.readouterr().out)
        return "waits for another process" in "".join(said)

    with ThreadPoolExecutor(1) as thread:
        with (run.root / tasks.FOLDER / "a.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            working = thread.submit(tasks.run_all, run, [task("a")])
            wait_until(is_waiting)
            assert not begun(run.root, "a")
        working.result(30)
    assert len(begun(run.root, "a")) == 1


def twice(run, number, _):
    return 2 * number


def test_workers_are_asked_for_more_whenever_they_are_free(run):
    """Each time in a new process; one that is killed costs its own result only."""
    asks, seen = ((name, name, (name,)) for name in ("0", "deadly", "2", "3")), {}
    for name, found in tasks.whenever_free(run, think, lambda: next(asks, None), 4):
        seen[name] = found
    assert isinstance(seen.pop("deadly"), KilledProcess)
    assert sorted(seen) == ["0", "2", "3"]
    assert len(set(seen.values())) == 3


def test_a_worker_that_starts_anew_leaves_nothing_to_be_done_again(run):
    names = "short", "until another has begun", "another"
    asks = ((name, name, (name,)) for name in names)
    found = dict(tasks.whenever_free(run, think, lambda: next(asks, None), 3))
    assert {name: begun(run.root, name) for name in names} == {
        name: [str(process)] for name, process in found.items()
    }


def think(run, name, seconds=0.0) -> int:
    if name == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    with (run.root / f"{name}.begun").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    if name.startswith("until"):
        wait_until(lambda: begun(run.root, "another"))
    return os.getpid()


def test_workers_that_come_later_are_asked_too(tmp_path):
    with processes() as start:
        file = start_scheduler(start, tmp_path)
        start(*worker(file), cwd=tmp_path)
        run = make_run(tmp_path, scheduler_file=str(file))
        lengths = {"first": 60.0, "second": 0.0}
        asks = ((name, name, (name, lengths[name])) for name in lengths)

        def ask():
            asked = next(asks, None)
            if asked and asked[0] == "first":
                start(*worker(file, "--no-nanny"), cwd=tmp_path)  # cannot start anew
            return asked

        results = tasks.whenever_free(run, think, ask, 2)
        name, _ = next(results)
        assert name == "second"
        assert len(begun(tmp_path, "first")) == 1
        results.close()  # ends what is under way


def test_a_scheduler_that_is_lost_while_workers_think_is_one_line(tmp_path):
    with processes() as start:
        file = start_scheduler(start, tmp_path)
        start(*worker(file), cwd=tmp_path)
        run = make_run(tmp_path, scheduler_file=str(file))
        asks = iter([("long", "long", ("long", 60.0))])
        ours = [one for one in psutil.Process().children() if str(file) in one.cmdline()]
        lost = next(one for one in ours if "scheduler" in one.cmdline())

        def end_it():
            wait_until(lambda: begun(tmp_path, "long"))
            lost.kill()

        threading.Thread(target=end_it).start()
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "2s"}),
            pytest.raises(PipelineError, match="^the connection to Dask's scheduler is lost"),
        ):
            list(tasks.whenever_free(run, think, lambda: next(asks, None), 1))


def test_one_process_after_the_other_is_asked_for_more_here(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "usable", list)
    asks = iter([("0", "0", ("0",)), ("1", "1", ("1",))])
    found = tasks.whenever_free(make_run(tmp_path), think, lambda: next(asks, None), 2)
    (_, first), (_, second) = found
    assert len({os.getpid(), first, second}) == 3


def test_workers_write_the_log_mels_and_views_of_this_process(
    scheduler, make_clips, run_stage, tiny_profile, tmp_path
):
    make_clips(sizes={"curated": 20, "noisy": 3, "test": 4}).write(tmp_path / "in")
    (tmp_path / "logmel.json").write_text('{"frontend": "logmel"}')
    arguments = ["--input", tmp_path / "in", "--profile", tiny_profile]
    arguments += ["--settings", tmp_path / "logmel.json"]
    for output, options in (("here", []), ("there", ["--scheduler-file", scheduler])):
        run_stage("preprocess", *arguments, "--output", tmp_path / output, *options)
    written = {path.name for path in (tmp_path / "here/clips").rglob("*.f??")}
    assert {name.partition("-")[0] for name in written} == {"logmel", "views", "features.f32"}
    for here in (tmp_path / "here/clips").rglob("*.[fi]??"):
        there = tmp_path / "there" / here.relative_to(tmp_path / "here")
        assert here.read_bytes() == there.read_bytes(), here


def test_prepared_clips_are_those_of_this_process(run, make_clips, tmp_path):
    made = make_clips(sizes={"curated": 6, "noisy": 0, "test": 0})
    made.write_clips(tmp_path / "clips", "curated")
    files = [ClipFile(tmp_path / "clips", name) for name in made.tables["curated"]["fname"]]
    settings = config.EXPERIMENTS["v1mix"].values(config.PREPROCESSING_SETTINGS)
    run = dataclasses.replace(run, configs=[config.EXPERIMENTS["v1mix"]])
    batches = tasks.in_order(run, preparation.prepare_clips, [files[:4], files[4:]])
    found = [clip for batch in batches for clip in batch]
    for file, theirs in zip(files, found, strict=True):
        for name in ("samples", "features"):
            ours = getattr(prepare.prepare(file, settings), name)
            np.testing.assert_array_equal(ours, getattr(theirs, name))


def test_each_gpu_has_a_worker_that_listens_to_this_machine_only(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "usable", lambda: ["3", "GPU-5", "6"])
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    run = make_run(tmp_path)
    tasks.run_all(run, [task("a", 0.0, wait_for_listening), task("listening", 1.0, note_listeners)])
    seen = {begun(tmp_path, name)[0].split()[1] for name in ("a", "listening")}
    assert seen == {"3", "GPU-5"}  # no more workers than tasks
    listening = (tmp_path / "listeners").read_text().split()
    assert len(listening) >= 4  # scheduler and workers, with their pages
    assert set(listening) == {"127.0.0.1"}
    asks = ((name, name, (name,)) for name in "xyz")
    found = dict(tasks.whenever_free(run, think, lambda: next(asks, None), 3))
    assert len(set(found.values())) == 3  # trials start them anew


def wait_for_listening(run):
    wait_until(lambda: begun(run.root, "listening"))  # at the other worker


def note_listeners(run):
    """Of this worker, and of the process with the scheduler, which started it."""
    listening = [
        connection.laddr.ip
        for process in (psutil.Process(), psutil.Process(os.getppid()))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    (run.root / "listeners").write_text(" ".join(listening))


@pytest.fixture
def second_host():
    """A network namespace with a cable to this one: (its name, this end's address)."""
    name, network = f"dask{os.getpid() % 100_000}", f"10.77.{os.getpid() % 250}"
    commands = [
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b netns {name}",
        f"ip addr add {network}.1/30 dev {name}a",
        f"ip link set {name}a up",
        f"ip -n {name} addr add {network}.2/30 dev {name}b",
        f"ip -n {name} link set {name}b up",
        f"ip -n {name} link set lo up",
    ]
    try:
        if not shutil.which("ip") or any(subprocess.call(line.split()) for line in commands):
            pytest.skip("no network namespaces here, for a second host")
        yield name, f"{network}.1"
    finally:
        subprocess.call(["ip", "netns", "del", name])


def test_a_worker_on_another_host(second_host, tmp_path):
    """First with a disk of its own under the same name, then with the shared one."""
    name, address = second_host
    there = ["ip", "netns", "exec", name]
    with processes() as start:
        file = start_scheduler(start, tmp_path, address)
        shared = tmp_path / "shared"
        shared.mkdir()
        run = make_run(shared, scheduler_file=str(file))
        own_disk = f'mount -t tmpfs none "{shared}" && exec "$@"'
        other = start(*there, "sh", "-c", own_disk, "sh", *worker(file), cwd=tmp_path)
        with pytest.raises(PipelineError, match=r"^worker \S.* does not see .*/shared/"):
            tasks.run_all(run, [task("a")])
        other.terminate()
        other.wait(30)
        start(*there, *worker(file), cwd=tmp_path)
        tasks.run_all(run, [task("a")])
    assert result(run, "a").fault() is None


def test_runs_travel_without_what_they_remember(run):
    copied = dataclasses.replace(run, force=True)
    assert not {"fold_table", "ensemble"} & run.__getstate__().keys()
    assert copied.__getstate__()["scheduler"] == run.scheduler
