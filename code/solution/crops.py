"""Crops of clips in NumPy: random ones with label smoothing and mixup, and three test-time views.

A crop is a window of the clip continued by silence on both sides. It starts within a long clip, and
before a short one, whose left padding is then the window's start with its sign changed.
"""

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from config import FRONT_END_SETTINGS, Config, Schedule
from solution import logmel

# Threads: a disk in the network takes as long for several crops as for one. More of them would cost
# more where the system has all clips in memory.
READERS = 4


class Clips(Protocol):
    """Clips as arrays, wherever they are."""

    n_samples: np.ndarray  # int (clips,)
    n_frames: np.ndarray  # int (clips,)

    def waveform(self, clip: int, start: int, length: int) -> np.ndarray:
        """Samples start to start + length, zeros outside the clip: float32 (length,)."""

    def decibels(self, clip: int, start: int, length: int) -> np.ndarray:
        """Log-mel frames start to start + length, -100 dB outside: float32 (length, n_mels)."""

    def inputs(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """What networks take beside the sound: `length` (n, 1), `global_feat` (n, 128, 12)."""


@dataclass(frozen=True)
class Examples:
    """Some clips of a store, with labels and views of all of its clips."""

    store: Clips
    clips: np.ndarray  # int (n,), which clips of the store
    labels: np.ndarray | None  # multi-hot int8 (all clips, classes), None where unknown
    views: Sequence | None = None  # of all clips, as `views` gives them

    def __len__(self) -> int:
        return len(self.clips)


def random_generator(config: Config, part: str, epoch: int = 0) -> np.random.Generator:
    """The generator of one epoch: the same whether or not the epochs before it ran just now."""
    return np.random.default_rng([config.seed, zlib.crc32(f"{config.name}/{part}".encode()), epoch])


def random_start(n: int, length: int, rng: np.random.Generator) -> int:
    """Start of a random crop: uniform in [0, n - length), or -[0, length - n) for a short clip."""
    room = n - length
    if room == 0:
        return 0
    return int(np.sign(room)) * int(rng.integers(0, abs(room)))


def smooth_labels(labels: np.ndarray, amount: float) -> np.ndarray:
    """y (1 - amount) + (1 - y) amount, float32."""
    return (labels * (1 - amount) + (1 - labels) * amount).astype(np.float32)


def mixup(
    sound: np.ndarray, labels: np.ndarray, config: Config, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mix a batch with a permutation of itself. Published setting: the rate is fixed.

    sound : waveforms (batch, samples), or decibels (batch, frames, n_mels)
    labels : (batch, classes)

    Zhang et al.: mixup: Beyond empirical risk minimization, ICLR 2018.
    """
    other, rate = rng.permutation(len(sound)), config.mixup_rate
    if config.mixup_beta is not None:
        rate = rng.beta(config.mixup_beta, config.mixup_beta)
    labels = rate * labels + (1 - rate) * labels[other]
    if config.frontend == "logmel":
        return logmel.mix_powers(sound, sound[other], rate), labels
    return rate * sound + (1 - rate) * sound[other], labels


def mask(decibels: np.ndarray, config: Config, rng: np.random.Generator) -> None:
    """Silence, in each crop, some frames and some mel bands, in place: (batch, frames, n_mels).

    Park et al.: SpecAugment, Interspeech 2019. Published setting: none.
    """
    for crop in decibels:
        for rows, most in ((crop, config.masked_frames), (crop.T, config.masked_mels)):
            width = rng.integers(0, most + 1)
            start = rng.integers(0, len(rows) - width + 1)
            rows[start : start + width] = -logmel.DYNAMIC_RANGE_DB


def training_batches(
    examples: Examples, config: Config, schedule: Schedule, part: str, first_epoch: int = 0
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """The batches of one epoch after the other, as `training_batch` gives them.

    Each epoch has every example once, in random order; its small last batch may be anywhere. Mixup
    is applied before the schedule's first milestone only.
    """
    for epoch in range(first_epoch, schedule.epochs):
        rng = random_generator(config, part, epoch)
        mixup_prob = schedule.mixup_prob if epoch < schedule.mixup_until else 0.0
        batches = split(rng.permutation(examples.clips), config.batch_size)
        for number in rng.permutation(len(batches)):
            yield training_batch(examples, batches[number], config, mixup_prob, rng)


def training_batch(
    examples: Examples, clips: np.ndarray, config: Config, mixup_prob: float, rng
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random crops of some clips, int (batch,), mixed with probability `mixup_prob`.

    Gives a dict of float32 arrays: audio (batch, samples) or (batch, frames, n_mels), length
    (batch, 1), global_feat (batch, 128, 12); and smoothed labels, float32 (batch, classes).
    """
    cut, sizes, length = crop_source(examples.store, config)
    starts = [random_start(sizes[clip], length, rng) for clip in clips]
    sound = read(cut, clips, starts, length)  # (batch, samples) or (batch, frames, n_mels)
    labels = smooth_labels(examples.labels[clips], config.label_smoothing)
    if rng.random() < mixup_prob:
        sound, labels = mixup(sound, labels, config, rng)
    if config.frontend == "logmel":
        sound = logmel.normalise(sound)
        if config.masked_frames or config.masked_mels:
            mask(sound, config, rng)
    inputs = {"audio": sound.astype(np.float32, copy=False), **examples.store.inputs(clips)}
    return inputs, labels


def prefetch(batches: Iterable) -> Iterator:
    """Prepare the next batch in a thread while the network works on the present one."""
    batches = iter(batches)
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, batches, None)
        while (batch := upcoming.result()) is not None:
            upcoming = thread.submit(next, batches, None)
            yield batch


def split(items: Sequence, size: int) -> list[Sequence]:
    """Parts of that many items, in order; the last may be smaller."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def read(cut: Callable, clips: Iterable[int], starts: Iterable[int], length: int) -> np.ndarray:
    """Crops of clips, cut by `crop_source`'s function: (n, ...)."""
    with ThreadPoolExecutor(READERS) as threads:
        return np.stack([*threads.map(cut, clips, starts, itertools.repeat(length))])


def crop_source(store: Clips, config: Config) -> tuple[Callable, np.ndarray, int]:
    """What crops are of: log-mels, counted in frames, or waveforms, counted in samples.

    Gives a function (clip, start, length) -> decibels (length, n_mels), or samples (length,); the
    size of every clip of the store; and the length of a crop.
    """
    if config.frontend == "logmel":
        return store.decibels, store.n_frames, config.crop_frames
    return store.waveform, store.n_samples, config.crop_samples


def views(store: Clips, clips: np.ndarray, config: Config) -> np.ndarray:
    """What networks score: first, middle and last crop of each clip (3-TTA), or the middle one.

    The log-mels of `Melspectrogram`, in NumPy: all networks share them. Where a network learns to
    make its own, waveforms. Gives, of clips int (n,), float32 (n, n_views, frames, n_mels),
    decibels in [-80, 0] or powers; or (n, n_views, samples).
    """
    cut, sizes, length = crop_source(store, config)
    starts = [start for i in clips for start in view_starts(sizes[i], length, config.n_views)]
    found = read(cut, np.repeat(clips, config.n_views), starts, length)
    if config.frontend == "waveform" and not config.trains_front_end:
        front_end = config.values(FRONT_END_SETTINGS)
        with ThreadPoolExecutor() as threads:
            found = np.stack([*threads.map(lambda crop: logmel.log_mel(crop, **front_end), found)])
    if config.return_decibel_melgram and not config.trains_front_end:
        found = logmel.normalise(found)
    return found.reshape(-1, config.n_views, *found.shape[1:])


class Views:
    """`views` of all clips of a store, made when they are asked for."""

    def __init__(self, store: Clips, config: Config):
        self._store, self._config = store, config

    def __getitem__(self, clips: slice | np.ndarray) -> np.ndarray:
        if isinstance(clips, slice):
            clips = np.arange(*clips.indices(len(self._store.n_samples)))
        return views(self._store, clips, self._config)


def view_starts(n: int, length: int, n_views: int = 3) -> tuple[int, ...]:
    """Starts of first, middle and last crop (or left padding), or of the middle one."""
    room = n - length
    return (0, int(room / 2), room) if n_views == 3 else (int(room / 2),)
