"""A trained ensemble: weights of networks and stackers, and `trained.json`, which describes them.

The description names every file, relative to itself, with its size and checksum. So an ensemble
may be copied anywhere, and nothing but its folder has to be named.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clips.prepare import PreparedClip
from clips.store import in_memory
from config import PREPROCESSING_SETTINGS, VIEW_SETTINGS, Config, overridden
from messages import InputError, MissingResult
from solution import stacker
from solution.crops import Views
from solution.scoring import Scorer
from storage import size_and_checksum, write_json
from trained.calibration import Calibration

DESCRIPTION = "trained.json"


class File(NamedTuple):
    """A file of weights, as it was when the stackers were trained."""

    path: str  # relative to the description
    size: int  # bytes
    checksum: str  # CRC-32, as `storage.size_and_checksum` gives it


@dataclass(frozen=True)
class Ensemble:
    """An ensemble that is ready to score clips."""

    folder: Path  # where its description is
    classes: list[str]  # in the order of the scores
    configs: list[Config]  # one per experiment, in the order of the stackers' channels
    folds: list[int]  # those of each experiment's networks
    networks: dict[str, list[File]]  # weights by experiment, in the order of the folds
    stackers: list[File]
    calibrations: dict[str, Calibration]  # by experiment, and that of the stacked as "ensemble"

    @property
    def files(self) -> list[File]:
        """All that the ensemble consists of, but for its description."""
        return [file for files in (*self.networks.values(), self.stackers) for file in files]

    def find(self, file: File) -> Path:
        """Where a file is; MissingResult if it is not there, or not the one that was stacked."""
        path = self.folder / file.path
        if not path.is_file():
            raise MissingResult(f"{path} is missing: run the pipeline again")
        if size_and_checksum(path) != [file.size, file.checksum]:
            raise MissingResult(
                f"{path} is not the file that the stackers were trained for: run the pipeline again"
            )
        return path

    def load(self, scorer: Scorer, fold: int) -> None:
        """Give the scorer of an experiment the weights of one fold.

        MissingResult as of `find`, or if they do not fit the network.
        """
        path = self.find(self.networks[scorer.config.name][self.folds.index(fold)])
        with self._of_this_version("networks", "train"):
            scorer.load_weights(path)

    @contextlib.contextmanager
    def _of_this_version(self, what: str, stage: str) -> Iterator[None]:
        """MissingResult for weights of layers that have other names or shapes here."""
        try:
            yield
        except ValueError as error:
            raise MissingResult(
                f"the {what} in {self.folder} are of another version of this project: run "
                f"{stage} again"
            ) from error

    def stack(self, scores: dict[str, np.ndarray]) -> np.ndarray:
        """The stackers' mean scores from those of the experiments, by name: (clips, classes) each.

        In the place of an experiment that is missing, the weighted average of the others counts,
        which then is the average of all.
        """
        average = self.mean(scores)
        channels = [scores.get(config.name, average) for config in self.configs]
        inputs = stacker.stacker_input(channels, [config.stack_weight for config in self.configs])
        return stacker.stack(inputs, self.stacker_weights)

    def mean(self, scores: dict[str, np.ndarray]) -> np.ndarray:
        """The average over the experiments that are there, by their weights: (clips, classes)."""
        weights = {config.name: config.stack_weight for config in self.configs}
        there = [weights[name] for name in scores]
        return stacker.weighted_average([*scores.values()], there).astype(np.float32)

    @functools.cached_property
    def stacker_weights(self) -> list[list[np.ndarray]]:
        """Of each stacker, read when they are first asked for; MissingResult as of `load`."""
        shape = len(self.classes), len(self.configs) + 1
        paths = [self.find(file) for file in self.stackers]
        with self._of_this_version("stackers", "ensemble"):
            return [stacker.read_weights(path, *shape) for path in paths]


def write(ensemble: Ensemble) -> None:
    """Write the description into the ensemble's folder."""
    values = dataclasses.asdict(ensemble)
    del values["folder"]
    write_json(ensemble.folder / DESCRIPTION, values)


def read(folder: Path) -> Ensemble:
    """The ensemble in a folder: the output folder of a run, or a copy of its files.

    MissingResult if there is none, InputError if its description is damaged, or of another version.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise MissingResult(
            f"no trained ensemble in {folder}: {path.name} is not there. `sh run.sh` trains one; "
            "its stage ensemble writes that file."
        )
    try:
        values = json.loads(path.read_text())
        values["configs"] = [overridden(Config(), config) for config in values["configs"]]
        values["stackers"] = [File(*file) for file in values["stackers"]]
        values["networks"] = {
            name: [File(*file) for file in files] for name, files in values["networks"].items()
        }
        values["calibrations"] = {
            name: Calibration(**{field: np.array(array) for field, array in calibration.items()})
            for name, calibration in values["calibrations"].items()
        }
        return Ensemble(folder=Path(folder), **values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged, or of another version: {error}") from error


def network_inputs(
    prepared: list[PreparedClip], configs: list[Config]
) -> dict[str, dict[str, np.ndarray]]:
    """What the networks of each experiment take of a few clips, as `Scorer.score` wants it.

    Experiments with the same `VIEW_SETTINGS`, mostly all, share their arrays. Views that are
    waveforms are cut out of the clips when they are asked for: they would take 2.6 MB a clip.
    """
    numbers, made, inputs = np.arange(len(prepared)), {}, {}
    for config in configs:
        settings = (*config.values(VIEW_SETTINGS).values(), config.trains_front_end)
        if settings not in made:
            clips = in_memory(prepared, config.values(PREPROCESSING_SETTINGS))
            if config.frontend == "logmel":
                clips.add_log_mels(clips.log_mels(numbers, config), config.n_hop)
            views = Views(clips, config)
            views = views if config.trains_front_end else views[:]
            made[settings] = {"views": views, **clips.inputs(numbers)}
        inputs[config.name] = made[settings]
    return inputs
