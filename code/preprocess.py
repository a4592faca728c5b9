"""Stage 1: decode every clip once, trim it, store samples and global features; then log-mels."""

import functools
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pandas as pd
from joblib.externals.loky import get_reusable_executor

import messages
from clips import derived, prepare, store
from clips.dataset import SPLITS, describe
from clips.files import ClipFile
from clips.prepare import PreparedClip
from messages import InputError, KilledProcess, first_few
from runs import command_line, preparation, space, tasks
from runs.run import REMEDY, Run, unreadable
from solution import crops
from solution.folds import assign_folds_by_name
from storage import written_whole

BATCH_CLIPS = 16  # that a worker is sent at a time


@command_line.stage
def main(run: Run) -> None:
    print(describe(run.dataset))
    for warning in run.dataset.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    report_rare_classes(run)
    space.report_memory(run)
    space.require(run)
    write_folds(run)
    for split in SPLITS:
        write_store(run, split)
    report_unreadable(run)
    for split in SPLITS:
        write_made_of_clips(run, split)
    get_reusable_executor().shutdown()  # the memory of processes is known when they have ended


def write_store(run: Run, split: str) -> None:
    """Fill the clip store of one split, unless it is there already."""
    result, clips = run.clips(split), run.dataset[split]
    if not run.is_pending(result):
        if not can_be_read_now(run, split):
            return
        print(f"{split} clips: made again all the same: some that could not be read can be now")
    result.unseal()
    folder = result.record.parent
    with store.Writer(folder, run.settings, result.checkpoint) as writer:
        done = len(writer)
        if done:
            print(f"{split} clips: going on after the first {done}")
        prepared = prepared_clips(run, clips.files[done:])
        with messages.progress_bar(split, len(clips), done=done) as bar:
            for fname, clip in zip(clips.fnames[done:], prepared, strict=True):
                writer.append(fname, clip)
                bar.update()
    result.seal(writer.written())
    print(f"{split} clips: wrote {len(clips)} to {folder}")


def can_be_read_now(run: Run, split: str) -> bool:
    """Was a clip unreadable for what was no fault of its own: the disk, its rights, no PyAV?"""
    clips = zip(run.dataset[split].files, run.store(split).faults, strict=True)
    unreadable = [file for file, fault in clips if fault]
    return bool(unreadable) and "" in [one.fault for one in prepared_clips(run, unreadable)]


def prepared_clips(run: Run, files: list[ClipFile]) -> Iterator[PreparedClip]:
    """Clips made ready, in order: on all cores, or by the workers of a scheduler."""
    if not run.scheduler:
        try:
            yield from prepare.prepare_all(files, run.settings)
        except BrokenProcessPool as error:
            raise KilledProcess("a process that decoded clips") from error
        return
    for batch in tasks.in_order(run, preparation.prepare_clips, crops.split(files, BATCH_CLIPS)):
        yield from batch


def write_made_of_clips(run: Run, split: str) -> None:
    """Write the log-mels that experiments take of a split, unless they are there already."""
    if not len(run.dataset[split]):
        return
    made = {
        result.name: (result, config)
        for config in run.scored_configs()
        for result in run.made_of_clips(split, config)
    }
    for result, config in made.values():
        if run.is_pending(result):
            result.unseal()
            (suffix,) = result.files
            kind = derived.BY_SUFFIX[suffix]
            of = split, None if kind is derived.LOG_MELS else config
            part = config, result.path(suffix), result.checkpoint, result.name
            make = functools.partial(
                preparation.make_of_clips, of=of, config=config, function=kind.make
            )
            each = functools.partial(tasks.in_order, run, make) if run.scheduler else None
            result.seal(kind.write(run.store(*of), *part, each))


def write_folds(run: Run) -> None:
    """Write the one fold table, which every later stage reads."""
    curated, settings, result = run.dataset["curated"], run.configs[0], run.fold_table
    if not run.is_pending(result):
        return
    result.unseal()
    what = "curated clips" if curated.groups is None else "groups of curated clips"
    n = len(set(curated.fnames if curated.groups is None else curated.groups))
    if n < settings.n_folds:
        raise InputError(
            f"{n} {what} cannot fill {settings.n_folds} folds: take --profile small, or "
            '--settings FILE with {"n_folds": 2}'
        )
    folds = assign_folds_by_name(
        curated.fnames, curated.labels, settings.n_folds, settings.fold_seed, curated.groups
    )
    with written_whole(result.path(".csv")) as part:
        pd.DataFrame({"fname": curated.fnames, "fold": folds}).to_csv(part, index=False)
    result.seal()
    print(f"folds: wrote {settings.n_folds} folds to {result.path('.csv')}")


def report_unreadable(run: Run) -> None:
    """Warn of unreadable test clips; stop at unreadable training clips, or say they are skipped."""
    failures = []
    for split in SPLITS:
        clips = run.store(split)
        if not any(clips.faults):
            continue
        if split == "test":
            print(f"warning: predicted as silence: {unreadable(clips, split)}", file=sys.stderr)
        elif run.skip_unreadable:
            print(f"warning: left out {unreadable(clips, split)}", file=sys.stderr)
        else:
            failures.append(unreadable(clips, split))
    if failures:
        raise InputError(f"{'; '.join(failures)}. {REMEDY}")


def report_rare_classes(run: Run) -> None:
    """Warn of classes that some fold has to do without."""
    curated = run.dataset["curated"]
    groups = curated.fnames if curated.groups is None else curated.groups
    n_groups = pd.DataFrame(curated.labels > 0).groupby(np.array(groups)).any().sum()
    rare, what = np.flatnonzero(n_groups < 2), "clip" if curated.groups is None else "group"
    if len(rare):
        print(
            f"warning: {len(rare)} classes have one curated {what} or none, so that folds train or "
            f"are scored without: {first_few([run.dataset.classes[i] for i in rare])}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
