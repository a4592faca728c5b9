"""Stage 3: train each experiment fold by fold on the curated clips, from the pretrained weights."""

import dataclasses

import command_line
import training
from errors import InputError
from run import Run
from views import with_views


@command_line.stage
def main(run: Run) -> None:
    curated = run.examples("curated")
    fold_of = run.folds_of_clips()[curated.clips]
    starts = {config.name: run.starting_point(config) for config in run.configs}
    for config in run.configs:
        trainer = scored = None  # made once, where there is something to train
        for fold in run.folds:
            result, source = run.fold(config, fold), run.fold_source(config, fold)
            if not run.is_pending(result, source):
                continue
            scored = scored or with_views(curated, run, "curated", config)
            trainer = trainer or training.Trainer(config, len(run.dataset.classes))
            others = dataclasses.replace(curated, clips=curated.clips[fold_of != fold])
            validated = dataclasses.replace(scored, clips=curated.clips[fold_of == fold])
            if not (len(others) and len(validated)):
                raise InputError(f"fold {fold} has no readable clip to train on or to score")
            job = training.Job(
                f"fold{fold}", others, validated, config.training, starts[config.name]
            )
            training.make(result, source, trainer, job, run.dataset.classes)


if __name__ == "__main__":
    main()
