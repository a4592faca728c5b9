"""The command line that all stages share, and what it names: dataset, output folder, settings."""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# TensorFlow reads this when it is first imported, so it stands before the project's modules.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd

import clipstore
import config
import dataset
import demo_data
from batches import Examples
from errors import InputError, MissingResult, PipelineError
from outputs import OutputFolder

PROJECT = Path(__file__).resolve().parent.parent
STAGES = ("preprocess", "pretrain", "train", "predict", "ensemble")


@dataclass(frozen=True)
class Run:
    """What a stage was asked to do.

    dataset : the user's clips and labels; outputs : where results go; profile : its name;
    configs : one per experiment; folds : the folds to work on, all by default;
    skip_unreadable : leave out training clips that cannot be read
    """

    dataset: dataset.Dataset
    outputs: OutputFolder
    profile: str
    configs: list[config.Config]
    folds: list[int]
    skip_unreadable: bool

    def examples(self, split: str) -> Examples:
        """All readable clips of a split, from the store that preprocess.py wrote.

        Raises
        ------
        MissingResult
            If the store is not there, or was made from other clips or with other settings.
        InputError
            If training clips could not be read, and were not to be skipped.
        """
        clips = self.dataset[split]
        store = clipstore.ClipStore(self.outputs.clips(split))
        if store.fnames != clips.fnames or store.settings != clipstore.settings_of(self.configs[0]):
            raise MissingResult(
                f"run preprocess again: {self.outputs.clips(split)} was made from other clips "
                "or with other settings"
            )
        readable = np.array([not fault for fault in store.faults], bool)
        if split == "test":  # a submission has all rows: such a clip counts as silence
            readable[:] = True
        elif not readable.all() and not self.skip_unreadable:
            raise InputError(unreadable(store, split))
        return Examples(store, np.flatnonzero(readable), clips.labels)

    def fold_table(self) -> np.ndarray:
        """The fold of each curated clip: int (clips,).

        Raises
        ------
        MissingResult
            If preprocess.py has not written the table, or wrote it for other clips or folds.
        """
        path = self.outputs.folds
        if not path.is_file():
            raise MissingResult(f"run preprocess first: there is no fold table {path}")
        table = pd.read_csv(path, dtype={"fname": str})
        n_folds = self.configs[0].n_folds
        if list(table["fname"]) != self.dataset["curated"].fnames or table["fold"].max() >= n_folds:
            raise MissingResult(f"run preprocess again: {path} is of other clips or more folds")
        return table["fold"].to_numpy()

    def pretrainings(self) -> list[config.Config]:
        """The experiments whose pretraining the chosen ones start from, each once."""
        names = dict.fromkeys(chosen.pretrained_by for chosen in self.configs)
        return config.experiments(self.profile, list(names))

    def starting_weights(self, chosen: config.Config) -> Path | None:
        """The pretrained weights of an experiment; None where there is no noisy set to pretrain on.

        Raises
        ------
        MissingResult
            If there should be some.
        """
        if not len(self.dataset["noisy"]):
            return None
        return self.weights(chosen.pretrained_by, "pretrained", made_by="pretrain")

    def weights(self, experiment: str, part: str, made_by: str) -> Path:
        """The weights that an earlier stage wrote; raises MissingResult where it did not."""
        path = self.outputs.model(experiment, part, "weights.h5")
        if not path.is_file():
            name = f"{experiment} {part.replace('fold', 'fold ')}"
            raise MissingResult(f"run {made_by} first: no weights for {name} in {path.parent}")
        return path


def unreadable(store: clipstore.ClipStore, split: str) -> str:
    """What to tell the user of a store with clips that could not be read."""
    faults = [
        f"{fname} {fault}" for fname, fault in zip(store.fnames, store.faults, strict=True) if fault
    ]
    more = f"; and {len(faults) - dataset.SHOWN} more" if len(faults) > dataset.SHOWN else ""
    return (
        f"{len(faults)} of {len(store)} {split} clips: {'; '.join(faults[: dataset.SHOWN])}{more}. "
        "Mend them or take them out of the table, or leave them out with --skip-unreadable"
    )


def parse(description: str, argv: list[str] | None = None) -> Run:
    """Read the arguments and the dataset's tables.

    Without a dataset in the default input folder, a synthetic one is made below the output folder.

    Raises
    ------
    InputError
        If the dataset is faulty, or a profile, experiment or fold does not exist.
    """
    args = _parser(description).parse_args(argv)
    outputs = OutputFolder(args.output)
    root, synthetic = args.input or PROJECT / "input", False
    if args.input is None and not dataset.is_present(root):
        root, synthetic = outputs.demo_input, True
        if not root.is_dir():
            print(f"No dataset in {PROJECT / 'input'}: making a synthetic one in {root}.")
            demo_data.make_demo_dataset(root)
        else:
            print(f"No dataset in {PROJECT / 'input'}: using the synthetic one in {root}.")
    profile = args.profile or ("demo" if synthetic else "published")
    for name in args.experiments or ():
        if name not in config.EXPERIMENTS:
            known = ", ".join(config.EXPERIMENTS)
            raise InputError(f"there is no experiment {name!r}; there are {known}")
    configs = config.experiments(profile, args.experiments)
    n_folds = configs[0].n_folds
    for fold in args.folds or ():
        if not 0 <= fold < n_folds:
            raise InputError(f"there is no fold {fold}; profile {profile} has 0 to {n_folds - 1}")
    folds = sorted(set(args.folds)) if args.folds else list(range(n_folds))
    return Run(dataset.load(root), outputs, profile, configs, folds, args.skip_unreadable)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--input", type=Path, metavar="DIR", help="the dataset (default: input/)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=PROJECT / "output",
        help="where results go (default: output/)",
    )
    parser.add_argument(
        "--profile",
        choices=config.PROFILES,
        help="table of settings (default: published, or demo where input/ holds no dataset)",
    )
    parser.add_argument(
        "--experiments",
        type=lambda text: text.split(","),
        metavar="A,B",
        help=f"of {', '.join(config.EXPERIMENTS)} (default: the profile's)",
    )
    parser.add_argument(
        "--folds",
        type=lambda text: [int(fold) for fold in text.split(",")],
        metavar="0,3",
        help="folds to work on (default: all)",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out training clips that cannot be decoded",
    )
    return parser


def stage(main: Callable[[], None]) -> Callable[[], None]:
    """Turn errors that the user can mend into one line, and an interruption into another."""

    @functools.wraps(main)
    def run():
        try:
            main()
        except PipelineError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            sys.exit(130)

    return run
