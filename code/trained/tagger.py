"""Tags for any clip, from a trained ensemble."""

import dataclasses
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np

from clips.prepare import PreparedClip, prepare_waveform
from config import HIGHEST_RATE, LOWEST_RATE
from messages import InputError
from solution import audio, crops
from solution.models import require_tensorflow
from solution.scoring import Scorer
from trained import ensemble as trained
from trained.ensemble import network_inputs

CLIPS_AT_ONCE = 16
CLIPS_IN_MEMORY = 64  # that each network is loaded for


class Segment(NamedTuple):
    """Where in a clip a tag is present."""

    start: float  # seconds
    end: float
    tag: str
    probability: float  # the highest of its windows


class Tagger:
    """A trained ensemble, ready to tag clips.

    Parameters
    ----------
    folder : path
        The output folder of a run, or the dataset that kernel.py made of it.
    experiments : str or list of str, optional
        Only these. One of them gives its own scores; several are stacked, and in the place of those
        left out the weighted average of these counts.
    folds : int or list of int, optional
        Only the networks of these folds: fewer are faster.
    precision : str, optional
        As in `code/config.py`; the ensemble's own by default.

    Attributes
    ----------
    classes : list of str
    sample_rate : int
        Hz. Waveforms of other rates are resampled.
    calibration : Calibration
        Makes `probabilities` of scores (clips, classes), and says which tags are `present`.
    thresholds : float (classes,)
        Probabilities from which on a tag is present: those with the best F1 out of fold, where some
        labels of an average class count beside the class's own.

    Raises
    ------
    MissingResult, InputError
        If there is no such ensemble, experiment or fold.

    Notes
    -----
    The weights of all networks stay in memory. One object may be called from several threads; the
    calls wait for one another. Each process takes one of its own.
    """

    def __init__(
        self,
        folder: str | Path = "output",
        experiments: str | list[str] | None = None,
        folds: int | list[int] | None = None,
        precision: str | None = None,
    ):
        self._ensemble = trained.read(Path(folder))
        self.classes = self._ensemble.classes
        names = [config.name for config in self._ensemble.configs]
        chosen = _chosen("experiment", experiments, names)
        self._stacks = experiments is None or len(chosen) > 1
        kind = "ensemble" if self._stacks else chosen[0]
        self.calibration = self._ensemble.calibrations[kind]
        self.thresholds = self.calibration.thresholds
        self._folds = _chosen("fold", folds, self._ensemble.folds)
        self._configs = [
            dataclasses.replace(config, precision=precision or config.precision)
            for config in self._ensemble.configs
            if config.name in chosen
        ]
        self.sample_rate = self._configs[0].sample_rate
        self._lock, self._process = threading.Lock(), os.getpid()
        self._scorers, self._weights = {}, {}
        for config in self._configs:
            if config.trains_front_end:
                try:
                    require_tensorflow(config)
                except ValueError as error:
                    raise InputError(str(error)) from error
            scorer = self._scorers[config.name] = Scorer(config, len(self.classes))
            for fold in self._folds:
                self._ensemble.load(scorer, fold)
                self._weights[config.name, fold] = scorer.weights
        if self._stacks:
            _ = self._ensemble.stacker_weights  # read now, as the networks' are

    def tag(
        self, waveform: np.ndarray | Sequence[np.ndarray], sample_rate: int
    ) -> dict[str, float] | list[dict[str, float]]:
        """All classes with their scores, the best first. They only rank: see `probabilities`.

        Parameters
        ----------
        waveform : float or int (samples,)
            Floats between -1 and 1, or int16 or int32 of their full range. A sequence of such, or
            (clips, samples), is a batch.
        sample_rate : int
            Hz.

        Returns
        -------
        dict of class -> score; for a batch a list of those.

        Raises
        ------
        ValueError
            If a waveform is empty, has another shape or type, or the rate is no sample rate.
        """
        if _is_one(waveform):
            return self.ranked(self.scores([waveform], sample_rate)[0])
        return [self.ranked(scores) for scores in self.scores(waveform, sample_rate)]

    def scores(self, waveforms: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
        """Scores of a batch of waveforms, as `tag` takes them: float32 (clips, classes)."""
        if os.getpid() != self._process:  # TensorFlow would wait for threads that are not there
            raise RuntimeError(
                "this Tagger was made in another process, which this one was forked from: make one "
                "in each (gunicorn: without --preload)"
            )
        if _is_one(waveforms):
            raise ValueError("expected a list of waveforms, got one: put it into a list")
        shape = tuple(getattr(waveforms, "shape", ()))
        if len(shape) == 2 and shape[0] > shape[1]:
            raise ValueError(
                f"expected (clips, samples), got {shape}: if that is (samples, channels), take "
                "the mean over the channels"
            )
        scores = [np.empty((0, len(self.classes)), np.float32)]
        for batch in crops.split(waveforms, CLIPS_IN_MEMORY):
            scores += self._scores([self._prepared(one, sample_rate) for one in batch])
        return np.concatenate(scores)

    def probabilities(self, waveforms: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
        """Of each class to be in each clip, calibrated out of fold: float64 (clips, classes)."""
        return self.calibration.probabilities(self.scores(waveforms, sample_rate))

    def timeline(
        self, waveform: np.ndarray, sample_rate: int, window: float = 5.0, hop: float = 2.5
    ) -> list[tuple[float, float, np.ndarray]]:
        """Scores of windows of a long clip, each tagged as a clip of its own.

        window, hop : seconds; the last window ends with the clip

        Gives a list of (start, end, scores): seconds, seconds, float32 (classes,).
        """
        length, step = round(window * sample_rate), round(hop * sample_rate)
        if length < 1 or step < 1:
            raise ValueError(f"window and hop must be longer than a sample, got {window}, {hop} s")
        last = max(len(waveform) - length, 0)
        starts = [*range(0, last, step), last]
        parts = [waveform[start : start + length] for start in starts]
        scores = self.scores(parts, sample_rate)
        return [
            (start / sample_rate, (start + len(part)) / sample_rate, one)
            for start, part, one in zip(starts, parts, scores, strict=True)
        ]

    def segments(
        self, waveform: np.ndarray, sample_rate: int, window: float = 5.0, hop: float = 2.5
    ) -> list[Segment]:
        """Where tags are present: windows of the `timeline`, `merged`."""
        return self.merged(self.timeline(waveform, sample_rate, window, hop))

    def merged(self, windows: Sequence[tuple[float, float, np.ndarray]]) -> list[Segment]:
        """Windows of a `timeline`, joined where they follow and touch, and have a tag; by start."""
        scores = np.reshape([scores for *_, scores in windows], (-1, len(self.classes)))
        probabilities = self.calibration.probabilities(scores)
        present, segments = self.calibration.present(probabilities), []
        for number, tag in enumerate(self.classes):
            for i in np.flatnonzero(present[:, number]):
                (start, end, _), probability = windows[i], float(probabilities[i, number])
                if i and present[i - 1, number] and start <= windows[i - 1][1]:
                    before = segments.pop()
                    start, probability = before.start, max(probability, before.probability)
                segments.append(Segment(start, end, tag, probability))
        return sorted(segments)

    def ranked(self, scores: np.ndarray, top: int | None = None) -> dict[str, float]:
        """Scores (classes,) by class, the best first; `top` so many, or all."""
        best = np.argsort(-scores, kind="stable")[:top]
        return {self.classes[i]: float(scores[i]) for i in best}

    def _prepared(self, waveform: np.ndarray, sample_rate: int) -> PreparedClip:
        waveform = np.asarray(waveform)
        if waveform.ndim != 1 or not len(waveform):
            raise ValueError(f"expected a waveform of shape (samples,), got {waveform.shape}")
        if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
            raise ValueError(f"expected a sample rate in Hz, got {sample_rate}")
        if waveform.dtype.kind == "i" and waveform.dtype.itemsize in (2, 4):
            waveform = waveform / -float(np.iinfo(waveform.dtype).min)
        elif waveform.dtype.kind != "f":
            raise ValueError(f"expected floats, int16 or int32, got {waveform.dtype}")
        waveform = audio.limited(waveform).astype(np.float32)
        if np.median(np.abs(waveform)) > 1:  # of limited sound, however loud, it is not
            warnings.warn(
                "most samples are beyond -1 and 1: give int16 as int16, or divide it by 32768",
                stacklevel=3,
            )
        if sample_rate != self.sample_rate:
            waveform = librosa.resample(waveform, orig_sr=sample_rate, target_sr=self.sample_rate)
        return prepare_waveform(waveform)

    def _scores(self, prepared: list[PreparedClip]) -> list[np.ndarray]:
        """(clips, classes) of one batch after the other."""
        batches = crops.split(prepared, CLIPS_AT_ONCE)
        inputs = [network_inputs(batch, self._configs) for batch in batches]
        found = [dict.fromkeys(self._scorers, 0.0) for _ in batches]
        with self._lock:
            for (name, _), weights in self._weights.items():
                self._scorers[name].set_weights(weights)  # seldom: they are 20 MB and more
                for batch, scores in zip(inputs, found, strict=True):
                    scores[name] += self._scorers[name].score(batch[name]) / len(self._folds)
        if self._stacks:
            return [self._ensemble.stack(scores) for scores in found]
        return [scores for (scores,) in map(dict.values, found)]


def _is_one(waveform) -> bool:
    """A waveform, and not several?"""
    return getattr(waveform, "ndim", 0) == 1 or bool(len(waveform) and not np.ndim(waveform[0]))


def _chosen(what: str, chosen, known: list) -> list:
    """Those of `known` that were named: one, several, or None for all."""
    if chosen is None:
        return known
    chosen = [chosen] if np.isscalar(chosen) else list(chosen)
    if not chosen:
        raise InputError(f"no {what} was named: None stands for all")
    for name in chosen:
        if name not in known:
            there = ", ".join(map(str, known))
            raise InputError(f"the ensemble has no {what} {name}; it has {there}")
    return [name for name in known if name in chosen]
