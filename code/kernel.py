"""Make of a trained ensemble what a Kaggle competition takes: a dataset and a kernel to upload."""

import argparse
import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import messages
from clips import views
from clips.store import RECORD, STORE_FILES, ClipStore
from messages import MissingResult, PipelineError
from runs import command_line
from solution.scoring import Predictor
from storage import OutputFolder, write_json, written_whole
from trained import ensemble as trained
from trained import packed
from trained.ensemble import Trained

CODE = Path(__file__).resolve().parent
REQUIREMENTS = CODE.parent / "requirements.txt"
SCRIPT = "kaggle_script.py"
LIBRARY = ("config.py", "messages.py", "storage.py", "solution", "fast", "clips", "trained")
COMPETITION = "freesound-audio-tagging-2019"
DATASET, KERNEL = "freesound-tagging-ensemble", "freesound-tagging-submission"
LARGEST_CHANGE = 1e-3  # of a score, through packing
COMPARED_CLIPS = 8
# Kaggle's limits, the lowest that were ever in force: they have been raised since.
DATASET_BYTES, DATASET_FILES, SCRIPT_BYTES = 20e9, 50, 1e6
NO_NAME = "YOUR-KAGGLE-NAME"


def pack(ensemble: Trained, folder: Path, clips: ClipStore) -> Trained:
    """Write the weights into `folder`, in 16 bits where scores stay as they are.

    Returns
    -------
    The ensemble as it is there.
    """
    n_networks = len(ensemble.configs) * len(ensemble.folds)
    changes = []  # of the scores, the largest for each network that was packed
    with messages.progress_bar("packing", n_networks, "network") as bar:
        for config in ensemble.configs:
            predictor, networks = Predictor(config, len(ensemble.classes)), {}
            inputs = compared(clips, predictor)
            for fold in ensemble.folds:
                ensemble.load(predictor, fold)
                weights, scores = predictor.merged_weights(), predictor.predict_on_batch(inputs)
                network = packed.pack(weights)
                predictor.set_merged_weights(packed.unpack(network))
                change = np.abs(predictor.predict_on_batch(inputs) - scores).max()
                if not change < LARGEST_CHANGE:  # nor is NaN
                    loss = f"16 would change scores by {change:.1e}"
                    print(f"{config.name} fold {fold} stays in 32 bits: {loss}")
                    network = packed.as_they_are(weights)
                else:
                    changes.append(change)
                networks[fold] = network
                bar.update()
            packed.write(folder / f"{config.name}.npz", networks)
    stackers = {i: packed.as_they_are(weights) for i, weights in enumerate(ensemble.stackers)}
    packed.write(folder / f"{trained.STACKERS}.npz", stackers)
    if changes:
        n_clips = len(inputs["length"])
        print(f"weights in 16 bits: scores of {n_clips} clips change by {max(changes):.1e}")
    return dataclasses.replace(ensemble, folder=folder, checksums={})  # npz files have their own


def compared(clips: ClipStore, predictor: Predictor) -> dict[str, np.ndarray]:
    """Some clips, evenly spread, as inputs of a predictor."""
    chosen = np.unique(np.linspace(0, len(clips) - 1, COMPARED_CLIPS).astype(int))
    return {"views": views.of_clips(clips, chosen, predictor.config), **clips.inputs(chosen)}


def write_library(path: Path) -> None:
    """All modules but the stages' and what only those need, as an archive to be imported from."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in LIBRARY:
            modules = [CODE / name] if name.endswith(".py") else sorted((CODE / name).glob("*.py"))
            for module in modules:
                archive.write(module, module.relative_to(CODE))


def require_pins(packages: list[str]) -> None:
    """PipelineError for a package that requirements.txt does not have."""
    pinned = re.findall(r"^([\w.-]+)==", REQUIREMENTS.read_text(), re.M)
    for name in packages:
        if name not in pinned:
            raise PipelineError(f"requirements.txt has no {name}; it has {', '.join(pinned)}")


def add_wheels(folder: Path, packages: list[str]) -> None:
    """Download wheels of these packages, at the versions of requirements.txt, for this Python."""
    if not packages:
        return
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary"]
    command += [":all:", "--constraint", str(REQUIREMENTS), "--dest", str(folder), *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PipelineError(f"pip could not download the wheels: {done.stderr.strip()[-300:]}")


def write_kernel(folder: Path, user: str, gpu: bool) -> None:
    """The script, the same as a notebook, and the metadata that name the script."""
    script = (CODE / "trained" / SCRIPT).read_text()
    with written_whole(folder / SCRIPT) as part:
        part.write_text(script)
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [{**cell, "source": script.splitlines(keepends=True)}],
        "metadata": {"kernelspec": python, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    write_json((folder / SCRIPT).with_suffix(".ipynb"), notebook)
    metadata = {
        "id": f"{user}/{KERNEL}",
        "title": KERNEL.replace("-", " "),
        "code_file": SCRIPT,
        "language": "python",
        "kernel_type": "script",
        "is_private": "true",
        "enable_gpu": str(gpu).lower(),
        "enable_internet": "false",
        "dataset_sources": [f"{user}/{DATASET}"],
        "competition_sources": [COMPETITION],
        "kernel_sources": [],
    }
    write_json(folder / "kernel-metadata.json", metadata)


def check_sizes(dataset: Path, kernel: Path) -> None:
    """Print the sizes; PipelineError where Kaggle would not take them."""
    sizes = [path.stat().st_size for path in dataset.iterdir()]
    script = max(path.stat().st_size for path in kernel.iterdir())
    print(
        f"dataset: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB "
        f"(Kaggle takes {DATASET_FILES} and {DATASET_BYTES / 1e9:.0f} GB); "
        f"kernel: {script / 1e3:.0f} kB (Kaggle takes {SCRIPT_BYTES / 1e6:.0f} MB)"
    )
    if len(sizes) > DATASET_FILES or sum(sizes) > DATASET_BYTES or script > SCRIPT_BYTES:
        raise PipelineError(
            "that is more than Kaggle takes: name fewer experiments or folds when you run ensemble"
        )


def user_name(text: str) -> str:
    if not re.fullmatch(r"[\w-]+", text):
        raise ValueError(text)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kernel.py", description=__doc__)
    command_line.add_output_option(parser, "of the run that trained the ensemble")
    parser.add_argument(
        "--user",
        type=user_name,
        metavar="NAME",
        default=os.environ.get("KAGGLE_USERNAME", NO_NAME),
        help="your name on Kaggle (default: KAGGLE_USERNAME of the environment)",
    )
    parser.add_argument(
        "--no-gpu", action="store_true", help="let the kernel run without Kaggle's GPU"
    )
    parser.add_argument(
        "--wheels",
        type=command_line.names,
        metavar="A,B",
        default=[],
        help="packages of requirements.txt to send along, should Kaggle's image lack them",
    )
    return parser


def write_dataset(folder: Path, ensemble: Trained, clips: ClipStore, user: str) -> None:
    """Weights, their description with settings and classes, the modules needed, and metadata."""
    folder.mkdir(parents=True)
    trained.write(pack(ensemble, folder, clips))
    write_library(folder / "library.zip")
    about = {"title": DATASET.replace("-", " "), "id": f"{user}/{DATASET}"}
    write_json(folder / "dataset-metadata.json", {**about, "licenses": [{"name": "other"}]})


def open_clips(outputs: OutputFolder) -> ClipStore:
    """The curated clips, with some of which packed weights are compared."""
    folder = outputs.clips("curated")
    for path in (folder / name for name in (*STORE_FILES, RECORD)):
        if not path.is_file():
            raise MissingResult(f"run preprocess first: {path} is not there")
    return ClipStore(folder)


@contextlib.contextmanager
def _made_anew(folder: Path) -> Iterator[Path]:
    """An empty folder for this block; one that a killed process left is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    args = _parser().parse_args()
    require_pins(args.wheels)
    outputs = OutputFolder(args.output)
    ensemble = trained.read(outputs.root)
    with command_line.locked(outputs), _made_anew(outputs.root / ".part-kernel") as made:
        new = OutputFolder(made)
        clips = open_clips(outputs)
        write_dataset(new.kaggle("dataset"), ensemble, clips, args.user)
        add_wheels(new.kaggle("dataset"), args.wheels)
        write_kernel(new.kaggle("kernel"), args.user, gpu=not args.no_gpu)
        check_sizes(new.kaggle("dataset"), new.kaggle("kernel"))
        shutil.rmtree(outputs.kaggle("dataset").parent, ignore_errors=True)
        new.kaggle("dataset").parent.rename(outputs.kaggle("dataset").parent)
    if args.user == NO_NAME:
        print(f"put your name in the place of {NO_NAME} in the metadata, or use --user NAME; then:")
    dataset, kernel = (shlex.quote(str(outputs.kaggle(part))) for part in ("dataset", "kernel"))
    print(f"kaggle datasets create -p {dataset}")
    print(f"  (the next time: kaggle datasets version -p {dataset} -m 'trained again')")
    print(f"kaggle kernels push -p {kernel}")


if __name__ == "__main__":
    with command_line.errors_in_one_line("the same command starts again"):
        main()
