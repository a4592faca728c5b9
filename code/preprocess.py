"""Stage 1: decode every clip once, trim it, and store samples, log-mels and global features."""

import sys
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pandas as pd

import messages
from clips import store as clipstore
from clips.dataset import SPLITS, assign_folds
from fast import gpus
from messages import InputError, KilledProcess, first_few
from runs import command_line, space
from runs.run import REMEDY, Run, unreadable
from storage import written_whole


def write_store(run: Run, split: str) -> None:
    """Fill the clip store of one split, unless it is there already."""
    clips, settings = run.dataset[split], clipstore.settings_of(run.configs[0])
    result = run.store(split)
    if not run.is_pending(result):
        return
    result.unseal()
    for config in run.configs:
        run.views(split, config).unseal()
    try:
        with clipstore.Writer(run.outputs.clips(split), settings, result.checkpoint) as writer:
            done = len(writer)
            if done:
                print(f"{split} clips: going on after the first {done}")
            prepared = clipstore.prepare_all(clips.files[done:], settings)
            with messages.progress_bar(split, len(clips), done=done) as bar:
                for fname, clip in zip(clips.fnames[done:], prepared, strict=True):
                    writer.append(fname, clip)
                    bar.update()
    except BrokenProcessPool as error:
        raise KilledProcess("a process that decoded clips") from error
    result.seal(writer.written())
    print(f"{split} clips: wrote {len(clips)} to {run.outputs.clips(split)}")


def require_space(run: Run) -> None:
    """Stop before the work where the disk is too small for it; what is there already is counted."""
    config = run.configs[0]
    needed = space.training_bytes(run.configs, run.pretrainings(), len(run.folds)) + space.RESERVE
    needed += sum(space.store_bytes(run.dataset[split].files, config) for split in SPLITS)
    n_scored = len(run.dataset["test"]) + len(run.dataset["curated"])
    by_kind = {run.views("test", config).record: config for config in run.configs}
    needed += sum(space.views_bytes(n_scored, config) for config in by_kind.values())
    n_tables = len(run.configs) * (len(run.folds) + 2)
    needed += space.SCORE_BYTES * n_tables * n_scored * len(run.dataset.classes)
    there = run.outputs.size([config.name for config in (*run.configs, *run.pretrainings())])
    space.require(run.outputs.root, needed - there)


def report_memory(run: Run) -> None:
    """Warn where training, without a GPU, would take more memory than the machine has."""
    if gpus.visible():
        return
    largest = max(run.configs, key=space.training_memory)
    needed, present = space.training_memory(largest), space.memory_of_machine()
    if needed > present:
        print(
            f"warning: training {largest.name} in float32 on a CPU takes about {needed / 1e9:.1f} "
            f"GB of memory, and this machine has {present / 1e9:.1f} GB: take --profile small, or "
            "lower batch_size in code/config.py",
            file=sys.stderr,
        )


def write_folds(run: Run) -> None:
    """Write the one fold table, which every later stage reads."""
    curated, settings = run.dataset["curated"], run.configs[0]
    result = run.fold_table()
    if not run.is_pending(result):
        return
    result.unseal()
    folds = assign_folds(curated.labels, settings.n_folds, settings.fold_seed)
    if len(set(folds)) < settings.n_folds:
        raise InputError(
            f"{len(curated)} curated clips leave some of {settings.n_folds} folds empty"
        )
    with written_whole(run.outputs.folds) as part:
        pd.DataFrame({"fname": curated.fnames, "fold": folds}).to_csv(part, index=False)
    result.seal()
    print(f"folds: wrote {settings.n_folds} folds to {run.outputs.folds}")


def report_unreadable(run: Run) -> None:
    """Warn of unreadable test clips; stop at unreadable training clips, or say they are skipped."""
    failures = []
    for split in SPLITS:
        store = clipstore.ClipStore(run.outputs.clips(split))
        if not store.unreadable:
            continue
        if split == "test":
            print(f"warning: predicted as silence: {unreadable(store, split)}", file=sys.stderr)
        elif run.skip_unreadable:
            print(f"warning: left out {unreadable(store, split)}", file=sys.stderr)
        else:
            failures.append(unreadable(store, split))
    if failures:
        raise InputError(f"{'; '.join(failures)}. {REMEDY}")


def report_rare_classes(run: Run) -> None:
    """Warn of classes that some fold has to do without."""
    rare = np.flatnonzero(run.dataset["curated"].labels.sum(axis=0) < 2)
    if len(rare):
        print(
            f"warning: {len(rare)} classes have one curated clip or none, so that folds train or "
            f"are scored without: {first_few([run.dataset.classes[i] for i in rare])}",
            file=sys.stderr,
        )


@command_line.stage
def main(run: Run) -> None:
    report_rare_classes(run)
    report_memory(run)
    require_space(run)
    write_folds(run)
    for split in SPLITS:
        write_store(run, split)
    report_unreadable(run)


if __name__ == "__main__":
    main()
