"""Keras' and TensorFlow's settings stand before they are imported, wherever work starts."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import config
from runs import command_line

CODE = Path(config.__file__).parent
ENTRIES = (*command_line.STAGES, "kernel", "trained.submission", "trained.tagger")
# Ends where Keras or TensorFlow is imported, with what TensorFlow would read.
PROGRAM = """
import importlib, os, sys

class Watch:
    def find_spec(self, name, *_):
        if name in ("keras", "tensorflow"):
            sys.exit(os.environ.get("TF_ENABLE_ONEDNN_OPTS", "not set"))

sys.meta_path.insert(0, Watch())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def stderr_of(program: str, *arguments: str, **variables: str) -> str:
    """What a program says on standard error where only `variables` speak to TensorFlow."""
    known = {
        name: value for name, value in os.environ.items() if not name.startswith(("TF_", "NVIDIA_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**known, "PYTHONPATH": str(CODE), **variables},
        capture_output=True,
        text=True,
    )
    return done.stderr


def on_import(entry: str, **variables: str) -> str:
    return stderr_of(PROGRAM, entry, "keras", **variables).strip()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN is set on x86 only")
@pytest.mark.parametrize("entry", ENTRIES)
def test_onednn_is_on_before_tensorflow_is_imported(entry):
    assert on_import(entry) == "1"


def test_float32_is_not_rounded_on_gpus_unless_the_user_says_so():
    program = "import fast, os, sys; sys.exit(os.environ['NVIDIA_TF32_OVERRIDE'])"
    assert stderr_of(program).strip() == "0"
    assert stderr_of(program, NVIDIA_TF32_OVERRIDE="1").strip() == "1"


def test_what_the_user_says_counts():
    assert on_import("train", TF_ENABLE_ONEDNN_OPTS="0") == "0"


def test_no_folder_of_keras_is_made_or_read(tmp_path):
    made = "import fast, keras; print(keras.config.image_data_format())"
    assert stderr_of(made, HOME=str(tmp_path), KERAS_BACKEND="tensorflow") == ""
    assert not list(tmp_path.iterdir())
    (tmp_path / "keras.json").write_text('{"image_data_format": "channels_first"}')
    read = "import fast, keras; assert keras.config.image_data_format() == 'channels_last'"
    assert stderr_of(read, KERAS_HOME=str(tmp_path), KERAS_BACKEND="tensorflow") == ""


def test_files_that_keras_downloads_go_into_a_temporary_folder():
    """As where its own cannot be written, and as long as Keras asks in this way."""
    program = "import fast, os, sys; sys.exit(str(os.access(os.environ['KERAS_HOME'], os.W_OK)))"
    assert stderr_of(program).strip() == "False"


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU to speak of")
def test_without_a_gpu_tensorflow_starts_without_a_word():
    assert stderr_of("import fast, tensorflow; tensorflow.ones(1)") == ""


@pytest.mark.parametrize("stage", [*command_line.STAGES, "tag"])
@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("tensorfow", "error: KERAS_BACKEND=tensorfow is none of tensorflow, jax, torch: unset or"),
        ("jax", "error: Keras is to compute with jax, which is not there: see KERAS_BACKEND"),
    ],
)
def test_a_backend_that_is_not_there_is_refused_in_one_line(stage, backend, message):
    hidden = "import importlib.util as u; found = u.find_spec\n"
    hidden += "u.find_spec = lambda name, *rest: None if name == 'jax' else found(name, *rest)\n"
    program = f"{hidden}import sys; sys.argv = ['{stage}', 'a.wav']\n"
    if stage == "tag":
        program += "import tag; tag.Tagger"
    else:
        program += f"import {stage}"
    said = stderr_of(program, KERAS_BACKEND=backend).splitlines()
    assert len(said) == 1
    assert said[0].startswith(message)


def test_where_nothing_can_be_written_numba_compiles_into_a_folder_that_goes(tmp_path):
    program = """
import os, sys
os.access = lambda path, mode: False
import clips, librosa, numba
assert numba.config.CACHE_DIR == os.environ["NUMBA_CACHE_DIR"] and librosa.util
print(os.path.isdir(numba.config.CACHE_DIR), numba.config.CACHE_DIR, file=sys.stderr)
"""
    was_there, folder = stderr_of(program, TMPDIR=str(tmp_path), NUMBA_DISABLE_JIT="1").split()
    assert was_there == "True"
    assert Path(folder).parent == tmp_path
    assert not Path(folder).exists()


def test_a_user_of_whom_the_system_knows_nothing():
    program = """
import os, sys, pwd
del os.environ["HOME"]
pwd.getpwuid = {}.__getitem__
import clips, pathlib
print(pathlib.Path.home(), file=sys.stderr)
"""
    assert stderr_of(program) == "/\n"
