"""What is packed for Kaggle makes the submission of home there: offline, read-only, in time."""

import ast
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
import warnings
import zipfile

import hypothesis.extra.numpy as arrays_of
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from clips import dataset, views
from clips import store as clipstore
from config import Config
from fast import precision
from messages import InputError, MissingResult, PipelineError
from solution.scoring import Predictor
from trained import ensemble as trained
from trained import packed, submission

NETWORKS = [("v1mix", 0), ("max3exam", 0), ("v1mix", 1), ("max3exam", 1)]  # heaviest first


def run_kernel(out, *options):
    """Call kernel.py; gives what it printed."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", ["kernel.py", "--output", str(out), *options])
        kernel.main()
    return said.getvalue()


@pytest.fixture(scope="module")
def made(finished_run, tmp_path_factory):
    """The folders for upload, what was printed, and mounts as Kaggle has them, with other names."""
    root, out = tmp_path_factory.mktemp("kaggle"), finished_run[0] / "out"
    said = run_kernel(out, "--user", "someone")
    (out / "kaggle").rename(root / "made")
    mounts = root / "mounts"
    shutil.copytree(root / "made" / "dataset", mounts / "datasets" / "someone" / "any name")
    (mounts / "datasets" / "someone" / "any name" / "dataset-metadata.json").unlink()
    shutil.copytree(finished_run[0] / "input", mounts / "competitions" / "another name")
    (mounts / "competitions" / "another name" / "test_post_competition.csv").unlink()
    (mounts / "a competition").mkdir()
    (mounts / "a competition" / "sample_submission.csv").write_text("fname,Cat\na.wav,0\n")
    return root, said


@pytest.fixture
def ensemble(made, tmp_path):
    """A copy of the packed ensemble."""
    return shutil.copytree(made[0] / "made" / "dataset", tmp_path / "ensemble")


def scores_in(path):
    return pd.read_csv(path, index_col="fname").to_numpy()


class TestPacked:
    weights = arrays_of.arrays(
        np.float32,
        arrays_of.array_shapes(min_dims=1, max_dims=4, max_side=5),
        elements=st.floats(-100, 100, width=32),
    )

    @given(weights)
    def test_loses_a_65000th_of_each_channels_largest_weight(self, weights):
        (unpacked,) = packed.unpack(packed.pack([weights]))
        assert unpacked.dtype == np.float32
        assert unpacked.shape == weights.shape
        if weights.ndim == 1:
            np.testing.assert_array_equal(unpacked, weights)
            return
        largest = np.abs(weights).max(axis=tuple(range(weights.ndim - 1)))
        assert (np.abs(unpacked - weights) <= largest / 65_000 + 1e-38).all()

    def test_takes_half_the_space_and_loses_less_than_float16(self, tmp_path):
        weights = [np.random.default_rng(0).normal(0, 0.1, (3, 3, 64, 64)).astype(np.float32)]
        for name, network in (("a", packed.pack(weights)), ("b", packed.as_they_are(weights))):
            packed.write(tmp_path / name, {3: network})
        sizes = [(tmp_path / name).stat().st_size for name in "ab"]
        assert sizes[0] < 0.51 * sizes[1]
        error = np.abs(packed.read(tmp_path / "a", 3)[0] - weights[0])
        of_float16 = np.abs(weights[0].astype(np.float16).astype(np.float32) - weights[0])
        assert np.sqrt((error**2).mean()) < np.sqrt((of_float16**2).mean()) / 2
        np.testing.assert_array_equal(packed.read(tmp_path / "b", 3)[0], weights[0])


class TestFolders:
    def test_hold_what_kaggle_needs(self, made):
        root, _ = made
        folder = root / "made" / "dataset"
        names = {path.name for path in folder.iterdir()}
        assert {"trained.json", "v1mix.npz", "max3exam.npz", "stackers.npz"} <= names
        modules = set(zipfile.ZipFile(folder / "library.zip").namelist())
        assert {"trained/submission.py", "solution/scoring.py", "config.py"} <= modules
        assert not {"train.py", "runs/command_line.py", "tag.py", "kernel.py"} & modules
        about = json.loads((folder / "dataset-metadata.json").read_text())
        assert about["id"] == "someone/freesound-tagging-ensemble"
        of_kernel = json.loads((root / "made" / "kernel" / "kernel-metadata.json").read_text())
        assert of_kernel["dataset_sources"] == [about["id"]]
        assert of_kernel["competition_sources"] == ["freesound-audio-tagging-2019"]
        assert of_kernel["enable_internet"] == "false"
        assert (root / "made" / "kernel" / of_kernel["code_file"]).is_file()
        # Kaggle makes the slug of the title.
        for metadata in (about, of_kernel):
            assert metadata["title"].lower().replace(" ", "-") == metadata["id"].split("/")[1]
            assert 6 <= len(metadata["title"]) <= 50

    def test_the_commands_name_them(self, made):
        assert "kaggle datasets create -p " in made[1]
        assert "kaggle datasets version -p " in made[1]
        assert "kaggle kernels push -p " in made[1]
        assert "MB (Kaggle takes" in made[1]

    def test_the_notebook_is_the_script(self, made):
        folder = made[0] / "made" / "kernel"
        (cell,) = json.loads((folder / "kaggle_script.ipynb").read_text())["cells"]
        assert "".join(cell["source"]) == (folder / "kaggle_script.py").read_text()

    def test_modules_import_only_each_other_and_what_kaggle_has(self, made):
        folder = made[0] / "made" / "dataset"
        library = zipfile.ZipFile(folder / "library.zip")
        ours = {name.split("/")[0].removesuffix(".py") for name in library.namelist()}
        on_kaggle = "joblib keras librosa numpy pandas scipy sklearn soundfile tensorflow tqdm"
        on_kaggle = on_kaggle.split()
        for path in library.namelist():
            for node in ast.parse(library.read(path)).body:  # those inside functions may not run
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                for name in (name.split(".")[0] for name in names):
                    allowed = name in ours or name in sys.stdlib_module_names
                    assert allowed or name in on_kaggle or "time_frequency" in path, path

    def test_32_bits_where_16_would_change_scores(self, finished_run, monkeypatch):
        monkeypatch.setattr(kernel, "LARGEST_CHANGE", 0.0)
        out = finished_run[0] / "out"
        said = run_kernel(out)
        assert said.count("stays in 32 bits: 16 would change scores by") == len(NETWORKS)
        assert "weights in 16 bits" not in said  # none was packed
        assert "put your name in the place of YOUR-KAGGLE-NAME" in said
        whole = trained.read(out)
        copy = trained.read(out / "kaggle" / "dataset")
        for config in whole.configs:
            one, other = (Predictor(config, len(whole.classes)) for _ in range(2))
            whole.load(one, 1)
            copy.load(other, 1)
            for a, b in zip(one.merged_weights(), other.merged_weights(), strict=True):
                np.testing.assert_array_equal(a, b)

    def test_clips_that_are_being_written_anew_are_not_used(self, finished_run):
        record = finished_run[0] / "out" / "clips" / "curated" / "store.json"
        record.rename(record.with_name("kept"))
        try:
            with pytest.raises(MissingResult, match=r"run preprocess first: .*store\.json"):
                run_kernel(finished_run[0] / "out")
        finally:
            record.with_name("kept").rename(record)

    @pytest.mark.parametrize("limit", ["DATASET_BYTES", "DATASET_FILES", "SCRIPT_BYTES"])
    def test_too_much_for_kaggle_is_refused(self, made, monkeypatch, limit):
        folders = [made[0] / "made" / name for name in ("dataset", "kernel")]
        kernel.check_sizes(*folders)
        monkeypatch.setattr(kernel, limit, 10)
        with pytest.raises(PipelineError, match="more than Kaggle takes"):
            kernel.check_sizes(*folders)

    def test_what_a_killed_process_left_goes(self, finished_run):
        left = finished_run[0] / "out" / ".part-kernel" / "kaggle"
        left.mkdir(parents=True)
        run_kernel(finished_run[0] / "out")
        assert not left.parent.exists()

    def test_the_former_folders_stay_where_the_new_are_refused(self, finished_run, monkeypatch):
        kaggle = finished_run[0] / "out" / "kaggle"
        kaggle.mkdir(exist_ok=True)
        (kaggle / "former").touch()
        monkeypatch.setattr(kernel, "SCRIPT_BYTES", 10)
        with pytest.raises(PipelineError):
            run_kernel(finished_run[0] / "out")
        assert (kaggle / "former").exists()


def test_as_kaggle_runs_it(made, finished_run, tmp_path):
    """In an empty environment without network, from read-only mounts, in another folder."""
    root, _ = made
    (tmp_path / "hidden").mkdir()
    for package in ("kapre", "iterstrat"):  # Kaggle's image has none of them
        (tmp_path / "hidden" / f"{package}.py").write_text("raise ImportError('not on Kaggle')")
    (tmp_path / "working").mkdir()
    script = root / "made" / "kernel" / "kaggle_script.py"
    command = [sys.executable, str(script), "--input", str(root / "mounts"), "-f", "notebook.json"]
    isolated = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    unshare = ["unshare", "-rnm", "sh", "-c", isolated, "sh", str(root / "mounts")]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        warnings.warn("no namespaces here: run with network and writable mounts", stacklevel=1)
        unshare = []
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "hidden")}
    done = subprocess.run(
        [*unshare, *command],
        cwd=tmp_path / "working",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "stacked v1mix (2 of 2 folds), max3exam (2 of 2 folds)" in done.stdout
    assert "warning: 2 clips count as silence: test02.wav cannot be decoded" in done.stdout
    assert "projected for 3,361 clips and all 4 networks" in done.stdout
    assert [path.name for path in (tmp_path / "working").iterdir()] == ["submission.csv"]
    at_home = finished_run[0] / "out" / "submission.csv"
    there = tmp_path / "working" / "submission.csv"
    assert there.read_text().splitlines()[0] == at_home.read_text().splitlines()[0]
    assert np.ptp(scores_in(at_home), axis=0).max() > 1e-3
    np.testing.assert_allclose(scores_in(there), scores_in(at_home), atol=1e-4)


class TestTime:
    @pytest.fixture
    def slow(self, monkeypatch):
        """A clock that goes on by `slow.pace` seconds with every network's clips, and not else.

        `slow.pace_of` and `slow.tracing_of` are of single networks, by name.
        """

        class Slow:
            now, pace = 1000.0, 10.0

            def monotonic(self):
                return self.now

        slow, original = Slow(), Predictor.predict
        slow.done, slow.pace_of, slow.tracing_of = [], {}, {}

        def predict(predictor, clips, label):
            slow.now += slow.pace_of.get(label, slow.pace) * len(clips) / 8
            slow.now += slow.tracing_of.get(label, 0.0) * (label not in slow.done)
            slow.done.append(label)
            return original(predictor, clips, label)

        monkeypatch.setattr(submission, "time", slow)
        monkeypatch.setattr(Predictor, "predict", predict)
        return slow

    def make(self, made, ensemble, path, seconds, capsys):
        minutes = seconds / 60 / (1 - submission.RESERVE)
        submission.make(ensemble, made[0] / "mounts", path / "submission.csv", minutes)
        table = pd.read_csv(path / "submission.csv", index_col="fname")
        assert table.shape == (8, 3)
        assert np.isfinite(table.to_numpy()).all()
        return capsys.readouterr().out

    @pytest.mark.parametrize(
        ("seconds", "done", "left_out"),
        [
            (45, [0, 1, 2, 3], []),
            (35, [0, 1, 2], ["max3exam fold 1"]),
            (25, [0, 2], ["max3exam fold 0", "max3exam fold 1"]),
            (15, [0], ["max3exam fold 0", "v1mix fold 1", "max3exam fold 1"]),
        ],
    )
    def test_the_lightest_models_folds_go_first(
        self, made, ensemble, slow, tmp_path, capsys, seconds, done, left_out
    ):
        out = self.make(made, ensemble, tmp_path, seconds, capsys)
        assert slow.done == ["{} fold {}".format(*NETWORKS[i]) for i in done]
        said = re.findall("left out, as the time does not suffice: (.*)", out)
        assert said == [", ".join(left_out)] * bool(left_out)
        assert "stacked v1mix" in out
        assert slow.now - 1000 <= seconds

    def test_the_time_that_tracing_takes_is_not_expected_again(
        self, made, ensemble, slow, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.setattr(submission, "CLIPS_AT_ONCE", 4)
        slow.tracing_of["v1mix fold 0"] = 50.0
        out = self.make(made, ensemble, tmp_path, 50 + 40 + 5, capsys)
        assert slow.now - 1000 == 50 + 40
        assert "left out" not in out

    def test_what_seemed_to_be_too_much_works_where_there_is_time_after_all(
        self, made, ensemble, slow, tmp_path, capsys
    ):
        slow.pace_of["v1mix fold 0"] = 40.0
        out = self.make(made, ensemble, tmp_path, 95, capsys)
        assert slow.done == ["{} fold {}".format(*NETWORKS[i]) for i in (0, 2, 1, 3)]
        assert "left out" not in out

    def test_the_clock_is_looked_at_after_each_that_fails(
        self, made, ensemble, slow, tmp_path, capsys, monkeypatch
    ):
        predict = Predictor.predict

        def failing(predictor, clips, label):
            scores = predict(predictor, clips, label)
            return np.full_like(scores, np.nan) if label == "v1mix fold 0" else scores

        monkeypatch.setattr(Predictor, "predict", failing)
        out = self.make(made, ensemble, tmp_path, 25, capsys)
        assert "v1mix fold 0 is left out: ValueError('it gives scores that are no numbers')" in out
        assert "stacked v1mix (1 of 2 folds)" in out
        assert slow.done == ["v1mix fold 0", "v1mix fold 1"]

    def test_there_is_a_submission_before_and_after_the_first_network(
        self, made, ensemble, slow, tmp_path, capsys
    ):
        out = self.make(made, ensemble, tmp_path, 15, capsys)
        written = [line for line in out.splitlines() if line.startswith("submission.csv:")]
        assert [line.split(" (")[0].split(": ")[1] for line in written] == [
            "equal scores",
            "mean of v1mix",
            "stacked v1mix",
        ]

    def test_what_the_first_network_does_not_reach_gets_the_mean(
        self, made, ensemble, slow, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.setattr(submission, "CLIPS_AT_ONCE", 2)
        out = self.make(made, ensemble, tmp_path, 4, capsys)
        assert "warning: 4 clips were not reached, and get the mean" in out
        scores = scores_in(tmp_path / "submission.csv")
        assert (scores[4:] == scores[4]).all()
        assert not (scores[0] == scores[1]).all()

    def test_a_later_network_that_is_late_does_not_count(
        self, made, ensemble, slow, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.setattr(submission, "CLIPS_AT_ONCE", 2)
        slow.pace, slow.pace_of["v1mix fold 0"] = 40.0, 10.0
        out = self.make(made, ensemble, tmp_path, 25, capsys)
        assert "stacked v1mix (1 of 2 folds)" in out
        assert "not suffice: v1mix fold 1, max3exam fold 0, max3exam fold 1" in out

    def test_the_budget_begins_with_the_script(self, made, ensemble, slow, tmp_path, capsys):
        path, minutes = tmp_path / "submission.csv", 45 / 60 / (1 - submission.RESERVE)
        submission.make(ensemble, made[0] / "mounts", path, minutes, started=slow.now - 30)
        assert "stacked v1mix (1 of 2 folds)" in capsys.readouterr().out

    def test_log_mels_stop_in_time(self, made, ensemble, slow, tmp_path, capsys, monkeypatch):
        of_clips = views.of_clips

        def slowly(*arguments):
            slow.now += 3
            return of_clips(*arguments)

        monkeypatch.setattr(views, "of_clips", slowly)
        monkeypatch.setattr(views, "CLIPS_AT_ONCE", 2)
        out = self.make(made, ensemble, tmp_path, 4, capsys)
        # Two, four or six: the next log-mels are made in a thread meanwhile.
        assert re.search(r"warning: [246] clips were not reached, and get the mean", out)
        assert "stacked v1mix (1 of 2 folds)" in out

    def test_no_time_at_all(self, made, ensemble, slow, tmp_path, capsys):
        out = self.make(made, ensemble, tmp_path, -1, capsys)
        assert "warning: 8 clips count as silence: test00.wav was not reached in time" in out
        assert slow.done == []
        np.testing.assert_allclose(scores_in(tmp_path / "submission.csv"), 1 / 3)


def test_the_average_over_the_folds_grows_fold_by_fold(tmp_path, monkeypatch):
    config, scores = Config("v1mix"), np.random.default_rng(0).random((3, 4, 2))
    members = trained.Trained(tmp_path, ["a", "b"], [config], [0, 1, 2], 1, {})
    averages = submission.Averages(members, range(4), tmp_path, deadline=np.inf)
    monkeypatch.setattr(averages, "_score", lambda _, fold: scores[fold])
    for n in (1, 2, 3):
        assert averages.score_next()
        np.testing.assert_allclose(averages.scores["v1mix"], scores[:n].mean(axis=0))
    assert not averages.score_next()


def test_a_process_that_dies_costs_a_few_clips(made, ensemble, tmp_path, capsys, monkeypatch):
    prepare_all, rounds = clipstore.prepare_all, []

    def dying(files, settings):
        rounds.append(len(files))
        for number, clip in enumerate(prepare_all(files, settings)):
            if len(rounds) < 3 and number == 2:
                raise RuntimeError("a process was killed")
            yield clip

    monkeypatch.setattr(clipstore, "prepare_all", dying)
    submission.make(ensemble, made[0] / "mounts", tmp_path / "submission.csv")
    out = capsys.readouterr().out
    assert rounds == [8, 5, 2]
    assert "test05.wav ended in RuntimeError('a process was killed')" in out
    assert "stacked v1mix (2 of 2 folds)" in out


@pytest.mark.parametrize("stackers", [None, b"", b"no archive"])
def test_what_is_damaged_costs_itself_only(
    made, ensemble, finished_run, tmp_path, capsys, stackers
):
    content = bytearray((ensemble / "v1mix.npz").read_bytes())
    content[content.index(b"0/0.npy") + 200] ^= 255
    (ensemble / "v1mix.npz").write_bytes(content)
    if stackers is not None:
        (ensemble / "stackers.npz").write_bytes(stackers)
    description = (ensemble / "trained.json").read_text()
    assert '"stack_weight": 2.1' in description
    description = description.replace('"stack_weight": 2.1', '"stack_weight": 17.1')
    (ensemble / "trained.json").write_text(description)
    submission.make(ensemble, made[0] / "mounts", tmp_path / "submission.csv")
    out, there = capsys.readouterr().out, "v1mix (1 of 2 folds), max3exam (2 of 2 folds)"
    assert "warning: v1mix fold 0 is left out: " in out
    if stackers is None:
        assert f"stacked {there}" in out
        return
    assert "warning: not stacked, so the mean stays" in out
    out = finished_run[0] / "out"
    tables = ("models/v1mix/fold1.test.csv", "predictions/max3exam/test.csv")
    scores = [scores_in(out / table) for table in tables]
    # The other experiment came first now, and each keeps its own weight.
    mean = np.average(scores, axis=0, weights=[17.1, 1.9])
    assert np.abs(mean - np.average(scores, axis=0, weights=[1.9, 17.1])).max() > 5e-3
    atol = 1e-4 if precision.resolve("auto") == "float32" else 1e-2
    np.testing.assert_allclose(scores_in(tmp_path / "submission.csv"), mean, atol=atol)


def test_a_missing_experiment_counts_as_the_average_of_the_others(ensemble):
    members, rng = trained.read(ensemble), np.random.default_rng(0)
    scores = rng.uniform(0, 1, (5, 3))
    np.testing.assert_allclose(
        members.stack({"max3exam": scores}),
        members.stack({"v1mix": scores, "max3exam": scores}),
        atol=1e-6,
    )


class TestFindingTheCompetition:
    CLASSES = ("Bark", "Meow", "Tick-tock")

    def test_by_its_classes_in_the_samples_order(self, made):
        split, columns = dataset.find_test(made[0] / "mounts", list(self.CLASSES[::-1]))
        assert split.fnames[0] == "test00.wav"
        assert columns == ["fname", *self.CLASSES]

    def test_composed_and_decomposed_names_are_the_same(self, tmp_path):
        composed, decomposed = (unicodedata.normalize(form, "é.wav") for form in ("NFC", "NFD"))
        (tmp_path / "sample_submission.csv").write_text(f"fname,a,b\n{composed},0,0\n")
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / decomposed).touch()
        split, _ = dataset.find_test(tmp_path, ["a", "b"])
        assert split.fnames == [composed]
        split.files[0].open().close()

    def test_what_is_missing_is_named(self, made, tmp_path):
        with pytest.raises(InputError, match=r"no sample_submission.csv with .* 2 classes"):
            dataset.find_test(made[0] / "mounts", ["a", "b"])
        (tmp_path / "sample_submission.csv").write_text("fname,a,b\nc.wav,0,0\n")
        with pytest.raises(InputError, match=r"none of the test clips is in test/, audio_test/"):
            dataset.find_test(tmp_path, ["a", "b"])

    def test_what_else_is_mounted_does_not_matter(self, tmp_path):
        for name, sample in (("a", "id,target\n1,0\n"), ("b", "fname,a,b\nc.wav,0,0\n")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "sample_submission.csv").write_text(sample)
        shutil.copytree(tmp_path / "b", tmp_path / "c" / "deeper")
        (tmp_path / "c" / "deeper" / "test").mkdir()
        (tmp_path / "c" / "deeper" / "test.zip").write_bytes(b"no archive")
        (tmp_path / "c" / "deeper" / "test" / "c.wav").touch()
        split, _ = dataset.find_test(tmp_path, ["a", "b"])
        assert split.files[0].container == tmp_path / "c" / "deeper" / "test"

    def test_a_missing_clip_cannot_be_opened(self, tmp_path):
        (tmp_path / "sample_submission.csv").write_text("fname,a,b\nc.wav,0,0\nd.wav,0,0\n")
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / "d.wav").write_bytes(b"")
        split, _ = dataset.find_test(tmp_path, ["b", "a"])
        with pytest.raises(PipelineError, match="cannot be opened"):
            split.files[0].open()
        split.files[1].open().close()
