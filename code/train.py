"""Stage 3: train each experiment fold by fold on the curated clips, from the pretrained weights."""

import dataclasses

import command_line
import training
from outputs import write_scores


@command_line.stage
def main() -> None:
    run = command_line.parse(__doc__)
    curated = run.examples("curated")
    fold_of = run.fold_table()[curated.clips]
    starts = {config.name: run.starting_weights(config) for config in run.configs}
    for config in run.configs:
        trainer = training.Trainer(config, len(run.dataset.classes))
        for fold in run.folds:
            others = dataclasses.replace(curated, clips=curated.clips[fold_of != fold])
            validated = dataclasses.replace(curated, clips=curated.clips[fold_of == fold])
            trainer.reset()
            if starts[config.name]:
                trainer.model.load_weights(starts[config.name])
            part = f"fold{fold}"
            kept, history = trainer.fit(part, others, validated, config.training)
            fnames = [curated.store.fnames[clip] for clip in validated.clips]
            oof = run.outputs.model(config.name, part, "oof.csv")
            write_scores(oof, fnames, run.dataset.classes, kept.scores)
            training.save(run.outputs, trainer, part, kept, history)


if __name__ == "__main__":
    main()
