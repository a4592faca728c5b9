"""What a stage was asked to do, the results there are, and what each of them comes from."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

import dataset
import views
from batches import Examples
from clipstore import RECORD, STORE_FILES, ClipStore, settings_of
from config import STACKING_SETTINGS, TRAINING_SETTINGS, Config, Schedule, experiments
from errors import InputError, first_few
from outputs import OutputFolder
from provenance import Result, fingerprint

REMEDY = "Mend them or take them out of the table, or leave them out with --skip-unreadable"


@dataclass(frozen=True)
class Run:
    """What a stage was asked to do.

    dataset : the user's clips and labels; outputs : where results go; profile : its name;
    configs : one per experiment; folds : the folds to work on, all by default;
    skip_unreadable : leave out training clips that cannot be read; force : make results again that
    are there
    """

    dataset: dataset.Dataset
    outputs: OutputFolder
    profile: str
    configs: list[Config]
    folds: list[int]
    skip_unreadable: bool = False
    force: bool = False

    def is_pending(self, result: Result, source: dict) -> bool:
        """Has this result to be made? Says so where it is done already, or was made differently."""
        why = "as --force says" if self.force else result.fault(source)
        if why is None:
            print(f"{result.name}: done already")
            return False
        if result.is_there():
            print(f"{result.name}: made again, {why}")
        if self.force:  # from the start; after an interruption, what is left of it is not done
            result.checkpoint.unlink(missing_ok=True)
            result.unseal()
        return True

    # --- clips and folds --------------------------------------------------------------------------

    def store(self, split: str) -> Result:
        folder = self.outputs.clips(split)
        files = {name: folder / name for name in STORE_FILES}
        return Result(f"{split} clips", "preprocess", folder / RECORD, files)

    def store_source(self, split: str) -> dict:
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
            self.store(split).require(self.store_source(split))

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
        return Result(f"{split} log-mels", "views", path.with_suffix(".json"), {"views": path})

    def views_source(self, split: str, config: Config) -> dict:
        return {"clips": self.store(split).content(), "settings": views.depend_on(config)}

    def with_views(self, examples: Examples, split: str, config: Config) -> Examples:
        """The same examples with the log-mels that they are scored from."""
        made_from = self.views_source(split, config)
        return views.with_views(examples, config, self.views(split, config), made_from)

    def fold_table(self) -> Result:
        path = self.outputs.folds
        return Result("fold table", "preprocess", path.with_suffix(".json"), {"table": path})

    def fold_table_source(self) -> dict:
        curated, settings = self.dataset["curated"], self.configs[0]
        return {
            "labels": fingerprint(curated.fnames, curated.labels.tobytes()),
            "n_folds": settings.n_folds,
            "fold_seed": settings.fold_seed,
        }

    def folds_of_clips(self) -> np.ndarray:
        """The fold of each curated clip, from the one fold table: int (clips,)."""
        self.fold_table().require(self.fold_table_source())
        return pd.read_csv(self.outputs.folds)["fold"].to_numpy()

    # --- trained networks -------------------------------------------------------------------------

    def pretrainings(self) -> list[Config]:
        """The experiments whose pretraining the chosen ones start from, each once."""
        names = dict.fromkeys(config.pretrained_by for config in self.configs)
        return experiments(self.profile, list(names))

    def pretrained(self, config: Config) -> Result:
        return self._training(config, "pretrained", "pretrain")

    def pretrained_source(self, config: Config) -> dict:
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
        pretrained_by = self._pretrained_by(config)
        result = self.pretrained(pretrained_by)
        result.require(self.pretrained_source(pretrained_by))
        return result

    def _pretrained_by(self, config: Config) -> Config:
        (source,) = experiments(self.profile, [config.pretrained_by])
        return source

    def fold(self, config: Config, fold: int) -> Result:
        return self._training(config, f"fold{fold}", "train")

    def fold_source(self, config: Config, fold: int) -> dict:
        start = None
        if len(self.dataset["noisy"]):
            start = self.pretrained(self._pretrained_by(config)).content("weights")
        return {
            **self._training_source(config, config.training),
            "fold table": self.fold_table().content(),
            "fold": fold,
            "pretrained weights": start,
        }

    def _training(self, config: Config, part: str, made_by: str) -> Result:
        kinds = {"weights": "weights.h5", "history": "history.csv", "scores": "scores.csv"}
        files = {what: self.outputs.model(config.name, part, kind) for what, kind in kinds.items()}
        name = f"weights for {config.name} {part.replace('fold', 'fold ')}"
        return Result(name, made_by, self.outputs.model(config.name, part, "json"), files)

    def _training_source(self, config: Config, schedule: Schedule) -> dict:
        settings = {
            key: value
            for key, value in dataclasses.asdict(config).items()
            if key in TRAINING_SETTINGS
        }
        return {
            "settings": {**settings, "schedule": dataclasses.asdict(schedule)},
            "classes": fingerprint(self.dataset.classes),
            "curated clips": self.store("curated").content(),
            "curated labels": fingerprint(self.dataset["curated"].labels.tobytes()),
        }

    # --- predictions ------------------------------------------------------------------------------

    def fold_test_scores(self, config: Config, fold: int) -> Result:
        path = self.outputs.model(config.name, f"fold{fold}", "test.csv")
        name = f"test scores of {config.name} fold {fold}"
        return Result(name, "predict", path.with_suffix(".json"), {"scores": path})

    def fold_test_scores_source(self, config: Config, fold: int) -> dict:
        return {
            "weights": self.fold(config, fold).content("weights"),
            "test clips": self.store("test").content(),
        }

    def predictions(self, config: Config) -> Result:
        parts = ("oof", "test") if len(self.dataset["test"]) else ("oof",)
        files = {part: self.outputs.predictions(config.name, part) for part in parts}
        record = files["oof"].with_name("predictions.json")
        return Result(f"predictions of {config.name}", "predict", record, files)

    def predictions_source(self, config: Config) -> dict:
        source = {
            f"fold {fold}": self.fold(config, fold).content("weights", "scores")
            for fold in self.folds
        }
        if len(self.dataset["test"]):
            source["test clips"] = self.store("test").content()
        return source

    # --- stackers ---------------------------------------------------------------------------------

    def stacker(self, fold: int) -> Result:
        """One of them, for the fold that it was not trained on."""
        kinds = {"weights": "weights.h5", "scores": "scores.csv"}
        files = {what: self.outputs.stacker(fold, kind) for what, kind in kinds.items()}
        return Result(f"stacker fold {fold}", "ensemble", self.outputs.stacker(fold, "json"), files)

    def stacker_source(self, fold: int) -> dict:
        scores = {config.name: self.predictions(config).content("oof") for config in self.configs}
        return {"out-of-fold scores": scores, "fold": fold, **self._stacking_source()}

    def _stacking_source(self) -> dict:
        return {
            "weights": {config.name: config.stack_weight for config in self.configs},
            "settings": {key: getattr(self.configs[0], key) for key in STACKING_SETTINGS},
            "labels": fingerprint(self.dataset["curated"].labels.tobytes()),
        }

    def ensemble(self) -> Result:
        names = ["oof", "scores", "per_class"] + ["submission"] * bool(len(self.dataset["test"]))
        files = {name: self.outputs.table(name) for name in names}
        files["trained"] = self.outputs.trained
        record = self.outputs.table("ensemble").with_suffix(".json")
        return Result("ensemble", "ensemble", record, files)

    def ensemble_source(self) -> dict:
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
