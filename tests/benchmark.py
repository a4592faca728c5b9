"""How fast and how frugal, against plain references measured in the same run.

    .venv/bin/python tests/benchmark.py [training] [prediction] [features] [preprocessing] [reading]
        [memory]
    .venv/bin/python tests/benchmark.py cluster

All parts but the last by default: ten minutes on two cores with bfloat16, half an hour on two
without. Each figure is the median of several runs, ours and the reference's by turns. Nothing is
asserted: the equality of results is what the tests are for.
"""

import contextlib
import dataclasses
import functools
import heapq
import io
import itertools
import os
import pickle
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

import fast  # noqa: F401

# isort: split
import distributed
import keras
import librosa
import numpy as np
import pandas as pd
import soundfile as sf

import config
import storage
from clips import store
from clips.dataset import Split
from clips.demo import make_demo_dataset
from clips.files import ClipFile
from clips.prepare import prepare_waveform
from clips.store import ClipStore
from cluster import processes, start_scheduler, worker
from fast import precision
from fast.layers import Conv2D, FusedBatchNormalization
from runs import space
from solution import crops
from solution.crops import Examples, prefetch, training_batches
from solution.features import PERCENTILES, global_features
from solution.folds import assign_folds
from solution.models import build_tagger, front_end
from solution.scoring import Scorer
from solution.training import Learner
from storage import Checkpoint

CODE = Path(config.__file__).parent
RATE = 44100
N_CLASSES = 80
V1MIX = config.EXPERIMENTS["v1mix"]
GFLOP_FORWARD, GFLOP_TRAINING = 17.8, 53.0  # of v1mix, one crop
MATRIX_SIZE = 3072
SMALLEST_SET = 40  # clips; and four and sixteen times as many


def by_turns(*functions, seconds=60.0, at_least=3):
    """Median seconds of each function, called in turns after one call that does not count."""
    for function in functions:
        function()
    times = [[] for _ in functions]
    started = time.perf_counter()
    while len(times[0]) < at_least or time.perf_counter() - started < seconds:
        for function, measured in zip(functions, times, strict=True):
            begun = time.perf_counter()
            function()
            measured.append(time.perf_counter() - begun)
    return [statistics.median(measured) for measured in times]


def row(what, ours, reference, unit, more=""):
    print(f"{what:44s} {ours:9.4g} {unit:10s} reference {reference:9.4g}  {more}", flush=True)


def reading(n_clips=160, latency=0.003):
    """Crops for training from a disk that takes a while to answer, one by one and as they are."""
    rng, folder = np.random.default_rng(0), Path(tempfile.mkdtemp())
    waveforms = (rng.normal(0, 0.1, 6 * RATE).astype(np.float32) for _ in range(n_clips))
    with store.Writer(folder, {"sample_rate": RATE}, Checkpoint(folder / "x", "")) as writer:
        for number, waveform in enumerate(waveforms):
            writer.append(str(number), prepare_waveform(waveform))
    labels = np.eye(N_CLASSES, dtype=np.int8)[np.arange(n_clips) % N_CLASSES]
    examples = Examples(ClipStore(folder), np.arange(n_clips), labels)
    once, read = dataclasses.replace(V1MIX.training, epochs=1), storage.Rows._read

    def late(*args):
        time.sleep(latency)
        return read(*args)

    def epoch():
        for _ in prefetch(training_batches(examples, V1MIX, once, "fold0")):
            pass

    def one_by_one():
        with mock.patch.multiple(crops, READERS=1), mock.patch.multiple(storage, READERS=1):
            epoch()

    for disk, reads in (("memory", read), (f"a disk that takes {1000 * latency:g} ms", late)):
        with mock.patch.object(storage.Rows, "_read", reads):
            ours, reference = by_turns(epoch, one_by_one, seconds=10)
        row(f"reading crops from {disk}", n_clips / ours, n_clips / reference, "crops/s")
    shutil.rmtree(folder)


# --- networks -------------------------------------------------------------------------------------


def stock(network: keras.Model) -> keras.Model:
    """The same network, with Keras' own convolutions and batch normalisation."""

    def clone(layer):
        plain = layer.__class__
        if isinstance(layer, FusedBatchNormalization | Conv2D):
            (plain,) = plain.__bases__
        return plain.from_config(layer.get_config())

    return keras.models.clone_model(network, clone_function=clone, recursive=True)


def random_inputs(n):
    rng = np.random.default_rng(0)
    return {
        "audio": rng.normal(0, 0.1, (n, V1MIX.crop_samples)).astype(np.float32),
        "length": np.ones((n, 1), np.float32),
        "global_feat": rng.normal(0, 0.1, (n, 128, 12)).astype(np.float32),
    }


def matrix_product(kind: str):
    """A function that multiplies two large matrices in this precision, for `by_turns`."""
    a = keras.random.normal((MATRIX_SIZE, MATRIX_SIZE), dtype=kind)
    return lambda: np.asarray(keras.ops.convert_to_numpy(keras.ops.matmul(a, a)[0, :1]))


def share(gflop: float, seconds: float, product_seconds: float) -> str:
    """Of the rate that the matrix product reached, which took its turns with the work."""
    rate = 2 * MATRIX_SIZE**3 / product_seconds / 1e9
    return f"{gflop / seconds / rate:.0%} of the matrix product's {rate:.0f} GFLOP/s"


def training():
    kind = precision.resolve("auto")
    plain = stock(build_tagger(dataclasses.replace(V1MIX, precision="float32"), N_CLASSES))
    plain.compile(keras.optimizers.Nadam(), loss="binary_crossentropy", jit_compile=False)
    ours = Learner(V1MIX, N_CLASSES).model
    for n in (16, 32):
        inputs, labels = random_inputs(n), np.zeros((n, N_CLASSES), np.float32)
        seconds, reference, product = by_turns(
            lambda x=inputs, y=labels: ours.train_on_batch(x, y),
            lambda x=inputs, y=labels: plain.train_on_batch(x, y),
            matrix_product(kind),
        )
        more = f"{reference / seconds:.2f}x, {share(GFLOP_TRAINING * n, seconds, product)}"
        row(f"training v1mix, {kind}, batch {n}", n / seconds, n / reference, "clips/s", more)


def parts_of_a_step(n=16):
    """What one training step of v1mix spends on what is not convolution, pooling or batch norm."""
    inputs = random_inputs(n)
    network = build_tagger(V1MIX, N_CLASSES)
    to_decibels = keras.Model(*front_end(V1MIX))
    recurrent = network.get_layer("clip_branch")
    recurrent.compile("nadam", "mse", jit_compile=False)
    target = np.zeros((n, V1MIX.gru_units), np.float32)
    decibels, gru = by_turns(
        lambda: to_decibels.predict_on_batch(inputs["audio"]),
        lambda: recurrent.train_on_batch(inputs["global_feat"], target),
        seconds=10,
    )
    print(f"in a step of {n} clips: log-mel {decibels * 1e3:.0f} ms, GRUs {gru * 1e3:.0f} ms")


def prediction(n_folds=10, n_clips=5):
    """Log-mels are computed once for all folds of our networks, in each fold of the reference."""
    kind = precision.resolve("auto")
    plain = stock(build_tagger(dataclasses.replace(V1MIX, precision="float32"), N_CLASSES))
    ours, to_decibels = Scorer(V1MIX, N_CLASSES), keras.Model(*front_end(V1MIX))
    inputs = random_inputs(n_clips * V1MIX.n_views)
    clips = {name: inputs[name][:n_clips] for name in ("length", "global_feat")}
    decibels = to_decibels.predict_on_batch(inputs["audio"])
    clips["views"] = decibels.reshape(n_clips, V1MIX.n_views, *decibels.shape[1:3])
    seconds, once, reference, product = by_turns(
        lambda: ours.score(clips),
        lambda: to_decibels.predict_on_batch(inputs["audio"]),
        lambda: plain.predict_on_batch(inputs),
        matrix_product(kind),
    )
    seconds += once / n_folds
    crops = n_clips * V1MIX.n_views
    more = f"{reference / seconds:.2f}x, {share(GFLOP_FORWARD * crops, seconds, product)}"
    row(f"prediction v1mix, {kind}, 3-TTA", crops / seconds, crops / reference, "crops/s", more)


# --- preprocessing --------------------------------------------------------------------------------


def percentile_loop(waveform: np.ndarray) -> np.ndarray:
    """The global features as published, one window after the other."""
    stride, features = len(waveform) / 128, []
    for step in range(128):
        centre = step * stride
        window = waveform[max(0, int(centre - stride / 2)) : int(centre + 1.5 * stride)]
        features.append(
            [np.mean(window), np.std(window), np.max(window) - np.min(window)]
            + list(np.percentile(window, PERCENTILES))
        )
    return np.array(features, np.float32)


def features():
    clip = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32)
    seconds, reference = by_turns(
        lambda: global_features(clip), lambda: percentile_loop(clip), seconds=10
    )
    more = f"{reference / seconds:.2f}x"
    row("global features of a 5 s clip", seconds * 1e3, reference * 1e3, "ms", more)


def write_dataset(root: Path, n_clips: int) -> None:
    """Curated clips of 1 to 15 s, 7 s on average as those of FSDKaggle2019, and no other."""
    rng = np.random.default_rng(0)
    (root / "audio_train").mkdir(parents=True)
    names = [f"{i}.wav" for i in range(n_clips)]
    for i, name in enumerate(names):
        seconds = 1 + 14 * (i * 0.618 % 1) ** 1.3
        samples = rng.normal(0, 0.1, int(seconds * RATE)) * np.linspace(
            1, 0.001, int(seconds * RATE)
        )
        sf.write(root / "audio_train" / name, samples, RATE, subtype="PCM_16")
    labels = [f"class{i % 4}" for i in range(n_clips)]
    table = pd.DataFrame({"fname": names, "labels": labels})
    table.to_csv(root / "train_curated.csv", index=False)


def stage(name: str, root: Path, *options: str) -> list[str]:
    arguments = ["--input", str(root), "--output", str(root / "out"), *options]
    return [sys.executable, str(CODE / f"{name}.py"), *arguments]


def preprocessing(n_clips=480):
    """Both without the seconds that Python takes to start and load its modules."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset(root, n_clips)
        paths = sorted((root / "audio_train").iterdir())

        def reference():
            for path in paths:
                waveform, _ = sf.read(path, dtype="float32")
                librosa.effects.trim(waveform)
                percentile_loop(waveform)

        import preprocess

        def ours():
            sys.argv = [*stage("preprocess", root, "--force")[1:]]
            with contextlib.redirect_stdout(io.StringIO()):
                preprocess.main()

        seconds, loop = by_turns(ours, reference, seconds=0, at_least=3)
    cores = len(os.sched_getaffinity(0))
    per_clip, loop = seconds * cores / n_clips * 1e3, loop / n_clips * 1e3
    more = f"{loop / per_clip:.2f}x per core, {loop / per_clip * cores:.2f}x in all on {cores}"
    row("preprocessing, per clip and core", per_clip, loop, "ms", more)


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._begun)


def pipeline(n_clips=160, n_epochs=8):
    """A step of `small`, 16 clips, in `fit` and in a loop over the same batches.

    And by itself, with a batch that is there already: batches are prepared on the same cores.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset(root, n_clips)
        subprocess.run(
            stage("preprocess", root, "--profile", "small"), check=True, stdout=subprocess.DEVNULL
        )
        (small,) = config.experiments("small", ["v1mix"])
        labels = np.zeros((n_clips, N_CLASSES), np.int8)
        store = ClipStore(root / "out" / "clips" / "curated")
        examples = Examples(store, np.arange(n_clips), labels)
        model, clock = Learner(small, N_CLASSES).model, Clock()
        n_batches = n_clips // small.batch_size
        batches = training_batches(examples, small, small.training, "fold0")
        inputs, y = next(batches)
        model.fit(
            prefetch(batches),
            steps_per_epoch=n_batches,
            epochs=n_epochs,
            callbacks=[clock],
            verbose=0,
        )
        upcoming = prefetch(training_batches(examples, small, small.training, "fold0"))

        def loop():
            for x, labels in itertools.islice(upcoming, n_batches):
                model.train_on_batch(x, labels)

        epoch, step = by_turns(loop, lambda: model.train_on_batch(inputs, y), seconds=20)
    in_fit, in_loop = (s / n_batches for s in (statistics.median(clock.seconds[1:]), epoch))
    said = ", ".join(
        f"{s * 1e3:.0f} ms {how}"
        for s, how in (
            (in_fit, "in fit"),
            (in_loop, "in a loop of train_on_batch"),
            (step, "by itself"),
        )
    )
    print(f"a step of small: {said}")


# --- memory and growth ----------------------------------------------------------------------------


def tree(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(pid for child in children for pid in tree(int(child)))]


def memory(process: int) -> int:
    """Bytes that a process and all below it take, pages that they share counted once."""
    total = 0
    with contextlib.suppress(OSError):
        for pid in tree(process):
            with contextlib.suppress(OSError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(rollup.split("Pss:")[1].split()[0])
    return total * 1024


def watched(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory (GB) of a command and the processes that it starts."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - started, peak / 1e9


def growth():
    """Preprocessing and one epoch of the narrowest networks, with ever more clips."""
    for factor in (1, 4, 16):
        n_clips = SMALLEST_SET * factor
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_dataset(root, n_clips)
            audio = sum(path.stat().st_size for path in (root / "audio_train").iterdir()) * 2 / 1e9
            seconds, peak = watched(stage("preprocess", root, "--profile", "demo"))
            options = ("--profile", "demo", "--experiments", "v1mix", "--folds", "0")
            train_seconds, train_peak = watched(stage("train", root, *options))
            print(
                f"{n_clips:5d} clips ({audio:.2f} GB as float32): preprocessing {seconds:6.1f} s, "
                f"{peak:.2f} GB; training (demo, one fold) {train_seconds:6.1f} s, "
                f"{train_peak:.2f} GB",
                flush=True,
            )


STEP = """
import sys; sys.path[:0] = [{code!r}, {tests!r}]
import numpy as np
from benchmark import N_CLASSES, V1MIX, Learner, random_inputs
model = Learner(V1MIX, N_CLASSES).model
for _ in range(2):
    model.train_on_batch(random_inputs({batch}), np.zeros(({batch}, N_CLASSES), np.float32))
"""


def step_memory():
    """Of v1mix as published: the program, TensorFlow, and two steps."""
    for batch in (16, 32):
        script = STEP.format(code=str(CODE), tests=str(Path(__file__).parent), batch=batch)
        _, peak = watched([sys.executable, "-c", script])
        print(f"training v1mix, batch {batch}: {peak:.2f} GB", flush=True)


# --- several machines -----------------------------------------------------------------------------


@contextlib.contextmanager
def workers(folder: Path, n_workers: int, n_cores: int) -> Iterator[tuple]:
    """The client and the file of a scheduler with so many workers on so many cores each."""
    with processes() as start:
        file = start_scheduler(start, folder)
        for number in range(n_workers):
            cores = ",".join(str(number * n_cores + core) for core in range(n_cores))
            start("taskset", "-c", cores, *worker(file, "--host", "127.0.0.1"), cwd=folder)
        client = distributed.Client(scheduler_file=str(file))
        client.wait_for_workers(n_workers)
        yield client, file
        client.close()


def demo_on_workers():
    """Training the demo, all in one go: one worker of two cores, and two of one."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_demo_dataset(root / "in")
        options = ["--input", str(root / "in"), "--profile", "demo", "--output"]
        subprocess.run(
            [sys.executable, CODE / "preprocess.py", *options, root / "0"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for n_workers in (1, 2):
            output = root / str(n_workers)
            shutil.copytree(root / "0", output)
            with workers(root, n_workers, 2 // n_workers) as (client, file):
                started = time.perf_counter()
                subprocess.run(
                    [sys.executable, CODE / "train.py", *options, output, "--scheduler-file", file],
                    check=True,
                    env={**os.environ, "RUN_SH_STAGES": "pretrain train"},
                    stdout=subprocess.DEVNULL,
                )
                seconds = time.perf_counter() - started
                empty = time.perf_counter()
                client.gather([client.submit(abs, -number, pure=False) for number in range(500)])
                overhead = (time.perf_counter() - empty) / 500
            file.unlink()
            print(
                f"the demo's five trainings, {n_workers} workers of {2 // n_workers} cores: "
                f"{seconds:.1f} s; an empty task takes {overhead * 1e3:.1f} ms",
                flush=True,
            )


def published_run(n_noisy=19_815, n_curated=4_970, batch=4):
    """What the longest chain is, and how long so many GPUs take; a step of v1mix is the unit.

    From the measured steps of each network on this machine. A clip that is scored, three views
    without gradients, counts as one that is trained on; early stops are left out.
    """
    configs = config.experiments("published")
    names = dict.fromkeys([c.name for c in configs] + [c.pretrained_by for c in configs])
    inputs, labels = random_inputs(batch), np.zeros((batch, N_CLASSES), np.float32)
    models = [Learner(config.EXPERIMENTS[name], N_CLASSES).model for name in names]
    steps = by_turns(*(functools.partial(m.train_on_batch, inputs, labels) for m in models))
    cost = dict(zip(names, np.divide(steps, steps[[*names].index("v1mix")]), strict=True))
    print("a step, v1mix is 1: " + ", ".join(f"{n} {c:.2f}" for n, c in cost.items()))
    pretraining = {
        c.pretrained_by: c.pretraining.epochs * (n_noisy + n_curated) * cost[c.pretrained_by]
        for c in configs
    }
    fold = {c.name: c.training.epochs * n_curated * cost[c.name] for c in configs}
    whole = sum(pretraining.values()) + sum(c.n_folds * fold[c.name] for c in configs)
    chain = max(pretraining[c.pretrained_by] + fold[c.name] for c in configs)
    print(f"all: {whole / 1e6:.1f} million clips of v1mix; longest chain {chain / whole:.1%} of it")
    for n_gpus in (1, 8, 60):
        free, ready = [0.0] * n_gpus, {}  # when each GPU is free, and each pretraining there
        for name, seconds in pretraining.items():
            heapq.heapreplace(free, end := free[0] + seconds)
            ready[name] = end
        folds = [(ready[c.pretrained_by], fold[c.name]) for c in configs for _ in range(c.n_folds)]
        for start, seconds in sorted(folds):
            heapq.heapreplace(free, max(free[0], start) + seconds)
        print(f"on {n_gpus} GPUs: {max(free) / whole:.1%} of the time on one")


def two_million_clips(n_clips=2_000_000, seconds=10):
    """Files and memory, from the formulas of `space` and 10^5 rows; and the fold table."""
    per_clip = {
        "samples and features": 2 * RATE * seconds + 4 * 128 * 12,
        "views, if scored": space.views_bytes(1, V1MIX),
    }
    for what, n_bytes in per_clip.items():
        print(f"{n_clips:,} clips of {seconds} s: {what} {n_bytes * n_clips / 1e12:.2f} TB")
    n_rows = 100_000
    tracemalloc.start()
    names = [f"{number:08x}.wav" for number in range(n_rows)]
    split = Split(
        names, [ClipFile(CODE, name) for name in names], np.zeros((n_rows, N_CLASSES), np.int8)
    )
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(
        f"their table: {taken / n_rows * n_clips / 1e9:.1f} GB; for workers, on the disk "
        f"{len(pickle.dumps(split)) / n_rows * n_clips / 1e9:.1f} GB"
    )
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, N_CLASSES + 1)
    for n_rows in (100_000, 1_000_000):
        labels = np.zeros((n_rows, N_CLASSES), np.int8)
        for n_labelled in (n_rows, n_rows // 7):  # some have two labels
            drawn = rng.choice(N_CLASSES, n_labelled, p=shares / shares.sum())
            labels[np.arange(n_labelled), drawn] = 1
        started = time.perf_counter()
        assign_folds(labels)
        print(f"assign_folds, {n_rows:,} rows: {time.perf_counter() - started:.1f} s", flush=True)


PARTS = {
    "features": [features],
    "preprocessing": [preprocessing],
    "reading": [reading],
    "prediction": [prediction],
    "training": [pipeline, parts_of_a_step, training],
    "memory": [growth, step_memory],
    "cluster": [two_million_clips, published_run, demo_on_workers],
}


def main() -> None:
    chosen = sys.argv[1:] or list(PARTS)[:-1]
    for name in chosen:
        if name not in PARTS:
            sys.exit(f"there is no part {name!r}; there are {', '.join(PARTS)}")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {time.ctime()}")
    for name in chosen:
        for part in PARTS[name]:
            part()


if __name__ == "__main__":
    main()
