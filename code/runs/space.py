"""How much disk space and memory a run will take, estimated before it starts."""

import itertools
import os
import shutil
import sys

from clips.dataset import SPLITS
from clips.decoding import NOT_DECODED, duration
from clips.derived import LOG_MELS, VIEWS
from clips.files import ClipFile
from config import Config
from fast import gpus
from messages import PipelineError, UnreadableClip
from runs.run import Run
from solution.features import N_FEATURES, NUM_STEPS

SAMPLED_CLIPS = 32
LONGEST = 1e6  # seconds; headers that say more lie, as those of FLAC files that were streamed
RESERVE = 75_000_000  # the report, histories and what else is small
SCORE_BYTES = 12  # one score in a CSV file
# Memory of training on a CPU in float32, as measured: BASE_MEMORY is TensorFlow's; there are
# COPIES_OF_WEIGHTS of these; each clip takes CLIP_MEMORY for waveform and spectrum, and COPIES of
# its feature maps.
BASE_MEMORY, COPIES_OF_WEIGHTS = 0.9e9, 10
CLIP_MEMORY = 6e6
COPIES, MORE_COPIES_WITH_SQUEEZE_EXCITE = 3.2, 0.7


def require(run: Run) -> None:
    """PipelineError where the disk is too small for the run; what is there already is counted."""
    needed, free = needed_bytes(run) - present_bytes(run), shutil.disk_usage(run.root).free
    if free < needed:
        raise PipelineError(
            f"{run.root} has {free / 1e9:.2f} GB of disk space left and this run will take about "
            f"{needed / 1e9:.2f} GB: free some, or name another --output"
        )


def needed_bytes(run: Run) -> float:
    """What the whole run will take."""
    needed = training_bytes(run.configs, run.pretrainings(), len(run.folds)) + RESERVE
    needed += sum(store_bytes(run.dataset[split].files, run.configs[0]) for split in SPLITS)
    n_scored = len(run.dataset["test"]) + len(run.dataset["curated"])
    configs = run.scored_configs()
    scored = {VIEWS.stem(config): config for config in configs if not config.trains_front_end}
    needed += sum(views_bytes(n_scored, config) for config in scored.values())
    stored = {LOG_MELS.stem(config): config for config in configs if config.frontend == "logmel"}
    for config in stored.values():
        needed += sum(log_mels_bytes(run.dataset[split].files, config) for split in SPLITS)
    n_rows = len(run.configs) * (len(run.folds) + 2) * n_scored + len(run.dataset["noisy"])
    return needed + SCORE_BYTES * n_rows * len(run.dataset.classes)


def present_bytes(run: Run) -> int:
    """What the clips, and these experiments' models and predictions, already take."""
    configs = run.scored_configs()
    folders = {run.root / part / one.name for part in ("models", "predictions") for one in configs}
    paths = [path for folder in (*folders, run.root / "clips") for path in folder.rglob("*")]
    made = [run.made_of_clips(split, config) for split in SPLITS for config in configs]
    ours = {os.path.basename(result.name) for results in made for result in results}
    others = VIEWS.name, LOG_MELS.name  # of other front ends
    counted = (path for path in paths if path.stem in ours or not path.name.startswith(others))
    return sum(path.stat().st_size for path in counted)


def report_memory(run: Run) -> None:
    """Warn where training, without a GPU, would take more memory than the machine has."""
    if gpus.visible():
        return
    largest = max(run.configs, key=training_memory)
    needed, present = training_memory(largest), machine_memory()
    if needed > present:
        print(
            f"warning: training {largest.name} in float32 on a CPU takes about {needed / 1e9:.1f} "
            f"GB of memory, and this machine has {present / 1e9:.1f} GB: take --profile small, or "
            "lower batch_size by --settings",
            file=sys.stderr,
        )


def store_bytes(files: list[ClipFile], config: Config) -> float:
    """Size of the clip store of these files: int16 samples, float32 features."""
    return 2 * config.sample_rate * _total_seconds(files) + len(files) * 4 * NUM_STEPS * N_FEATURES


def log_mels_bytes(files: list[ClipFile], config: Config) -> float:
    """Size of the stored log-mels of these files, float16: one frame per hop."""
    return 2 * config.n_mels * config.sample_rate / config.n_hop * _total_seconds(files)


def _total_seconds(files: list[ClipFile]) -> float:
    """Length of these files before trimming, from that of some of them."""
    sampled = files[:: max(1, len(files) // SAMPLED_CLIPS)]
    return len(files) * sum(map(_seconds, sampled)) / max(len(sampled), 1)


def views_bytes(n_clips: int, config: Config) -> float:
    """Size of the log-mels that so many clips are scored from."""
    return 4.0 * n_clips * config.n_views * config.crop_frames * config.n_mels


def _seconds(file: ClipFile) -> float:
    try:
        with file.open() as stream:
            seconds = duration(stream)
    except (UnreadableClip, *NOT_DECODED):
        return 0.0
    return seconds if seconds < LONGEST else 0.0


def weights_bytes(config: Config) -> float:
    """Size of the weights of one network, to some ten percent: its convolutions and its GRUs."""
    filters = [config.stem_channels, *config.scaled_block_filters]
    convolutions = sum(
        9 * (before + after) * after + config.cat * 2 * after**2 + config.squeeze_excite * after**2
        for before, after in itertools.pairwise(filters)
    )
    recurrent = 2 * 3 * config.gru_units * (N_FEATURES + 3 * config.gru_units)
    return 4.0 * (convolutions + recurrent)


def training_bytes(configs: list[Config], pretrainings: list[Config], n_folds: int) -> float:
    """Weights of every fold and pretraining, and the largest checkpoint, beside its replacement."""
    weights = n_folds * sum(map(weights_bytes, configs)) + sum(map(weights_bytes, pretrainings))
    # A checkpoint holds weights, two moments of the optimiser, and the best weights.
    return weights + 2 * 4 * max(map(weights_bytes, configs))


def training_memory(config: Config) -> float:
    """Bytes of memory that one training takes on a CPU, to some twenty percent."""
    n_frames, n_mels = config.crop_frames, config.n_mels
    numbers = n_frames * n_mels * config.stem_channels
    for filters in config.scaled_block_filters:
        numbers += 2 * n_frames * n_mels * filters  # two units, then half the frames and bands
        n_frames, n_mels = -(-n_frames // 2), -(-n_mels // 2)
    copies = COPIES + config.squeeze_excite * MORE_COPIES_WITH_SQUEEZE_EXCITE
    base = BASE_MEMORY + COPIES_OF_WEIGHTS * weights_bytes(config)
    return base + config.batch_size * (CLIP_MEMORY + 4 * copies * numbers)


def machine_memory() -> float:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
