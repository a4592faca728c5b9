"""Processes that end with the one they work for, however that ends.

One that is killed, for want of memory say, tells nobody. Those it started would work on beside the
next run, or wait for ever to hand over a result, with the memory of a TensorFlow or a decoder each.
"""

import functools
import os
import threading
import time


@functools.cache
def end_with(parent: int) -> None:
    """From now on this process ends within a second of `parent`, the id of the one that started it.

    In a process that another one started, on another machine say, nothing happens; nor on Windows,
    which does not tell that a parent is gone.
    """
    if os.getppid() == parent:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
