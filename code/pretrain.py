"""Stage 2: pretrain the networks on all noisy clips, scored on all curated ones."""

import command_line
import training
from run import Run
from views import with_views


@command_line.stage
def main(run: Run) -> None:
    noisy, curated = run.examples("noisy"), run.examples("curated")
    if not len(noisy):
        print("pretrain: no noisy clips, so training will start from random weights")
        return
    for config in run.pretrainings():
        result, source = run.pretrained(config), run.pretrained_source(config)
        if run.is_pending(result, source):
            trainer = training.Trainer(config, len(run.dataset.classes))
            scored = with_views(curated, run, "curated", config)
            job = training.Job("pretrained", noisy, scored, config.pretraining)
            training.make(result, source, trainer, job, run.dataset.classes)


if __name__ == "__main__":
    main()
