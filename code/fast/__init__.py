"""What Keras and TensorFlow read from the environment when they are first imported.

So whatever starts work imports this before Keras. What the environment says already counts.
"""

import os
import platform
import shutil

# No folder of Keras' own: a `keras.json` in it with "channels_first" would make other networks.
os.environ.setdefault("KERAS_HOME", os.devnull)
# Errors, not advice. Where there is no NVIDIA driver, TensorFlow calls that an error: hide it too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if shutil.which("nvidia-smi") else "3")
# Take a GPU's memory as it is needed, not all of it: there is tagging beside a training.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
if platform.machine().lower() in ("x86_64", "amd64"):
    # oneDNN's convolutions, which TensorFlow takes by itself only on processors with instructions
    # for neural networks, such as AVX512_VNNI.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
