"""What a stage was asked to do, and all results there are, each declared once.

Where in the output folder: the first table of the project's README.md, and

clips/{curated,noisy,test}/    the clip stores, and of them log-mels and views, by front end
kaggle/{dataset,kernel}/       what kernel.py makes for upload
search/                        studies, and the best settings
"""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clips.dataset import SPLITS, Dataset
from clips.derived import LOG_MELS, VIEWS, Derived
from clips.store import STORE_FILES, ClipStore
from config import PREPROCESSING_SETTINGS, STACKING_SETTINGS, TRAINING_SETTINGS, Config, experiments
from messages import InputError, first_few
from runs.results import Result, fingerprint
from solution.crops import Examples, Views
from storage import size_and_checksum

STUDY = Path("search", "study.db")  # of search.py, in the output folder
REMEDY = "Mend them or take them out of the table, or leave them out with --skip-unreadable"


@dataclass(frozen=True, eq=False)
class Run:
    """What a stage was asked to do."""

    dataset: Dataset  # the user's clips and labels
    root: Path  # the output folder
    profile: str  # its name
    overrides: dict  # what a settings file changes of it
    configs: list[Config]  # one per experiment
    folds: list[int]  # to work on
    skip_unreadable: bool = False  # leave out training clips that cannot be read
    force: bool = False  # make results again that are there
    scheduler: dict = dataclasses.field(default_factory=dict)  # Dask's, as its client takes it

    def __getstate__(self) -> dict:
        """For other processes; results, which are cached here, are declared there anew."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def settings(self) -> dict:
        """Those of preprocessing, which all experiments share."""
        return self.configs[0].values(PREPROCESSING_SETTINGS)

    # --- results ----------------------------------------------------------------------------------

    def result(self, name: str, made_by: str, files: tuple[str, ...], of=(), **source) -> Result:
        """Files that a stage makes of other results, and of values (`source`)."""

        def made_from() -> dict:
            return {part.name: part.content() for part in of} | source

        return Result(self.root, name, made_by, files, made_from)

    @functools.cache  # noqa: B019 (a stage has one run)
    def clips(self, split: str) -> Result:
        def made_from() -> dict:
            return {"settings": self.settings, "clips": fingerprint(self.dataset[split].stamps)}

        return Result(self.root, f"clips/{split}/store", "preprocess", STORE_FILES, made_from)

    @functools.cache  # noqa: B019
    def log_mels(self, split: str, config: Config) -> Result:
        """What training and views start from, where that is no waveform."""
        return self._derived(LOG_MELS, split, config, self.clips(split))

    @functools.cache  # noqa: B019
    def views(self, split: str, config: Config) -> Result:
        """The log-mels that a split is scored from; experiments with the same crops share them."""
        stored = config.frontend == "logmel"
        of = self.log_mels(split, config) if stored else self.clips(split)
        return self._derived(VIEWS, split, config, of)

    def _derived(self, kind: Derived, split: str, config: Config, of: Result) -> Result:
        name = f"clips/{split}/{kind.stem(config)}"
        settings = config.values(kind.settings)
        return self.result(name, "preprocess", (kind.suffix,), [of], settings=settings)

    def made_of_clips(self, split: str, config: Config) -> list[Result]:
        """What an experiment takes of a split beside its clip store, in the order of making it."""
        made = [self.log_mels(split, config)] if config.frontend == "logmel" else []
        if split != "noisy" and not config.trains_front_end:
            made.append(self.views(split, config))
        return made

    @functools.cached_property
    def fold_table(self) -> Result:
        curated, settings = self.dataset["curated"], self.configs[0]
        groups = {} if curated.groups is None else {"groups": fingerprint(list(curated.groups))}
        return self.result(
            "folds",
            "preprocess",
            (".csv",),
            **groups,
            labels=fingerprint(curated.fnames, curated.labels.tobytes()),
            n_folds=settings.n_folds,
            fold_seed=settings.fold_seed,
        )

    @functools.cache  # noqa: B019
    def pretrained(self, config: Config) -> Result:
        labels = fingerprint(self.dataset["noisy"].labels.tobytes())
        of = [self.clips("noisy"), *self.made_of_clips("noisy", config)]
        return self._training(config, "pretrained", "pretrain", of, noisy_labels=labels)

    @functools.cache  # noqa: B019
    def fold(self, config: Config, fold: int) -> Result:
        start = self.pretraining_of(config)
        of = [self.fold_table, start] if start else [self.fold_table]
        return self._training(config, f"fold{fold}", "train", of, fold=fold)

    def _training(self, config: Config, part: str, made_by: str, of: list, **source) -> Result:
        curated = self.dataset["curated"]
        schedule = config.pretraining if made_by == "pretrain" else config.training
        return self.result(
            f"models/{config.name}/{part}",
            made_by,
            (".weights.h5", ".scores.csv", ".history.csv"),
            [self.clips("curated"), *self.made_of_clips("curated", config), *of],
            settings=config.values(TRAINING_SETTINGS) | {"schedule": dataclasses.asdict(schedule)},
            classes=fingerprint(self.dataset.classes),
            curated_labels=fingerprint(curated.labels.tobytes()),
            **source,
        )

    @functools.cache  # noqa: B019
    def scores(self, config: Config, fold: int, split: str) -> Result:
        """Of the test clips, or of the noisy ones, by the network of a fold."""
        of = [self.fold(config, fold), self.clips(split), *self.made_of_clips(split, config)]
        return self.result(f"models/{config.name}/fold{fold}.{split}", "predict", (".csv",), of)

    @functools.cache  # noqa: B019
    def predictions(self, config: Config) -> Result:
        files, of = ("oof.csv",), [self.fold(config, fold) for fold in self.folds]
        if len(self.dataset["test"]):
            files = ("oof.csv", "test.csv")
            of = [*of, *(self.scores(config, fold, "test") for fold in self.folds)]
        return self.result(f"predictions/{config.name}/predictions", "predict", files, of)

    @functools.cached_property
    def ensemble(self) -> Result:
        config, test, source = self.configs[0], self.dataset["test"], {}
        stackers = tuple(f"stacker/fold{fold}.weights.h5" for fold in range(config.n_folds))
        files = ("oof.csv", "scores.csv", "per_class.csv", "trained.json", *stackers)
        if test.labels is not None:
            usage = "" if test.usage is None else "".join(test.usage)
            source["test_labels"] = fingerprint(test.labels.tobytes(), usage)
            files += ("calibration.csv",) if len(test) else ()
        return self.result(
            "ensemble",
            "ensemble",
            ("submission.csv", *files) if len(test) else files,
            [self.predictions(config) for config in self.configs],
            weights={config.name: config.stack_weight for config in self.configs},
            settings=config.values(STACKING_SETTINGS),
            labels=fingerprint(self.dataset["curated"].labels.tobytes()),
            **source,
        )

    @property
    def noisy_scores(self) -> Result | None:
        """One network's scores of the noisy clips, which show labels that look wrong."""
        return self.scores(*self.noisy_scorer, "noisy") if len(self.dataset["noisy"]) else None

    @property
    def noisy_scorer(self) -> tuple[Config, int]:
        """The experiment and the fold of that network."""
        return max(self.configs, key=lambda config: config.stack_weight), self.folds[0]

    @functools.cached_property
    def report(self) -> Result:
        splits, study = [self.dataset[split] for split in SPLITS], self.root / STUDY
        labels = [b"" if split.labels is None else split.labels.tobytes() for split in splits]
        return self.result(
            "report",
            "report",
            (".html", "suspects.csv"),
            [self.ensemble, *filter(None, [self.noisy_scores])],
            labels=fingerprint(*labels),
            **({"search": size_and_checksum(study)} if study.is_file() else {}),
        )

    # --- what is in them --------------------------------------------------------------------------

    def is_pending(self, result: Result) -> bool:
        """Does this result still have to be made? Says why not, or why again."""
        why = "as --force says" if self.force else result.fault()
        if why is None:
            print(f"{result.name}: done already")
            return False
        if result.is_there():
            print(f"{result.name}: made again, {why}")
        if self.force:  # from the start; after an interruption, what is left of it is not done
            result.discard()
        return True

    def require_made_of_clips(self, split: str, configs: list[Config]) -> None:
        """MissingResult unless what these take of a split beside its store is as it should be."""
        made = [result for config in configs for result in self.made_of_clips(split, config)]
        for result in {result.name: result for result in made}.values():
            result.require()

    def require_folds(self) -> None:
        """MissingResult unless every fold of every experiment is trained, and its files whole."""
        for config in self.configs:
            for fold in self.folds:
                self.fold(config, fold).require()

    def store(self, split: str, config: Config | None = None) -> ClipStore:
        """The clips of a split, with log-mels where this experiment starts from them."""
        store = ClipStore(self.clips(split).record.parent)
        if config and config.frontend == "logmel":
            path = self.log_mels(split, config).path(LOG_MELS.suffix)
            store.add_log_mels(LOG_MELS.read(path, config), config.n_hop)
        return store

    def examples(
        self, split: str, config: Config | None = None, stored_views: bool = True
    ) -> Examples:
        """All readable clips of a split; with a config, as that takes them.

        stored_views : read views that preprocessing made, or make them when they are asked for

        InputError if training clips could not be read, and were not to be skipped.
        """
        store, views = self.store(split, config), None
        readable = np.array([not fault for fault in store.faults], bool)
        if split == "test":  # a submission has all rows: such a clip counts as silence
            readable[:] = True
        elif not readable.all() and not self.skip_unreadable:
            raise InputError(f"{unreadable(store, split)}. {REMEDY}")
        if config:  # those of noisy clips are taken once, if at all
            stored = stored_views and split != "noisy" and not config.trains_front_end
            path = stored and self.views(split, config).path(VIEWS.suffix)
            views = VIEWS.read(path, config) if stored else Views(store, config)
        return Examples(store, np.flatnonzero(readable), self.dataset[split].labels, views)

    def clip_folds(self) -> np.ndarray:
        """The fold of each curated clip, from the one fold table: int (clips,)."""
        self.fold_table.require()
        return pd.read_csv(self.fold_table.path(".csv"))["fold"].to_numpy()

    def divided(self, curated: Examples, fold: int) -> list[Examples]:
        """The clips of the other folds, to learn from, and those of this one."""
        held_out = self.clip_folds()[curated.clips] == fold
        chosen = curated.clips[~held_out], curated.clips[held_out]
        if not all(map(len, chosen)):
            raise InputError(f"fold {fold} has no readable clip to train on or to score")
        return [dataclasses.replace(curated, clips=clips) for clips in chosen]

    def pretrainings(self) -> list[Config]:
        """The experiments whose pretraining the chosen ones start from, each once."""
        names = dict.fromkeys(config.pretrained_by for config in self.configs)
        return experiments(self.profile, list(names), self.overrides)

    def scored_configs(self) -> list[Config]:
        """The chosen experiments, and those that they start from."""
        return list(dict.fromkeys([*self.configs, *self.pretrainings()]))

    def pretraining_of(self, config: Config) -> Result | None:
        """What an experiment starts from; None where there is no noisy set to pretrain on."""
        if not len(self.dataset["noisy"]):
            return None
        (pretrained_by,) = experiments(self.profile, [config.pretrained_by], self.overrides)
        return self.pretrained(pretrained_by)


def unreadable(store: ClipStore, split: str) -> str:
    """What to tell the user of a store with clips that could not be read, each with the reason."""
    named = zip(store.fnames, store.faults, strict=True)
    clips = [f"{fname} {fault}" for fname, fault in named if fault]
    return f"{len(clips)} of {len(store)} {split} clips: {first_few(clips)}"
