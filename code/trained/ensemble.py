"""A trained ensemble: what the stages left in the output folder, or kernel.py packed for upload.

`trained.json` describes it: classes, settings, folds, and how to tell that a file of weights is
still the one that the stackers were trained for. So nothing but its folder has to be named.
"""

import dataclasses
import functools
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import Config, from_json
from messages import InputError, MissingResult
from solution import stacker
from solution.scoring import Predictor
from storage import OutputFolder, size_and_checksum_of, write_json
from trained import packed

STACKERS = "stackers"  # in a packed ensemble


@dataclass(frozen=True)
class Trained:
    """An ensemble that is ready to score clips."""

    folder: Path  # where its files are
    classes: list[str]  # in the order of the scores
    configs: list[Config]  # one per experiment, in the order of the stackers' channels
    folds: list[int]  # those of each experiment's networks
    n_stackers: int
    checksums: dict[str, list]  # of the files of weights, by path; empty where they are packed

    @property
    def is_packed(self) -> bool:
        """Did kernel.py write it? Else it is the output folder of a run."""
        return not self.checksums

    def load(self, predictor: Predictor, fold: int) -> None:
        """Give the predictor of an experiment the weights of one fold.

        Raises
        ------
        MissingResult
            If they are not there, or not those that the stackers were trained for.
        """
        name = predictor.config.name
        if self.is_packed:
            predictor.set_merged_weights(self._packed(name, fold))
        else:
            path = OutputFolder(self.folder).model(name, f"fold{fold}", "weights.h5")
            self._require(path)
            predictor.load_weights(path)

    def stack(self, scores: dict[str, np.ndarray]) -> np.ndarray:
        """The stackers' scores from those of the experiments.

        Parameters
        ----------
        scores : by experiment, (clips, classes) each
            In the place of an experiment that is missing, the weighted average of the others
            counts, which then is the average of all.

        Returns
        -------
        (clips, classes), the mean over the stackers
        """
        average = self.mean(scores)
        channels = [scores.get(config.name, average) for config in self.configs]
        inputs = stacker.stacker_input(channels, [config.stack_weight for config in self.configs])
        return stacker.predict(inputs, self.stackers)

    def mean(self, scores: dict[str, np.ndarray]) -> np.ndarray:
        """The average over the experiments that are there, by their weights: (clips, classes)."""
        weights = {config.name: config.stack_weight for config in self.configs}
        there = [weights[name] for name in scores]
        return stacker.weighted_average([*scores.values()], there).astype(np.float32)

    @functools.cached_property
    def stackers(self) -> list[list[np.ndarray]]:
        """The weights of each stacker."""
        if self.is_packed:
            return [self._packed(STACKERS, number) for number in range(self.n_stackers)]
        outputs, shape = OutputFolder(self.folder), (len(self.classes), len(self.configs) + 1)
        paths = [outputs.stacker(number, "weights.h5") for number in range(self.n_stackers)]
        for path in paths:
            self._require(path)
        return [stacker.read_weights(path, *shape) for path in paths]

    def _packed(self, name: str, number: int) -> list[np.ndarray]:
        path = self.folder / f"{name}.npz"
        try:
            return packed.read(path, number)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise MissingResult(
                f"{path} is missing or damaged ({error}): run kernel again"
            ) from error

    def _require(self, path: Path) -> None:
        expected = self.checksums.get(str(path.relative_to(self.folder)))
        if not path.is_file():
            raise MissingResult(f"{path} is missing: run the pipeline again")
        if size_and_checksum_of(path) != expected:
            raise MissingResult(
                f"{path} is not the file that the stackers were trained for: run the pipeline again"
            )


def write(trained: Trained) -> None:
    """Write the description into the ensemble's folder."""
    values = dataclasses.asdict(trained)
    del values["folder"]
    write_json(OutputFolder(trained.folder).trained, values)


def read(folder: Path) -> Trained:
    """The ensemble in an output folder, or in one that kernel.py packed.

    Raises
    ------
    MissingResult
        If there is none.
    InputError
        If its description is damaged, or of another version of this project.
    """
    path = OutputFolder(Path(folder)).trained
    if not path.is_file():
        raise MissingResult(
            f"no trained ensemble in {folder}: {path.name} is not there. `sh run.sh` trains one; "
            "its last stage, ensemble, writes that file."
        )
    try:
        values = json.loads(path.read_text())
        values["configs"] = [from_json(config) for config in values["configs"]]
        return Trained(folder=Path(folder), **values)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged, or of another version: {error}") from error
