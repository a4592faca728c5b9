"""Search for settings: of the front end, and of what --over names, by out-of-fold lwlrap.

Each trial trains the folds from initial weights, in a process of its own, as Keras keeps the memory
of every network.
"""

import argparse
import dataclasses
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState

from config import TRAINING_SETTINGS, Config, overridden
from fast import processes
from messages import InputError, KilledProcess
from runs import command_line, resume, study
from runs.results import REVISIONS, fingerprint
from runs.run import Run
from solution import logmel, metrics
from solution.training import Learner, Training
from storage import Checkpoint, write_json

SHOWN = 5  # trials
MOST_IMPOSSIBLE = 200  # draws, one after the other


def search(run: Run, args: argparse.Namespace) -> None:
    """Trials until there are as many as asked for; then what came of them."""
    if args.experiments and len(run.configs) > 1:
        raise InputError("search takes one experiment: name one of them with --experiments")
    if run.scheduler:
        raise InputError("search makes its trials one after the other, here: leave --scheduler out")
    base = run.configs[0]
    if base.frontend != "waveform":
        raise InputError(f"{base.name} starts from stored log-mels: search takes waveforms")
    run = dataclasses.replace(run, configs=[base], folds=run.folds if args.folds else [0])
    command_line.require_backend([base])
    run.require_clips("curated")
    run.examples("curated"), run.clip_folds()
    over = study.ranges(args.over, base)
    trials = study.open_study(run.root, base.name, source(run, over), base.seed)
    study.begin(trials, over, base)
    while (n := len(study.trained(trials))) < args.trials:
        print(f"trial {n + 1} of {args.trials}")
        try_next(run, trials, over)
        if best := study.best_first(trials)[:1]:
            found = study.as_settings(best[0].params, base)
            write_json(run.root / "search" / "best.json", joined(run.overrides, found))
    print(table(trials).to_string(na_rep="", float_format="{:.4g}".format))
    print(f"\nwrote {run.root / 'search' / 'best.json'}: train with it as --settings")


def source(run: Run, over: dict) -> dict:
    """What the scores of trials depend on: those of another source are not mixed with them."""
    (base,) = run.configs
    return {
        "settings": base.values(TRAINING_SETTINGS),
        "schedule": dataclasses.asdict(base.training),
        "over": {name: str(values) for name, values in over.items()},
        "folds": run.folds,
        "fold table": run.fold_table.content(),
        "clips": run.clips("curated").content(),
        "labels": fingerprint(run.dataset.classes, run.dataset["curated"].labels.tobytes()),
        "revision": [REVISIONS[stage] for stage in ("search", "train")],
    }


def joined(former: dict, found: dict) -> dict:
    """Both settings, of which `found` counts."""
    schedules = {
        name: {**former.get(name, {}), **found.get(name, {})}
        for name in ("pretraining", "training")
        if name in former or name in found
    }
    return {**former, **found, **schedules}


def try_next(run: Run, trials: optuna.Study, over: dict) -> None:
    """The next trial of the study that is possible."""
    (base,) = run.configs
    for _ in range(MOST_IMPOSSIBLE):
        trial = trials.ask(over)
        try:
            chosen = overridden(base, study.as_settings(trial.params, base))
            require_bands(chosen)
            break
        except ValueError as error:
            give_up(trials, trial, error)
            why = error
    else:
        raise InputError(f"none of {MOST_IMPOSSIBLE} draws is possible; of the last one, {why}")
    folder = run.root / "search" / "trials" / fingerprint(trials.study_name, trial.params)[1:]
    where = study.url(run.root), trials.study_name, trial._trial_id
    try:
        score = processes.apart(run_trial, run, chosen, folder, *where)
        trials.tell(trial, score)
        print(f"trial {trial.number}: out-of-fold lwlrap {score:.4f}")
    except optuna.TrialPruned:
        trials.tell(trial, state=TrialState.PRUNED)
        print(f"trial {trial.number}: given up, below the median of the others")
    except (ValueError, FloatingPointError, KilledProcess) as error:
        give_up(trials, trial, error)
    shutil.rmtree(folder, ignore_errors=True)


def give_up(trials: optuna.Study, trial: optuna.Trial, error: Exception) -> None:
    """A trial that cannot be, or came to nothing: Optuna's dashboard shows why."""
    trial.set_user_attr("why", str(error))
    trials.tell(trial, state=TrialState.PRUNED)
    print(f"trial {trial.number}: not possible: {error}")


def require_bands(config: Config) -> None:
    """ValueError if there are mel bands without any frequency of the FFT."""
    names = ("sample_rate", "n_dft", "n_mels", "fmin", "fmax", "htk", "norm")
    with warnings.catch_warnings():  # librosa's, of the same
        warnings.simplefilter("ignore")
        matrix = logmel.mel_matrix(**config.values(names))
    if empty := int((~matrix.any(axis=1)).sum()):
        what = f"{empty} of {config.n_mels} mel bands are narrower"
        raise ValueError(f"{what} than an FFT of {config.n_dft} samples resolves")


def run_trial(run: Run, config: Config, folder: Path, url: str, name: str, trial_id: int) -> float:
    """`score` of a trial that the study has under this number; TrialPruned if it is given up."""
    pruner = study.pruner(config.training.epochs)
    trial = optuna.Trial(optuna.load_study(study_name=name, storage=url, pruner=pruner), trial_id)

    def report(epoch: int, lwlrap: float) -> None:
        trial.report(lwlrap, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    return score(run, config, folder, report)


def score(
    run: Run, config: Config, folder: Path, report: Callable[[int, float], None] = lambda *_: None
) -> float:
    """Out-of-fold lwlrap of the run's folds with these settings.

    Parameters
    ----------
    run : Run
    config : Config
    folder : Path
        For checkpoints: the same trial goes on from its last epoch.
    report : callable
        (epoch, counted over all folds; lwlrap), after each epoch. What it raises ends the trial.
    """
    curated = run.examples("curated", config, stored_views=False)
    fold_of, truth, scores = run.clip_folds()[curated.clips], [], []
    learner = Learner(config, len(run.dataset.classes))
    for number, fold in enumerate(run.folds):
        others, validation = (
            dataclasses.replace(curated, clips=curated.clips[chosen])
            for chosen in (fold_of != fold, fold_of == fold)
        )
        training = Training(learner, f"fold{fold}", others, validation, config.training)
        state = resume.SavedState(training, Checkpoint(folder / f"fold{fold}.checkpoint", ""))
        state.restore()
        reporting = resume.Reporting(training, report, number * config.training.epochs)
        progress = resume.Progress(training, f"{config.name} fold {fold}")
        kept = training.fit(progress, state, reporting)
        truth.append(curated.labels[validation.clips])
        scores.append(kept.scores)
    return metrics.lwlrap(np.concatenate(truth), np.concatenate(scores))


def table(trials: optuna.Study) -> pd.DataFrame:
    """The best trials side by side, with the importance of each setting."""
    columns = {}
    for trial in study.best_first(trials)[:SHOWN]:
        minutes = trial.duration.total_seconds() / 60
        columns[f"trial {trial.number}"] = {
            "lwlrap": trial.value,
            "minutes": minutes,
            **trial.params,
        }
    columns["importance"] = study.importances(trials)
    return pd.DataFrame(columns)


def _parser() -> argparse.ArgumentParser:
    parser = command_line._parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--trials",
        type=command_line.number,
        default=20,
        metavar="N",
        help="so many in all (default: 20)",
    )
    parser.add_argument(
        "--over",
        type=command_line.names,
        default=[],
        metavar="A,B=LOW:HIGH,C=X/Y",
        help="settings to vary beside the front end, or in other ranges, or (A=X) to hold",
    )
    return parser


def main() -> None:
    command_line.start(_parser(), "search", search)


if __name__ == "__main__":
    main()
