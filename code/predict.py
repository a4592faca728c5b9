"""Stage 4: predict the test clips with every fold's network, and gather the out-of-fold scores.

Out-of-fold (OOF) scores are those of the kept epoch of each fold on its own validation clips,
written by train.py; test scores are the mean over the folds. Both with 3-TTA.
"""

import numpy as np
import pandas as pd

from config import Config
from fast import gpus
from messages import PipelineError
from runs import command_line
from runs.run import Run
from solution.scoring import Predictor
from storage import read_scores, write_scores


@command_line.stage
def main(run: Run) -> None:
    run.require_clips("test")
    test = run.examples("test")
    # All that is missing is said before hours of work.
    for config in run.configs:
        for fold in run.folds:
            run.fold(config, fold).require()
    if not len(test):
        print("no test clips to predict")
    pending = [
        (config, fold)
        for config in run.configs
        for fold in run.folds
        if len(test) and run.is_pending(run.fold_test_scores(config, fold))
    ]
    gpus.share_out(predict_folds, run, pending)
    for config in run.configs:
        gather(run, config)


def predict_folds(run: Run, tasks: list[tuple[Config, int]]) -> None:
    """Score the test clips with the networks of these folds, one after the other."""
    test, classes, predictor = run.examples("test"), run.dataset.classes, None
    for config, fold in tasks:
        if predictor is None or predictor.config != config:
            predictor = Predictor(config, len(classes))  # serves all folds of an experiment
            viewed = run.with_views(test, "test", config)
        result = run.fold_test_scores(config, fold)
        result.unseal()
        predictor.load_weights(run.fold(config, fold).files["weights"])
        label = f"{config.name} fold {fold}"
        scores = predictor.predict(viewed, label, result.checkpoint)
        if not np.isfinite(scores).all():
            raise PipelineError(
                f"{label} gives scores that are no numbers: train it again with "
                "precision='float32' in code/config.py"
            )
        write_scores(result.files["scores"], test.store.fnames, classes, scores)
        result.seal()


def gather(run: Run, config: Config) -> None:
    """The folds' out-of-fold scores as one table, and the mean of their test scores."""
    result, classes = run.predictions(config), run.dataset.classes
    result.unseal()
    tables = [read_scores(run.fold(config, fold).files["scores"]) for fold in run.folds]
    oof = pd.concat(tables)
    fnames = [fname for fname in run.dataset["curated"].fnames if fname in oof.index]
    write_scores(result.files["oof"], fnames, classes, oof.loc[fnames].to_numpy())
    written = f"{result.files['oof']} ({len(fnames)} clips)"
    if "test" in result.files:
        paths = [run.fold_test_scores(config, fold).files["scores"] for fold in run.folds]
        scores = np.mean([read_scores(path).to_numpy() for path in paths], axis=0)
        write_scores(result.files["test"], run.dataset["test"].fnames, classes, scores)
        written += f" and {result.files['test']} ({len(scores)} clips, mean of {len(paths)} folds)"
    result.seal()
    print(f"{config.name}: wrote {written}")


if __name__ == "__main__":
    main()
