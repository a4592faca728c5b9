"""Stage 5: stack the experiments' scores into one submission, and print the scores of all."""

import numpy as np

from clips.dataset import assign_folds
from messages import PipelineError
from runs import command_line, report
from runs.run import Run
from solution.stacker import StackerTrainer, build_stacker, stacker_input
from storage import read_scores, write_scores
from trained import ensemble as trained

__all__ = ["build_stacker", "main", "stack"]


def stack(run: Run, fnames: list[str], oof: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Train one stacker per fold, unless it is there already.

    Parameters
    ----------
    fnames : names of the curated clips that have scores
    oof : (clips, classes, channels)
    truth : multi-hot (clips, classes)

    Returns
    -------
    (clips, classes), each clip's score from the stacker that was not trained on it
    """
    config, classes, trainer = run.configs[0], run.dataset.classes, None
    # Of the clips that have scores; where all have, this is the fold table.
    fold_of = assign_folds(truth, config.n_folds, config.fold_seed)
    stacked = np.empty(truth.shape)
    for fold in range(config.n_folds):
        result = run.stacker(fold)
        validated = np.flatnonzero(fold_of == fold)
        if run.is_pending(result):
            result.unseal()
            trainer = trainer or StackerTrainer(oof, truth, fold_of, config)
            kept = trainer.fit(fold, result.checkpoint)
            names = [fnames[clip] for clip in validated]
            write_scores(result.files["scores"], names, classes, kept.scores)
            trainer.state.write_weights(result.files["weights"], kept)
            result.seal()
            print(f"{result.name}: wrote its weights (epoch {kept.epoch}, LRAP {kept.lrap:.4f})")
        stacked[validated] = read_scores(result.files["scores"]).to_numpy()
    return stacked


def read_predictions(run: Run, part: str, fnames: list[str]) -> dict[str, np.ndarray]:
    """Every experiment's scores of the given clips, by its name: (clips, classes) each.

    part : "oof" or "test"

    Raises
    ------
    MissingResult
        If some are missing, damaged, or were predicted for other clips, folds or settings.
    """
    scores = {}
    for config in run.configs:
        for fold in run.folds:  # of the present settings, not only of the same folds
            run.fold(config, fold).require()
        result = run.predictions(config)
        result.require()
        scores[config.name] = read_scores(result.files[part]).loc[fnames].to_numpy()
    return scores


def describe(run: Run) -> trained.Trained:
    """What tag.py and kernel.py need to know of the ensemble, all of whose results are there."""
    root, n_stackers = run.outputs.root, run.configs[0].n_folds
    results = [run.fold(config, fold) for config in run.configs for fold in run.folds]
    results += [run.stacker(fold) for fold in range(n_stackers)]
    checksums = {
        str(result.files["weights"].relative_to(root)): result.checksums()["weights"]
        for result in results
    }
    classes = run.dataset.classes
    return trained.Trained(root, classes, run.configs, run.folds, n_stackers, checksums)


@command_line.stage
def main(run: Run) -> None:
    classes, test = run.dataset.classes, run.dataset["test"]
    run.require_clips("curated")
    curated = run.examples("curated")
    clips = curated.clips[np.isin(run.folds_of_clips()[curated.clips], run.folds)]
    fnames, truth = [curated.store.fnames[clip] for clip in clips], curated.labels[clips]
    oof = read_predictions(run, "oof", fnames)
    result, stackers = run.ensemble(), range(run.configs[0].n_folds)
    if any(run.stacker(fold).fault() for fold in stackers):
        result.unseal()  # which tag.py needs them for
    if run.is_pending(result):
        result.unseal()
        weights = [config.stack_weight for config in run.configs]
        oof["ensemble"] = stack(run, fnames, stacker_input([*oof.values()], weights), truth)
        ensemble, predicted = describe(run), {}
        if len(test):
            predicted = read_predictions(run, "test", test.fnames)
            predicted["ensemble"] = ensemble.stack(predicted)
        for scores in (oof, predicted):
            if scores and not ((scores["ensemble"] >= 0) & (scores["ensemble"] <= 1)).all():
                raise PipelineError(
                    "the stacker's scores are not in [0, 1]: no submission was written"
                )
        report.write(run, truth, oof, predicted)
        write_scores(result.files["oof"], fnames, classes, oof["ensemble"])
        run.outputs.table("submission").unlink(missing_ok=True)  # of an earlier test set, perhaps
        if predicted:
            write_scores(result.files["submission"], test.fnames, classes, predicted["ensemble"])
        trained.write(ensemble)
        result.seal()
    report.show(result)


if __name__ == "__main__":
    main()
