"""A submission in the time there is: the work of a Kaggle kernel.

There is a submission before any network has worked, and a better one after each of them.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from clips import dataset, prepare
from clips.files import ClipFile
from clips.prepare import PreparedClip
from config import PREPROCESSING_SETTINGS, Config
from messages import PipelineError, first_few, progress_bar
from solution.scoring import Scorer
from storage import written_whole
from trained import ensemble as trained
from trained.ensemble import Ensemble, network_inputs

CLIPS_AT_ONCE = 16  # between two looks at the clock
RESERVE = 0.05  # of the budget, for stacking and writing


def make(
    folder: Path, root: Path, path: Path, minutes: float = 55, started: float | None = None
) -> None:
    """Tag the test clips of a competition, and write the submission, within the budget.

    folder : where the ensemble is: the dataset that kernel.py wrote, or the output folder of a run
    root : somewhere below it are sample_submission.csv and the test clips
    path : the submission to write
    minutes : the budget; the last 5 % of it are kept for stacking
    started : `time.monotonic()` when it began; now, if not given

    MissingResult or InputError if there is no ensemble, no sample submission with its classes, or
    none of its clips; PipelineError if no network has worked, so that all scores are equal.
    """
    began = time.monotonic() if started is None else started
    deadline = began + 60 * minutes * (1 - RESERVE)
    ensemble = trained.read(folder)
    test, columns = dataset.find_test(root, ensemble.classes)
    n_clips, n_classes = len(test), len(ensemble.classes)
    print(f"{n_clips} test clips, {n_classes} classes, {minutes:g} minutes", flush=True)

    def write(scores: np.ndarray, what: str) -> None:
        table = pd.DataFrame(scores, columns=ensemble.classes).assign(fname=test.fnames)
        with written_whole(path) as part:
            table[columns].to_csv(part, index=False)
        print(f"{path.name}: {what} ({time.monotonic() - began:.0f} s)", flush=True)

    write(np.full((n_clips, n_classes), 1 / n_classes), "equal scores")
    averages = Averages(ensemble, read_test(test, ensemble.configs, deadline), deadline)
    while averages.score_next():
        write(ensemble.mean(averages.scores), f"mean of {averages}")
    if not averages.scores:
        raise PipelineError(f"{path.name} has equal scores: no network has worked (see above)")
    try:
        write(ensemble.stack(averages.scores), f"stacked {averages}")
    except Exception as error:  # whatever it is, there is a submission
        print(f"warning: not stacked, so the mean stays: {error!r}", flush=True)


def read_test(
    test: dataset.Split, configs: list[Config], deadline: float
) -> list[dict[str, dict[str, np.ndarray]]]:
    """All clips in batches, each as `network_inputs` gives it: a third of a megabyte a clip, or its
    int16 samples where a network starts from waveforms.

    What is not reached in half of the time counts as silence, as what cannot be read does.
    """
    now, settings = time.monotonic(), configs[0].values(PREPROCESSING_SETTINGS)
    prepared = _prepared(test.files, settings, now + (deadline - now) / 2)
    clips, batches, silent = zip(test.fnames, prepared, strict=True), [], []
    while batch := list(itertools.islice(clips, CLIPS_AT_ONCE)):
        silent += [f"{fname} {clip.fault}" for fname, clip in batch if clip.fault]
        batches.append(network_inputs([clip for _, clip in batch], configs))
    if silent:
        print(f"warning: {len(silent)} clips count as silence: {first_few(silent)}", flush=True)
    return batches


def _prepared(files: list[ClipFile], settings: dict, deadline: float) -> Iterator[PreparedClip]:
    """One clip after the other, whatever happens."""
    clips = None
    for number in progress_bar("reading", len(files), iterable=range(len(files))):
        if time.monotonic() > deadline:
            yield prepare.silence("was not reached in time")
            continue
        try:
            clips = clips or prepare.prepare_all(files[number:], settings)
            clip = next(clips)
        except Exception as error:  # a process died, say: on with new ones after this clip
            clips, clip = None, prepare.silence(f"ended in {error!r}"[:200])
        yield clip


class Averages:
    """The scores of each experiment, averaged over the networks that have worked so far.

    The first fold of all experiments comes first, then the second, and so on; of one fold, the
    experiments with the largest weight in the ensemble. Before each network it is seen anew which
    ones fit into the time that is left: where not all do, the last folds of the experiments with
    the smallest weight wait for the end. `scores` has float32 (clips, classes) by experiment, of
    those that have worked.
    """

    def __init__(self, ensemble: Ensemble, batches: list[dict], deadline: float):
        self._ensemble, self._batches, self._deadline = ensemble, batches, deadline
        configs = sorted(ensemble.configs, key=lambda config: -config.stack_weight)
        self._pending = [(config, fold) for fold in ensemble.folds for config in configs]
        self._n_done = {config.name: 0 for config in configs}
        self._seconds = {}  # that the last network of an experiment took
        self._scorers = {}
        self.scores = {}

    def __str__(self) -> str:
        n = len(self._ensemble.folds)
        return ", ".join(f"{name} ({i} of {n} folds)" for name, i in self._n_done.items() if i)

    def score_next(self) -> bool:
        """Let one more network score all clips. False where none is left, or no time."""
        while networks := self._that_fit():
            config, fold = networks[0]
            self._pending.remove(networks[0])
            try:
                scores = self._score(config, fold)
            except Exception as error:  # whatever it is, the other networks can still work
                print(f"warning: {config.name} fold {fold} is left out: {error!r}", flush=True)
                continue
            n = self._n_done[config.name]
            self.scores[config.name] = (n * self.scores.get(config.name, 0) + scores) / (n + 1)
            self._n_done[config.name] += 1
            return True
        if self._pending:
            names = ", ".join(f"{config.name} fold {fold}" for config, fold in self._pending)
            print(f"left out, as the time does not suffice: {names}", flush=True)
        return False

    def _that_fit(self) -> list[tuple[Config, int]]:
        """The networks that have not worked yet, less those for which the time does not suffice.

        Those of an experiment that was not measured yet are expected to take the longest.
        """
        networks, left = list(self._pending), self._deadline - time.monotonic()
        slowest = max(self._seconds.values(), default=0.0)
        while networks and sum(self._seconds.get(c.name, slowest) for c, _ in networks) > left:
            networks.remove(min(reversed(networks), key=lambda network: network[0].stack_weight))
        return networks

    def _score(self, config: Config, fold: int) -> np.ndarray:
        """Scores of all clips: float32 (clips, classes). TimeoutError if it gets too late."""
        if config.name not in self._scorers:
            self._scorers[config.name] = Scorer(config, len(self._ensemble.classes))
        scorer, scores, began = self._scorers[config.name], [], time.monotonic()
        self._ensemble.load(scorer, fold)
        label, n = f"{config.name} fold {fold}", len(self._batches)
        for inputs in progress_bar(label, n, "batch", iterable=self._batches):
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"{len(scores)} of {n} batches in time")
            scores.append(scorer.score(inputs[config.name]))
        self._seconds[config.name] = time.monotonic() - began
        scores = np.concatenate(scores)
        if not np.isfinite(scores).all():
            raise ValueError("it gives scores that are no numbers")
        return scores
