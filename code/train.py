"""Stage 3: train each experiment fold by fold on the curated clips, from the pretrained weights."""

import dataclasses

from config import Config
from fast import gpus
from messages import InputError
from runs import command_line
from runs.run import Run
from solution import training
from solution.models import require_backend


@command_line.stage
def main(run: Run) -> None:
    require_backend(run.configs)
    run.require_clips("curated")
    run.examples("curated")
    run.folds_of_clips()
    for config in run.configs:
        run.starting_point(config)  # what is missing is said before hours of work
    pending = [
        (config, fold)
        for config in run.configs
        for fold in run.folds
        if run.is_pending(run.fold(config, fold))
    ]
    gpus.share_out(train_folds, run, pending)


def train_folds(run: Run, tasks: list[tuple[Config, int]]) -> None:
    """Train these folds of these experiments, one after the other."""
    curated = run.examples("curated")
    fold_of, classes = run.folds_of_clips()[curated.clips], run.dataset.classes
    trainer = None
    for config, fold in tasks:
        others = dataclasses.replace(curated, clips=curated.clips[fold_of != fold])
        if trainer is None or trainer.config != config:
            trainer = training.Trainer(config, len(classes))  # serves all folds of an experiment
            scored, start = run.with_views(curated, "curated", config), run.starting_point(config)
        validated = dataclasses.replace(scored, clips=curated.clips[fold_of == fold])
        if not (len(others) and len(validated)):
            raise InputError(f"fold {fold} has no readable clip to train on or to score")
        job = training.Job(f"fold{fold}", others, validated, config.training, start)
        training.make(run.fold(config, fold), trainer, job, classes)


if __name__ == "__main__":
    main()
