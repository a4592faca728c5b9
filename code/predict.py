"""Stage 4: predict the test clips with every fold's network, and gather the out-of-fold scores.

Out-of-fold (OOF) scores are those of the kept epoch of each fold on its own validation clips,
written by train.py; test scores are the mean over the folds. Both with 3-TTA.
"""

import numpy as np
import pandas as pd

import command_line
from models import build_tagger
from outputs import read_scores, write_scores
from training import predict


@command_line.stage
def main() -> None:
    run = command_line.parse(__doc__)
    classes, test = run.dataset.classes, run.examples("test")
    weights = {
        config.name: [run.weights(config.name, f"fold{fold}", "train") for fold in run.folds]
        for config in run.configs
    }
    for config in run.configs:
        gather_oof(run, config.name)
        if not len(test):
            print(f"{config.name}: no test clips to predict")
            continue
        model = build_tagger(config, len(classes))
        scores = np.zeros((len(test), len(classes)), np.float32)
        for fold, path in zip(run.folds, weights[config.name], strict=True):
            model.load_weights(path)
            scores += predict(model, test, config, f"{config.name} fold {fold}") / len(run.folds)
        path = run.outputs.predictions(config.name, "test")
        write_scores(path, test.store.fnames, classes, scores)
        print(f"{config.name}: wrote {path} ({len(test)} clips, mean of {len(run.folds)} folds)")


def gather_oof(run: command_line.Run, experiment: str) -> None:
    """One table of the folds' out-of-fold scores, in the order of the curated clips."""
    tables = [
        read_scores(
            run.outputs.model(experiment, f"fold{fold}", "oof.csv"), run.dataset.classes, "train"
        )
        for fold in run.folds
    ]
    table = pd.concat(tables)
    fnames = [fname for fname in run.dataset["curated"].fnames if fname in table.index]
    path = run.outputs.predictions(experiment, "oof")
    write_scores(path, fnames, run.dataset.classes, table.loc[fnames].to_numpy())
    print(f"{experiment}: wrote {path} ({len(fnames)} clips)")


if __name__ == "__main__":
    main()
