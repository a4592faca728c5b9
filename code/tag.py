"""Tag audio files with a trained ensemble: `python code/tag.py FILES...`.

From Python: `from tag import Tagger`, then `Tagger("output").tag(waveform, sample_rate)`.
"""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import own_modules

with own_modules.first():
    from clips.decoding import read_clip
    from clips.files import AUDIO_SUFFIXES, ClipFile, is_audio
    from messages import InputError, UnreadableClip
    from runs import command_line
    from solution.crops import prefetch

STDIN = "-"
FILES_AT_ONCE, SECONDS_AT_ONCE = 16, 120  # of clips that are tagged together
PLACE = ("fname", "start", "end")  # columns of the table that are no classes
SHORTEST, LONGEST = 0.01, 1e6  # window and hop, seconds


def __getattr__(name: str):
    """`Tagger`, imported when it is asked for: TensorFlow takes seconds, `--help` should not."""
    if name != "Tagger":
        raise AttributeError(f"module 'tag' has no attribute {name!r}")
    with own_modules.first():
        from trained.tagger import Tagger
    return Tagger


@dataclass
class Tagged:
    """One file: its name, and either why it could not be read or what is in it."""

    name: str
    error: str = ""
    seconds: float = 0.0
    scores: np.ndarray | None = None  # float32 (classes,)
    windows: list | tuple = ()  # (start, end, scores)


def find_files(names: list[str]) -> list[tuple[str, str]]:
    """The files that are meant, each with "": a folder stands for all files below it, but for
    hidden ones.

    What is no audio, and a folder that cannot be read or is empty, is there with what is wrong.
    """
    files = []
    for name in names:
        if name == STDIN or not os.path.isdir(name):
            files.append((name, ""))
            continue
        found, faults = [], []
        for folder, subfolders, inside in os.walk(name, onerror=faults.append):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            inside = sorted(name for name in inside if not name.startswith("."))
            found += [os.path.join(folder, file) for file in inside]
        here = Path()
        files += [(path, "" if is_audio(ClipFile(here, path)) else "is no audio") for path in found]
        files += [(fault.filename, f"cannot be opened ({fault.strerror})") for fault in faults]
        if not found and not faults:
            files.append((name, "holds no files"))
    return files


def read(name: str, sample_rate: int) -> np.ndarray:
    """Decode a file, or standard input: float32 (samples,). Raises UnreadableClip."""
    try:
        if name == STDIN:
            if sys.stdin is None:
                raise UnreadableClip("is closed")
            return read_clip(io.BytesIO(sys.stdin.buffer.read()), sample_rate)
        with open(name, "rb") as file:
            seekable = file if file.seekable() else io.BytesIO(file.read())
            return read_clip(seekable, sample_rate)
    except OSError as error:
        raise UnreadableClip(f"cannot be opened ({error.strerror})") from error
    except MemoryError as error:
        raise UnreadableClip("takes more memory than there is") from error


def read_all(files: list[tuple[str, str]], sample_rate: int) -> Iterator[list]:
    """Groups of (name, waveform or error): the first file alone, so that its tags come soon."""
    group, seconds = [], 0.0
    for number, (name, fault) in enumerate(files):
        try:
            if fault:
                raise UnreadableClip(fault)
            waveform = read(name, sample_rate)
            seconds += len(waveform) / sample_rate
        except UnreadableClip as error:
            waveform = error
        group.append((name, waveform))
        if number == 0 or len(group) == FILES_AT_ONCE or seconds > SECONDS_AT_ONCE:
            yield group
            group, seconds = [], 0.0
    if group:
        yield group


def tag_all(tagger, files: list[tuple[str, str]], window: float, hop: float) -> Iterator[Tagged]:
    """Tag files in their order. Those of more than two windows get a timeline."""
    rate = tagger.sample_rate
    for group in prefetch(read_all(files, rate)):
        readable = [waveform for _, waveform in group if not isinstance(waveform, UnreadableClip)]
        scores = iter(tagger.scores(readable, rate))
        for name, waveform in group:
            if isinstance(waveform, UnreadableClip):
                yield Tagged(name, error=str(waveform))
                continue
            tagged = Tagged(name, seconds=len(waveform) / rate, scores=next(scores))
            if tagged.seconds > 2 * window:
                tagged.windows = tagger.timeline(waveform, rate, window, hop)
            yield tagged


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
    """The best tags, and whether they are present; of a timeline, a line for each segment."""
    lines = [f"{tagged.name}  ({tagged.seconds:.1f} s)"]
    width = max(map(len, tagger.classes))
    for tag, values in best(tagger, tagged.scores, top).items():
        mark = "present" if values["present"] else ""
        lines.append(f"  {tag:{width}}  {percent(values['probability']):>6}  {mark}".rstrip())
    if tagged.windows:
        for start, end, tag, probability in segments(tagger, tagged):
            lines.append(f"  {clock(start)} - {clock(end)}  {tag} {percent(probability)}")
    return "\n".join(lines)


def percent(probability: float) -> str:
    """0.974 -> "97 %"; nothing is certain."""
    limits = "> 99 %" if probability > 0.99 else "< 1 %" if probability < 0.01 else ""
    return limits or f"{100 * probability:.0f} %"


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
            {
                "start": round(start, 3),
                "end": round(end, 3),
                "tag": tag,
                "probability": round(probability, 4),
            }
            for start, end, tag, probability in segments(tagger, tagged)
        ]
    return whole


def require_writable(option: str, path: Path, clips: list[str]) -> None:
    """Refuse a file's name before hours of work: no clip is to be overwritten.

    Raises
    ------
    InputError
    """
    is_clip = path.exists() and any(os.path.exists(clip) and path.samefile(clip) for clip in clips)
    if path.suffix.lower() in AUDIO_SUFFIXES or is_clip:
        raise InputError(f"{option} {path} would overwrite a clip: name another file first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{option} {path} cannot be written")


def label_files(path: Path, clips: list[str]) -> dict[str, Path]:
    """The label file of each clip: one holds the labels of one, so several need a folder.

    Raises
    ------
    InputError
    """
    if path.is_dir():
        files = {clip: path / f"{Path(clip).name}.txt" for clip in clips}
        names = [file.name for file in files.values()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(
                f"--labels {path}: {twice[0]} would be that of two clips: tag each alone"
            )
    elif len(clips) > 1:
        raise InputError(
            f"--labels {path}: a label file holds one clip, here are {len(clips)}: name a folder "
            "that is there, for one file per clip"
        )
    else:
        files = dict.fromkeys(clips, path)
    for file in files.values():
        require_writable("--labels", file, clips)
    return files


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
    columns = table_columns(tagger.classes)
    values = (scores, probabilities.round(6), tagger.calibration.present(probabilities))
    table = pd.concat(
        [
            pd.DataFrame(places, columns=PLACE),
            *(pd.DataFrame(v, columns=c) for v, c in zip(values, columns, strict=True)),
        ],
        axis=1,
    )
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


def seconds(text: str) -> float:
    """A hundredth of a second at least; argparse calls a faulty value by this function's name."""
    value = float(text)
    if not SHORTEST <= value <= LONGEST:
        raise ValueError(text)
    return value


def number(text: str) -> int:
    """One at least."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tag.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "files", nargs="+", metavar="FILES", help="audio files, folders, or - for standard input"
    )
    command_line.add_output_option(parser, "of the run that trained")
    command_line.add_choice_options(parser, experiments="all")
    parser.add_argument(
        "--top", type=number, default=5, metavar="N", help="tags to show (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument(
        "--csv", type=Path, metavar="OUT", help="write the values of all classes to this file too"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="OUT.txt",
        help="write where tags are present for Audacity; of several files, into this folder",
    )
    for name, default, what in (
        ("window", 5.0, "length of the timeline's windows, for files of more than two"),
        ("hop", 2.5, "from one window to the next"),
    ):
        parser.add_argument(
            f"--{name}",
            type=seconds,
            default=default,
            metavar="S",
            help=f"{what}, in seconds (default: {default})",
        )
    return parser


def main() -> int:
    args = _parser().parse_args()
    files = find_files(args.files)
    names = [name for name, _ in files]
    if args.csv:
        require_writable("--csv", args.csv, names)
    labels = label_files(args.labels, names) if args.labels else {}
    tagger, done = start(args), []
    try:
        for tagged in tag_all(tagger, files, args.window, args.hop):
            done.append(tagged)
            if tagged.error:
                print(f"error: {tagged.name}: {tagged.error}", file=sys.stderr)
            try:
                if args.json:
                    row = json.dumps(as_json(tagger, tagged, args.top))
                    print(("[" if len(done) == 1 else ",\n ") + row, end="", flush=True)
                elif not tagged.error:
                    print(as_text(tagger, tagged, args.top), flush=True)
            except BrokenPipeError:  # as of `tag.py ... | head`: the table is still to be whole
                if not args.csv and not labels:
                    raise
                command_line.discard_output()
        if args.json:
            print("]")
    finally:
        readable = [tagged for tagged in done if not tagged.error]
        if args.csv:
            write_csv(args.csv, tagger, readable)
        for tagged in readable if labels else ():
            write_labels(labels[tagged.name], segments(tagger, tagged))
    return int(len(readable) < len(done))


def start(args: argparse.Namespace):
    """The tagger that was asked for; says on standard error what the time went into."""
    began = time.perf_counter()
    from trained.tagger import Tagger

    imported = time.perf_counter()
    tagger = Tagger(args.output, args.experiments, args.folds)
    ready = time.perf_counter()
    print(
        f"ready in {ready - began:.1f} s: {imported - began:.1f} importing Keras and its backend, "
        f"{ready - imported:.1f} for networks and weights",
        file=sys.stderr,
    )
    return tagger


if __name__ == "__main__":
    with command_line.errors_in_one_line("start again when you like"):
        try:
            status = main()
        except BrokenPipeError:  # as of `tag.py ... | head`
            command_line.discard_output()
            status = 0
        sys.exit(status)
