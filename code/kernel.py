"""Make of a trained ensemble what a Kaggle competition takes: a dataset and a kernel to upload."""

import argparse
import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import zipfile
from pathlib import Path

from messages import PipelineError
from runs import command_line
from storage import write_json
from trained import ensemble as trained
from trained.ensemble import Ensemble

CODE = Path(__file__).resolve().parent
SCRIPT = "kaggle_script.py"
LIBRARY = ("config.py", "messages.py", "storage.py", "solution", "fast", "clips", "trained")
COMPETITION = "freesound-audio-tagging-2019"
DATASET, KERNEL = "freesound-tagging-ensemble", "freesound-tagging-submission"
# Kaggle's limit, the lowest that was ever in force. There is one of 50 files, too: what lies in
# folders, which are uploaded as archives and unpacked there, does not count.
DATASET_BYTES = 20e9
NO_NAME = "YOUR-KAGGLE-NAME"


def write_dataset(folder: Path, ensemble: Ensemble, user: str) -> None:
    """The ensemble's own files, the modules that it is used with, and the dataset's metadata."""
    for file in ensemble.files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ensemble.find(file), folder / file.path)
    trained.write(dataclasses.replace(ensemble, folder=folder))
    library = [CODE / name for name in LIBRARY]
    if any(config.trains_front_end for config in ensemble.configs):
        kapre = importlib.util.find_spec("kapre")  # which Kaggle's image lacks
        library.append(Path(kapre.origin).parent)
    packed = {"compression": zipfile.ZIP_DEFLATED, "strict_timestamps": False}  # of 1970, too
    with zipfile.ZipFile(folder / "library.zip", "w", **packed) as archive:
        for path in library:
            for module in [path] if path.is_file() else sorted(path.glob("*.py")):
                archive.write(module, module.relative_to(path.parent))
    about = {"title": DATASET.replace("-", " "), "id": f"{user}/{DATASET}"}
    write_json(folder / "dataset-metadata.json", {**about, "licenses": [{"name": "other"}]})


def write_kernel(folder: Path, user: str, gpu: bool) -> None:
    """The script, the same as a notebook, and the metadata that name the script."""
    folder.mkdir(parents=True)
    script = (CODE / "trained" / SCRIPT).read_text()
    (folder / SCRIPT).write_text(script)
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


def check_size(dataset: Path) -> None:
    """Print it; PipelineError where Kaggle would not take that much."""
    sizes = [path.stat().st_size for path in dataset.rglob("*") if path.is_file()]
    said = f"{sum(sizes) / 1e6:.1f} MB; Kaggle takes {DATASET_BYTES / 1e9:.0f} GB"
    print(f"dataset: {len(sizes)} files, {said}")
    if sum(sizes) > DATASET_BYTES:
        raise PipelineError(
            f"the dataset has {said}: name fewer experiments or folds when you run ensemble"
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
    return parser


def main() -> None:
    args = _parser().parse_args()
    folder, made = args.output / "kaggle", args.output / ".part-kaggle"
    ensemble = trained.read(args.output)
    with command_line.locked(args.output):
        shutil.rmtree(made, ignore_errors=True)  # what a killed process left
        try:
            write_dataset(made / "dataset", ensemble, args.user)
            write_kernel(made / "kernel", args.user, gpu=not args.no_gpu)
            check_size(made / "dataset")
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    if args.user == NO_NAME:
        print(f"put your name in the place of {NO_NAME} in the metadata, or use --user NAME; then:")
    dataset, kernel = (shlex.quote(str(folder / part)) for part in ("dataset", "kernel"))
    print(f"kaggle datasets create --dir-mode zip -p {dataset}")
    print(f"  (next time: kaggle datasets version --dir-mode zip -p {dataset} -m 'trained again')")
    print(f"kaggle kernels push -p {kernel}")


if __name__ == "__main__":
    with command_line.errors_in_one_line("the same command starts again"):
        main()
