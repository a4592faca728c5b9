"""What a setting does to scores: the same training with and without it, seed by seed.

    .venv/bin/python tests/study.py INPUT OUTPUT --set schedule_decay=1.0 [--seeds 1,2,3]

INPUT is a dataset, as for `run.sh`. Goes through the stages themselves, in OUTPUT: interrupted, the
same command goes on. Ends with a table of scores, and of their differences where everything but
the setting is the same.
"""

import argparse
import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

import fast  # noqa: F401

# isort: split
import pandas as pd
from scipy import stats

import config
import predict
import preprocess
import pretrain
import train
from clips import dataset
from solution import metrics
from storage import read_scores

PROFILE = "study"


def run(root: Path, output: Path, options: list[str], settings: dict) -> None:
    """All stages before stacking, with these settings."""
    base = config.PROFILES["small"]
    config.PROFILES[PROFILE] = config.Profile(("v1mix",), {**base.overrides, **settings})
    for stage in (preprocess, pretrain, train, predict):
        sys.argv = [stage.__name__, "--input", str(root), "--output", str(output)]
        sys.argv += ["--profile", PROFILE, *options]
        stage.main()


def scores_of(output: Path, data: dataset.Dataset) -> dict[str, float]:
    """lwlrap out of fold and of the test clips."""
    found = {}
    for part, split in (("oof", "curated"), ("test", "test")):
        table = read_scores(output / "predictions" / "v1mix" / f"{part}.csv")
        rows = pd.Index(data[split].fnames).get_indexer(table.index)
        found[f"{part} lwlrap"] = metrics.lwlrap(data[split].labels[rows], table.to_numpy())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--set", required=True, metavar="SETTING=VALUE")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--folds", default="0")
    args = parser.parse_args()
    name, value = args.set.split("=")
    data, rows = dataset.load(args.input), []
    for seed in map(int, args.seeds.split(",")):
        for setting in ({}, {name: ast.literal_eval(value)}):
            what = args.set if setting else "as published"
            output = args.output / f"{what.replace(' ', '-')}-{seed}"
            output.mkdir(parents=True, exist_ok=True)
            if not (output / "clips").exists():  # prepared once
                (args.output / "clips").mkdir(exist_ok=True)
                (output / "clips").symlink_to((args.output / "clips").resolve())
            run(args.input, output, ["--folds", args.folds], {"seed": seed, **setting})
            rows.append({"seed": seed, "setting": what, **scores_of(output, data)})
    table = pd.DataFrame(rows).pivot(index="seed", columns="setting")
    print(table.to_string(float_format="{:.4f}".format))
    for score in ("oof lwlrap", "test lwlrap"):
        difference = table[score][args.set] - table[score]["as published"]
        half = stats.t.ppf(0.975, len(difference) - 1) * difference.sem()
        print(f"{score}: {args.set} changes it by {difference.mean():+.4f} ± {half:.4f} (95 %)")


if __name__ == "__main__":
    main()
