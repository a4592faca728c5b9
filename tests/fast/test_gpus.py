"""Which GPUs are used. None of them is real."""

import shutil
import subprocess
import sys
import types

import pytest

from fast import gpus

capabilities_of_this_machine = gpus.capabilities


@pytest.fixture(autouse=True)
def four_usable_gpus(monkeypatch):
    """That Keras' backend finds four, whatever there is."""
    monkeypatch.setattr(gpus, "capabilities", lambda: [(8, 0)] * 4)


@pytest.mark.parametrize("visible", ["", "-1", "2"])
def test_one_or_none_can_be_chosen(monkeypatch, visible):
    monkeypatch.setenv(gpus.VISIBLE, visible)
    assert gpus.usable() == gpus.visible() == ["2"] * (visible == "2")


def test_all_of_the_machine_are_found_where_none_is_chosen(monkeypatch):
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    for stdout, expected in (("0\n1\n", ["0", "1"]), ("No devices were found\n", [])):
        said = subprocess.CompletedProcess([], 0, stdout=stdout)
        monkeypatch.setattr(subprocess, "run", lambda *_, said=said, **__: said)
        assert gpus.visible() == expected

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert gpus.visible() == []


def test_models_are_asked_for_by_number(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "0,2")
    ask = "nvidia-smi --query-gpu=name --format=csv,noheader --id=0,2"
    stdouts = {ask: "NVIDIA H100\nNVIDIA A100\n"}
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess([], 0, stdouts[" ".join(command)]),
    )
    assert gpus.names() == ["NVIDIA H100", "NVIDIA A100"]
    stdouts[ask] = ""  # of slices
    assert gpus.names() == ["0", "2"]
    monkeypatch.setenv(gpus.VISIBLE, "-1")
    assert gpus.names() == []


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [("0, 1", ["0", "1"]), ("1,-1,0", ["1"]), ("MIG-1,MIG-2", ["MIG-1", "MIG-2"])],
)
def test_what_is_chosen_is_read_as_cuda_reads_it(monkeypatch, chosen, expected):
    monkeypatch.setenv(gpus.VISIBLE, chosen)
    assert gpus.visible() == expected


@pytest.mark.parametrize(
    ("chosen", "n_used", "expected"),
    [
        ("0,1", 1, ["0"]),  # there are not as many as were named
        ("MIG-1,MIG-2", 1, ["MIG-1", "MIG-2"]),  # of which a process sees one
        ("2", 1, ["2"]),
    ],
)
def test_only_what_the_backend_can_use_is_used(monkeypatch, chosen, n_used, expected):
    monkeypatch.setenv(gpus.VISIBLE, chosen)
    monkeypatch.setattr(gpus, "capabilities", lambda: [(8, 0)] * n_used)
    assert gpus.usable() == expected


def test_gpus_that_the_backend_cannot_use_are_said_to_be_there(monkeypatch, capsys):
    """As where CUDA's libraries are missing: no CPU training for each of them, side by side."""
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    monkeypatch.setattr(gpus, "capabilities", list)
    assert gpus.usable() == []
    said = capsys.readouterr().err
    assert "warning: tensorflow can use no GPU that CUDA_VISIBLE_DEVICES names (0, 1), so" in said


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be GPUs")
def test_without_a_gpu_none_has_capabilities():
    assert capabilities_of_this_machine() == []


def test_capabilities_are_those_of_the_backend(monkeypatch):
    """With stand-ins for the backends, of which this machine may have one, or none with GPUs."""
    import keras  # here, not above: the processes of several GPUs import this file

    found = {"7.5": (7, 5), "12.0": (12, 0), "gfx90a": (0, 0)}  # the last as JAX names AMD's
    devices = [types.SimpleNamespace(platform="gpu", compute_capability=name) for name in found]
    devices.append(types.SimpleNamespace(platform="cpu"))
    nvidia, amd = (
        types.SimpleNamespace(
            version=types.SimpleNamespace(hip=hip),
            cuda=types.SimpleNamespace(
                device_count=lambda: 2, get_device_capability=lambda i: (8, 6 + i)
            ),
        )
        for hip in (None, "6.2")
    )
    jax = types.SimpleNamespace(local_devices=lambda: devices)
    for backend, module, expected in (
        ("jax", jax, [*found.values()]),
        ("torch", nvidia, [(8, 6), (8, 7)]),
        ("torch", amd, [(0, 0), (0, 0)]),
    ):
        monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
        monkeypatch.setitem(sys.modules, backend, module)
        assert capabilities_of_this_machine() == expected


def test_capabilities_are_those_that_tensorflow_knows(monkeypatch):
    import tensorflow as tf

    known = {"a": {"compute_capability": (9, 0)}, "b": {"device_name": "Metal"}}
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a", "b"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", known.get)
    assert capabilities_of_this_machine() == [(9, 0), (0, 0)]
