"""What tasks do: pretrain a network, train a fold, predict with a fold; from files to files."""

import functools

import numpy as np

import messages
from config import Config
from messages import InputError, PipelineError
from runs import resume
from runs.run import Run
from runs.tasks import Task
from solution.crops import Examples
from solution.scoring import Scorer
from solution.training import Learner, Training
from storage import Checkpoint, write_scores

# What serves all folds of an experiment is kept until the next one's turn.
_learner, _scorer = (functools.lru_cache(maxsize=1)(kind) for kind in (Learner, Scorer))
_examples = functools.lru_cache(maxsize=1)(Run.examples)


def pretrainings(run: Run) -> list[Task]:
    """The pretrainings that are still to be made, after a look at what they take.

    PipelineError if clips or log-mels are not there, or no clip can be read.
    """
    for split in ("noisy", "curated"):
        run.clips(split).require()
    noisy, curated = run.examples("noisy"), run.examples("curated")
    if not len(run.dataset["noisy"]):
        print("pretrain: no noisy clips, so training will start from random weights")
        return []
    if not len(noisy):
        raise InputError(
            "no noisy clip can be read: mend them, or take their table away to train without "
            "pretraining"
        )
    if not len(curated):
        raise InputError("no curated clip can be read: mend them, as there is nothing to train on")
    pending = [config for config in run.pretrainings() if run.is_pending(run.pretrained(config))]
    for split in ("noisy", "curated"):
        run.require_made_of_clips(split, pending)
    return [
        Task(f"{config.name} pretrained", pretrain, Run.pretrained, (config,)) for config in pending
    ]


def pretrain(run: Run, config: Config) -> None:
    """Pretrain the network of an experiment on all noisy clips, scored on all curated ones."""
    classes = run.dataset.classes
    training = Training(
        _learner(config, len(classes), config.pretraining.loss_q),
        "pretrained",
        run.examples("noisy", config),
        _examples(run, "curated", config),
        config.pretraining,
        watch=resume.watch,
    )
    resume.complete(run.pretrained(config), training, classes)


def train_fold(run: Run, config: Config, fold: int) -> None:
    """Train the network of an experiment on the clips of the other folds, scored on this one's."""
    classes, start = run.dataset.classes, run.pretraining_of(config)
    learner = _learner(config, len(classes), config.training.loss_q)
    others, validation = run.divided(_examples(run, "curated", config), fold)
    weights = start.path(".weights.h5") if start else None
    training = Training(
        learner, f"fold{fold}", others, validation, config.training, weights, resume.watch
    )
    resume.complete(run.fold(config, fold), training, classes)


def predict_fold(run: Run, config: Config, fold: int, split: str) -> None:
    """Score the clips of a split with the network of a fold."""
    classes, result = run.dataset.classes, run.scores(config, fold, split)
    scorer, clips = _scorer(config, len(classes)), _examples(run, split, config)
    scorer.load_weights(run.fold(config, fold).path(".weights.h5"))
    label = f"{config.name} fold {fold}" + " on noisy clips" * (split == "noisy")
    found = score_all(scorer, clips, label, result.checkpoint)
    if not np.isfinite(found).all():
        raise PipelineError(
            f"{label} gives scores that are no numbers: train it again with "
            '--settings FILE with {"precision": "float32"}'
        )
    result.unseal()
    fnames = [clips.store.fnames[clip] for clip in clips.clips]
    write_scores(result.path(".csv"), fnames, classes, found)
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
