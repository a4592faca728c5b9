"""The GPUs of this machine: which may be used, and what they can."""

import itertools
import os
import re
import subprocess
import sys

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
