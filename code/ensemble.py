"""Stage 5: stack the experiments' scores into one submission, and print the scores of all."""

import functools
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import log_loss

import messages
from messages import InputError, PipelineError
from runs import command_line
from runs.resume import write_weights
from runs.run import Run
from solution import metrics
from solution.folds import assign_folds_by_name
from solution.stacker import build_stacker, stack, stacker_input, train_stacker
from solution.training import without_optimiser
from storage import read_scores, size_and_checksum, write_scores, written_whole
from trained import calibration
from trained import ensemble as trained
from trained.calibration import Calibration, expected_calibration_error, top_label

CHANCE_DRAWS = 20
HELD_OUT = "ensemble, held out"
NOTE = f"""
Out of fold, epochs of networks and stackers were chosen by the clips that are scored, as published:
optimistic by a little. {HELD_OUT!r}: by stackers that know nothing of the clips."""
CALIBRATION = "calibration.csv"
CALIBRATION_NOTE = """
Of the test clips. ECE: expected calibration error of all classes, and of each clip's first tag
alone. Probabilities are learnt out of fold; tag.py shows them."""


@command_line.stage
def main(run: Run) -> None:
    run.clips("curated").require()
    curated = run.examples("curated")
    run.require_folds()  # whose weights the ensemble will name
    for config in run.configs:
        run.predictions(config).require()
    clips = curated.clips[np.isin(run.clip_folds()[curated.clips], run.folds)]
    fnames, truth = [curated.store.fnames[clip] for clip in clips], curated.labels[clips]
    said = "see"
    if run.is_pending(run.ensemble):
        run.ensemble.unseal()
        write_ensemble(run, fnames, truth)
        run.ensemble.seal()
        said = "wrote"
    for file, note in (("scores.csv", NOTE), (CALIBRATION, CALIBRATION_NOTE)):
        if file in run.ensemble.files:
            table = pd.read_csv(run.ensemble.path(file))
            print("\n" + table.to_string(index=False, float_format="{:.4f}".format, na_rep=""))
            print(note)
    print(f"\n{said} " + ", ".join(str(run.root / file) for file in run.ensemble.files))
    if "submission.csv" not in run.ensemble.files:
        print("no test clips, so no submission")


def read_predictions(run: Run, file: str, fnames: list[str]) -> dict[str, np.ndarray]:
    """Every experiment's scores of the given clips, by its name: (clips, classes) each.

    file : "oof.csv" or "test.csv"
    """
    tables = {config.name: run.predictions(config).path(file) for config in run.configs}
    return {name: read_scores(path).loc[fnames].to_numpy() for name, path in tables.items()}


def write_ensemble(run: Run, fnames: list[str], truth: np.ndarray) -> None:
    """Train the stackers, score the test clips, and write all tables.

    fnames, truth : of the curated clips that have scores
    """
    result, classes, test = run.ensemble, run.dataset.classes, run.dataset["test"]
    oof = read_predictions(run, "oof.csv", fnames)
    predicted = read_predictions(run, "test.csv", test.fnames) if len(test) else {}
    weights = [config.stack_weight for config in run.configs]
    inputs = stacker_input([*oof.values()], weights)  # (clips, classes, experiments + 1)
    oof["average"] = inputs[..., -1]
    oof["ensemble"], oof[HELD_OUT] = train_stackers(run, fnames, inputs, truth)
    # Not of the scores by which the stackers' epochs were chosen: those are surer than they may be.
    learnt_from = {config.name: oof[config.name] for config in run.configs}
    learnt_from["ensemble"] = oof[HELD_OUT]
    watched = messages.watched(learnt_from.items(), "probabilities", len(learnt_from), "model")
    calibrations = {name: calibration.fit(one, truth) for name, one in watched}
    ensemble = describe(run, calibrations)
    if predicted:
        scores = ensemble.stack(predicted)
        predicted |= {"average": ensemble.mean(predicted), "ensemble": scores}
    for scores in (oof, predicted):
        if scores and not ((scores["ensemble"] >= 0) & (scores["ensemble"] <= 1)).all():
            raise PipelineError("the stacker's scores are not in [0, 1]: no submission was written")
    write_scores(result.path("oof.csv"), fnames, classes, oof["ensemble"])
    for file in ("submission.csv", CALIBRATION):  # of earlier test clips and labels, perhaps
        (run.root / file).unlink(missing_ok=True)
    if predicted:
        write_scores(result.path("submission.csv"), test.fnames, classes, predicted["ensemble"])
    tables = {
        "scores.csv": score_table(run, truth, oof, predicted),
        "per_class.csv": class_table(run, truth, oof, predicted),
    }
    if CALIBRATION in result.files:
        tables[CALIBRATION] = calibration_table(calibrations, test.labels, predicted)
    for file, table in tables.items():
        with written_whole(result.path(file)) as path:
            table.to_csv(path, index=False)
    trained.write(ensemble)


def train_stackers(
    run: Run, fnames: list[str], inputs: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Train one stacker per fold on the clips of the others, and write their weights.

    inputs : (clips, classes, channels), out-of-fold scores as `stacker_input` gives
    truth : multi-hot (clips, classes)

    Gives each clip's score from the stacker that was not trained on it, but whose epoch was chosen
    by it, as published; and the same from stackers that know nothing of the clip: the epoch is
    chosen by another fold's clips, which they do not learn from either.
    """
    config, stacked, held_out = run.configs[0], np.empty(truth.shape), np.empty(truth.shape)
    fold_of = stacker_folds(run, fnames, truth)
    network = without_optimiser(build_stacker(*inputs.shape[1:]))
    for fold in range(config.n_folds):
        name, validated = f"stacker fold {fold}", fold_of == fold
        n_epochs = config.stacker_epochs
        watch = functools.partial(messages.watched, label=name, total=n_epochs, unit="epoch")
        kept = train_stacker(inputs, truth, ~validated, validated, config, name, watch)
        network.set_weights(kept.weights)
        write_weights(run.ensemble.path(f"stacker/fold{fold}.weights.h5"), network)
        stacked[validated] = kept.scores
        print(f"{name}: wrote its weights (epoch {kept.epoch}, LRAP {kept.lrap:.4f})")
        other = fold_of == (fold + 1) % config.n_folds
        if config.n_folds == 2:  # half of it is left to learn from
            other &= np.cumsum(other) % 2 == 1
        kept = train_stacker(inputs, truth, ~(validated | other), other, config, name, watch)
        held_out[validated] = stack(inputs[validated], [kept.weights])
    return stacked, held_out


def stacker_folds(run: Run, fnames: list[str], truth: np.ndarray) -> np.ndarray:
    """The folds of the clips that have scores, int (clips,); where all have, the fold table's."""
    config, groups = run.configs[0], run.dataset["curated"].groups
    if len(fnames) < config.n_folds:
        raise InputError(
            f"{len(fnames)} clips with scores cannot fill the {config.n_folds} folds of the "
            "stackers: name more --folds"
        )
    if groups is not None:
        groups = groups[pd.Index(run.dataset["curated"].fnames).get_indexer(fnames)]
        if len(set(groups)) < config.n_folds:  # of few networks' clips
            groups = None
    return assign_folds_by_name(fnames, truth, config.n_folds, config.fold_seed, groups)


def describe(run: Run, calibrations: dict[str, Calibration]) -> trained.Ensemble:
    """What tag.py and kernel.py need to know of the ensemble, all of whose weights are there."""

    def described(result, file: str) -> trained.File:
        path = result.path(file)
        # Of networks the record has it; the ensemble's own record is not written yet.
        known = size_and_checksum(path) if result is run.ensemble else result.checksums()[file]
        return trained.File(str(path.relative_to(run.root)), *known)

    networks = {
        config.name: [described(run.fold(config, fold), ".weights.h5") for fold in run.folds]
        for config in run.configs
    }
    files = [file for file in run.ensemble.files if file.startswith("stacker/")]
    stackers = [described(run.ensemble, file) for file in files]
    classes = run.dataset.classes
    return trained.Ensemble(
        run.root, classes, run.configs, run.folds, networks, stackers, calibrations
    )


# --- the tables of scores -------------------------------------------------------------------------


def score_table(run: Run, truth: np.ndarray, oof: dict, test: dict) -> pd.DataFrame:
    """LRAP and lwlrap of every experiment, the ensemble and chance.

    oof, test : scores (clips, classes) by model name; `test` is empty where there are no test clips
    """
    table = pd.DataFrame({"model": [*oof, "chance"]})

    def add(column: str, metric: Callable, truth: np.ndarray, scored: dict) -> None:
        """The metric of each model and, of random scores, its mean over some draws."""
        rng = np.random.default_rng(0)
        draws = [metric(truth, rng.random(truth.shape)) for _ in range(CHANCE_DRAWS)]
        found = {name: metric(truth, scores) for name, scores in scored.items()}
        table[column] = table["model"].map({**found, "chance": np.mean(draws)})

    add("OOF LRAP", metrics.lrap, truth, oof)
    add("OOF lwlrap", metrics.lwlrap, truth, oof)
    split = run.dataset["test"]
    if test and split.labels is not None:
        add("test lwlrap", metrics.lwlrap, split.labels, test)
        for usage in ("Public", "Private") if split.usage is not None else ():
            clips = split.usage == usage
            if clips.any():
                of_these = {name: scores[clips] for name, scores in test.items()}
                add(f"test lwlrap {usage}", metrics.lwlrap, split.labels[clips], of_these)
    return table.assign(minutes=[training_minutes(run, name) for name in table["model"]])


def class_table(run: Run, truth: np.ndarray, oof: dict, test: dict) -> pd.DataFrame:
    """The ensemble's lwlrap of each class, NaN where it has no labels, and its number of labels."""
    known, of_test = {"OOF": (truth, oof["ensemble"])}, run.dataset["test"].labels
    if test and of_test is not None:
        known["test"] = of_test, test["ensemble"]
    table = {"class": run.dataset.classes}
    for name, (labels, scores) in known.items():
        lwlrap, weight = metrics.per_class_lwlrap(labels, scores)
        table[f"{name} labels"] = labels.sum(axis=0)
        table[f"{name} lwlrap"] = np.where(weight > 0, lwlrap, np.nan)
    return pd.DataFrame(table)


def calibration_table(
    calibrations: dict[str, Calibration], truth: np.ndarray, test: dict
) -> pd.DataFrame:
    """Log loss and expected calibration errors of the test clips' scores and probabilities.

    calibrations, test : by model name; scores are (test clips, classes), as is the multi-hot truth
    """
    rows = []
    for name, one in calibrations.items():
        kinds = {"score": test[name], "probability": one.probabilities(test[name])}
        for kind, values in kinds.items():
            row = {"model": name, "taken for a probability": kind}
            row["log loss"] = log_loss(truth.ravel(), values.ravel(), labels=[0, 1])
            row["ECE"] = expected_calibration_error(values, truth)
            row["ECE of first tags"] = expected_calibration_error(*top_label(values, truth))
            rows.append(row)
    return pd.DataFrame(rows)


def training_minutes(run: Run, experiment: str) -> float:
    """Minutes of training and scoring of an experiment's folds and its own pretraining."""
    parts = ["pretrained", *(f"fold{fold}" for fold in run.folds)]
    paths = [run.root / "models" / experiment / f"{part}.history.csv" for part in parts]
    seconds = [pd.read_csv(path)["seconds"].sum() for path in paths if path.is_file()]
    return sum(seconds) / 60 if seconds else np.nan


if __name__ == "__main__":
    main()
