"""What a setting does to scores: the same training with and without it, pair by pair.

    .venv/bin/python tests/study.py INPUT OUTPUT [--only "no mixup,SpecAugment"] [--seeds 1,2,3]

INPUT is a dataset, as for `run.sh`; `tests/real_sets.py` makes two. Seed 1 trains on fold 0, seed 2
on fold 1, and so on, so that pairs differ in their clips too. Goes through the stages themselves,
in OUTPUT, with settings files: interrupted, the same command goes on. Scores are added to a table
(`--rows`, by default OUTPUT/rows.csv; those of tests/README.md: tests/measured), and what that
has is not trained again. Ends with mean differences, each with its 95 % interval. `--only ensemble`
compares the ensemble and the average of two experiments in all folds with the better one of them.
"""

import argparse
import dataclasses
import importlib
import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

import fast  # noqa: F401

# isort: split
import pandas as pd
from scipy import stats

import config
import ensemble
from clips import dataset
from clips.tables import TABLES
from fast import processes
from solution import metrics
from storage import read_scores, written_whole

BASE, AGAIN, WITHOUT_NOISY = "as it is", "again", "no pretraining"
MEMBER, COMBINED = "best member", ("average", "ensemble")
COLUMNS = ("seed", "variant", "oof", "test")
WIDTHS = ("stem_filters", "block_filters", "gru_units", "crop_samples")
TOGETHER = "ensemble"
STAGES = ("preprocess", "pretrain", "train", "predict", "ensemble")
N_FOLDS = config.PROFILES["small"].overrides["n_folds"]


def in_both(**schedule) -> dict:
    """The same for pretraining and training."""
    return {"pretraining": schedule, "training": schedule}


# What all have in common, so that hundreds of trainings take hours and not days: of the profile
# `small` the epochs, folds and hop, of `demo` the widths and crops; log-mels, which are made once.
COMMON = {
    **{name: config.PROFILES["demo"].overrides[name] for name in WIDTHS},
    "frontend": "logmel",
}
LONGER = {  # as the profile `best` has it
    name: dataclasses.asdict(config.PROFILES["best"].overrides[name])
    for name in ("pretraining", "training")
}
VARIANTS = {
    BASE: {},
    AGAIN: {},  # from other initial weights, with other crops: what chance alone does
    # What the authors say gains.
    "no mixup": in_both(mixup_prob=0.0),
    "no global features": {"global_features": False},
    WITHOUT_NOISY: {},
    "pooling max": {"pooling": ["max", "max"]},
    "pooling ave": {"pooling": ["max", "ave"]},
    "pooling avemax3": {"pooling": ["max", "avemax3"]},
    "no length": {"clip_length": False},
    "no label smoothing": {"label_smoothing": 0.0},
    "one view": {"n_views": 1},
    "squeeze-excite": {"squeeze_excite": True},
    "cat": {"cat": True},
    "MSC": {"stem": "msc"},
    "hop 500": {"n_hop": 500},
    "hop 512": {"n_hop": 512},
    "Keras 3's Nadam": {"schedule_decay": 1.0},
    "float32": {"precision": "float32"},
    # What they did not do.
    "waveforms": {"frontend": "waveform"},
    "SpecAugment": {"masked_frames": 26, "masked_mels": 16},
    "drawn mixup": {"mixup_beta": 0.5},
    "Lq on noisy labels": {"pretraining": {"loss_q": 0.5}},
    "twice the epochs": {
        "pretraining": {"epochs": 24, "milestones": [12, 16, 20], "keep_from": 20},
        "training": {"epochs": 40, "milestones": [20, 28, 34]},
    },
    "mixup to the end": {
        "pretraining": {"milestones": [9, 10, 11]},
        "training": {"milestones": [16, 18, 19]},
    },
    "longer": LONGER,
    "longer with Lq": {**LONGER, "pretraining": {**LONGER["pretraining"], "loss_q": 0.5}},
    "wider": {"block_filters": [16, 48, 96, 192], "gru_units": 64},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", default=",".join(VARIANTS), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rows", type=Path, help="table of scores to go on with")
    args = parser.parse_args()
    chosen, table = args.only.split(","), args.rows or args.output / "rows.csv"
    if unknown := {*chosen} - {*VARIANTS, TOGETHER}:
        parser.error(f"there is no variant {', '.join(sorted(unknown))}")
    runs = chosen if chosen == [TOGETHER] else list(dict.fromkeys([BASE, *chosen]))
    data = dataset.load(args.input)
    args.output.mkdir(parents=True, exist_ok=True)
    for seed, run in itertools.product(map(int, args.seeds.split(",")), runs):
        rows = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=COLUMNS)
        if set(variants_of(run)) <= set(rows["variant"][rows["seed"] == seed]):
            continue
        output = args.output / f"{run.replace(' ', '-')}-{seed}"
        root = args.input
        if run == WITHOUT_NOISY:
            root = without_noisy(args.input, args.output / "input")
        options, stages = ["--input", root, "--output", output, "--profile", "small"], STAGES
        if run != TOGETHER:
            options += ["--folds", (seed - 1) % N_FOLDS, "--experiments", "v1mix"]
            stages = STAGES[:-1]
        chance = seed + 100 * (run == AGAIN)
        settings = {**COMMON, **VARIANTS.get(run, {}), "seed": chance}
        # In a process of its own, as Keras keeps the memory of every network.
        processes.apart(run_stages, output, settings, options, stages)
        found = combined(output) if run == TOGETHER else {run: scores_of(output, data)}
        for variant in variants_of(run):
            rows.loc[len(rows)] = {"seed": seed, "variant": variant, **found[variant]}
        with written_whole(table) as part:
            rows.round(4).to_csv(part, index=False)
    scores, shown = pd.read_csv(table), [variant for run in runs for variant in variants_of(run)]
    print("", *tables(scores[scores["variant"].isin(shown)]), sep="\n")


def variants_of(run: str) -> tuple[str, ...]:
    """The rows that one run gives."""
    return (MEMBER, *COMBINED) if run == TOGETHER else (run,)


def run_stages(output: Path, settings: dict, options: list, stages: tuple = STAGES) -> None:
    """Stages with these settings; clips are prepared once for all."""
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "clips").exists():
        shared = output.parent / "clips"
        shared.mkdir(exist_ok=True)
        (output / "clips").symlink_to(shared.resolve())
    (output / "settings.json").write_text(json.dumps(settings))
    for stage in stages:
        sys.argv = [stage, *map(str, options), "--settings", f"{output}/settings.json"]
        importlib.import_module(stage).main()


def without_noisy(root: Path, folder: Path) -> Path:
    """The same dataset by links, less the table of the noisy set."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in root.iterdir():
        link = folder / path.name
        if path.name not in TABLES["noisy"] and not link.exists():
            link.symlink_to(path.resolve())
    return folder


def scores_of(output: Path, data: dataset.Dataset) -> dict[str, float]:
    """lwlrap out of fold and of the test clips."""
    found, folder = {}, output / "predictions" / "v1mix"
    for part, split in (("oof", "curated"), ("test", "test")):
        table = read_scores(folder / f"{part}.csv")
        rows = pd.Index(data[split].fnames).get_indexer(table.index)
        found[part] = metrics.lwlrap(data[split].labels[rows], table.to_numpy())
    return found


def combined(output: Path) -> dict[str, dict[str, float]]:
    """lwlrap of the ensemble, of the average, and of the member that is best out of fold."""
    table = pd.read_csv(output / "scores.csv", index_col="model")
    table = table.rename(columns={"OOF lwlrap": "oof", "test lwlrap": "test"})
    # Of stackers that know nothing of the clips.
    table.loc["ensemble", "oof"] = table.loc[ensemble.HELD_OUT, "oof"]
    members = table[table["minutes"].notna()]
    table.loc[MEMBER] = members.loc[members["oof"].idxmax()]
    return table[["oof", "test"]].T.to_dict()


def differences(scores: pd.DataFrame, names: list[str], base: str = BASE) -> pd.DataFrame:
    """Mean lwlrap of each variant, and how it differs from the base: mean and 95 % interval, of
    the seeds that both have."""
    table, rows = scores.pivot(index="seed", columns="variant"), {}
    for name in names:
        both = table.loc[table["oof"][[name, base]].notna().all(axis=1)]
        rows[name] = {"pairs": len(both)}
        for part in ("oof", "test"):
            by_seed = both[part][name] - both[part][base]
            difference = f"{by_seed.mean():+.4f}"
            if name == base:
                difference = ""
            elif len(both) > 1:
                half = stats.t.ppf(0.975, len(both) - 1) * by_seed.sem()
                difference += f" ± {half:.4f}" + " (noise)" * bool(abs(by_seed.mean()) <= half)
            rows[name][part] = f"{both[part][name].mean():.4f}"
            rows[name][f"{part}, difference"] = difference
    return pd.DataFrame(rows).T


def pooled(*scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of several datasets as those of one: each of their seeds is a pair of its own. Trainings
    that differ from the base by chance alone are means with it: else its luck is in all pairs."""
    named = (rows.assign(seed=f"{i}:" + rows["seed"].astype(str)) for i, rows in enumerate(scores))
    rows = pd.concat(named).replace({"variant": {AGAIN: BASE}})
    return rows.groupby(["seed", "variant"], as_index=False).mean()


def tables(scores: pd.DataFrame) -> list[str]:
    """The differences of variants from the base, and of what is combined from the best member."""
    shown = []
    for base, others in ((BASE, VARIANTS), (MEMBER, COMBINED)):
        names = [name for name in dict.fromkeys((base, *others)) if name in set(scores["variant"])]
        if names:
            shown.append(as_markdown(differences(scores, names, base)))
    return shown


def as_markdown(table: pd.DataFrame) -> str:
    """As tests/README.md has it."""
    rows = [["lwlrap", *table.columns], ["---"] * (1 + len(table.columns))]
    rows += [[name, *map(str, row)] for name, *row in table.itertuples()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
