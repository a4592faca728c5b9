"""How much disk space and memory a run will take, estimated before it starts."""

import itertools
import os
import shutil
from pathlib import Path

import soundfile as sf

from clips.files import ClipFile
from clips.views import N_VIEWS
from config import Config
from messages import PipelineError, UnreadableClip
from solution import audio
from solution.features import N_FEATURES, NUM_STEPS

SAMPLED_CLIPS = 32
LONGEST = 1e6  # seconds; headers that say more lie, as those of FLAC files that were streamed
RESERVE = 50_000_000  # histories and what else is small
SCORE_BYTES = 12  # one score in a CSV file
# Memory of training on a CPU in float32, as measured: BASE_MEMORY is TensorFlow's; there are
# COPIES_OF_WEIGHTS of these; each clip takes CLIP_MEMORY for waveform and spectrum, and COPIES of
# its feature maps. Where maps are made again (`recompute`), it is COPIES_MADE_AGAIN instead, and
# CLIPS_AT_WORK more clips.
BASE_MEMORY, COPIES_OF_WEIGHTS = 1.0e9, 10
CLIP_MEMORY = 6e6
COPIES, MORE_COPIES_WITH_SQUEEZE_EXCITE = 3.2, 0.7
COPIES_MADE_AGAIN, CLIPS_AT_WORK = 1.15, 4


def require(folder: Path, n_bytes: float) -> None:
    """Raise PipelineError if the disk of a folder has less space left than that."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise PipelineError(
            f"{folder} has {free / 1e9:.2f} GB of disk space left and this run will take about "
            f"{n_bytes / 1e9:.2f} GB: free some, or name another --output"
        )


def store_bytes(files: list[ClipFile], config: Config) -> float:
    """Size of the clip store of these files, from the lengths of some of them, before trimming."""
    if not files:
        return 0.0
    sampled = files[:: max(1, len(files) // SAMPLED_CLIPS)]
    seconds = sum(_seconds(file) for file in sampled) / len(sampled)
    # int16 samples, and float16 log-mels: one frame per hop.
    per_second = config.sample_rate * 2 * (1 + config.n_mels / config.n_hop)
    return len(files) * (seconds * per_second + 4 * NUM_STEPS * N_FEATURES)


def views_bytes(n_clips: int, config: Config) -> float:
    """Size of the log-mels that so many clips are scored from."""
    return 4.0 * n_clips * N_VIEWS * config.crop_frames * config.n_mels


def _seconds(file: ClipFile) -> float:
    try:
        with file.open() as stream:
            seconds = sf.info(stream).duration
    except (UnreadableClip, *audio.NOT_DECODED):
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
    n_clips, copies = config.batch_size, COPIES
    if config.has_large_maps:
        n_clips, copies = n_clips + CLIPS_AT_WORK, COPIES_MADE_AGAIN
    elif config.squeeze_excite:
        copies += MORE_COPIES_WITH_SQUEEZE_EXCITE
    base = BASE_MEMORY + COPIES_OF_WEIGHTS * weights_bytes(config)
    return base + n_clips * (CLIP_MEMORY + 4 * copies * numbers)


def memory_of_machine() -> float:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
