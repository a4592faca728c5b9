"""Progress bars, probabilities in words, and errors that the user can mend.

Bars go when the work is done, and are not there where nobody watches. An error's message is
all a user sees: what, where, and what to do. Stages turn it into one line on standard error and
exit status 1; everything else is a defect of ours and keeps its traceback.
"""

import errno
from collections.abc import Iterable

from tqdm import tqdm


class PipelineError(Exception):
    """Something the user can mend."""


class InputError(PipelineError):
    """What the user gave (dataset, options, settings) is incomplete, or contradicts itself."""


class UnreadableClip(PipelineError):
    """A clip that cannot be decoded, or that holds no samples."""


class MissingResult(PipelineError):
    """A result that an earlier stage makes is not there, or was made from something else."""


class KilledProcess(PipelineError):
    """The system ended a process of ours; `what` says which."""

    def __init__(self, what: str):
        super().__init__(
            f"the system killed {what}, most likely for want of memory: close other programs, and "
            "the same command goes on from here"
        )


SHORT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")  # TensorFlow's and PyTorch's


def short_of_memory(error: BaseException) -> bool:
    """Was there not enough memory, of the machine or of a GPU?"""
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or type(error).__name__ in SHORT_OF_MEMORY
        or "RESOURCE_EXHAUSTED" in str(error)  # so says JAX
    )


SHOWN = 5  # faults of one kind that a message spells out


def first_few(faults: list[str]) -> str:
    """The first faults, and how many more there are: "row 2: a; row 5: b, and 3 more"."""
    more = f", and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return "; ".join(faults[:SHOWN]) + more


def raise_if(faults: list[str], path, what: str) -> None:
    """InputError that names a file, counts its faults of one kind, and spells out the first."""
    if faults:
        raise InputError(f"{path}: {len(faults)} {what}: {first_few(faults)}")


def progress_bar(label: str, total: int, unit: str = "clip", done: int = 0, **options) -> tqdm:
    """tqdm's bar; `options` are tqdm's own."""
    quiet = {"leave": False, "disable": None}
    return tqdm(desc=label, total=total, unit=unit, initial=done, **quiet, **options)


def watched(items: Iterable, label: str, total: int, unit: str = "clip", size=lambda item: 1):
    """The items, with a bar that each of them moves on by its size."""
    with progress_bar(label, total, unit) as bar:
        for item in items:
            yield item
            bar.update(size(item))


def percent(probability: float) -> str:
    """0.974 -> "97 %"; nothing is certain."""
    limits = "> 99 %" if probability > 0.99 else "< 1 %" if probability < 0.01 else ""
    return limits or f"{100 * probability:.0f} %"
