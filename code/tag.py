"""Tag audio files with a trained ensemble: `python code/tag.py FILES...`.

From Python: `from tag import Tagger`, then `Tagger("output").tag(waveform, sample_rate)`.
"""

import argparse
import collections
import contextlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

import own_modules

with own_modules.first():
    from clips.decoding import read_clip
    from clips.files import ClipFile, is_audio, is_hidden, is_named_as_audio, walk
    from messages import InputError, UnreadableClip
    from runs import command_line
    from solution.crops import prefetch
    from trained.tagged import Tagged, as_json, as_text, segments, write_csv, write_labels

STDIN = "-"
FILES_AT_ONCE, SECONDS_AT_ONCE = 16, 120  # of clips that are tagged together
SHORTEST, LONGEST = 0.01, 1e6  # window and hop, seconds


def __getattr__(name: str):
    """`Tagger`, imported when it is asked for: TensorFlow takes seconds, `--help` should not."""
    if name != "Tagger":
        raise AttributeError(f"module 'tag' has no attribute {name!r}")
    with own_modules.first():
        from trained.tagger import Tagger
    return Tagger


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
        for folder, inside in walk(Path(name), math.inf, faults.append):
            found += [os.path.join(folder, file) for file in sorted(inside) if not is_hidden(file)]
        here = Path()
        for path in found:  # a pipe would wait for ever
            sounds = os.path.isfile(path) and is_audio(ClipFile(here, path))
            files.append((path, "" if sounds else "is no audio"))
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


def require_writable(option: str, paths: Iterable[Path], clips: list[str]) -> None:
    """InputError, before hours of work, if one of these cannot be written, or is a clip."""
    taken = {os.stat(clip)[1:3] for clip in clips if os.path.exists(clip)}  # inode and device
    for path in paths:
        is_clip = path.exists() and os.stat(path)[1:3] in taken
        if is_named_as_audio(path) or is_clip:
            raise InputError(f"{option} {path} would overwrite a clip: name another file first")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InputError(f"{option} {path} cannot be written")


def label_files(name: str, clips: list[str]) -> dict[str, Path]:
    """The label file of each clip: one holds the labels of one, so several need a folder.

    name : of a file or a folder; one that ends with a slash is a folder's
    """
    path = Path(name)
    if name.endswith("/") and not path.is_dir():
        raise InputError(f"--labels {name}: there is no such folder: make it first")
    if path.is_dir():
        files = {clip: path / f"{Path(clip).name}.txt" for clip in clips}
        counts = collections.Counter(file.name for file in files.values())
        twice = sorted(name for name, n in counts.items() if n > 1)
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
    require_writable("--labels", files.values(), clips)
    return files


def seconds(text: str) -> float:
    """Of a window or a hop; argparse says what is wrong with others."""
    with contextlib.suppress(ValueError):
        if SHORTEST <= float(text) <= LONGEST:
            return float(text)
    raise argparse.ArgumentTypeError(
        f"must be {SHORTEST:g} to {LONGEST:,.0f} seconds, not {text!r}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tag.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "files", nargs="+", metavar="FILES", help="audio files, folders, or - for standard input"
    )
    command_line.add_output_option(parser, "of the run that trained")
    command_line.add_choice_options(parser, experiments="all", folds="all")
    parser.add_argument(
        "--top", type=command_line.number, default=5, metavar="N", help="tags to show (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument(
        "--csv", type=Path, metavar="OUT", help="write the values of all classes to this file too"
    )
    parser.add_argument(
        "--labels",
        metavar="OUT.txt",
        help="write where tags are present for Audacity; of several files, into this folder",
    )
    parser.add_argument(
        "--window",
        type=seconds,
        default=5.0,
        metavar="S",
        help="seconds of a window; files longer than two get a timeline of windows (default: 5)",
    )
    parser.add_argument(
        "--hop",
        type=seconds,
        metavar="S",
        help="seconds from one window to the next (default: half a window)",
    )
    return parser


def main() -> int:
    args = _parser().parse_args()
    hop = args.hop or args.window / 2
    if hop > args.window:
        raise InputError(
            f"--hop {hop:g} is longer than --window {args.window:g}: what lies between windows "
            "would not be heard"
        )
    files = find_files(args.files)
    clips = [name for name, fault in files if not fault]
    if args.csv:
        require_writable("--csv", [args.csv], clips)
    labels = {} if args.labels is None else label_files(args.labels, clips)
    written = {os.path.realpath(path) for path in labels.values()}
    if args.csv:
        if os.path.realpath(args.csv) in written:
            raise InputError(
                f"--csv and --labels would both write {args.csv}: name another file first"
            )
        written.add(os.path.realpath(args.csv))
    # What an earlier call wrote among the clips is no fault.
    files = [one for one in files if not one[1] or os.path.realpath(one[0]) not in written]
    tagger, done = start(args), []
    try:
        for tagged in tag_all(tagger, files, args.window, hop):
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
            print("]" if done else "[]")
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
