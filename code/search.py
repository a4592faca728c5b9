"""Search for settings: of the front end, and of what --over names, by out-of-fold lwlrap.

Each trial trains the folds from initial weights, in a process of its own, as Keras keeps the memory
of every network.
"""

import argparse
import dataclasses
import shutil
import warnings
from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import TrialState

from config import TRAINING_SETTINGS, Config, overridden
from messages import InputError, KilledProcess, PipelineError
from runs import command_line, study, tasks, trials
from runs.results import REVISIONS, fingerprint
from runs.run import Run
from solution import logmel
from storage import write_json

BEST = Path("search", "best.json")  # below the output folder
SHOWN = 5  # trials
MOST_IMPOSSIBLE = 200  # draws, one after the other
MOST_IN_VAIN = 20  # trials, one after the other


def search(run: Run, args: argparse.Namespace) -> None:
    """Trials until there are as many as asked for; then what came of them."""
    if args.experiments and len(run.configs) > 1:
        raise InputError("search takes one experiment: name one of them with --experiments")
    best = run.root / BEST
    if args.settings and best.exists() and args.settings.samefile(best):
        raise InputError(f"search writes {best} anew: copy it, and name the copy with --settings")
    base = run.configs[0]
    if run.force:
        raise InputError(f"search goes on with its studies: to begin anew, move {best.parent} away")
    if base.frontend != "waveform":
        raise InputError(f"{base.name} starts from stored log-mels: search takes waveforms")
    run = dataclasses.replace(run, configs=[base], folds=run.folds if args.folds else [0])
    command_line.require_backend([base])
    run.clips("curated").require()
    run.examples("curated"), run.clip_folds()
    over = study.ranges(args.over, base)
    known = study.open_study(run.root, base.name, source(run, over), base.seed)
    study.begin(known, over, base)
    try_all(run, known, over, args.trials)
    if not write_best(run, known):
        raise PipelineError("no trial came to its end: see above, and ask for more with --trials")
    print(table(known).to_string(na_rep="", float_format="{:.4g}".format))
    print(f"\nwrote {best}: train with --profile {run.profile} --settings {best}")


def try_all(run: Run, known: optuna.Study, over: dict, n: int) -> None:
    """Trials until the study has n: here, each after the one before, or on all workers."""
    (base,) = run.configs
    n_left, under_way, in_vain = n - len(study.tried(known)), {}, 0
    if n_left <= 0:
        return

    def ask() -> tuple | None:
        n_begun = len(study.tried(known)) + len(under_way)
        if n_begun >= n:
            return None
        trial, chosen = draw(known, over, base)
        name, key = f"trial {trial.number}", fingerprint(known.study_name, trial.params)[1:]
        if key in [key for _, key in under_way.values()]:
            note(known, trial, trials.Outcome({}, why="the same is under way"))
            return None
        print(f"{name}, {n_begun + 1} of {n}: {trial.params}")
        under_way[name] = trial, key
        return name, key, (chosen, key, study.best_first(known))

    for name, outcome in tasks.whenever_free(run, trials.attempt, ask, n_left):
        trial, key = under_way.pop(name)
        note(known, trial, outcome)
        shutil.rmtree(run.root / trials.TRIALS / key, ignore_errors=True)
        write_best(run, known)
        in_vain = in_vain + 1 if getattr(outcome, "why", "") else 0
        if in_vain == MOST_IN_VAIN:
            raise InputError(f"none of {in_vain} trials came to an end; the last: {outcome.why}")


def write_best(run: Run, known: optuna.Study) -> bool:
    """The settings of the best trial so far, as a file; False where none came to its end."""
    best = study.best_first(known)
    if best:
        found = study.as_settings(best[0].params, run.configs[0])
        write_json(run.root / BEST, joined(run.overrides, found))
    return bool(best)


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
    training = {**former.get("training", {}), **found.get("training", {})}
    return {**former, **found, **({"training": training} if training else {})}


def draw(known: optuna.Study, over: dict, base: Config) -> tuple[optuna.Trial, Config]:
    """The next trial that is possible, and its settings."""
    for _ in range(MOST_IMPOSSIBLE):
        trial = known.ask(over)
        try:
            chosen = overridden(base, study.as_settings(trial.params, base))
            require_bands(chosen)
            return trial, chosen
        except ValueError as error:
            why = str(error)
            note(known, trial, trials.Outcome({}, why=why))
    raise InputError(f"none of {MOST_IMPOSSIBLE} draws is possible; of the last one, {why}")


def note(known: optuna.Study, trial: optuna.Trial, outcome: trials.Outcome | KilledProcess) -> None:
    """Tell the study, and the user, what came of a trial; Optuna's dashboard shows why."""
    name = f"trial {trial.number}"
    if isinstance(outcome, KilledProcess):
        trial.set_user_attr(study.KILLED, True)
        known.tell(trial, state=TrialState.PRUNED)
        print(f"{name}: the system killed it, most likely for want of memory")
        return
    for epoch, lwlrap in outcome.epochs.items():
        trial.report(lwlrap, epoch)
    if outcome.score is not None:
        known.tell(trial, outcome.score)
        print(f"{name}: out-of-fold lwlrap {outcome.score:.4f}")
        return
    if outcome.why:
        trial.set_user_attr("why", outcome.why)
    known.tell(trial, state=TrialState.PRUNED)
    why = f"not possible: {outcome.why}" if outcome.why else "given up, below the median"
    print(f"{name}: {why}")


def require_bands(config: Config) -> None:
    """ValueError if there are mel bands without any frequency of the FFT."""
    names = ("sample_rate", "n_dft", "n_mels", "fmin", "fmax", "htk", "norm")
    with warnings.catch_warnings():  # librosa's, of the same
        warnings.simplefilter("ignore")
        matrix = logmel.mel_matrix(**config.values(names))
    if empty := int((~matrix.any(axis=1)).sum()):
        what = f"{empty} of {config.n_mels} mel bands are narrower"
        raise ValueError(f"{what} than an FFT of {config.n_dft} samples resolves")


def table(known: optuna.Study) -> pd.DataFrame:
    """The best trials side by side, with the importance of each setting."""
    columns = {}
    for trial in study.best_first(known)[:SHOWN]:
        minutes = trial.duration.total_seconds() / 60
        shown = {"lwlrap": trial.value, "minutes": minutes, **trial.params}
        columns[f"trial {trial.number}"] = shown
    return pd.DataFrame({**columns, "importance": study.importances(known)})


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        __doc__.splitlines()[0], "one, the first of these in the profile", folds="0"
    )
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
