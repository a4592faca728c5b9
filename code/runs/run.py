"""What a stage was asked to do, the results there are, and what each of them comes from."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clips import dataset, views
from clips.store import RECORD, STORE_FILES, ClipStore, settings_of
from config import (
    STACKING_SETTINGS,
    TRAINING_SETTINGS,
    VIEW_SETTINGS,
    Config,
    Schedule,
    experiments,
)
from messages import InputError, first_few
from runs.results import Result, fingerprint
from solution.crops import Examples
from storage import OutputFolder

REMEDY = "Mend them or take them out of the table, or leave them out with --skip-unreadable"


@dataclass(frozen=True)
class Run:
    """What a stage was asked to do."""

    dataset: dataset.Dataset  # the user's clips and labels
    outputs: OutputFolder  # where results go
    profile: str  # its name
    configs: list[Config]  # one per experiment
    folds: list[int]  # to work on
    skip_unreadable: bool = False  # leave out training clips that cannot be read
    force: bool = False  # make results again that are there

    def is_pending(self, result: Result) -> bool:
        """Does this result still have to be made? Says why not, or why again."""
        why = "as --force says" if self.force else result.fault()
        if why is None:
            print(f"{result.name}: done already")
            return False
        if result.is_there():
            print(f"{result.name}: made again, {why}")
        if self.force:  # from the start; after an interruption, what is left of it is not done
            result.checkpoint.remove()
            result.unseal()
        return True

    # --- clips and folds --------------------------------------------------------------------------

    def store(self, split: str) -> Result:
        folder = self.outputs.clips(split)
        files = {name: folder / name for name in STORE_FILES}
        made_from = functools.partial(self._store_source, split)
        return Result(f"{split} clips", "preprocess", folder / RECORD, files, made_from)

    def _store_source(self, split: str) -> dict:
        clips = self.dataset[split]
        stamps = [
            (fname, *file.stamp()) for fname, file in zip(clips.fnames, clips.files, strict=True)
        ]
        return {"settings": settings_of(self.configs[0]), "clips": fingerprint(stamps)}

    def require_clips(self, *splits: str) -> None:
        """Check the stores of these splits, once per stage: all of their bytes are read.

        Raises
        ------
        MissingResult
            If one is not there, is damaged, or was made from other clips or settings.
        """
        for split in splits:
            self.store(split).require()

    def examples(self, split: str) -> Examples:
        """All readable clips of a split, from the store, which the stage has checked.

        Raises
        ------
        InputError
            If training clips could not be read, and were not to be skipped.
        """
        store = ClipStore(self.outputs.clips(split))
        readable = np.array([not fault for fault in store.faults], bool)
        if split == "test":  # a submission has all rows: such a clip counts as silence
            readable[:] = True
        elif not readable.all() and not self.skip_unreadable:
            raise InputError(f"{unreadable(store, split)}. {REMEDY}")
        return Examples(store, np.flatnonzero(readable), self.dataset[split].labels)

    def views(self, split: str, config: Config) -> Result:
        """Experiments that start from the same crops share these."""
        kind = f"{config.frontend}-{config.crop_samples}"
        path = self.outputs.clips(split) / f"views-{kind}.npy"

        def made_from():
            return {
                "clips": self.store(split).content(),
                "settings": config.values_of(VIEW_SETTINGS),
            }

        name, record = f"{split} log-mels", path.with_suffix(".json")
        return Result(name, "views", record, {"views": path}, made_from)

    def with_views(self, examples: Examples, split: str, config: Config) -> Examples:
        """The same examples with the log-mels that they are scored from."""
        return views.with_views(examples, config, self.views(split, config))

    def fold_table(self) -> Result:
        path = self.outputs.folds
        record, made_from = path.with_suffix(".json"), self._fold_table_source
        return Result("fold table", "preprocess", record, {"table": path}, made_from)

    def _fold_table_source(self) -> dict:
        curated, settings = self.dataset["curated"], self.configs[0]
        return {
            "labels": fingerprint(curated.fnames, curated.labels.tobytes()),
            "n_folds": settings.n_folds,
            "fold_seed": settings.fold_seed,
        }

    def folds_of_clips(self) -> np.ndarray:
        """The fold of each curated clip, from the one fold table: int (clips,)."""
        self.fold_table().require()
        return pd.read_csv(self.outputs.folds)["fold"].to_numpy()

    # --- trained networks -------------------------------------------------------------------------

    def pretrainings(self) -> list[Config]:
        """The experiments whose pretraining the chosen ones start from, each once."""
        names = dict.fromkeys(config.pretrained_by for config in self.configs)
        return experiments(self.profile, list(names))

    def pretrained(self, config: Config) -> Result:
        made_from = functools.partial(self._pretrained_source, config)
        return self._training(config, "pretrained", "pretrain", made_from)

    def _pretrained_source(self, config: Config) -> dict:
        return {
            **self._training_source(config, config.pretraining),
            "noisy clips": self.store("noisy").content(),
            "noisy labels": fingerprint(self.dataset["noisy"].labels.tobytes()),
        }

    def starting_point(self, config: Config) -> Result | None:
        """The pretraining of an experiment; None where there is no noisy set to pretrain on.

        Raises
        ------
        MissingResult
            If there should be one.
        """
        if not len(self.dataset["noisy"]):
            return None
        result = self._pretraining_of(config)
        result.require()
        return result

    def _pretraining_of(self, config: Config) -> Result:
        (pretrained_by,) = experiments(self.profile, [config.pretrained_by])
        return self.pretrained(pretrained_by)

    def fold(self, config: Config, fold: int) -> Result:
        made_from = functools.partial(self._fold_source, config, fold)
        return self._training(config, f"fold{fold}", "train", made_from)

    def _fold_source(self, config: Config, fold: int) -> dict:
        start = None
        if len(self.dataset["noisy"]):
            start = self._pretraining_of(config).content("weights")
        return {
            **self._training_source(config, config.training),
            "fold table": self.fold_table().content(),
            "fold": fold,
            "pretrained weights": start,
        }

    def _training(self, config: Config, part: str, made_by: str, made_from) -> Result:
        kinds = {"weights": "weights.h5", "history": "history.csv", "scores": "scores.csv"}
        files = {what: self.outputs.model(config.name, part, kind) for what, kind in kinds.items()}
        name = f"weights for {config.name} {part.replace('fold', 'fold ')}"
        record = self.outputs.model(config.name, part, "json")
        return Result(name, made_by, record, files, made_from)

    def _training_source(self, config: Config, schedule: Schedule) -> dict:
        settings = config.values_of(TRAINING_SETTINGS)
        return {
            "settings": {**settings, "schedule": dataclasses.asdict(schedule)},
            "classes": fingerprint(self.dataset.classes),
            "curated clips": self.store("curated").content(),
            "curated labels": fingerprint(self.dataset["curated"].labels.tobytes()),
        }

    # --- predictions ------------------------------------------------------------------------------

    def fold_test_scores(self, config: Config, fold: int) -> Result:
        path = self.outputs.model(config.name, f"fold{fold}", "test.csv")

        def made_from():
            weights = self.fold(config, fold).content("weights")
            return {"weights": weights, "test clips": self.store("test").content()}

        name, record = f"test scores of {config.name} fold {fold}", path.with_suffix(".json")
        return Result(name, "predict", record, {"scores": path}, made_from)

    def predictions(self, config: Config) -> Result:
        parts = ("oof", "test") if len(self.dataset["test"]) else ("oof",)
        files = {part: self.outputs.predictions(config.name, part) for part in parts}
        record = files["oof"].with_name("predictions.json")
        made_from = functools.partial(self._predictions_source, config)
        return Result(f"predictions of {config.name}", "predict", record, files, made_from)

    def _predictions_source(self, config: Config) -> dict:
        source = {
            f"fold {fold}": self.fold(config, fold).content("weights", "scores")
            for fold in self.folds
        }
        if len(self.dataset["test"]):
            source["test clips"] = self.store("test").content()
        return source

    # --- stackers ---------------------------------------------------------------------------------

    def stacker(self, fold: int) -> Result:
        """The stacker of the fold that it was not trained on."""
        kinds = {"weights": "weights.h5", "scores": "scores.csv"}
        files = {what: self.outputs.stacker(fold, kind) for what, kind in kinds.items()}
        name, record = f"stacker fold {fold}", self.outputs.stacker(fold, "json")
        made_from = functools.partial(self._stacker_source, fold)
        return Result(name, "ensemble", record, files, made_from)

    def _stacker_source(self, fold: int) -> dict:
        scores = {config.name: self.predictions(config).content("oof") for config in self.configs}
        return {"out-of-fold scores": scores, "fold": fold, **self._stacking_source()}

    def _stacking_source(self) -> dict:
        return {
            "weights": {config.name: config.stack_weight for config in self.configs},
            "settings": self.configs[0].values_of(STACKING_SETTINGS),
            "labels": fingerprint(self.dataset["curated"].labels.tobytes()),
        }

    def ensemble(self) -> Result:
        names = ["oof", "scores", "per_class"]
        if len(self.dataset["test"]):
            names.append("submission")
        files = {name: self.outputs.table(name) for name in names}
        files["trained"] = self.outputs.trained
        record = self.outputs.table("ensemble").with_suffix(".json")
        return Result("ensemble", "ensemble", record, files, self._ensemble_source)

    def _ensemble_source(self) -> dict:
        scores = {config.name: self.predictions(config).content() for config in self.configs}
        source, test = {"predictions": scores, **self._stacking_source()}, self.dataset["test"]
        if test.labels is not None:
            usage = "" if test.usage is None else "".join(test.usage)
            source["test labels"] = fingerprint(test.labels.tobytes(), usage)
        return source


def unreadable(store: ClipStore, split: str) -> str:
    """What to tell the user of a store with clips that could not be read."""
    clips = store.unreadable
    return f"{len(clips)} of {len(store)} {split} clips: {first_few(clips)}"
