"""A submission in the time there is, from a packed ensemble: the work of a Kaggle kernel.

There is a submission before any network has worked, and a better one after each of them.
"""

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import fast  # noqa: F401
import storage
from clips import dataset, views
from clips import store as clipstore
from clips.store import ClipStore
from config import VIEW_SETTINGS, Config
from messages import first_few
from solution import models
from solution.crops import Examples, split
from solution.scoring import Predictor
from storage import Checkpoint, written_whole
from trained import ensemble as trained
from trained.ensemble import Trained

COMPETITION_CLIPS = 3361  # of the private test set
CLIPS_AT_ONCE = 64  # between two looks at the clock
RESERVE = 0.05  # of the budget, for stacking and writing


def make(
    ensemble: Path, root: Path, path: Path, minutes: float = 55, started: float | None = None
) -> None:
    """Tag the test clips of a competition, and write the submission, within the budget.

    Parameters
    ----------
    ensemble : Path
        The folder that kernel.py packed, or the output folder of a run.
    root : Path
        Somewhere below it are sample_submission.csv and the test clips.
    path : Path
        The submission to write.
    minutes : float
        The budget, counted from `started`; the last 5 % of it are kept for stacking.
    started : float, optional
        `time.monotonic()` when the budget began; now, if not given.

    Raises
    ------
    MissingResult, InputError
        If there is no ensemble, no sample submission with its classes, or none of its clips.
    """
    began = time.monotonic()
    deadline = (began if started is None else started) + 60 * minutes * (1 - RESERVE)
    members = trained.read(ensemble)
    test, columns = dataset.find_test(root, members.classes)
    n_clips, n_classes = len(test), len(members.classes)
    print(f"{n_clips} test clips, {n_classes} classes, {minutes:g} minutes", flush=True)

    def write(scores: np.ndarray, what: str) -> None:
        table = pd.DataFrame(scores, columns=members.classes).assign(fname=test.fnames)
        with written_whole(path) as part:
            table[columns].to_csv(part, index=False)
        print(f"{path.name}: {what} ({time.monotonic() - began:.0f} s)", flush=True)

    write(np.full((n_clips, n_classes), 1 / n_classes), "equal scores")
    with tempfile.TemporaryDirectory() as folder:
        store, pace = prepare(test, members.configs[0], Path(folder) / "clips", deadline)
        averages = Averages(members, store, Path(folder), deadline)
        while averages.score_next():
            write(members.mean(averages.scores), f"mean of {averages}")
    if averages.scores:
        try:
            write(members.stack(averages.scores), f"stacked {averages}")
        except Exception as error:  # whatever it is, there is a submission
            print(f"warning: not stacked, so the mean stays: {error!r}", flush=True)
        pace += averages.seconds_per_clip()
        print(
            f"projected for {COMPETITION_CLIPS:,} clips and all {averages.n_networks} networks on "
            f"this machine: {pace * COMPETITION_CLIPS / 60:.1f} minutes"
        )


def prepare(
    test: dataset.Split, config: Config, folder: Path, deadline: float
) -> tuple[ClipStore, float]:
    """A clip store of the test clips, and how many seconds a clip took.

    What is not reached in half of the time counts as silence.
    """
    settings, began = clipstore.settings_of(config), time.monotonic()
    deadline = began + (deadline - began) / 2
    clips = None
    with clipstore.Writer(folder, settings, Checkpoint(folder / "checkpoint", "")) as writer:
        for number, fname in enumerate(test.fnames):
            if clips is None:
                clips = clipstore.prepare_all(test.files[number:], settings)
            if time.monotonic() > deadline:
                clip = clipstore.silence(settings, "was not reached in time")
            else:
                try:
                    clip = next(clips)
                except Exception as error:  # a process died, say: on with new ones after this clip
                    clips, clip = None, clipstore.silence(settings, f"ended in {error!r}"[:200])
            writer.append(fname, clip)
            if number == 0:  # before, processes were started
                began = time.monotonic()
    pace = (time.monotonic() - began) / max(len(test) - 1, 1)
    store = ClipStore(folder)
    if silent := store.unreadable:
        print(f"warning: {len(silent)} clips count as silence: {first_few(silent)}", flush=True)
    return store, pace


class Averages:
    """The scores of each experiment, averaged over the networks that have worked so far.

    The first fold of all experiments comes first, then the second, and so on; of one fold, the
    experiments with the largest weight in the ensemble. Before each network it is seen anew which
    ones fit into the time that is left: where not all do, the last folds of the experiments with
    the smallest weight wait for the end.

    Attributes
    ----------
    scores : dict of float32 (clips, classes), by experiment
    n_networks : how many there are in all
    """

    def __init__(self, members: Trained, store: ClipStore, folder: Path, deadline: float):
        self._members, self._store, self._folder = members, store, folder
        self._deadline = deadline
        self._configs = sorted(members.configs, key=lambda config: -config.stack_weight)
        self._pending = [(config, fold) for fold in members.folds for config in self._configs]
        self.n_networks = len(self._pending)
        self._predictors, self._viewed = {}, {}
        self._done = dict.fromkeys((config.name for config in self._configs), 0)
        self._seconds = {}  # that the last network of an experiment took for all clips
        self._seconds_of_views = 0.0
        self.scores = {}

    def __str__(self) -> str:
        n_folds = len(self._members.folds)
        return ", ".join(f"{name} ({n} of {n_folds} folds)" for name, n in self._done.items() if n)

    def score_next(self) -> bool:
        """Let one more network score all clips. False where none is left, or no time."""
        while tasks := self._that_fit():
            config, fold = tasks[0]
            self._pending.remove(tasks[0])
            try:
                scores = self._score(config, fold)
                if scores is not None and not np.isfinite(scores).all():
                    raise ValueError("it gives scores that are no numbers")
            except Exception as error:  # whatever it is, the other networks can still work
                print(f"warning: {config.name} fold {fold} is left out: {error!r}", flush=True)
                continue
            if scores is None:
                self._pending.insert(0, (config, fold))
                break
            n = self._done[config.name]
            self.scores[config.name] = (n * self.scores.get(config.name, 0) + scores) / (n + 1)
            self._done[config.name] += 1
            return True
        if self._pending:
            names = ", ".join(f"{config.name} fold {fold}" for config, fold in self._pending)
            print(f"left out, as the time does not suffice: {names}", flush=True)
        return False

    def seconds_per_clip(self) -> float:
        """What the log-mels and all networks together take, or would take."""
        tasks = [(config, fold) for fold in self._members.folds for config in self._configs]
        return (self._seconds_of_views + self._estimate(tasks)) / len(self._store)

    def _estimate(self, tasks: list[tuple[Config, int]]) -> float:
        """Seconds that these networks will take; by their work, where none has been measured."""
        work = {config.name: models.multiply_adds(config) for config in self._configs}
        if not self._seconds:
            return 0.0
        pace = max(seconds / work[name] for name, seconds in self._seconds.items())
        return sum(self._seconds.get(c.name, pace * work[c.name]) for c, _ in tasks)

    def _that_fit(self) -> list[tuple[Config, int]]:
        """The networks that have not worked yet, less those for which the time does not suffice."""
        tasks, left = list(self._pending), self._deadline - time.monotonic()
        while tasks and self._estimate(tasks) > left:
            lightest = min(config.stack_weight for config, _ in tasks)
            tasks.remove([task for task in tasks if task[0].stack_weight == lightest][-1])
        return tasks

    def _score(self, config: Config, fold: int) -> np.ndarray | None:
        """Scores of all clips: float32 (clips, classes); None if the time does not suffice.

        What the very first network does not reach in time gets the mean of what it has reached.
        """
        if config.name not in self._predictors:
            self._predictors[config.name] = Predictor(config, len(self._members.classes))
        predictor = self._predictors[config.name]
        self._members.load(predictor, fold)
        clips, parts = self._views_for(config), []
        for positions in split(np.arange(len(clips)), CLIPS_AT_ONCE):
            if parts and self._is_late():
                break
            if len(parts) < 2:  # the first part takes longer, as the network is traced
                began = time.monotonic()
            part = dataclasses.replace(clips, clips=clips.clips[positions])
            parts.append(predictor.predict(part, f"{config.name} fold {fold}"))
        seconds, n_timed = time.monotonic() - began, sum(map(len, parts[1:] or parts))
        self._seconds[config.name] = seconds * len(self._store) / n_timed
        scores = np.concatenate(parts)
        n_left = len(self._store) - len(scores)
        if not n_left:
            return scores
        if self.scores:
            return None
        print(f"warning: {n_left} clips were not reached, and get the mean", flush=True)
        return np.concatenate([scores, np.tile(scores.mean(axis=0), (n_left, 1))])

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _views_for(self, config: Config) -> Examples:
        """The clips with their log-mels, which most experiments share."""
        settings = tuple(config.values_of(VIEW_SETTINGS).values())
        if settings not in self._viewed:
            path, began = self._folder / f"views{len(self._viewed)}.npy", time.monotonic()
            checkpoint = Checkpoint(path.with_suffix(".checkpoint"), "")
            views.write(self._store, config, path, checkpoint, "log-mels", self._is_late)
            self._seconds_of_views += time.monotonic() - began
            rows = storage.Rows(path)
            self._viewed[settings] = Examples(self._store, np.arange(len(rows)), None, rows)
        return self._viewed[settings]
