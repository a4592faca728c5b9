"""Fixtures: small datasets of known sounds, a tiny profile, and stages run in this process."""

import contextlib
import fcntl
import importlib
import io
import json
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
import soundfile as sf

import config
from clips import prepare
from clips import store as clipstore
from runs import command_line
from runs.run import Run
from storage import Checkpoint

GOLDEN = Path(__file__).parent / "golden"
pytest_plugins = ["trainings"]  # fixtures
SHARED = Path(__file__).resolve().parents[2] / "shared"
ESC10, FSDKAGGLE2019 = SHARED / "esc10", SHARED / "fsdkaggle2019"
RATE = 44100

# Networks as small as they get, for seconds instead of days.
TINY = {
    "crop_samples": 22_050,
    "n_hop": 1000,
    "stem_filters": 4,
    "block_filters": (4, 4, 8, 8),
    "gru_units": 4,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "n_folds": 2,
    "pretraining": config.Schedule(2, milestones=(1,), mixup_prob=0.7, keep_from=1),
    "training": config.Schedule(2, milestones=(1,), mixup_prob=0.6),
    "stacker_epochs": 20,
}


# The files of tests that take minutes, the longest first: else one process waits for the other.
LONGEST = (
    *("test_interruption", "test_tag", "test_search", "test_tasks", "test_resume", "test_report"),
    *("test_pipeline", "test_results", "test_precision", "test_training", "test_scoring"),
    "test_space",
)
# A machine that is busy takes its time.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(items):
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture
def decoded_here(monkeypatch):
    """Clips are prepared in this process: to start others takes seconds, each time."""

    def prepare_all(files, settings):
        return (prepare.prepare(file, settings) for file in files)

    monkeypatch.setattr(prepare, "prepare_all", prepare_all)


@pytest.fixture(autouse=True)
def same_initial_weights():
    """In each run of a test: Keras draws their seeds from `random`."""
    random.seed(0)


@pytest.fixture(scope="session")
def tiny_profile():
    """The profile `tiny`, for `--profile tiny`."""
    dask_setup()
    yield "tiny"
    del config.PROFILES["tiny"]


def dask_setup(worker=None):
    """The profile `tiny`; Dask's workers call this where `conftest` is their preload."""
    config.PROFILES["tiny"] = config.Profile(("v1mix", "max3exam"), TINY)


def open_writer(folder: Path, settings: dict, source: str = "#source") -> clipstore.Writer:
    """A writer with its checkpoint in the same folder."""
    return clipstore.Writer(folder, settings, Checkpoint(folder / "store.checkpoint", source))


@pytest.fixture
def golden():
    return lambda name: np.load(GOLDEN / f"{name}.npz")


@dataclass
class Clips:
    """Tables and clips to be written in any layout. Each class is a tone of its own pitch."""

    classes: tuple[str, ...] = ("Bark", "Meow", "Tick-tock")
    sizes: dict[str, int] = field(default_factory=lambda: {"curated": 12, "noisy": 6, "test": 4})
    seed: int = 0

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        self.tables, self.waveforms = {}, {}
        for split, n in self.sizes.items():
            rows = []
            for i in range(n):
                names = [self.classes[i % len(self.classes)]]
                if i % 5 == 4:
                    names.append(self.classes[(i + 1) % len(self.classes)])
                fname = f"{split}{i:02d}.wav"
                rows.append((fname, ",".join(names)))
                self.waveforms[fname] = self.tone(names, rng)
            self.tables[split] = pd.DataFrame(rows, columns=["fname", "labels"])

    def tone(self, names, rng):
        t = np.arange(int(RATE * rng.uniform(0.2, 0.9))) / RATE
        wave = sum(np.sin(2 * np.pi * 300 * 3 ** self.classes.index(name) * t) for name in names)
        return 0.2 * wave + 0.01 * rng.standard_normal(len(t))

    def submission(self):
        table = self.tables["test"][["fname"]]
        return table.assign(**dict.fromkeys(self.classes, 7))  # not to be added to scores

    def write_clips(self, folder: Path, *splits: str):
        folder.mkdir(parents=True, exist_ok=True)
        for split in splits:
            for fname in self.tables[split]["fname"]:
                sf.write(folder / fname, self.waveforms[fname], RATE, subtype="PCM_16")

    def write(self, root: Path) -> Path:
        """The layout of the competition solution's README, with labels for the test clips."""
        self.write_clips(root / "audio_train", "curated", "noisy")
        self.write_clips(root / "audio_test", "test")
        self.tables["curated"].to_csv(root / "train_curated.csv", index=False)
        self.tables["noisy"].to_csv(root / "train_noisy.csv", index=False)
        self.submission().to_csv(root / "sample_submission.csv", index=False)
        usage = ["Public", "Private"] * len(self.tables["test"])
        truth = self.tables["test"].assign(usage=usage[: len(self.tables["test"])])
        truth.to_csv(root / "test_post_competition.csv", index=False)
        return root


@pytest.fixture
def clips():
    return Clips()


@pytest.fixture(scope="session")
def make_clips():
    return Clips


@pytest.fixture(scope="session")
def run_stage():
    """Call a stage as the command line does; an exit with a message raises SystemExit."""

    def run(stage: str, *arguments) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", [stage, *map(str, arguments)])
            importlib.import_module(stage).main()

    return run


def run_of(*arguments) -> Run:
    """What a stage is given that has these arguments."""
    return command_line.prepare(command_line.parser("").parse_args([*map(str, arguments)]))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, make_clips, tiny_profile, run_stage):
    """A whole run: its folder, clips, arguments, and what each stage printed. Leave it whole."""
    made = make_clips(sizes={"curated": 20, "noisy": 12, "test": 8})

    def arguments(root):
        return "--input", root / "input", "--output", root / "out", "--profile", tiny_profile

    def run_once(root):
        made.write(root / "input")
        # Two test clips that no decoder reads.
        (root / "input" / "audio_test" / "test02.wav").write_bytes(b"")
        (root / "input" / "audio_test" / "test03.wav").write_bytes(b"no audio")
        printed = {}
        for stage in command_line.STAGES:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                run_stage(stage, *arguments(root))
            printed[stage] = out.getvalue(), err.getvalue()
        (root / "printed.json").write_text(json.dumps(printed))

    # One for both processes of pytest-xdist, of which each has a copy.
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with shared.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not (shared / "printed.json").exists():
            run_once(shared)
    root = tmp_path_factory.mktemp("run") / "finished"
    shutil.copytree(shared, root)
    printed = (root / "printed.json").read_text().replace(str(shared), str(root))
    return root, made, arguments(root), json.loads(printed)


@pytest.fixture
def needs_esc10():
    """Real clips, which are not part of the project."""
    if not ESC10.is_dir():
        pytest.skip("the real clips (ESC-10) are not on this machine")
    return ESC10


@pytest.fixture
def needs_fsdkaggle2019():
    """The real tables, and real scores, which are not part of the project."""
    if not FSDKAGGLE2019.is_dir():
        pytest.skip("the real tables (FSDKaggle2019) are not on this machine")
    return FSDKAGGLE2019
