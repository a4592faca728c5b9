"""Stage 4: predict the test clips with every fold's network, and gather the out-of-fold scores.

Out-of-fold (OOF) scores are those of the kept epoch of each fold on its own validation clips,
written by train.py; test scores are the mean over the folds. The noisy clips are scored by one
network, for the report only. All with 3-TTA.
"""

import pandas as pd

from config import Config
from runs import command_line, tasks, work
from runs.run import Run
from runs.tasks import Task
from storage import read_scores, write_scores


@command_line.stage
def main(run: Run) -> None:
    command_line.require_backend([config for config in run.configs if config.trains_front_end])
    run.clips("test").require()
    n_test = len(run.examples("test"))
    # All that is missing is said before hours of work.
    if n_test:
        run.require_made_of_clips("test", run.configs)
    run.require_folds()
    if not n_test:
        print("no test clips to predict")
    pending = [
        Task(f"{config.name} fold {fold}", work.predict_fold, Run.scores, (config, fold, "test"))
        for config in run.configs
        for fold in run.folds
        if n_test and run.is_pending(run.scores(config, fold, "test"))
    ]
    if run.noisy_scores and run.is_pending(run.noisy_scores):
        run.clips("noisy").require()
        run.require_made_of_clips("noisy", [run.noisy_scorer[0]])
        args = (*run.noisy_scorer, "noisy")
        pending.append(Task("noisy clips", work.predict_fold, Run.scores, args))
    tasks.run_all(run, pending)
    for config in run.configs:
        if run.is_pending(run.predictions(config)):
            gather(run, config)


def gather(run: Run, config: Config) -> None:
    """The folds' out-of-fold scores as one table, and the mean of their test scores."""
    result, classes = run.predictions(config), run.dataset.classes
    result.unseal()
    tables = [read_scores(run.fold(config, fold).path(".scores.csv")) for fold in run.folds]
    oof = pd.concat(tables)
    fnames = [fname for fname in run.dataset["curated"].fnames if fname in oof.index]
    write_scores(result.path("oof.csv"), fnames, classes, oof.loc[fnames].to_numpy())
    written = f"{result.path('oof.csv')} ({len(fnames)} clips)"
    if "test.csv" in result.files:
        paths = [run.scores(config, fold, "test").path(".csv") for fold in run.folds]
        scores = sum(read_scores(path).to_numpy() for path in paths) / len(paths)  # one at a time
        path = result.path("test.csv")
        write_scores(path, run.dataset["test"].fnames, classes, scores)
        written += f" and {path} ({len(scores)} clips, mean of {len(paths)} folds)"
    result.seal()
    print(f"{config.name}: wrote {written}")


if __name__ == "__main__":
    main()
