"""Stage 1: decode every clip once, trim it, and store samples, log-mels and global features."""

import sys

import joblib
import pandas as pd
from tqdm import tqdm

import clipstore
import command_line
from dataset import SPLITS, assign_folds
from errors import InputError
from outputs import written_whole


def write_store(run: command_line.Run, split: str) -> None:
    """Fill the clip store of one split, unless it is there already."""
    clips, folder = run.dataset[split], run.outputs.clips(split)
    settings = clipstore.settings_of(run.configs[0])
    if is_done(run, split):
        print(f"{split}: {len(clips)} clips are in {folder} already")
        return
    # Results come in order and as they are ready, so that memory holds a few clips only.
    prepared = joblib.Parallel(n_jobs=-1, return_as="generator")(
        joblib.delayed(clipstore.prepare)(file, settings) for file in clips.files
    )
    bar = tqdm(prepared, total=len(clips), desc=split, unit="clip", leave=False, disable=None)
    clipstore.write(folder, clips.fnames, bar, settings)
    print(f"{split}: wrote {len(clips)} clips to {folder}")


def is_done(run: command_line.Run, split: str) -> bool:
    """Is there a store of just these clips? One with unreadable clips is tried again."""
    folder = run.outputs.clips(split)
    if not clipstore.is_whole(folder):
        return False
    store = clipstore.ClipStore(folder)
    same = store.fnames == run.dataset[split].fnames and store.settings == clipstore.settings_of(
        run.configs[0]
    )
    return same and (run.skip_unreadable or not any(store.faults))


def write_folds(run: command_line.Run) -> None:
    """Write the one fold table, which every later stage reads."""
    curated, settings = run.dataset["curated"], run.configs[0]
    folds = assign_folds(curated.labels, settings.n_folds, settings.fold_seed)
    with written_whole(run.outputs.folds) as part:
        pd.DataFrame({"fname": curated.fnames, "fold": folds}).to_csv(part, index=False)
    print(f"folds: wrote {settings.n_folds} folds to {run.outputs.folds}")


def report_unreadable(run: command_line.Run) -> None:
    """Warn of unreadable test clips; stop at unreadable training clips, or say they are skipped."""
    failures = []
    for split in SPLITS:
        store = clipstore.ClipStore(run.outputs.clips(split))
        if not any(store.faults):
            continue
        if split == "test":
            n_faults = sum(map(bool, store.faults))
            named = [
                fname for fname, fault in zip(store.fnames, store.faults, strict=True) if fault
            ]
            print(
                f"warning: {n_faults} test clips cannot be read and will be predicted as silence: "
                f"{', '.join(named[:5])}{' ...' * (len(named) > 5)}",
                file=sys.stderr,
            )
        elif run.skip_unreadable:
            print(f"warning: left out {command_line.unreadable(store, split)}", file=sys.stderr)
        else:
            failures.append(command_line.unreadable(store, split))
    if failures:
        raise InputError("; ".join(failures))


@command_line.stage
def main() -> None:
    run = command_line.parse(__doc__)
    write_folds(run)
    for split in SPLITS:
        write_store(run, split)
    report_unreadable(run)


if __name__ == "__main__":
    main()
