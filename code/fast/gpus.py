"""All GPUs of the machine at work: each takes its share of the trainings, in a process of its own.

Folds and experiments do not depend on one another, so a network per GPU needs no gradients to
travel, and gives what one GPU would give. One network on all GPUs at once
(`tf.distribute.MirroredStrategy`) would cut each batch of 32, and batch norm see its own part only.
"""

import concurrent.futures.process
import contextlib
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

from fast import processes
from messages import KilledProcess

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible() -> list[str]:
    """The NVIDIA GPUs that this process may use, by index or name, without touching them."""
    chosen = os.environ.get(VISIBLE)
    if chosen is not None:  # as CUDA reads it: what follows -1 does not count
        names = (name.strip() for name in chosen.split(","))
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))
    return [line for line in _ask("index") if line.isdigit()]  # or "No devices were found"


def names() -> list[str]:
    """The models of the visible GPUs; of slices, which nvidia-smi does not name, their numbers."""
    chosen = visible()
    return chosen and (_ask("name", f"--id={','.join(chosen)}") or chosen)


def _ask(field: str, *options: str) -> list[str]:
    """What nvidia-smi says of each GPU; nothing where there is none."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", *options]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in said.stdout.splitlines()]


def capabilities() -> list[tuple[int, int]]:
    """The compute capability of each GPU that Keras' backend computes on: (7, 5) is Turing.

    (0, 0) for GPUs of other makers than NVIDIA.
    """
    import keras  # here, not above: preprocessing asks for visible GPUs only

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        devices = tf.config.get_visible_devices("GPU")
        details = map(tf.config.experimental.get_device_details, devices)
        return [known.get("compute_capability", (0, 0)) for known in details]
    if keras.backend.backend() == "torch":
        import torch

        if torch.version.hip:  # AMD's
            return [(0, 0)] * torch.cuda.device_count()
        return [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    import jax

    found = [device for device in jax.local_devices() if device.platform == "gpu"]
    # "7.5", or "gfx90a" of AMD's.
    named = [re.fullmatch(r"(\d+)\.(\d+)", str(device.compute_capability)) for device in found]
    return [(int(name[1]), int(name[2])) if name else (0, 0) for name in named]


def usable() -> list[str]:
    """Those of the visible GPUs that Keras' backend can use; warns where it can use none.

    JAX is not asked: it would take their memory for this process.
    """
    import keras

    names, backend = visible(), keras.backend.backend()
    if not names or backend == "jax":
        return names
    n_used = len(capabilities())
    if not n_used:
        found = f"{VISIBLE} names" if VISIBLE in os.environ else "nvidia-smi lists"
        remedy = " (pip install 'tensorflow[and-cuda]')" if backend == "tensorflow" else ""
        print(
            f"warning: {backend} can use no GPU that {found} ({', '.join(names)}), so all is "
            f"computed on the CPU: its CUDA libraries{remedy} or a newer driver may be missing",
            file=sys.stderr,
        )
    # A process sees one slice of a divided GPU (MIG) only, so that slices cannot be counted.
    return names if n_used and names[0].startswith("MIG") else names[:n_used]


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
    if not tasks:
        return
    gpus = usable()[: len(tasks)]
    if len(gpus) < 2:
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
