"""What scores show of a dataset: confusions, clips that are hard, labels that look wrong."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from messages import percent

MOST_CLIPS = 60  # that can be heard
MOST_OF_A_GROUP = 12  # of them; the hardest of each class share what the others leave
LIKELY = 0.5  # a label is not doubted for what is less likely than not
COLUMNS = ("fname", "split", "label", "instead", "why")


@dataclass(frozen=True)
class Scored:
    """The clips of a split with what is known of them, and what the ensemble says."""

    split: str
    fnames: list[str]
    clips: np.ndarray  # int (clips,), their places in the split's store
    truth: np.ndarray  # multi-hot (clips, classes)
    scores: np.ndarray  # (clips, classes)
    probabilities: np.ndarray  # (clips, classes)


def confusions(scored: Scored, classes: list[str], top: int = 3) -> list[list[tuple[str, int]]]:
    """The classes that most often rank above each class in clips of it that have not got them: for
    each class up to `top` pairs (other class, number of the class's clips).
    """
    found = []
    for label in range(len(classes)):
        clips = scored.truth[:, label] > 0
        above = scored.scores[clips] > scored.scores[clips, label, None]
        counts = (above & (scored.truth[clips] == 0)).sum(axis=0)
        best = np.argsort(-counts, kind="stable")[:top]
        found.append([(classes[i], int(counts[i])) for i in best if counts[i]])
    return found


def suspects(known: list[Scored], classes: list[str]) -> pd.DataFrame:
    """Labels that look wrong, and those that look forgotten: split by split, the likeliest first.

    A class is *heard* in a clip where its probability is that of a typical clip of the class (the
    mean over those that are labelled so) or higher, and above one half. Where a class is heard that
    the clip is not labelled with, labels below both are doubted; where there are none, that class
    counts as forgotten. After Northcutt et al., *Confident learning*, JAIR 2021.

    Gives the columns COLUMNS and row: where the clip is in its `Scored`.
    """
    rows = [row for scored in known for row in _suspects(scored, classes)]
    return pd.DataFrame(rows, columns=[*COLUMNS, "row"])


def _suspects(scored: Scored, classes: list[str]) -> list[tuple]:
    truth, probabilities, rows = scored.truth > 0, scored.probabilities, []
    typical = (probabilities * truth).sum(axis=0) / np.maximum(truth.sum(axis=0), 1)
    heard = probabilities >= np.maximum(typical, LIKELY)
    for clip in np.flatnonzero((heard & ~truth).any(axis=1)):
        others = np.where(heard[clip] & ~truth[clip], probabilities[clip], -1)
        other = int(others.argmax())
        says = f"sounds like {classes[other]} ({percent(others[other])})"
        faint = probabilities[clip] < np.minimum(typical, LIKELY)
        doubted = np.flatnonzero(truth[clip] & faint)
        for label in doubted:
            why = f"{says}, not {classes[label]} ({percent(probabilities[clip, label])})"
            doubt = others[other] - probabilities[clip, label]
            rows.append((doubt, clip, classes[label], classes[other], why))
        if not len(doubted):
            why = f"{says}, which is not among its labels"
            rows.append((others[other] - LIKELY, clip, classes[other], "", why))
    rows.sort(key=lambda row: -row[0])
    return [(scored.fnames[row], scored.split, *said, row) for _, row, *said in rows]


def remarkable(
    curated: Scored, doubted: pd.DataFrame, classes: list[str], worst: np.ndarray
) -> dict[tuple[str, int], dict[str, str]]:
    """The clips worth hearing, at most `MOST_CLIPS`: why, by group, of each split and row of it.

    doubted : what `suspects` gives
    worst : classes in the order in which the hardest clips of them are looked for
    """
    found = {}

    def add(split: str, clip: int, group: str, why: str) -> None:
        if (split, clip) in found or len(found) < MOST_CLIPS:
            said = found.setdefault((split, clip), {})
            said[group] = f"{said[group]}; {why}" if group in said else why

    truth, probabilities = curated.truth > 0, curated.probabilities
    wrong = np.where(truth, -1, probabilities)
    surest = np.where(wrong.argmax(axis=1) == probabilities.argmax(axis=1), wrong.max(axis=1), -1)
    for clip in np.argsort(-surest, kind="stable")[:MOST_OF_A_GROUP]:
        if surest[clip] >= 0:
            says = f"{classes[wrong[clip].argmax()]} {percent(surest[clip])}"
            add("curated", int(clip), "surest", f"{says}, which is not among its labels")
    clips = doubted[["split", "row"]].drop_duplicates().groupby("split").head(MOST_OF_A_GROUP)
    for suspect in doubted.merge(clips).itertuples():
        add(suspect.split, suspect.row, suspect.split, suspect.why)
    for label in worst:
        clips = np.flatnonzero(truth[:, label])
        if len(clips):
            clip = clips[probabilities[clips, label].argmin()]
            why = f"{classes[label]} only {percent(probabilities[clip, label])}"
            add("curated", int(clip), "hardest", why)
    return found
