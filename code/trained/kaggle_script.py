"""Tags the test clips of Freesound Audio Tagging 2019 with the ensemble of the attached dataset.

It needs no internet. It finds the dataset and the competition wherever they are mounted, keeps a
time budget, and writes submission.csv into the working folder.
"""

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STARTED = time.monotonic()
MINUTES = 55.0
LIBRARY = "library"  # the modules of the project that are needed


def ensemble_below(root: Path) -> Path:
    """The folder of the attached dataset."""
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders.sort()
        if "trained.json" in names:
            return Path(folder)
    sys.exit(f"error: no trained.json below {root}: attach the dataset that kernel.py made")


def install_missing(wheels: list[Path]) -> None:
    """Install the dataset's wheels of packages that are not there, without network."""
    missing = []
    for wheel in wheels:
        try:
            importlib.metadata.version(re.match("[^-]+", wheel.name)[0])
        except importlib.metadata.PackageNotFoundError:
            missing.append(str(wheel))
    if missing:
        folder = tempfile.mkdtemp()
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, "--target", folder, *missing], check=True)
        sys.path.append(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=Path, default=Path("/kaggle/input"), metavar="DIR")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    args, _ = parser.parse_known_args()  # what a notebook server passes is not for us
    ensemble = ensemble_below(args.input)
    install_missing(sorted(ensemble.glob("*.whl")))
    # Kaggle unpacks archives that a dataset is made of.
    unpacked, archive = ensemble / LIBRARY, ensemble / f"{LIBRARY}.zip"
    sys.path.insert(0, str(unpacked if unpacked.is_dir() else archive))
    from messages import PipelineError
    from trained import submission

    try:
        submission.make(ensemble, args.input, Path("submission.csv"), args.minutes, STARTED)
    except PipelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
