"""The numbers that networks are computed in: half as wide where the hardware multiplies those.

Weights, log-mels as they are computed, the recurrent branch, the last dense layer, loss and metrics
are float32 always.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import keras

from fast import gpus

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}  # of x86 processors, as Linux names them
FLOAT16_CAPABILITY, BFLOAT16_CAPABILITY = (7, 0), (8, 0)  # the first GPUs with such tensor cores


def resolve(precision: str) -> str:
    """ "auto" as this machine has it: "bfloat16", "float16" or "float32"; others as they are."""
    if precision != "auto":
        return precision
    if capabilities := gpus.capabilities():
        if min(capabilities) >= BFLOAT16_CAPABILITY:
            return "bfloat16"
        return "float16" if min(capabilities) >= FLOAT16_CAPABILITY else "float32"
    return "bfloat16" if _uses_onednn() and _processor_flags() & BFLOAT16_FLAGS else "float32"


@contextlib.contextmanager
def used(precision: str) -> Iterator[None]:
    """Layers that are made in this block compute so. With float16, `compile` scales the loss."""
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[resolve(precision)])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def _uses_onednn() -> bool:
    """Does Keras' backend compute with oneDNN on CPUs? Others' bfloat16 is slower than float32."""
    if keras.backend.backend() == "tensorflow":
        return os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() not in ("0", "false")
    return keras.backend.backend() == "torch"


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}
