"""Stage 4: predict the test clips with every fold's network, and gather the out-of-fold scores.

Out-of-fold (OOF) scores are those of the kept epoch of each fold on its own validation clips,
written by train.py; test scores are the mean over the folds. Both with 3-TTA.
"""

import keras
import numpy as np
import pandas as pd

import command_line
from batches import Examples
from config import Config
from outputs import read_scores, write_scores
from prediction import Predictor
from run import Run
from views import with_views


@command_line.stage
def main(run: Run) -> None:
    test = run.examples("test")
    # All that is missing is said before hours of work.
    for config in run.configs:
        for fold in run.folds:
            run.fold(config, fold).require(run.fold_source(config, fold))
    for config in run.configs:
        predict_test(run, config, test)
        gather(run, config)


def predict_test(run: Run, config: Config, test: Examples) -> None:
    """Each fold's scores of the test clips, unless they are there already."""
    if not len(test):
        print(f"{config.name}: no test clips to predict")
        return
    predictor = viewed = None  # made once, where there is something to predict
    for fold in run.folds:
        result, source = (
            run.fold_test_scores(config, fold),
            run.fold_test_scores_source(config, fold),
        )
        if not run.is_pending(result, source):
            continue
        result.unseal()
        viewed = viewed or with_views(test, run, "test", config)
        predictor = predictor or Predictor(config, len(run.dataset.classes))
        predictor.load_weights(run.fold(config, fold).files["weights"])
        label, fingerprint = f"{config.name} fold {fold}", result.fingerprint(source)
        scores = predictor.predict(viewed, label, result.checkpoint, fingerprint)
        write_scores(result.files["scores"], test.store.fnames, run.dataset.classes, scores)
        result.seal(source)
    keras.backend.clear_session()


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
    result.seal(run.predictions_source(config))
    print(f"{config.name}: wrote {written}")


if __name__ == "__main__":
    main()
