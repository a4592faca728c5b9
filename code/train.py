"""Stage 3: train each experiment fold by fold on the curated clips, from the pretrained weights."""

from runs import command_line, tasks, work
from runs.run import Run
from runs.tasks import Task


@command_line.stage
def main(run: Run) -> None:
    command_line.require_backend(run.configs)
    run.clips("curated").require()
    run.examples("curated")
    run.clip_folds()
    run.require_made_of_clips("curated", run.configs)
    to_do = work.pretrainings(run) if tasks.in_one_go(run) else []
    upcoming = {task.result(run, *task.args).name: task.name for task in to_do}
    starts = {config: run.pretraining_of(config) for config in run.configs}
    for start in starts.values():  # what is missing is said before hours of work
        if start and start.name not in upcoming:
            start.require()
    for config, start in starts.items():
        needs = (upcoming[start.name],) if start and start.name in upcoming else ()
        for fold in run.folds:
            # What a fold comes from is known when its pretraining is there.
            if (needs and not run.force) or run.is_pending(run.fold(config, fold)):
                name = f"{config.name} fold{fold}"
                to_do.append(Task(name, work.train_fold, Run.fold, (config, fold), needs))
    tasks.run_all(run, to_do)


if __name__ == "__main__":
    main()
