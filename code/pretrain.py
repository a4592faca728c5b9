"""Stage 2: pretrain the networks on all noisy clips, scored on all curated ones."""

import command_line
import training


@command_line.stage
def main() -> None:
    run = command_line.parse(__doc__)
    noisy, curated = run.examples("noisy"), run.examples("curated")
    if not len(noisy):
        print("pretrain: no noisy clips, so training will start from random weights")
        return
    for config in run.pretrainings():
        trainer = training.Trainer(config, len(run.dataset.classes))
        kept, history = trainer.fit("pretrained", noisy, curated, config.pretraining)
        training.save(run.outputs, trainer, "pretrained", kept, history)


if __name__ == "__main__":
    main()
