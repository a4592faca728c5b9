"""Trainings of seconds, of clips in memory: what several files of tests try."""

import dataclasses
import functools

import numpy as np
import pytest

from config import EXPERIMENTS, Schedule
from conftest import TINY
from solution import crops
from solution.crops import Examples
from solution.training import Learner, Training

CONFIG = dataclasses.replace(EXPERIMENTS["v1mix"], frontend="logmel", **TINY)
ONCE = Schedule(1, milestones=(1,), mixup_prob=0)


class Clips:
    """Twenty-four clips in memory, of two classes: which half of the spectrum is loud."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.labels = np.eye(2, dtype=np.int8)[np.arange(24) % 2]
        self._decibels = rng.uniform(-90, -60, (24, 23, 64)).astype(np.float32)
        for clip, label in enumerate(self.labels.argmax(axis=1)):
            self._decibels[clip, :, 32 * label : 32 * label + 32] += 50
        self.n_frames = np.full(24, 23)
        self.fnames = [f"{clip}.wav" for clip in range(24)]

    def decibels(self, clip, start, length):
        return self._decibels[clip, start : start + length]

    def inputs(self, clips):
        features = np.zeros((len(clips), 128, 12), np.float32)
        return {"length": np.full((len(clips), 1), 0.05, np.float32), "global_feat": features}


@pytest.fixture(scope="module")
def examples():
    clips = Clips()
    views = crops.views(clips, np.arange(24), CONFIG)
    return Examples(clips, np.arange(24), clips.labels, views)


@functools.cache
def learner(config):
    """One for all tests: Keras takes its time to trace a network."""
    return Learner(config, 2)


@pytest.fixture
def make_training(examples):
    """Trainings on the first sixteen clips, scored on the others."""

    def make_training(schedule, part="fold0", config=CONFIG, examples=examples, **options):
        first = dataclasses.replace(examples, clips=examples.clips[:16])
        second = dataclasses.replace(examples, clips=examples.clips[16:])
        return Training(learner(config), part, first, second, schedule, **options)

    return make_training
