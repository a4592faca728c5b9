"""ESC-10 by its official five folds, trained from scratch: accuracy.

    .venv/bin/python tests/esc10.py ESC10 OUTPUT [--profile small] [--experiments A,B]
    .venv/bin/python tests/esc10.py ESC10 OUTPUT --ensembles [--profile small] [--folds 1,2,3,4,5]

ESC10 holds `esc10.csv` (file, category, fold, freesound_id) and `audio/`. As the literature has it,
each network is trained on four folds, to its last epoch, and tested on the fifth. With
`--ensembles` each fold is the test set of an ensemble that all stages of the pipeline train on the
other four: its networks hear a part of these, and choose their epochs by the rest. As the official
folds do, the ensemble's own keep clips of one recording together. Nothing is chosen by test clips.
Interrupted, the same command goes on.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

import fast  # noqa: F401

# isort: split
import pandas as pd

import config
import real_sets
import study
from fast import processes
from runs import command_line
from storage import read_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("esc10", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--profile", default="small")
    parser.add_argument("--experiments", type=command_line.names, metavar="A,B")
    parser.add_argument("--ensembles", action="store_true")
    parser.add_argument("--folds", type=command_line.numbers, help="official, of --ensembles")
    args = parser.parse_args()
    if args.folds and not args.ensembles:
        parser.error("--folds goes with --ensembles")
    clips = pd.read_csv(args.esc10 / "esc10.csv")
    table = of_ensembles(args, clips) if args.ensembles else of_networks(args, clips)
    table.loc["mean"] = table.mean()
    print("\n" + table.round(4).to_string())


def of_networks(args: argparse.Namespace, clips: pd.DataFrame) -> pd.DataFrame:
    """By official fold the accuracy of each experiment's network, and of their weighted average."""
    real_sets.lay_out(
        real_sets.in_official_folds(clips), args.esc10 / "audio", args.output / "input"
    )
    configs = config.experiments(args.profile, args.experiments)
    last = {"keep_from": configs[0].training.epochs - 1}
    run(args, args.output, {"n_folds": 5, "training": last}, configs)
    predictions = args.output / "output" / "predictions"
    scores = {one.name: read_scores(predictions / one.name / "oof.csv") for one in configs}
    if len(configs) > 1:
        scores["average"] = sum(one.stack_weight * scores[one.name] for one in configs)
    folds = clips.set_index("file")["fold"]
    found = {name: right(clips, of).groupby(folds).mean() for name, of in scores.items()}
    return pd.DataFrame(found)


def of_ensembles(args: argparse.Namespace, clips: pd.DataFrame) -> pd.DataFrame:
    """By official fold the accuracy of the ensemble and of its members, and minutes."""
    rows, configs = [], config.experiments(args.profile, args.experiments)
    for fold in args.folds or range(1, 6):
        folder = args.output / f"fold{fold}"
        splits = real_sets.by_official_fold(clips, fold)
        real_sets.lay_out(splits, args.esc10 / "audio", folder / "input")
        run(args, folder, {}, configs)
        minutes = pd.read_csv(folder / "output" / "stages.csv")["minutes"].sum()
        rows.append({"fold": fold, **accuracies(clips, folder / "output"), "minutes": minutes})
    return pd.DataFrame(rows).set_index("fold")


def run(args: argparse.Namespace, folder: Path, settings: dict, configs: list) -> None:
    """All stages on the input in this folder."""
    options = ["--input", folder / "input", "--output", folder / "output"]
    options += ["--profile", args.profile]
    options += ["--experiments", ",".join(one.name for one in configs)]
    processes.apart(study.run_stages, folder / "output", settings, options)


def right(clips: pd.DataFrame, scores: pd.DataFrame) -> pd.Series:
    """Of each clip: is the best scored class the true one?"""
    return scores.idxmax(axis=1) == clips.set_index("file")["category"][scores.index]


def accuracies(clips: pd.DataFrame, output: Path) -> dict[str, float]:
    """Of the ensemble, and of each of its members: the best scored class is the true one."""
    members = {path.parent.name: path for path in output.glob("predictions/*/test.csv")}
    files = {"ensemble": output / "submission.csv", **members}
    return {name: right(clips, read_scores(path)).mean() for name, path in files.items()}


if __name__ == "__main__":
    main()
