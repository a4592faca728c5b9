"""Processes that end with the one they work for, however that ends.

One that is killed, for want of memory say, tells nobody. Those it started would work on beside the
next run, or wait for ever to hand over a result, with the memory of a TensorFlow or a decoder each.
"""

import concurrent.futures.process
import functools
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable

from messages import KilledProcess

Process = tuple[str, int]  # the machine's name, and the number there


def this() -> Process:
    return socket.gethostname(), os.getpid()


@functools.cache
def end_with(process: Process) -> None:
    """From now on this process ends within a second of `process`, which works through it.

    If that is on another machine, or did not start this one itself, a cluster sees to it. Windows
    does not tell that a parent is gone.
    """
    machine, number = process
    if machine != socket.gethostname():
        return
    if os.getppid() == number:
        threading.Thread(target=_watch, args=(number,), daemon=True).start()
        return
    try:
        os.kill(number, 0)
    except ProcessLookupError:  # it was killed before this process had begun
        os._exit(1)
    except PermissionError:  # it lives
        pass


def apart(function: Callable, *arguments):
    """`function(*arguments)` in a process of its own, with which its memory goes.

    KilledProcess if the system ends it.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, end_with, (this(),)) as executor:
        future = executor.submit(function, *arguments)
        try:
            return future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise KilledProcess("a process that was trained in") from error
        except BaseException:
            if not future.done():  # an interruption of this process
                for process in multiprocessing.active_children():
                    process.terminate()
            raise


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
