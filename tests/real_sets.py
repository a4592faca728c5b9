"""Real sound laid out as datasets, with the groups of clips that belong together.

    .venv/bin/python tests/real_sets.py esc10 ESC10 DEST [--fold 5]
    .venv/bin/python tests/real_sets.py orchestra PHILHARMONIA DEST [--share 0.25]

ESC10 holds `esc10.csv` (file, category, fold, freesound_id) and `audio/`: the test clips are those
of one official fold, the noisy ones those of the fold before it (four labels in ten are wrong),
the curated ones all others. PHILHARMONIA holds `clips.csv` (fname, split, labels, true_labels,
usage, group) and `audio/`. Clips are links.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

WRONG = 0.4  # of the noisy clips' labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sets = parser.add_subparsers(dest="name", required=True)
    for name, option, kind in (("esc10", "--fold", int), ("orchestra", "--share", float)):
        one = sets.add_parser(name)
        one.add_argument("source", type=Path)
        one.add_argument("destination", type=Path)
        one.add_argument(option, type=kind, default={"esc10": 5, "orchestra": 1.0}[name])
    args = parser.parse_args()
    if args.name == "esc10":
        clips = pd.read_csv(args.source / "esc10.csv")
        splits = with_noisy(clips, args.fold)
        lay_out(splits, args.source / "audio", args.destination)
    else:
        orchestra = pd.read_csv(args.source / "clips.csv", keep_default_na=False)
        lay_out(part_of(orchestra, args.share), args.source / "audio", args.destination)


def by_official_fold(clips: pd.DataFrame, fold: int) -> pd.DataFrame:
    """ESC-10: the clips of one fold to be tested, all others curated."""
    names = {"file": "fname", "category": "labels", "freesound_id": "group"}
    table = clips.rename(columns=names)
    table["split"] = np.where(table["fold"] == fold, "test", "curated")
    return table.assign(true_labels=table["labels"], usage="Private")


def in_official_folds(clips: pd.DataFrame) -> pd.DataFrame:
    """ESC-10: all clips curated, in groups that are the official folds."""
    return by_official_fold(clips, fold=0).assign(group=clips["fold"])


def with_noisy(clips: pd.DataFrame, fold: int) -> pd.DataFrame:
    """The same with noisy clips: those of the fold before; what is wrong never changes."""
    table, rng = by_official_fold(clips, fold), np.random.default_rng(2019)
    noisy = np.flatnonzero(table["fold"] == (fold - 2) % 5 + 1)
    table.loc[noisy, "split"] = "noisy"
    for row in rng.choice(noisy, round(WRONG * len(noisy)), replace=False):
        others = sorted(set(table["true_labels"]) - {table.loc[row, "true_labels"]})
        table.loc[row, "labels"] = rng.choice(others)
    return table


def part_of(clips: pd.DataFrame, share: float) -> pd.DataFrame:
    """The orchestra's clips, or those of a share of the groups."""
    kept = sorted(set(clips["group"]))[:: max(1, round(1 / share))]
    clips = clips[clips["group"].isin(kept)]
    return clips.replace({"split": {"train": "curated"}})


def lay_out(clips: pd.DataFrame, audio: Path, folder: Path) -> None:
    """Write tables and links: `clips` has fname, split, labels, true_labels, usage and group."""
    classes = sorted({label for text in clips["true_labels"] for label in text.split(",")})
    for split, part in clips.groupby("split"):
        of_test = split == "test"
        place = folder / ("audio_test" if of_test else "audio_train")
        place.mkdir(parents=True, exist_ok=True)
        for fname in part["fname"]:
            if not (place / fname).exists():
                (place / fname).symlink_to((audio / fname).resolve())
        if of_test:
            sample = part[["fname"]].assign(**dict.fromkeys(classes, 0))
            sample.to_csv(folder / "sample_submission.csv", index=False)
            truth = part.assign(labels=part["true_labels"])[["fname", "labels", "usage"]]
            truth.to_csv(folder / "test_post_competition.csv", index=False)
        else:
            columns = ["fname", "labels"] + ["group"] * (split == "curated")
            part[columns].to_csv(folder / f"train_{split}.csv", index=False)


if __name__ == "__main__":
    main()
