"""What is made of a store's clips for networks to start from: an array beside the store's own.

    views-WHICH.f32   float32 (clips, views, frames, mel bands), what scores are computed from
    logmel-WHICH.f16  float16 (all frames, mel bands), log-mels of whole clips in dB, not
                      normalised, from which networks with frontend="logmel" start

There is one for each front end and length of crops: in the place of WHICH is a checksum of those.
"""

import contextlib
import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import messages
import storage
from clips.store import Clips
from config import FRONT_END_SETTINGS, VIEW_SETTINGS, Config
from solution import crops
from storage import Checkpoint


@dataclass(frozen=True)
class Derived:
    """One kind of it."""

    name: str  # of the file, with a checksum of the settings and the suffix
    suffix: str
    settings: tuple[str, ...]  # names of those that it depends on
    dtype: type
    row: Callable[[Config], tuple[int, ...]]  # shape of a row
    n_rows: Callable[[Clips, Config], np.ndarray]  # of each clip, int (clips,)
    make: Callable[[Clips, np.ndarray, Config], np.ndarray]  # the rows of some clips, int (n,)
    at_once: int  # so many clips are made together

    def stem(self, config: Config) -> str:
        """The name of its file, less the suffix; experiments with the same settings share it."""
        which = zlib.crc32(json.dumps(config.values(self.settings)).encode())
        return f"{self.name}-{which:08x}"

    def read(self, path: Path, config: Config) -> storage.Rows:
        return storage.Rows(path, self.dtype, self.row(config))

    def write(
        self,
        store: Clips,
        config: Config,
        path: Path,
        checkpoint: Checkpoint,
        label: str,
        each: Callable[[list[np.ndarray]], Iterable[np.ndarray]] | None = None,
    ) -> dict[Path, list]:
        """Write the rows of all clips of a store, or of those after the checkpoint's.

        each : what makes them elsewhere: batches of clips -> their rows, in order

        Returns size and checksum of the file, as `Result.seal` takes them.
        """
        layout = {path: (self.dtype, self.row(config))}
        (array,) = storage.open_appenders(layout, checkpoint)
        # Clips without rows: those at the end of what is there do no harm.
        done = np.searchsorted(self.n_rows(store, config).cumsum(), len(array), "right")
        batches = crops.split(np.arange(done, len(store)), self.at_once)
        if each:
            parts = each(batches)
        else:
            parts = crops.prefetch(self.make(store, batch, config) for batch in batches)
        bar = messages.progress_bar(label, len(store), done=int(done))
        with contextlib.closing(array), bar:
            for batch, rows in zip(batches, parts, strict=True):
                array.append(rows)
                bar.update(len(batch))
                if checkpoint.is_due():
                    storage.commit([array], checkpoint)
            array.commit()
        return array.written()


VIEWS = Derived(
    name="views",
    suffix=".f32",
    settings=VIEW_SETTINGS,
    dtype=np.float32,
    row=lambda config: (config.n_views, config.crop_frames, config.n_mels),
    n_rows=lambda store, config: np.ones(len(store), int),
    make=crops.views,
    at_once=8,
)
LOG_MELS = Derived(
    name="logmel",
    suffix=".f16",
    settings=FRONT_END_SETTINGS,
    dtype=np.float16,
    row=lambda config: (config.n_mels,),
    n_rows=lambda store, config: -(-store.n_samples // config.n_hop),
    make=Clips.log_mels,
    at_once=1,
)
BY_SUFFIX = {kind.suffix: kind for kind in (VIEWS, LOG_MELS)}
