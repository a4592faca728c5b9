"""Stage 3: train each experiment fold by fold on the curated clips, from the pretrained weights."""

import dataclasses

from config import Config
from fast import gpus
from messages import InputError
from runs import command_line, resume
from runs.run import Run
from solution.training import Learner, Training


@command_line.stage
def main(run: Run) -> None:
    command_line.require_backend(run.configs)
    run.require_clips("curated")
    run.examples("curated")
    run.clip_folds()
    run.require_made_of_clips("curated", run.configs)
    for config in run.configs:  # what is missing is said before hours of work
        if start := run.start(config):
            start.require()
    pending = [
        (config, fold)
        for config in run.configs
        for fold in run.folds
        if run.is_pending(run.fold(config, fold))
    ]
    gpus.share_out(train_folds, run, pending)


def train_folds(run: Run, tasks: list[tuple[Config, int]]) -> None:
    """Train these folds of these experiments, one after the other."""
    classes, learner = run.dataset.classes, None
    for config, fold in tasks:
        if learner is None or learner.config != config:  # they serve all folds of an experiment
            learner = Learner(config, len(classes))
            curated, start = run.examples("curated", config), run.start(config)
        held_out = run.clip_folds()[curated.clips] == fold
        others = dataclasses.replace(curated, clips=curated.clips[~held_out])
        validation = dataclasses.replace(curated, clips=curated.clips[held_out])
        if not (len(others) and len(validation)):
            raise InputError(f"fold {fold} has no readable clip to train on or to score")
        weights = start.path(".weights.h5") if start else None
        training = Training(
            learner, f"fold{fold}", others, validation, config.training, weights, resume.watch
        )
        resume.complete(run.fold(config, fold), training, classes)


if __name__ == "__main__":
    main()
