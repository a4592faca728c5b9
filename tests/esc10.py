"""ESC-10 by its official five folds, as the literature has it: accuracy, trained from scratch.

    .venv/bin/python tests/esc10.py ESC10 OUTPUT [--profile small] [--folds 1,2,3,4,5]

ESC10 holds `esc10.csv` (file, category, fold, freesound_id) and `audio/`. Each fold is the test set
of an ensemble that all stages of the pipeline train on the other four; nothing is chosen by it. As
the official folds do, the ensemble's own keep clips of one recording together.
Interrupted, the same command goes on.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

import fast  # noqa: F401

# isort: split
import pandas as pd

import real_sets
import study
from fast import processes
from storage import read_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("esc10", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--profile", default="small")
    parser.add_argument("--folds", default="1,2,3,4,5", help="official ones")
    args = parser.parse_args()
    clips, rows = pd.read_csv(args.esc10 / "esc10.csv"), []
    for fold in map(int, args.folds.split(",")):
        folder = args.output / f"fold{fold}"
        splits = real_sets.by_official_fold(clips, fold)
        real_sets.lay_out(splits, args.esc10 / "audio", folder / "input")
        options = ["--input", folder / "input", "--output", folder / "output"]
        options += ["--profile", args.profile]
        processes.apart(study.run_stages, folder / "output", {}, options)
        minutes = pd.read_csv(folder / "output" / "stages.csv")["minutes"].sum()
        rows.append({"fold": fold, **accuracies(clips, folder / "output"), "minutes": minutes})
    table = pd.DataFrame(rows).set_index("fold")
    table.loc["mean"] = table.mean()
    print("\n" + table.round(4).to_string())


def accuracies(clips: pd.DataFrame, output: Path) -> dict[str, float]:
    """Of the ensemble, and of each of its members: the best scored class is the true one."""
    true, found = clips.set_index("file")["category"], {}
    members = {path.parent.name: path for path in output.glob("predictions/*/test.csv")}
    for name, path in {"ensemble": output / "submission.csv", **members}.items():
        scores = read_scores(path)
        found[name] = (scores.idxmax(axis=1) == true[scores.index]).mean()
    return found


if __name__ == "__main__":
    main()
