"""The scores of a run: printed as one table, and written to scores.csv and per_class.csv."""

import numpy as np
import pandas as pd

from runs.results import Result
from runs.run import Run
from solution import metrics
from storage import written_whole

CHANCE_DRAWS = 20


def write(run: Run, truth: np.ndarray, oof: dict, test: dict) -> None:
    """Score everything, and write scores.csv and per_class.csv.

    Parameters
    ----------
    truth : multi-hot (OOF clips, classes)
    oof, test : scores (clips, classes) by model name; `test` is empty where there are no test clips
    """
    split = run.dataset["test"]
    rows = []
    for name, scores in {**oof, "chance": None}.items():
        row = {"model": name, "OOF LRAP": _score(metrics.lrap, truth, scores)}
        row["OOF lwlrap"] = _score(metrics.lwlrap, truth, scores)
        if test and split.labels is not None:
            for part, chosen in _parts(split):
                predicted = None if scores is None else test[name][chosen]
                row[f"test lwlrap{part}"] = _score(metrics.lwlrap, split.labels[chosen], predicted)
        row["minutes"] = training_minutes(run, name)
        rows.append(row)
    table = pd.DataFrame(rows)
    with written_whole(run.outputs.table("scores")) as path:
        table.to_csv(path, index=False)
    with written_whole(run.outputs.table("per_class")) as path:
        _per_class(run, truth, oof, test).to_csv(path, index=False)


def show(result: Result) -> None:
    """Print the table of all scores, and where everything lies."""
    table = pd.read_csv(result.files["scores"])
    print()
    print(table.to_string(index=False, float_format="{:.4f}".format, na_rep=""))
    print("\nwrote " + ", ".join(str(path) for path in result.files.values()))
    if "submission" not in result.files:
        print("no test clips, so no submission")


def training_minutes(run: Run, experiment: str) -> float:
    """Minutes of training and scoring of an experiment's folds and its own pretraining."""
    parts = ["pretrained", *(f"fold{fold}" for fold in run.folds)]
    paths = [run.outputs.model(experiment, part, "history.csv") for part in parts]
    seconds = [pd.read_csv(path)["seconds"].sum() for path in paths if path.is_file()]
    return sum(seconds) / 60 if seconds else np.nan


def _score(metric, truth: np.ndarray, scores: np.ndarray | None) -> float:
    """The metric; of random scores, its mean over some draws."""
    if scores is not None:
        return metric(truth, scores)
    rng = np.random.default_rng(0)
    return float(np.mean([metric(truth, rng.random(truth.shape)) for _ in range(CHANCE_DRAWS)]))


def _parts(split) -> list[tuple[str, np.ndarray]]:
    """All test clips, then those of the public and of the private leaderboard, where known."""
    parts = [("", np.ones(len(split), bool))]
    if split.usage is not None:
        parts += [(f" {usage}", split.usage == usage) for usage in ("Public", "Private")]
    return [(name, chosen) for name, chosen in parts if chosen.any()]


def _per_class(run: Run, truth: np.ndarray, oof: dict, test: dict) -> pd.DataFrame:
    """lwlrap and number of labels of each class, from the ensemble."""
    table = {"class": run.dataset.classes, "OOF labels": truth.sum(axis=0)}
    table["OOF lwlrap"] = metrics.per_class_lwlrap(truth, oof["ensemble"])[0]
    labels = run.dataset["test"].labels
    if test and labels is not None:
        table["test labels"] = labels.sum(axis=0)
        table["test lwlrap"] = metrics.per_class_lwlrap(labels, test["ensemble"])[0]
    return pd.DataFrame(table)
