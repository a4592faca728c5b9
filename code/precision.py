"""The numbers that networks are computed in: half as wide where the hardware multiplies those.

Weights, log-mels as they are computed, the recurrent branch, the last dense layer, loss and metrics
are float32 always.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import keras

import gpus

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}  # of x86 processors, as Linux names them
FLOAT16_CAPABILITY, BFLOAT16_CAPABILITY = 7.0, 8.0  # the first NVIDIA GPUs with such tensor cores


def resolve(precision: str) -> str:
    """ "auto" as this machine has it: "bfloat16", "float16" or "float32"; others as they are.

    Raises
    ------
    ValueError
        If there is no such precision.
    """
    if precision != "auto":
        if precision not in POLICIES:
            known = ", ".join(POLICIES)
            raise ValueError(f"precision must be auto, {known}; got {precision!r}")
        return precision
    if sees_gpu():
        capability = min(_compute_capabilities(), default=0.0)
        if capability >= BFLOAT16_CAPABILITY:
            return "bfloat16"
        return "float16" if capability >= FLOAT16_CAPABILITY else "float32"
    return "bfloat16" if _processor_flags() & BFLOAT16_FLAGS else "float32"


@contextlib.contextmanager
def used(precision: str) -> Iterator[None]:
    """Layers that are made in this block compute so. With float16, `compile` scales the loss."""
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[resolve(precision)])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def sees_gpu() -> bool:
    """Does Keras' backend compute on a GPU?"""
    if keras.backend.backend() == "torch":  # Keras cannot list its devices
        return bool(_compute_capabilities())
    # Of the default kind: JAX fails when asked for GPUs where there is none.
    return any(name.startswith("gpu") for name in keras.distribution.list_devices())


def on_tensorflow_cpu() -> bool:
    """Is Keras' backend TensorFlow, and does it compute on a CPU?"""
    return keras.backend.backend() == "tensorflow" and not sees_gpu()


def _compute_capabilities() -> list[float]:
    """Of NVIDIA's GPUs: 7.5 is Turing, 8.0 Ampere. Empty where they cannot be asked for."""
    try:
        return [float(capability) for capability in gpus.ask("compute_cap")]
    except ValueError:
        return []


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}
