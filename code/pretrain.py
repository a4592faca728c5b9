"""Stage 2: pretrain the networks on all noisy clips, scored on all curated ones."""

from runs import command_line, tasks, work
from runs.run import Run


@command_line.stage
def main(run: Run) -> None:
    command_line.require_backend(run.pretrainings())
    if tasks.in_one_go(run):
        print("pretrain: in one go with train, where a fold starts after its own pretraining")
    else:
        tasks.run_all(run, work.pretrainings(run))


if __name__ == "__main__":
    main()
