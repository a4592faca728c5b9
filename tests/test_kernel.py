"""What is made for Kaggle makes the submission of home there: offline, read-only, in time."""

import ast
import contextlib
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest

import kernel
from messages import PipelineError
from tag import Tagger
from trained import ensemble as trained


def run_kernel(out, *options):
    """Call kernel.py; gives what it printed."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", ["kernel.py", "--output", str(out), *options])
        kernel.main()
    return said.getvalue()


@pytest.fixture(scope="module")
def made(finished_run, tmp_path_factory):
    """The folders for upload, and what was printed."""
    root, out = tmp_path_factory.mktemp("kaggle"), finished_run[0] / "out"
    said = run_kernel(out, "--user", "someone")
    return (out / "kaggle").rename(root / "made"), said


@pytest.fixture(params=["unpacked", "packed"])
def mounts(request, made, finished_run, tmp_path):
    """Dataset and competition as Kaggle mounts them, under other names, and something else."""
    root = tmp_path / "mounts"
    dataset = shutil.copytree(made[0] / "dataset", root / "datasets" / "someone" / "any name")
    (dataset / "dataset-metadata.json").unlink()
    if request.param == "unpacked":  # as Kaggle does today
        shutil.unpack_archive(dataset / "library.zip", dataset / "library")
        (dataset / "library.zip").unlink()
    competition = shutil.copytree(finished_run[0] / "input", root / "competitions" / "another name")
    (competition / "test_post_competition.csv").unlink()
    (root / "a competition").mkdir()
    (root / "a competition" / "sample_submission.csv").write_text("fname,Cat\na.wav,0\n")
    return root


def scores_in(path):
    return pd.read_csv(path, index_col="fname").to_numpy()


def test_it_is_the_same_ensemble(made, finished_run):
    one, other = Tagger(finished_run[0] / "out"), Tagger(made[0] / "dataset")
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 30_000)).astype(np.float32)
    scores = one.scores(noise, 44100)
    assert np.ptp(scores, axis=0).max() > 1e-5
    np.testing.assert_array_equal(scores, other.scores(noise, 44100))
    np.testing.assert_array_equal(
        one.probabilities(noise, 44100), other.probabilities(noise, 44100)
    )
    np.testing.assert_array_equal(one.thresholds, other.thresholds)


class TestFolders:
    def test_hold_what_kaggle_needs(self, made):
        dataset, kernel_folder = made[0] / "dataset", made[0] / "kernel"
        assert {path.name for path in dataset.iterdir()} == {
            *("trained.json", "models", "stacker", "library.zip", "dataset-metadata.json")
        }
        modules = set(zipfile.ZipFile(dataset / "library.zip").namelist())
        assert {"trained/submission.py", "solution/scoring.py", "config.py"} <= modules
        assert not {"train.py", "runs/command_line.py", "tag.py", "kernel.py"} & modules
        about = json.loads((dataset / "dataset-metadata.json").read_text())
        assert about["id"] == "someone/freesound-tagging-ensemble"
        of_kernel = json.loads((kernel_folder / "kernel-metadata.json").read_text())
        assert of_kernel["dataset_sources"] == [about["id"]]
        assert of_kernel["competition_sources"] == ["freesound-audio-tagging-2019"]
        assert of_kernel["enable_internet"] == "false"
        assert (kernel_folder / of_kernel["code_file"]).is_file()
        # Kaggle makes the slug of the title.
        for metadata in (about, of_kernel):
            assert metadata["title"].lower().replace(" ", "-") == metadata["id"].split("/")[1]
            assert 6 <= len(metadata["title"]) <= 50

    def test_a_learned_front_end_brings_kapre_along(self, finished_run, tmp_path, monkeypatch):
        code = shutil.copytree(kernel.CODE, tmp_path / "code")
        os.utime(code / "config.py", (0, 0))  # as in images that are built reproducibly
        monkeypatch.setattr(kernel, "CODE", code)
        ensemble = trained.read(finished_run[0] / "out")
        learned = [dataclasses.replace(one, trainable_fb=True) for one in ensemble.configs]
        kernel.write_dataset(tmp_path, dataclasses.replace(ensemble, configs=learned), "someone")
        program = "import kapre.time_frequency; print(kapre.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(tmp_path / "library.zip")},
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == str(tmp_path / "library.zip" / "kapre" / "__init__.py")

    def test_the_commands_name_them(self, made):
        assert "kaggle datasets create --dir-mode zip -p " in made[1]  # else folders are skipped
        assert "kaggle datasets version --dir-mode zip -p " in made[1]
        assert "kaggle kernels push -p " in made[1]
        assert "MB; Kaggle takes 20 GB" in made[1]
        assert "YOUR-KAGGLE-NAME" not in made[1]

    def test_the_notebook_is_the_script(self, made):
        folder = made[0] / "kernel"
        (cell,) = json.loads((folder / "kaggle_script.ipynb").read_text())["cells"]
        assert "".join(cell["source"]) == (folder / "kaggle_script.py").read_text()

    def test_modules_import_only_each_other_and_what_kaggle_has(self, made):
        folder = made[0] / "dataset"
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

    def test_what_a_killed_process_left_goes(self, finished_run):
        left = finished_run[0] / "out" / ".part-kaggle" / "dataset"
        left.mkdir(parents=True)
        (left / "former").touch()
        assert "put your name in the place of YOUR-KAGGLE-NAME" in run_kernel(left.parents[1])
        assert not left.parent.exists()
        assert not (left.parents[1] / "kaggle" / "dataset" / "former").exists()

    @pytest.mark.parametrize("fault", ["weights", "size"])
    def test_the_former_ones_stay_where_the_new_are_refused(
        self, finished_run, tmp_path, monkeypatch, fault
    ):
        ignored = shutil.ignore_patterns("clips", "kaggle")
        out = shutil.copytree(finished_run[0] / "out", tmp_path / "out", ignore=ignored)
        (out / "kaggle").mkdir()
        (out / "kaggle" / "former").touch()
        if fault == "weights":
            (out / "models" / "v1mix" / "fold1.weights.h5").write_bytes(b"of another training")
        else:
            monkeypatch.setattr(kernel, "DATASET_BYTES", 10)
        message = {"weights": "not the file that the stackers", "size": "name fewer experiments"}
        with pytest.raises(PipelineError, match=message[fault]):
            run_kernel(out)
        assert (out / "kaggle" / "former").exists()
        assert not (out / ".part-kaggle").exists()


def test_as_kaggle_runs_it(made, mounts, finished_run, tmp_path):
    """In an empty environment without network, from read-only mounts, in another folder."""
    (tmp_path / "hidden").mkdir()
    for package in ("kapre", "iterstrat"):  # Kaggle's image has none of them
        (tmp_path / "hidden" / f"{package}.py").write_text("raise ImportError('not on Kaggle')")
    (tmp_path / "working").mkdir()
    script = made[0] / "kernel" / "kaggle_script.py"
    command = [sys.executable, str(script), "--input", str(mounts), "-f", "notebook.json"]
    isolated = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    unshare = ["unshare", "-rnm", "sh", "-c", isolated, "sh", str(mounts)]
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
    assert [path.name for path in (tmp_path / "working").iterdir()] == ["submission.csv"]
    at_home = finished_run[0] / "out" / "submission.csv"
    there = tmp_path / "working" / "submission.csv"
    assert there.read_text().splitlines()[0] == at_home.read_text().splitlines()[0]
    assert np.ptp(scores_in(at_home), axis=0).max() > 1e-3
    np.testing.assert_allclose(scores_in(there), scores_in(at_home), atol=1e-4)
