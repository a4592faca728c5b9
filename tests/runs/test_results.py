"""Done work is recognised when it is the same work; what differs is named and made again."""

import contextlib
import dataclasses
import functools
import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

import config
from conftest import TINY, run_of
from messages import MissingResult
from runs import command_line, results
from runs.results import Result, differences, fingerprint
from solution.scoring import Scorer


class TestResult:
    def of(self, folder, seed, lr):
        source = {"seed": seed, "settings": {"lr": lr}}
        return Result(folder, "numbers", "train", (".raw", "beside.raw"), lambda: source)

    @pytest.fixture
    def result(self, tmp_path):
        """The one that is looked for, where one of the same source was made."""
        made = self.of(tmp_path, seed=1, lr=0.1)
        made.path(".raw").write_bytes(b"0123456789" * 100)
        made.path("beside.raw").write_bytes(b"1")
        made.seal()
        return self.of(tmp_path, seed=1, lr=0.1)

    def test_its_files_lie_beside_its_record(self, tmp_path):
        result = Result(tmp_path, "models/a/fold0", "train", (".csv", "b.csv"), dict)
        assert result.record == tmp_path / "models" / "a" / "fold0.json"
        assert result.path(".csv") == tmp_path / "models" / "a" / "fold0.csv"
        assert result.path("b.csv") == tmp_path / "models" / "a" / "b.csv"
        with pytest.raises(KeyError, match="models/a/fold0 has no c.csv"):
            result.path("c.csv")

    def test_what_it_comes_from_is_noted_before_the_work(self, tmp_path):
        now = {"seed": 1}
        result = Result(tmp_path, "numbers", "train", (".raw",), lambda: dict(now))
        assert result.fault() == "not there"
        now["seed"] = 2  # while the work goes on
        result.path(".raw").write_bytes(b"0")
        result.seal()
        assert json.loads(result.record.read_text())["from"]["seed"] == 1

    def test_its_history_is_checked_and_nothing_is_made_from_it(self, tmp_path):
        contents = set()
        for seconds in b"12":
            result = Result(tmp_path, "a", "train", (".csv", ".history.csv"), dict)
            result.path(".csv").write_bytes(b"0")
            result.path(".history.csv").write_bytes(bytes([seconds]))
            result.seal()
            contents.add(result.content())
        assert len(contents) == 1
        result.path(".history.csv").write_bytes(b"3")
        assert "damaged" in result.fault()

    def test_same_work_is_recognised(self, result):
        assert result.fault() is None
        result.require()

    def test_what_changed_is_named(self, result, tmp_path):
        other = self.of(tmp_path, seed=2, lr=0.2)
        assert other.fault() == "made from something else (seed 1 -> 2, settings.lr 0.1 -> 0.2)"
        with pytest.raises(MissingResult, match="run train again: numbers: made from something"):
            other.require()

    def test_a_changed_revision_of_the_code_counts(self, result, monkeypatch):
        monkeypatch.setitem(results.REVISIONS, "train", 99)
        assert "-> 99" in result.fault()

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "longer"])
    def test_damage_is_noticed(self, result, damage):
        content = bytearray(result.path(".raw").read_bytes())
        if damage == "flipped":
            content[500] ^= 1
        result.path(".raw").write_bytes(
            {"truncated": content[:-1], "flipped": content, "longer": content + b"0"}[damage]
        )
        assert "numbers.raw is damaged" in result.fault()

    def test_a_missing_file_is_noticed(self, result):
        result.path(".raw").unlink()
        assert "numbers.raw is missing" in result.fault()

    @pytest.mark.parametrize("record", ["", "{", "[]", "null", '{"from": {}}'])
    def test_a_record_that_cannot_be_read_is_none(self, result, record):
        result.record.write_text(record)
        with pytest.raises(MissingResult, match="run train first: no numbers in"):
            result.require()

    def test_unsealed_while_made_anew(self, result):
        result.unseal()
        assert not result.is_there()


def test_fingerprints_tell_values_apart():
    values = [(b"ab", b"c"), (b"a", b"bc"), (["ab", "c"],), ([1, 2],), ([1, 2.5],), ("12",)]
    assert len({fingerprint(*value) for value in values}) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_differences_name_what_is_opaque_without_its_value():
    old = {"labels": fingerprint(1), "seed": 1, "gone": 0}
    assert differences(old, {"labels": fingerprint(2), "seed": 1}) == [
        "gone 0 -> None",
        "labels changed",
    ]


# --- in the pipeline ------------------------------------------------------------------------------


def run_all(run_stage, root, *stages, options=()):
    """Run stages on the folders below `root`; gives what they say."""
    folders = ("--input", root / "in", "--output", root / "out")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for stage in stages or command_line.STAGES:
            run_stage(stage, *folders, "--profile", "tiny", "--experiments", "v1mix", *options)
    return said.getvalue()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, make_clips, tiny_profile, run_stage):
    root = tmp_path_factory.mktemp("run")
    make_clips().write(root / "in")
    run_all(run_stage, root)
    return root


@pytest.fixture
def finished(whole_run, tmp_path, run_stage):
    """A copy of a finished run, and a function that runs stages on it."""
    root = tmp_path / "run"
    shutil.copytree(whole_run, root, copy_function=shutil.copy2)
    return root, functools.partial(run_all, run_stage, root)


def made(said):
    """The kinds of results that were made, not skipped."""
    return {
        kind
        for kind, sign in {
            "clips": "clips: wrote",
            "folds": "folds: wrote",
            "weights": "epoch  1/2",
        }.items()
        if sign in said
    }


def test_the_same_command_again_makes_nothing(finished):
    root, run = finished
    before = {path: path.stat().st_mtime_ns for path in (root / "out").rglob("*.h5")}
    submission = (root / "out" / "submission.csv").read_bytes()
    said = run()
    assert made(said) == set()
    for what in ("clips/curated/store", "folds", "models/v1mix/fold1", "ensemble"):
        assert f"{what}: done already" in said
    assert "wrote" not in said
    assert "OOF LRAP" in said  # the table is shown all the same
    assert before == {path: path.stat().st_mtime_ns for path in (root / "out").rglob("*.h5")}
    assert (root / "out" / "submission.csv").read_bytes() == submission


def test_a_changed_label_recomputes_what_depends_on_it(finished):
    root, run = finished
    table = pd.read_csv(root / "in" / "train_curated.csv")
    table.loc[0, "labels"] = "Meow"
    table.to_csv(root / "in" / "train_curated.csv", index=False)
    with pytest.raises(SystemExit, match="run preprocess again: folds: .*labels changed"):
        run("train")
    said = run("preprocess")
    assert "folds: made again, made from something else (labels changed)" in said
    assert made(said) == {"folds"}
    assert "curated_labels changed" in run("pretrain")


def test_changed_test_labels_change_the_scores_only(finished):
    root, run = finished
    table = pd.read_csv(root / "in" / "test_post_competition.csv")
    table["labels"] = "Meow"
    table.to_csv(root / "in" / "test_post_competition.csv", index=False)
    submission = (root / "out" / "submission.csv").read_bytes()
    said = run()
    assert made(said) == set()
    assert "ensemble: made again, made from something else (test_labels changed)" in said
    assert (root / "out" / "submission.csv").read_bytes() == submission


def test_another_seed_trains_again_and_is_not_mixed_with_the_old(finished, monkeypatch):
    _, run = finished
    changed = config.Profile(("v1mix",), {**TINY, "seed": 7})
    monkeypatch.setitem(config.PROFILES, "tiny", changed)
    for stage in ("train", "predict", "ensemble", "report"):  # what comes first is named
        with pytest.raises(SystemExit, match="run pretrain again: .*settings.seed 2019 -> 7"):
            run(stage)


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ({"stacker_epochs": 3}, "settings.stacker_epochs 20 -> 3"),
        ({"stack_weight": 3.0}, "weights.v1mix 2.1 -> 3.0"),
    ],
)
def test_a_setting_of_the_stackers_stacks_again_only(finished, monkeypatch, setting, change):
    _, run = finished
    changed = dataclasses.replace(config.EXPERIMENTS["v1mix"], **setting)
    monkeypatch.setitem(config.EXPERIMENTS, "v1mix", changed)
    said = run()
    assert made(said) == set()
    assert change in said
    assert "stacker fold 1: wrote its weights" in said


def test_a_changed_noisy_label_trains_all_again(finished):
    root, run = finished
    table = pd.read_csv(root / "in" / "train_noisy.csv")
    table.loc[0, "labels"] = "Tick-tock"
    table.to_csv(root / "in" / "train_noisy.csv", index=False)
    with pytest.raises(SystemExit, match="run pretrain again: .*noisy_labels changed"):
        run("train")
    assert "noisy_labels changed" in run("pretrain")
    assert "models/v1mix/fold1: made again" in (said := run("train"))
    assert "models/v1mix/pretrained changed" in said


def test_other_classes_are_another_training(finished):
    """Even where their labels look alike, as where one that no clip has is renamed."""
    root, _ = finished
    run = run_of("--input", root / "in", "--output", root / "out", "--profile", "tiny")
    renamed = dataclasses.replace(run.dataset, classes=["Bark", "Purr", "Tick-tock"])
    other = dataclasses.replace(run, dataset=renamed)
    chosen = run.configs[0]
    before, after = (one.pretrained(chosen).source for one in (run, other))
    assert differences(before, after) == ["classes changed"]
    with pytest.raises(MissingResult, match="run pretrain again: .*classes changed"):
        other.fold(chosen, 0).require()


def test_a_replaced_clip_is_decoded_again(finished, make_clips):
    root, run = finished
    clip = root / "in" / "audio_test" / "test00.wav"
    shutil.copyfile(root / "in" / "audio_test" / "test01.wav", clip)
    said = run("preprocess")
    assert "clips/test/store: made again, made from something else (clips changed)" in said
    assert "clips/curated/store: done already" in said
    assert re.search(r"clips/test/views-\w+ changed", run("predict"))


def test_stages_that_read_no_clips_notice_other_ones(finished):
    """Clips are known by their places in the stores, to the report; and by name in submissions."""
    root, run = finished
    noisy = pd.read_csv(root / "in" / "train_noisy.csv")
    noisy[1:].to_csv(root / "in" / "train_noisy.csv", index=False)
    with pytest.raises(
        SystemExit, match="run preprocess again: clips/noisy/store: .*clips changed"
    ):
        run("report")
    noisy.to_csv(root / "in" / "train_noisy.csv", index=False)
    truth = pd.read_csv(root / "in" / "test_post_competition.csv")
    truth[1:].to_csv(root / "in" / "test_post_competition.csv", index=False)
    sample = pd.read_csv(root / "in" / "sample_submission.csv")
    sample[1:].to_csv(root / "in" / "sample_submission.csv", index=False)
    submission = (root / "out" / "submission.csv").read_bytes()
    for remedy in ("preprocess again: clips/test/store", "predict again: models/v1mix/fold0.test"):
        for stage in ("ensemble", "report"):
            with pytest.raises(SystemExit, match=f"run {remedy}: made from something else"):
                run(stage)
        run("preprocess")
    assert (root / "out" / "submission.csv").read_bytes() == submission
    assert "wrote" in run("predict", "ensemble")
    assert len(pd.read_csv(root / "out" / "submission.csv")) == len(sample) - 1


def test_a_forgotten_profile_is_thought_of(finished, run_stage):
    root, _ = finished
    folders = ("--input", root / "in", "--output", root / "out")
    with pytest.raises(SystemExit, match="Or name the --profile .* this is --profile published"):
        run_stage("report", *folders)


def test_force_makes_again(finished):
    _, run = finished
    said = run("preprocess", "ensemble", options=["--force"])
    assert made(said) == {"clips", "folds"}
    assert "ensemble: made again, as --force says" in said


def test_force_in_one_go_asks_for_a_fold_before_its_pretraining_is_there(finished):
    root, _ = finished
    folders = ("--input", root / "in", "--output", root / "out")
    run = run_of(*folders, "--profile", "tiny", "--experiments", "v1mix", "--force")
    for one in run.pretrainings():
        assert run.is_pending(run.pretrained(one))
    fold = run.fold(run.configs[0], 0)
    assert run.is_pending(fold)
    assert not fold.is_there()


def test_what_an_interrupted_force_left_is_made_without_it(finished, monkeypatch):
    _, run = finished

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "scores", interrupted)
        with pytest.raises(SystemExit):
            run("predict", options=["--force"])
    said = run("predict")
    # Tables of the same scores are the same; the scores themselves are made again.
    assert re.findall(r"(\S+): done already", said) == ["predictions/v1mix/predictions"]


@pytest.mark.parametrize(
    ("path", "stage", "remedy"),
    [
        ("clips/curated/samples.i16", "train", "run preprocess again: clips/curated/store"),
        ("clips/test/features.f32", "predict", "run preprocess again: clips/test/store"),
        ("folds.csv", "train", "run preprocess again: folds"),
        (
            "models/v1mix/pretrained.weights.h5",
            "train",
            "run pretrain again: models/v1mix/pretrained",
        ),
        ("models/v1mix/fold1.weights.h5", "predict", "run train again: models/v1mix/fold1"),
        ("models/v1mix/fold0.scores.csv", "predict", "run train again: models/v1mix/fold0"),
        ("predictions/v1mix/test.csv", "ensemble", "run predict again: predictions/v1mix"),
        ("clips/curated/samples.i16", "report", "run preprocess again: clips/curated/store"),
        ("models/v1mix/fold0.history.csv", "report", "run train again: models/v1mix/fold0"),
    ],
)
def test_damaged_files_are_named_with_the_remedy(finished, path, stage, remedy):
    root, run = finished
    file = root / "out" / path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        run(stage, options=["--force"] if stage == "report" else ())  # else it is there already
    assert remedy in str(caught.value)
    assert f"{file} is damaged" in str(caught.value)


def test_a_damaged_submission_is_written_again(finished):
    root, run = finished
    submission = root / "out" / "submission.csv"
    whole = pd.read_csv(submission)
    submission.write_text("fname\n")
    assert "ensemble: made again" in run("ensemble")
    written = pd.read_csv(submission)
    np.testing.assert_allclose(
        written.drop(columns="fname"), whole.drop(columns="fname"), atol=1e-5
    )


def test_damaged_stackers_are_trained_again(finished):
    root, run = finished
    submission = (root / "out" / "submission.csv").read_bytes()
    weights = root / "out" / "stacker" / "fold1.weights.h5"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert f"ensemble: made again, {weights} is damaged" in run("ensemble")
    assert len(weights.read_bytes()) == len(whole)
    assert (root / "out" / "submission.csv").read_bytes() == submission


def test_a_stage_reads_the_clips_once_to_check_them(finished, monkeypatch):
    root, run = finished
    (root / "out" / "models" / "v1mix" / "fold1.json").unlink()
    checked, original = [], results.size_and_checksum
    monkeypatch.setattr(
        results, "size_and_checksum", lambda path: checked.append(path) or original(path)
    )
    assert made(run("train")) == {"weights"}
    assert checked.count(root / "out" / "clips" / "curated" / "samples.i16") == 1


def test_records_say_what_a_result_came_from(finished):
    root, _ = finished
    record = json.loads((root / "out" / "models" / "v1mix" / "fold0.json").read_text())
    assert record["from"]["settings"]["n_hop"] == 1000
    assert record["from"]["settings"]["schedule"]["milestones"] == [1]
    assert {
        "classes",
        "clips/curated/store",
        "curated_labels",
        "folds",
        "models/v1mix/pretrained",
    } <= set(record["from"])
