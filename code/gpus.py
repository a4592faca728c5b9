"""All GPUs of the machine at work: each takes its share of the trainings, in a process of its own.

Folds and experiments do not depend on one another, so a network per GPU needs no gradients to
travel, and gives what one GPU would give. One network on all GPUs at once
(`tf.distribute.MirroredStrategy`) would cut each batch of 32, and batch norm see its own part only.
"""

import concurrent.futures.process
import contextlib
import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator

import processes
from errors import KilledProcess

VISIBLE = "CUDA_VISIBLE_DEVICES"


def ask(field: str) -> list[str]:
    """One property of each NVIDIA GPU, as nvidia-smi names it. Empty where it cannot be asked."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return said.stdout.split()


def visible() -> list[str]:
    """The NVIDIA GPUs that this process may use, by index or name, without touching them."""
    chosen = os.environ.get(VISIBLE)
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    return ask("index")


def share_out(function: Callable, run, tasks: list) -> None:
    """`function(run, tasks)`: here where there are not several GPUs; else a share on each.

    Parameters
    ----------
    function : Callable
        Of a module, so that another process can import it.
    run : Run
    tasks : list
        An experiment each, or an experiment and a fold.

    Notes
    -----
    A share keeps the order of its tasks. If one fails, the others are stopped: what they had
    finished is there, and the same command goes on.
    """
    gpus = visible()[: len(tasks)]
    if len(gpus) < 2:
        if tasks:
            function(run, tasks)
        return
    print(f"{len(tasks)} trainings or predictions on {len(gpus)} GPUs")
    try:
        executors, futures = [], []
        for number, gpu in enumerate(gpus):
            with _seeing(gpu):  # the process is started by its first task
                context = multiprocessing.get_context("spawn")
                executor = concurrent.futures.ProcessPoolExecutor(
                    1, context, processes.end_with, (processes.this(),)
                )
                executors.append(executor)
                futures.append(executor.submit(function, run, tasks[number :: len(gpus)]))
        for future in concurrent.futures.as_completed(futures):
            future.result()
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.terminate()
        if isinstance(error, concurrent.futures.process.BrokenProcessPool):
            raise KilledProcess("the process of a GPU") from error
        raise
    finally:
        for executor in executors:
            executor.shutdown()


@contextlib.contextmanager
def _seeing(gpu: str) -> Iterator[None]:
    """Processes that are started in this block see this GPU only."""
    former = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = gpu
    try:
        yield
    finally:
        os.environ.pop(VISIBLE)
        if former is not None:
            os.environ[VISIBLE] = former
