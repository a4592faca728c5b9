"""What Keras, TensorFlow and numba read from the environment when they are first imported.

So whatever starts work imports this before them. What the environment says already counts, but for
a folder of Keras' own.
"""

import atexit
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

BACKENDS = ("tensorflow", "jax", "torch")

# No folder: a `keras.json` in it with "channels_first" would make other networks. And none that can
# be made, so that Keras puts what it downloads into a temporary one.
os.environ["KERAS_HOME"] = f"{os.devnull}/keras"
# Errors, not advice. Where there is no NVIDIA driver, TensorFlow calls that an error: hide it too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if shutil.which("nvidia-smi") else "3")
# Take a GPU's memory as it is needed, not all of it: there is tagging beside a training.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# GPUs from Ampere on would round what float32 is asked for to ten bits (TF32) before they multiply.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
if platform.machine().lower() in ("x86_64", "amd64"):
    # oneDNN's convolutions, which TensorFlow takes by itself only on processors with instructions
    # for neural networks, such as AVX512_VNNI.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# A user without an entry in /etc/passwd has none; what IPython brings along would end over that.
if os.path.expanduser("~") == "~":
    os.environ["HOME"] = os.sep
# librosa has numba compile functions when it is imported, and keep them beside it or below HOME;
# where neither can be written, as in some containers, here: for this process and those it starts.
kept = Path(importlib.util.find_spec("librosa").origin).parent, os.path.expanduser("~")
if "NUMBA_CACHE_DIR" not in os.environ and not any(os.access(path, os.W_OK) for path in kept):
    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="numba-")
    atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)

# Here, as Keras would end in a traceback; and before any work.
backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
if backend not in BACKENDS:
    known = ", ".join(BACKENDS)
    sys.exit(f"error: KERAS_BACKEND={backend} is none of {known}: unset or correct it")
if importlib.util.find_spec(backend) is None:
    sys.exit(f"error: Keras is to compute with {backend}, which is not there: see KERAS_BACKEND")
