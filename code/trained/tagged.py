"""What was found in files, as text, JSON, a table or labels for Audacity.

`tagger` is the `Tagger` that scored them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from messages import percent

PLACE = ("fname", "start", "end")  # columns of the table that are no classes


@dataclass
class Tagged:
    """One file: its name, and either why it could not be read or what is in it."""

    name: str
    error: str = ""
    seconds: float = 0.0
    scores: np.ndarray | None = None  # float32 (classes,)
    windows: list | tuple = ()  # (start, end, scores)


def best(tagger, scores: np.ndarray, top: int) -> dict[str, dict]:
    """The likeliest tags, with `probability`, `present` and `score` each."""
    probabilities = tagger.calibration.probabilities(scores)
    present = dict(zip(tagger.classes, tagger.calibration.present(probabilities), strict=True))
    scores = dict(zip(tagger.classes, scores, strict=True))
    return {
        tag: {
            "probability": round(probability, 4),
            "present": bool(present[tag]),
            "score": round(float(scores[tag]), 4),
        }
        for tag, probability in tagger.ranked(probabilities, top).items()
    }


def segments(tagger, tagged: Tagged) -> list:
    """Where tags are present; without a timeline, in the whole clip."""
    return tagger.merged(tagged.windows or [(0.0, tagged.seconds, tagged.scores)])


def as_text(tagger, tagged: Tagged, top: int) -> str:
    """The best tags, and whether they are present; of a timeline, a line for each segment.

    The tags are those of three crops, as of test clips; only the timeline is of the whole file.
    """
    lines = [f"{tagged.name}  ({tagged.seconds:.1f} s)"]
    width = max(map(len, tagger.classes))
    for tag, values in best(tagger, tagged.scores, top).items():
        mark = "present" if values["present"] else ""
        lines.append(f"  {tag:{width}}  {percent(values['probability']):>6}  {mark}".rstrip())
    if tagged.windows:
        (start, end, _), found = tagged.windows[0], segments(tagger, tagged)
        heading = f"  all of it, in windows of {round(end - start, 2):g} s:"
        lines.append(heading if found else f"{heading} no tag is present")
        for start, end, tag, probability in found:
            lines.append(f"  {clock(start)} - {clock(end)}  {tag} {percent(probability)}")
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """75.5 -> "1:15.5"."""
    minutes, seconds = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}:{seconds:04.1f}"


def as_json(tagger, tagged: Tagged, top: int) -> dict:
    """`file`, and `error` or `seconds`, `tags` (the best), `windows` and `segments`."""
    if tagged.error:
        return {"file": tagged.name, "error": tagged.error}
    whole = {"file": tagged.name, "seconds": round(tagged.seconds, 3)}
    whole["tags"] = best(tagger, tagged.scores, top)
    if tagged.windows:
        whole["windows"] = [
            {"start": round(start, 3), "end": round(end, 3), "tags": best(tagger, scores, top)}
            for start, end, scores in tagged.windows
        ]
        whole["segments"] = [
            {"start": round(start, 3), "end": round(end, 3), "tag": tag, "probability": round(p, 4)}
            for start, end, tag, p in segments(tagger, tagged)
        ]
    return whole


def write_labels(path: Path, segments: list) -> None:
    """What Audacity imports as a label track: start, end (seconds) and tag, with tabs between."""
    rows = [(start, end, " ".join(tag.split())) for start, end, tag, _ in segments]
    lines = [f"{start:.6f}\t{end:.6f}\t{tag}\n" for start, end, tag in rows]
    path.write_text("".join(lines), encoding="utf-8")


def write_csv(path: Path, tagger, tagged: list[Tagged]) -> None:
    """One row per file, and one per window: fname, start, end (seconds), then the scores in columns
    called as the classes; then `CLASS probability` of all, then `CLASS present`.
    """
    places, scores = [], []
    for one in tagged:
        for start, end, values in [(0.0, one.seconds, one.scores), *one.windows]:
            places.append((one.name, round(start, 3), round(end, 3)))
            scores.append(values)
    scores = np.reshape(scores, (-1, len(tagger.classes)))
    probabilities = tagger.calibration.probabilities(scores)
    parts = (places, scores, probabilities.round(6), tagger.calibration.present(probabilities))
    columns = (PLACE, *table_columns(tagger.classes))
    tables = [pd.DataFrame(part, columns=names) for part, names in zip(parts, columns, strict=True)]
    table = pd.concat(tables, axis=1)
    # Not beside it and renamed: it may be a link or a device.
    table.to_csv(path, index=False, errors="surrogateescape")


def table_columns(classes: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Of scores, probabilities and presence. A class called as another column is gets " score"."""
    probability, present = (
        [f"{name} {kind}" for name in classes] for kind in ("probability", "present")
    )
    taken, score = {*PLACE, *probability, *present}, []
    for name in classes:
        column = name
        while column in taken or (column != name and column in classes):
            column += " score"
        score.append(column)
    return score, probability, present
