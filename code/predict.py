"""Stage 4: predict the test clips with every fold's network, and gather the out-of-fold scores.

Out-of-fold (OOF) scores are those of the kept epoch of each fold on its own validation clips,
written by train.py; test scores are the mean over the folds. The noisy clips are scored by one
network, for the report only. All with 3-TTA.
"""

import numpy as np
import pandas as pd

import messages
from config import Config
from fast import gpus
from messages import PipelineError
from runs import command_line
from runs.run import Run
from solution.crops import Examples
from solution.scoring import Scorer
from storage import Checkpoint, read_scores, write_scores


@command_line.stage
def main(run: Run) -> None:
    command_line.require_backend([config for config in run.configs if config.trains_front_end])
    run.require_clips("test")
    n_test = len(run.examples("test"))
    # All that is missing is said before hours of work.
    if n_test:
        run.require_made_of_clips("test", run.configs)
    for config in run.configs:
        for fold in run.folds:
            run.fold(config, fold).require()
    if not n_test:
        print("no test clips to predict")
    pending = [
        (config, fold, "test")
        for config in run.configs
        for fold in run.folds
        if n_test and run.is_pending(run.test_scores(config, fold))
    ]
    if run.noisy_scores and run.is_pending(run.noisy_scores):
        run.require_clips("noisy")
        run.require_made_of_clips("noisy", [run.noisy_scorer[0]])
        pending.append((*run.noisy_scorer, "noisy"))
    gpus.share_out(predict_folds, run, pending)
    for config in run.configs:
        gather(run, config)


def predict_folds(run: Run, tasks: list[tuple[Config, int, str]]) -> None:
    """Score the clips of a split with the network of a fold, one after the other."""
    classes, scorer = run.dataset.classes, None
    for config, fold, split in tasks:
        if scorer is None or scorer.config != config:
            scorer = Scorer(config, len(classes))  # serves all folds of an experiment
        if split == "test":
            clips, result = run.examples("test", config), run.test_scores(config, fold)
        else:
            clips, result = run.examples("noisy", config), run.noisy_scores
        result.unseal()
        scorer.load_weights(run.fold(config, fold).path(".weights.h5"))
        label = f"{config.name} fold {fold}" + " on noisy clips" * (split == "noisy")
        scores = score_all(scorer, clips, label, result.checkpoint)
        if not np.isfinite(scores).all():
            raise PipelineError(
                f"{label} gives scores that are no numbers: train it again with "
                "precision='float32' in code/config.py"
            )
        fnames = [clips.store.fnames[clip] for clip in clips.clips]
        write_scores(result.path(".csv"), fnames, classes, scores)
        result.seal()


def score_all(scorer: Scorer, clips: Examples, label: str, checkpoint: Checkpoint) -> np.ndarray:
    """Scores of all clips, float32 (clips, classes); goes on after those of the checkpoint."""
    saved, parts, n_done = checkpoint.load(), [], 0
    if saved:
        parts, n_done = [saved["scores"]], len(saved["scores"])
        print(f"{label}: going on after the first {n_done} clips")
    with messages.progress_bar(label, len(clips), done=n_done) as bar:
        for _, scores in scorer.scores(clips, n_done):
            parts.append(scores)
            bar.update(len(scores))
            if checkpoint.is_due():
                checkpoint.save({"scores": np.concatenate(parts)})
    return np.concatenate(parts)


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
        paths = [run.test_scores(config, fold).path(".csv") for fold in run.folds]
        scores = np.mean([read_scores(path).to_numpy() for path in paths], axis=0)
        path = result.path("test.csv")
        write_scores(path, run.dataset["test"].fnames, classes, scores)
        written += f" and {path} ({len(scores)} clips, mean of {len(paths)} folds)"
    result.seal()
    print(f"{config.name}: wrote {written}")


if __name__ == "__main__":
    main()
