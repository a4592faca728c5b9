"""Weights in half the space: 16-bit integers, scaled for each output channel.

The largest weight of a channel becomes 32767, so what is lost is at most a 65,000th of that: a
tenth of what 16-bit floating-point numbers lose, which keep 11 bits of every weight.
"""

from pathlib import Path

import numpy as np

from storage import written_whole

LARGEST = 32767


def pack(weights: list[np.ndarray]) -> dict[str, np.ndarray]:
    """int16 values and float32 scales of each array; biases and the like stay as they are."""
    arrays = {}
    for i, array in enumerate(weights):
        arrays[f"{i}"] = array
        if array.ndim > 1:
            scale = np.abs(array).max(axis=tuple(range(array.ndim - 1))) / LARGEST  # (channels,)
            scale = np.where(scale > 0, scale, 1).astype(np.float32)
            steps = np.rint(array / scale).clip(-LARGEST, LARGEST)  # tiny scales are inexact
            arrays[f"{i}"], arrays[f"{i}/scale"] = steps.astype(np.int16), scale
    return arrays


def as_they_are(weights: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The same shape of dictionary, with nothing lost."""
    return {f"{i}": array for i, array in enumerate(weights)}


def unpack(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The float32 weights that one of the others took."""
    n = sum("/" not in name for name in arrays)
    return [arrays[f"{i}"] * arrays.get(f"{i}/scale", np.float32(1)) for i in range(n)]


def write(path: Path, networks: dict[int, dict[str, np.ndarray]]) -> None:
    """Write the weights of several networks, by number, into one file."""
    arrays = {
        f"{number}/{name}": array
        for number, network in networks.items()
        for name, array in network.items()
    }
    with written_whole(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def read(path: Path, number: int) -> list[np.ndarray]:
    """The weights of one network, in float32; checksums in the file are compared.

    Raises
    ------
    OSError, KeyError, ValueError, zipfile.BadZipFile
        If the file is missing, damaged, or does not hold that network.
    """
    prefix = f"{number}/"
    with np.load(path, allow_pickle=False) as archive:
        arrays = {
            name.removeprefix(prefix): archive[name]
            for name in archive.files
            if name.startswith(prefix)
        }
    if not arrays:
        raise KeyError(f"no network {number}")
    return unpack(arrays)
