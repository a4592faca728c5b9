"""Networks that start from log-mels do on Keras' JAX and PyTorch backends what TensorFlow does.

Keras takes its backend when it is imported, so each of them runs this file as a process of its own.
"""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import config
from conftest import TINY
from solution.models import build_tagger
from solution.stacker import build_stacker
from solution.training import Learner

CODE = Path(__file__).resolve().parents[2] / "code"
BATCH, N_CLASSES, N_STEPS = 8, 3, 3
# All parts of the networks; 23 frames, whose 'same' padding is not always symmetric.
SETTINGS = dataclasses.replace(
    config.EXPERIMENTS["msc_1.0"],
    **TINY,
    frontend="logmel",
    precision="float32",
    cat=True,
    pooling=("conv", "avemax3"),
)


def batches() -> tuple[list[dict], list[np.ndarray]]:
    """Per step, inputs by name and labels (batch, classes)."""
    rng = np.random.default_rng(0)
    shapes = {"audio": (23, 64), "length": (1,), "global_feat": (128, 12)}
    inputs = [
        {name: rng.standard_normal((BATCH, *shape), np.float32) for name, shape in shapes.items()}
        for _ in range(N_STEPS)
    ]
    return inputs, [rng.integers(2, size=(BATCH, N_CLASSES)).astype(np.float32) for _ in inputs]


def follow(model, inputs: list, labels: list) -> dict[str, np.ndarray]:
    """What a model predicts, its loss at each step, and what it predicts then.

    `statistics` are the moving means and variances after the first step.
    """
    found = {"first": model.predict_on_batch(inputs[0]), "losses": []}
    for x, y in zip(inputs, labels, strict=True):
        found["losses"].append(float(model.train_on_batch(x, y)))
        model.reset_metrics()
        held = [keras.ops.convert_to_numpy(weight) for weight in model.non_trainable_weights]
        found.setdefault("statistics", np.concatenate([np.zeros(0), *held]))
    return {**found, "last": model.predict_on_batch(inputs[0])}


def work(folder: Path) -> dict[str, np.ndarray]:
    """Train from the weights that TensorFlow, whose turn is first, writes into the folder."""
    backend, (inputs, labels) = keras.backend.backend(), batches()
    learner = Learner(SETTINGS, N_CLASSES)
    if backend == "tensorflow":
        learner.network.save_weights(folder / "initial.weights.h5")
    learner.restart("fold0", folder / "initial.weights.h5")
    found = follow(learner.model, inputs, labels)
    learner.network.save_weights(folder / f"{backend}.weights.h5")
    learner.restart("fold0", folder / "tensorflow.weights.h5")
    found["of TensorFlow"] = learner.model.predict_on_batch(inputs[0])
    learner.restart("fold0", folder / "initial.weights.h5")
    fed = zip(inputs, labels, strict=True)
    learner.model.fit(fed, steps_per_epoch=N_STEPS, verbose=0)  # as `Training` does it
    found["fit"] = learner.model.predict_on_batch(inputs[0])
    scores = list(np.random.default_rng(0).random((N_STEPS, BATCH, N_CLASSES, 4), np.float32))
    stacked = follow(build_stacker(N_CLASSES, 4, learning_rate=0.01), scores, labels)
    return found | {f"stacker's {key}": value for key, value in stacked.items()}


@pytest.fixture(scope="module")
def on_tensorflow(tmp_path_factory):
    """The folder, and what TensorFlow found."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip(f"the comparison is with TensorFlow, and this is {keras.backend.backend()}")
    folder = tmp_path_factory.mktemp("backends")
    return folder, work(folder)


@pytest.fixture(scope="module", params=["jax", "torch"])
def backend(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def test_trains_and_predicts_as_on_tensorflow(backend, on_tensorflow):
    folder, expected = on_tensorflow
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": f"{CODE}:{CODE.parent / 'tests'}",
    }
    subprocess.run([sys.executable, __file__, folder], env=environment, check=True, timeout=300)
    found = np.load(folder / f"{backend}.npz")
    for name in ("", "stacker's "):
        for key, tolerance in (("first", 1e-4), ("losses", 1e-3), ("statistics", 1e-5)):
            key = name + key
            np.testing.assert_allclose(
                found[key], expected[key], rtol=tolerance, atol=tolerance, err_msg=key
            )
    np.testing.assert_allclose(found["of TensorFlow"], expected["last"], atol=1e-4)
    np.testing.assert_allclose(found["fit"], found["last"], atol=1e-4)
    model = build_tagger(SETTINGS, N_CLASSES)
    model.load_weights(folder / f"{backend}.weights.h5")
    scores = model.predict_on_batch(batches()[0][0])
    np.testing.assert_allclose(scores, found["last"], atol=1e-4)


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_networks_on_waveforms_are_refused_in_one_line(
    stage, clips, run_stage, tmp_path, monkeypatch
):
    clips.write(tmp_path / "input")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(SystemExit) as refused:
        run_stage(stage, "--input", tmp_path / "input", "--output", tmp_path / "output")
    assert refused.value.code.startswith("error: ")
    assert refused.value.code.endswith(
        " starts from waveforms, which takes TensorFlow: "
        "set KERAS_BACKEND=tensorflow, or let it start from log-mels: frontend='logmel'"
    )


if __name__ == "__main__":
    np.savez(Path(sys.argv[1]) / f"{keras.backend.backend()}.npz", **work(Path(sys.argv[1])))
