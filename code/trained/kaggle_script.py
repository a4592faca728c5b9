"""Tags the test clips of Freesound Audio Tagging 2019 with the ensemble of the attached dataset.

It needs no internet. It finds the dataset and the competition wherever they are mounted, keeps a
time budget, and writes submission.csv into the working folder.
"""

import argparse
import os
import sys
import time
from pathlib import Path

STARTED = time.monotonic()
MINUTES = 55.0


def ensemble_below(root: Path) -> Path:
    """The folder of the attached dataset."""
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders.sort()
        if "trained.json" in names:
            return Path(folder)
    sys.exit(f"error: no trained.json below {root}: attach the dataset that kernel.py made")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=Path, default=Path("/kaggle/input"), metavar="DIR")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    args, _ = parser.parse_known_args()  # what a notebook server passes is not for us
    ensemble = ensemble_below(args.input)
    # The modules of the project: Kaggle unpacks archives that a dataset is made of.
    sys.path[:0] = [str(ensemble / name) for name in ("library", "library.zip", "")]
    from messages import PipelineError
    from trained import submission

    try:
        submission.make(ensemble, args.input, Path("submission.csv"), args.minutes, STARTED)
    except PipelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
