"""Work side by side: a task makes one result, in this process or on one of Dask's workers.

In this process where there is one device. Where there are several GPUs, on a Dask cluster of this
machine with a worker for each; with `--scheduler`, on the workers of that scheduler, which share
the folders of input, output and code. Each network trains alone on its device: a network per GPU
needs no gradients to travel, and gives what one GPU would give.

What is sent is small: tasks. What workers do with them: `remote`.
"""

import collections
import contextlib
import functools
import importlib.util
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import messages
from fast import gpus, processes
from messages import KilledProcess, PipelineError
from runs import remote
from runs.results import Result
from runs.run import Run

FOLDER = ".cluster"  # below the output folder
BATCHES_FOR_EACH = 2  # of clips, for each worker, so that none waits for the next
SECONDS_TO_STOP = 20
SECONDS_TO_LOOK = 0.2  # for results, and for workers that have come


@dataclass(frozen=True)
class Task:
    """One result that is to be made."""

    name: str  # as messages call it
    function: Callable  # `function(run, *args)` makes the result; of a module workers can import
    result: Callable[..., Result]  # `result(run, *args)`, such as `Run.fold`: what is made
    args: tuple
    needs: tuple[str, ...] = ()  # names of tasks that come first


@functools.cache
def devices(run: Run) -> list[str]:
    """The GPUs that share the tasks; warns of those that cannot be used."""
    return gpus.usable()


def side_by_side(run: Run) -> bool:
    """Are there workers, or is everything done in this process, one thing after the other?"""
    return bool(run.scheduler) or len(devices(run)) > 1


def in_one_go(run: Run) -> bool:
    """Is this a stage of a run of both `pretrain` and `train`, which workers do together?"""
    return "pretrain train" in os.environ.get("RUN_SH_STAGES", "") and side_by_side(run)


def run_all(run: Run, tasks: list[Task]) -> None:
    """Make all of these results: here, in this order, or side by side.

    The first error stops all: what was finished is there, and the same command goes on.
    """
    if (len(tasks) < 2 and not run.scheduler) or not side_by_side(run):
        for task in tasks:
            task.function(run, *task.args)
    elif tasks:
        _run_on_workers(run, tasks)


def in_order(run: Run, function: Callable, batches: Iterable, *args) -> Iterator:
    """`function(run, batch, *args)` of each batch from the workers, in order.

    No more than a few batches for each worker are under way or wait to be fetched.
    """
    with _connected(run) as (client, path):
        under_way = collections.deque()
        for number, batch in enumerate(batches):
            if len(under_way) >= BATCHES_FOR_EACH * max(1, len(client.nthreads())):
                yield under_way.popleft().result()
            key = f"batch {number} {path.name}"
            under_way.append(client.submit(remote.call, path, function, batch, *args, key=key))
        while under_way:
            yield under_way.popleft().result()


def whenever_free(
    run: Run, function: Callable, ask: Callable[[], tuple | None], n: int
) -> Iterator[tuple]:
    """`function(run, *args)` of what `ask` gives whenever a worker is free.

    Each in a process of its own, with which its memory goes: here, one after the other, or a worker
    starts anew.

    ask : gives a name for messages, one for the lock of what is written meanwhile, and args; or
        None: it is asked again after the next result, and if there is none to come, all is done
    n : how many there may be

    Yields the name, and the result of the function; or KilledProcess, if the system ends it.
    """
    if not side_by_side(run):
        while (asked := ask()) is not None:
            name, _, args = asked
            try:
                result = processes.apart(function, run, *args)
            except KilledProcess as error:
                result = error
            yield name, result
        return
    with _connected(run, n) as (client, path):
        for name, found in _whenever_free(client, path, function, ask, n):
            if not isinstance(found, KilledProcess):
                worker, found = found
                _start_anew(client, worker)
            yield name, found


# --- on this side ---------------------------------------------------------------------------------


def _run_on_workers(run: Run, tasks: list[Task]) -> None:
    left, made = [*tasks], set()

    def ask() -> tuple | None:
        """The first task that has what it needs."""
        ready = next((task for task in left if made.issuperset(task.needs)), None)
        if ready is None:
            return None
        left.remove(ready)
        return ready.name, ready.name, (ready,)

    with _connected(run, len(tasks)) as (client, path):
        for name, result in _whenever_free(client, path, remote.make, ask, len(tasks)):
            if isinstance(result, KilledProcess):
                raise result
            made.add(name)


def _whenever_free(client, path: Path, function: Callable, ask, n: int) -> Iterator[tuple]:
    """`remote.run_alone` of `function` and what `ask` gives, by whichever worker is free.

    No more at once than there are workers: Dask would give them all to those that are there now,
    and leave those that come later idle.

    Yields the name, and (the worker's address, what the function gives); or KilledProcess, if it
    takes down one worker after the other.
    """
    from distributed import KilledWorker

    for address, n_threads in client.nthreads().items():
        if n_threads > 1:
            raise PipelineError(
                f"worker {address} has {n_threads} threads, and a network takes a process of "
                "its own: start workers with --nthreads 1"
            )
    under_way, more = {}, True
    with messages.progress_bar("tasks", n, "task") as bar:
        client.subscribe_topic(path.name, functools.partial(_show, bar, {}))
        while True:
            # One waits for a worker where there is none just now.
            while more and len(under_way) < max(1, len(client.nthreads())):
                if asked := ask():
                    name, lock, args = asked
                    arguments = path, name, lock, function, *args
                    future = client.submit(remote.run_alone, *arguments, key=f"{name} {path.name}")
                    under_way[future] = name
                more = bool(asked)
            if not under_way:
                return
            time.sleep(SECONDS_TO_LOOK)
            finished = [future for future in under_way if future.done()]
            while finished:
                future = finished.pop()
                name, more = under_way.pop(future), True
                try:
                    result = future.result()
                except KilledWorker:
                    result = KilledProcess(f"one worker after the other at {name}")
                del future  # or it is done again where its worker forgets the result
                bar.update()
                yield name, result


def _show(bar, at_work: dict[str, str], event) -> None:
    """A line of a task: where it is now, or, from None on, that it is over; and print it."""
    _, (name, where, stream, line) = event
    if line is None:
        at_work.pop(name, None)
    else:
        at_work[name] = where
        bar.write(line if line.startswith(name) else f"{name}: {line}", file=getattr(sys, stream))
    bar.set_postfix_str(", ".join(f"{name} on {where}" for name, where in at_work.items()))


@contextlib.contextmanager
def _connected(run: Run, most: int | None = None) -> Iterator[tuple]:
    """Dask's client, and the file that tells workers what they work on; they are looked at first.

    Whatever ends this block early also stops what the workers do. PipelineError if no scheduler
    answers or it is lost, or a worker is not like this process; KilledProcess if a task takes down
    one worker after the other.
    """
    folder = run.root.resolve() / FOLDER
    folder.mkdir(exist_ok=True)
    for left in folder.glob("run-*"):  # by a run that was killed
        left.unlink()
    import distributed
    from distributed.comm import CommClosedError

    warnings.filterwarnings("ignore", category=distributed.versions.VersionMismatchWarning)
    for name in [*logging.root.manager.loggerDict]:
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(remote.left_for_workers(run, folder))
        try:
            if run.scheduler:
                client = _client(run.scheduler)
            else:
                cluster = stack.enter_context(_local_cluster(devices(run)[:most], folder))
                client = distributed.Client(cluster, set_as_default=False)
            stack.enter_context(client)
            print(
                f"Dask's workers of {client.scheduler.address} take part; dashboard: "
                f"{client.dashboard_link}"
            )
            client.wait_for_workers(1)
            _require_alike(client, path)
            try:
                yield client, path
            except BaseException:
                if run.scheduler:  # workers of our own end with their cluster
                    _stop(client, path)
                raise
        except distributed.KilledWorker as error:
            raise KilledProcess(f"one worker after the other at {error.task}") from error
        except (
            CommClosedError,
            distributed.client.FutureCancelledError,
            distributed.client.FuturesCancelledError,
        ) as error:
            raise PipelineError(
                "the connection to Dask's scheduler is lost: start one, and the same command goes "
                "on from here"
            ) from error


def _client(scheduler: dict):
    """Of the scheduler that was named, by its address or by the file that it wrote."""
    import distributed
    from distributed.comm import resolve_address

    (named,) = scheduler.values()
    try:
        address = named
        if "scheduler_file" in scheduler:  # Dask would wait for it without end
            address = dict(json.loads(Path(named).read_text())).get("address", "")
        resolve_address(address)  # a client of what is no address would wait a minute for its end
        return distributed.Client(address, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # no address, no such file, no certificate
        raise PipelineError(f"no Dask scheduler answers at {named}: {error}") from error


def _local_cluster(names: list[str], folder: Path):
    """A scheduler and a worker for each GPU, which listen to this machine only."""
    from distributed import Nanny, Scheduler, SpecCluster

    loopback = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    options = {
        **loopback,
        "nthreads": 1,
        "memory_limit": 0,  # the system's
        "local_directory": str(folder),
        "silence_logs": logging.CRITICAL,
    }
    workers = {
        number: {"cls": Nanny, "options": {**options, "env": {gpus.VISIBLE: name}}}
        for number, name in enumerate(names)
    }
    scheduler = {"cls": Scheduler, "options": loopback}
    return SpecCluster(workers, scheduler, silence_logs=logging.CRITICAL)


def _start_anew(client, worker: str) -> None:
    """Start a worker again, for its memory, unless it is at work already or gone."""
    # KeyError: it is gone; ValueError: it has no nanny, which would start it again.
    with contextlib.suppress(KeyError, ValueError):
        if not client.processing([worker])[worker]:
            client.restart_workers([worker], timeout=SECONDS_TO_STOP, raise_for_error=False)


def _stop(client, path: Path) -> None:
    """End the tasks that are at work: a worker's process is started anew, which ends its own."""
    from distributed import Future

    with contextlib.suppress(Exception):  # of workers or a scheduler that are gone
        at_work = client.processing().items()
        busy = [address for address, keys in at_work if any(path.name in str(key) for key in keys)]
        client.cancel([Future(key, client) for key in client.futures])  # not again elsewhere
        client.restart_workers(busy, timeout=SECONDS_TO_STOP, raise_for_error=False)


def _require_alike(client, path: Path) -> None:
    """Each worker has our code, sees our folders, and has what has to be the same.

    What is still at work there for an earlier run on this output folder, which was killed, is
    ended. Workers that come later look for themselves, at their first task.
    """
    for address, found in client.run(
        importlib.util.find_spec, remote.__name__, on_error="return"
    ).items():
        origin = getattr(found, "origin", None)
        if origin is None or Path(origin).resolve() != Path(remote.__file__).resolve():
            raise PipelineError(
                f"worker {address} does not find {remote.CODE}: it takes a shared file system, and "
                f"workers that are started with PYTHONPATH={remote.CODE}"
            )
    busy = []
    for address, found in client.run(remote.look, path, on_error="return").items():
        if isinstance(found, Exception):
            raise found
        probe, at_work = found
        if not probe.is_file():
            raise PipelineError(
                f"what worker {address} writes into {path.parent} is not there: it takes a file "
                "system that all machines share"
            )
        probe.unlink()
        busy += [address] * at_work
    if busy:
        print(f"ending what an earlier run still does on {', '.join(busy)}")
        client.restart_workers(busy, timeout=SECONDS_TO_STOP)
