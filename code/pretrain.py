"""Stage 2: pretrain the networks on all noisy clips, scored on all curated ones."""

from config import Config
from fast import gpus
from messages import InputError
from runs import command_line, resume
from runs.run import Run
from solution.training import Learner, Training


@command_line.stage
def main(run: Run) -> None:
    command_line.require_backend(run.pretrainings())
    run.require_clips("noisy", "curated")
    noisy, curated = run.examples("noisy"), run.examples("curated")
    if not len(run.dataset["noisy"]):
        print("pretrain: no noisy clips, so training will start from random weights")
        return
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
    gpus.share_out(pretrain, run, pending)


def pretrain(run: Run, configs: list[Config]) -> None:
    """Pretrain the networks of these experiments, one after the other."""
    classes = run.dataset.classes
    for config in configs:
        training = Training(
            Learner(config, len(classes)),
            "pretrained",
            run.examples("noisy", config),
            run.examples("curated", config),
            config.pretraining,
            watch=resume.watch,
        )
        resume.complete(run.pretrained(config), training, classes)


if __name__ == "__main__":
    main()
