"""All stages on a tiny dataset, and what a user sees when something is missing or broken."""

import dataclasses
import errno
import functools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky import get_reusable_executor

import config
import ensemble
import storage
from clips import demo
from conftest import run_of
from messages import InputError
from runs import command_line, resume, work
from solution import metrics
from solution.training import Learner, Lq, Training, cross_entropy

STAGES = command_line.STAGES


@pytest.fixture(scope="module")
def finished(finished_run):
    return finished_run


def test_the_submission_has_all_rows_and_columns_of_the_sample(finished):
    root, _, _, _ = finished
    submission = pd.read_csv(root / "out" / "submission.csv")
    sample = pd.read_csv(root / "input" / "sample_submission.csv")
    assert list(submission.columns) == list(sample.columns)
    assert list(submission["fname"]) == list(sample["fname"])
    scores = submission.drop(columns="fname").to_numpy()
    assert np.isfinite(scores).all()
    assert 0 <= scores.min() < scores.max() <= 1


def test_unreadable_test_clips_are_warned_of_and_predicted_as_silence(finished):
    root, _, _, printed = finished
    warning = "warning: predicted as silence: 2 of 8 test clips: test02.wav cannot .*; test03.wav"
    assert re.match(warning, printed["preprocess"][1])
    assert printed["preprocess"][0].startswith(
        "read: 20 curated, 12 noisy, 8 test clips; 3 classes"
    )
    submission = pd.read_csv(root / "out" / "submission.csv", index_col="fname")
    silent = submission.loc[["test02.wav", "test03.wav"]].to_numpy()
    np.testing.assert_allclose(silent[0], silent[1], rtol=1e-5)


def test_every_curated_clip_is_scored_by_the_network_of_its_fold(finished):
    root, made, _, _ = finished
    folds = pd.read_csv(root / "out" / "folds.csv", index_col="fname")["fold"]
    assert list(folds.index) == list(made.tables["curated"]["fname"])
    for experiment in ("v1mix", "max3exam"):
        parts = []
        for fold in (0, 1):
            path = root / "out" / "models" / experiment / f"fold{fold}.scores.csv"
            parts.append(storage.read_scores(path))
            assert list(parts[-1].index) == list(folds.index[folds == fold])
        gathered = storage.read_scores(root / "out" / "predictions" / experiment / "oof.csv")
        assert list(gathered.index) == list(folds.index)
        pd.testing.assert_frame_equal(gathered, pd.concat(parts).loc[folds.index])


@pytest.fixture
def run(finished):
    """What a stage is given on the finished run."""
    return run_of(*finished[2])


def trainings_of(function, run, tasks, monkeypatch):
    """What would be trained: (result, training) of each task."""
    found = []
    with monkeypatch.context() as patch:
        patch.setattr(resume, "complete", lambda *arguments: found.append(arguments[:2]))
        for task in tasks:
            function(run, *task)
    return found


def test_networks_are_trained_on_the_other_folds_from_the_pretrained_weights(run, monkeypatch):
    tasks = [(chosen, fold) for chosen in run.configs for fold in (0, 1)]
    fold_of = pd.read_csv(run.root / "folds.csv")["fold"].to_numpy()
    starts, original = [], Learner.restart

    def restart(learner, part, weights):
        starts.append((learner.config, part, weights))
        original(learner, part, weights)

    monkeypatch.setattr(Learner, "restart", restart)
    trainings = trainings_of(work.train_fold, run, tasks, monkeypatch)
    pretrained = run.root / "models" / "v1mix" / "pretrained.weights.h5"
    assert starts == [(chosen, f"fold{fold}", pretrained) for chosen, fold in tasks]
    for (chosen, fold), (result, training) in zip(tasks, trainings, strict=True):
        assert (training.config, training.part) == (chosen, f"fold{fold}")
        assert (training.schedule, result) == (chosen.training, run.fold(chosen, fold))
        learnt, scored = training.examples, training.validation
        np.testing.assert_array_equal(learnt.clips, np.flatnonzero(fold_of != fold))
        np.testing.assert_array_equal(scored.clips, np.flatnonzero(fold_of == fold))
        for clips in (learnt, scored):
            assert clips.store.fnames == run.dataset["curated"].fnames
            np.testing.assert_array_equal(clips.labels, run.dataset["curated"].labels)


def test_pretraining_is_on_the_noisy_clips_and_scored_on_the_curated_ones(run, monkeypatch):
    configs = run.pretrainings()
    assert [chosen.name for chosen in configs] == ["v1mix"]
    ((_, training),) = trainings_of(work.pretrain, run, [configs], monkeypatch)
    assert training.schedule == configs[0].pretraining
    for clips, split in ((training.examples, "noisy"), (training.validation, "curated")):
        assert clips.store.fnames == run.dataset[split].fnames
        np.testing.assert_array_equal(clips.clips, np.arange(len(run.dataset[split])))
        np.testing.assert_array_equal(clips.labels, run.dataset[split].labels)


def test_each_schedule_has_a_loss_of_its_own(run, monkeypatch):
    (config, *_) = run.configs
    doubting = dataclasses.replace(config.pretraining, loss_q=0.5)
    config = dataclasses.replace(config, pretraining=doubting)
    ((_, pretraining),) = trainings_of(work.pretrain, run, [(config,)], monkeypatch)
    assert isinstance(pretraining.learner.model.loss, Lq)
    ((_, training),) = trainings_of(work.train_fold, run, [(config, 0)], monkeypatch)
    assert training.learner.model.loss is cross_entropy


def test_stackers_see_the_weighted_average(finished, run_stage, monkeypatch):
    _, made, arguments, _ = finished
    seen, original = [], ensemble.train_stacker

    def train_stacker(inputs, truth, learnt, validated, *rest):
        seen.append((inputs, learnt, validated))
        return original(inputs, truth, learnt, validated, *rest)

    monkeypatch.setattr(ensemble, "train_stacker", train_stacker)
    run_stage("ensemble", *arguments, "--force")
    folder, scores = finished[0] / "out" / "predictions", []
    for name in ("v1mix", "max3exam"):
        table = pd.read_csv(folder / name / "oof.csv", index_col="fname")
        scores.append(table.loc[made.tables["curated"]["fname"]].to_numpy())
    average = np.average(scores, axis=0, weights=[2.1, 1.9])
    assert len(seen) == 4  # two folds, each held out once more
    for inputs, learnt, validated in seen:
        np.testing.assert_allclose(inputs, np.stack([*scores, average], axis=-1), rtol=1e-6)
        assert not (learnt & validated).any()
    for (_, others, fold), (_, learnt, validated) in zip(seen[::2], seen[1::2], strict=True):
        assert (others == ~fold).all()
        assert learnt.any()
        assert validated.any()
        assert not (fold & (learnt | validated)).any()  # which is scored


def test_the_table_at_the_end_has_every_score_and_the_files_are_named(finished):
    root, made, _, printed = finished
    text = printed["ensemble"][0]
    for word in ("v1mix", "max3exam", "average", "chance", "OOF LRAP", "OOF lwlrap", "minutes"):
        assert word in text
    for word in ("test lwlrap Public", "test lwlrap Private", str(root / "out" / "submission.csv")):
        assert word in text
    assert "optimistic by a little. 'ensemble, held out': by stackers that know nothing" in text
    table = pd.read_csv(root / "out" / "scores.csv", index_col="model")
    members = ["v1mix", "max3exam"]
    assert list(table.index) == [*members, "average", "ensemble", "ensemble, held out", "chance"]
    truth = np.array(
        [[c in row.split(",") for c in made.classes] for row in made.tables["test"]["labels"]]
    )
    submission = pd.read_csv(root / "out" / "submission.csv", index_col="fname").to_numpy()
    assert table.loc["ensemble", "test lwlrap"] == pytest.approx(metrics.lwlrap(truth, submission))
    per_class = pd.read_csv(root / "out" / "per_class.csv")
    share = per_class["test labels"] / per_class["test labels"].sum()
    assert (per_class["test lwlrap"] * share).sum() == pytest.approx(
        table.loc["ensemble", "test lwlrap"]
    )


def test_one_line_per_epoch_and_a_history_of_each_training(finished):
    root, _, _, printed = finished
    line = (
        r"v1mix pretrained epoch  1/2  loss [\d.]+  LRAP [\d.]+  lwlrap [\d.]+  lr 3.00e-03  "
        r"[\d.]+ s"
    )
    assert re.search(line, printed["pretrain"][0])
    assert len(re.findall(r"epoch +\d/2 ", printed["train"][0])) == 2 * 2 * 2
    history = pd.read_csv(root / "out" / "models" / "max3exam" / "fold1.history.csv")
    assert list(history.columns) == [
        "epoch",
        "loss",
        "lrap",
        "lwlrap",
        "learning_rate",
        "seconds",
    ]
    # max3exam starts from the pretraining of v1mix and has none of its own.
    assert not (root / "out" / "models" / "max3exam" / "pretrained.weights.h5").exists()


def test_each_stage_says_what_it_needs(finished, run_stage, tmp_path):
    root, _, arguments, _ = finished
    elsewhere = (*arguments[:2], "--output", tmp_path, *arguments[4:])
    for stage in STAGES[1:]:
        with pytest.raises(SystemExit, match="error: run preprocess first: .*"):
            run_stage(stage, *elsewhere)
    record = root / "out" / "models" / "max3exam" / "fold1.json"
    hidden = record.rename(record.with_suffix(".hidden"))
    try:
        with pytest.raises(SystemExit, match="error: run train first: no models/max3exam/fold1 in"):
            run_stage("predict", *arguments)
    finally:
        hidden.rename(record)
    for stage in ("train", "predict"):
        with pytest.raises(SystemExit, match="run pretrain first: no models/se/pretrained in"):
            run_stage(stage, *arguments, "--experiments", "se")
    record = root / "out" / "predictions" / "v1mix" / "predictions.json"
    hidden = record.rename(record.with_suffix(".hidden"))
    try:
        with pytest.raises(SystemExit, match="run predict first: no predictions/v1mix"):
            run_stage("ensemble", *arguments)
    finally:
        hidden.rename(record)


def test_a_second_preprocessing_does_not_decode_again(finished, run_stage, capsys):
    root, _, arguments, _ = finished
    before = (root / "out" / "clips" / "curated" / "samples.i16").stat().st_mtime_ns
    run_stage("preprocess", *arguments)
    assert "clips/curated/store: done already" in capsys.readouterr().out
    assert (root / "out" / "clips" / "curated" / "samples.i16").stat().st_mtime_ns == before


def test_other_clips_or_settings_are_not_taken_for_the_stored_ones(finished, run_stage, make_clips):
    root, _, arguments, _ = finished
    other = make_clips(sizes={"curated": 8, "noisy": 4, "test": 4}).write(root / "other")
    with pytest.raises(
        SystemExit,
        match=r"run preprocess again: clips/.*/store: made from something else \(clips changed",
    ):
        run_stage("train", "--input", other, *arguments[2:])
    (root / "low.json").write_text('{"sample_rate": 22050}')
    low = ("--settings", root / "low.json")
    with pytest.raises(SystemExit, match=r"again: .*settings.sample_rate 44100 -> 22050"):
        run_stage("train", *arguments, *low)


def test_another_front_end_takes_no_clip_anew(finished, run_stage, capsys):
    root, _, arguments, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (root / "out" / "clips").rglob("*.*")}
    (root / "hop.json").write_text('{"n_hop": 2000}')
    hop = ("--settings", root / "hop.json")
    with pytest.raises(SystemExit, match=r"run preprocess first: no clips/curated/views-\w+ in"):
        run_stage("train", *arguments, *hop)
    run_stage("preprocess", *arguments, *hop)
    after = {path: path.stat().st_mtime_ns for path in (root / "out" / "clips").rglob("*.*")}
    assert before.items() <= after.items()
    added = {path.suffix for path in after.keys() - before.keys()}
    assert added == {".f32", ".json"}
    capsys.readouterr()
    run_stage("train", *arguments)
    assert "models/v1mix/fold0: done already" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"run pretrain again: .*settings.n_hop 1000 -> 2000"):
        run_stage("train", *arguments, *hop)


def test_a_run_goes_to_another_process_whatever_was_asked_of_it(finished):
    run = run_of(*finished[2])
    run.clip_folds()
    there = pickle.loads(pickle.dumps(run))
    assert there.fold(there.configs[0], 0).fault() is None


def test_one_experiment_and_one_fold_go_through_prediction_and_stacking(
    finished, run_stage, capsys
):
    _, _, arguments, _ = finished
    for stage in ("predict", "ensemble"):
        run_stage(stage, *arguments, "--experiments", "max3exam", "--folds", "1")
    assert "mean of 1 folds" in capsys.readouterr().out
    # Back to all folds; the tables of one fold are not mixed with those of two.
    with pytest.raises(
        SystemExit,
        match=r"run predict again: predictions/",
    ):
        run_stage("ensemble", *arguments)
    run_stage("predict", *arguments)
    run_stage("ensemble", *arguments)


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_what_was_made_is_not_lost_to_work_begun_with_other_settings(
    finished, run_stage, tmp_path, monkeypatch, stage
):
    root, _, arguments, _ = finished
    shutil.copytree(root / "out", tmp_path / "out", symlinks=True)
    arguments = (*arguments[:3], tmp_path / "out", *arguments[4:])
    part = {"pretrain": "pretraining", "train": "training"}[stage]
    (tmp_path / "mine.json").write_text(json.dumps({part: {"mixup_prob": 0.25}}))

    def interrupting(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "fit", interrupting)
    with pytest.raises(SystemExit) as stopped:
        run_stage(stage, *arguments, "--settings", tmp_path / "mine.json")
    assert stopped.value.code == 130
    for stage in ("pretrain", "train", "predict"):
        run_stage(stage, *arguments)  # nothing is trained again


def test_a_pretraining_by_what_is_no_experiment(finished, run_stage, monkeypatch):
    other = dataclasses.replace(config.EXPERIMENTS["v1mix"], name="mine", pretrained_by="mime")
    monkeypatch.setitem(config.EXPERIMENTS, "mine", other)
    with pytest.raises(SystemExit, match="pretrained_by='mime' names no experiment"):
        run_stage("train", *finished[2], "--experiments", "mine")


def test_scores_that_are_no_numbers_reach_no_table(finished, run_stage, monkeypatch):
    _, _, arguments, _ = finished
    one = (*arguments, "--experiments", "v1mix", "--folds", "0")
    with monkeypatch.context() as patch:
        patch.setattr(work, "score_all", lambda *_: np.full((8, 3), np.nan))
        with pytest.raises(SystemExit, match="v1mix fold 0 gives scores that are no numbers"):
            run_stage("predict", *one, "--force")
    with pytest.raises(SystemExit, match="run predict"):
        run_stage("ensemble", *one)
    run_stage("predict", *arguments)
    run_stage("ensemble", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiments", "v1mx"], "there is no experiment 'v1mx'; there are v1mix, "),
        (["--folds", "2"], "there is no fold 2; profile tiny has 0 to 1"),
    ],
)
def test_unknown_experiments_and_folds(finished, run_stage, arguments, message):
    with pytest.raises(SystemExit, match=message):
        run_stage("train", *finished[2], *arguments)


def test_without_a_dataset_a_synthetic_one_is_made_once(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "PROJECT", tmp_path)
    few = functools.partial(demo.make_demo_dataset, n_curated=6, n_noisy=4, n_test=2)
    monkeypatch.setattr(demo, "make_demo_dataset", few)
    for making in ("making a", "using the"):
        run = run_of("--output", tmp_path / "out")
        assert f"No dataset in {tmp_path / 'input'}: {making} synthetic" in capsys.readouterr().out
        assert (run.profile, len(run.dataset["curated"])) == ("demo", 6)
    clips.write(tmp_path / "input")
    assert run_of("--output", tmp_path / "out").profile == "published"


def test_folds_that_are_no_numbers(run_stage, capsys):
    with pytest.raises(SystemExit):
        run_stage("train", "--folds", "0,x")
    assert "argument --folds: must be whole numbers, as 0,3, not '0,x'" in capsys.readouterr().err


def test_experiments_with_other_log_mels_are_refused(finished, run_stage, monkeypatch):
    other = dataclasses.replace(config.EXPERIMENTS["v1mix"], name="mine", sample_rate=22_050)
    monkeypatch.setitem(config.EXPERIMENTS, "mine", other)
    for chosen in ("v1mix,mine", "mine"):  # which would start from the weights of v1mix
        with pytest.raises(SystemExit, match=r"differ in sample_rate \(.*22050 in mine.*--output"):
            run_stage("preprocess", *finished[2], "--experiments", chosen)


def test_experiments_of_one_folder_have_the_same_folds(finished, run_stage, monkeypatch):
    other = dataclasses.replace(config.EXPERIMENTS["v1mix"], name="mine", n_folds=3)
    monkeypatch.setitem(config.EXPERIMENTS, "mine", other)
    with pytest.raises(SystemExit, match=r"differ in n_folds \(2 in v1mix, 3 in mine\)"):
        run_stage("preprocess", *finished[2], "--experiments", "v1mix,mine")
    with pytest.raises(SystemExit, match="run preprocess again: folds"):  # not refused alone
        run_stage("train", *finished[2], "--experiments", "mine")


@pytest.mark.usefixtures("decoded_here")
class TestUnreadableTrainingClips:
    @pytest.fixture
    def arguments(self, clips, tmp_path, tiny_profile):
        clips.write(tmp_path / "in")
        (tmp_path / "in" / "audio_train" / "curated04.wav").write_bytes(b"RIFF")
        (tmp_path / "in" / "audio_train" / "noisy01.wav").write_bytes(b"")
        return ("--input", tmp_path / "in", "--output", tmp_path / "out", "--profile", tiny_profile)

    def test_stop_preprocessing_at_its_end_with_the_list(self, arguments, run_stage, tmp_path):
        with pytest.raises(SystemExit) as caught:
            run_stage("preprocess", *arguments)
        message = str(caught.value)
        assert "1 of 12 curated clips: curated04.wav cannot be decoded" in message
        assert "1 of 6 noisy clips: noisy01.wav cannot be decoded" in message
        assert "--skip-unreadable" in message
        with pytest.raises(SystemExit, match=r"curated04.wav|noisy01.wav"):
            run_stage("pretrain", *arguments)

    def test_are_left_out_loudly(self, arguments, run_stage, capsys, tmp_path):
        run_stage("preprocess", *arguments, "--skip-unreadable")
        assert "left out 1 of 12 curated clips: curated04.wav" in capsys.readouterr().err
        run = run_of(*arguments, "--skip-unreadable")
        assert list(run.examples("curated").clips) == [0, 1, 2, 3, *range(5, 12)]
        assert list(run.examples("noisy").clips) == [0, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        ("split", "message"),
        [
            ("noisy", "error: no noisy clip can be read: mend them, or"),
            ("curated", "error: no curated clip can be read: mend them"),
        ],
    )
    def test_no_clip_is_left(self, arguments, run_stage, tmp_path, split, message):
        for path in (tmp_path / "in" / "audio_train").glob(f"{split}*"):
            path.write_bytes(b"")
        run_stage("preprocess", *arguments, "--skip-unreadable")
        with pytest.raises(SystemExit, match=message):
            run_stage("pretrain", *arguments, "--skip-unreadable")

    def test_mended_clips_are_read(self, arguments, run_stage, clips, tmp_path):
        with pytest.raises(SystemExit):
            run_stage("preprocess", *arguments)
        clips.write_clips(tmp_path / "in" / "audio_train", "curated", "noisy")
        run_stage("preprocess", *arguments)

    def test_clips_that_were_not_to_blame_are_tried_again(
        self, arguments, run_stage, clips, tmp_path, monkeypatch, capsys
    ):
        """As where PyAV was missing: files and settings are the same, and what they give is not."""
        pytest.importorskip("av")
        from recordings import encoded

        get_reusable_executor().shutdown()  # processes that have PyAV
        folder = tmp_path / "in" / "audio_train"
        clips.write_clips(folder, "curated", "noisy")
        (folder / "curated04.wav").write_bytes(encoded("ipod", "aac", 44100, 1, seconds=1))
        (tmp_path / "missing").mkdir()
        (tmp_path / "missing" / "av.py").write_text("raise ImportError")
        with monkeypatch.context() as without:
            without.syspath_prepend(tmp_path / "missing")  # for the processes that decode
            for _ in range(2):
                without.delitem(sys.modules, "av", raising=False)
                with pytest.raises(SystemExit, match="curated04.wav .* take PyAV, pip install av"):
                    run_stage("preprocess", *arguments)
        get_reusable_executor().shutdown()  # its processes still miss PyAV
        capsys.readouterr()
        run_stage("preprocess", *arguments)
        assert "curated clips: made again" in capsys.readouterr().out
        assert run_of(*arguments).store("curated").faults == [""] * 12
        run_stage("preprocess", *arguments)
        assert "made again" not in capsys.readouterr().out


def test_own_clips_without_noisy_and_test_set(clips, tmp_path, tiny_profile, run_stage, capsys):
    clips.write_clips(tmp_path / "in" / "audio_train", "curated")
    clips.tables["curated"].to_csv(tmp_path / "in" / "train_curated.csv", index=False)
    arguments = (
        "--input",
        tmp_path / "in",
        "--output",
        tmp_path / "out",
        "--profile",
        tiny_profile,
    )
    for stage in STAGES:
        run_stage(stage, *arguments, "--experiments", "v1mix")
    printed = capsys.readouterr().out
    assert "no noisy clips, so training will start from random weights" in printed
    assert "no test clips, so no submission" in printed
    assert not (tmp_path / "out" / "submission.csv").exists()
    assert pd.read_csv(tmp_path / "out" / "oof.csv").shape == (12, 4)


@pytest.mark.usefixtures("decoded_here")
class TestGroups:
    """Clips of one recording, by the table's column."""

    @pytest.fixture
    def grouped(self, make_clips, tmp_path, tiny_profile, run_stage):
        made = make_clips(sizes={"curated": 12, "noisy": 0, "test": 0})
        made.write(tmp_path / "in")
        arguments = ("--input", tmp_path / "in", "--output", tmp_path / "out")
        arguments += ("--profile", tiny_profile)

        def preprocess(groups):
            table = made.tables["curated"].assign(group=groups)
            table.to_csv(tmp_path / "in" / "train_curated.csv", index=False)
            run_stage("preprocess", *arguments)
            return pd.read_csv(tmp_path / "out" / "folds.csv")["fold"].to_numpy()

        return preprocess, arguments

    def test_come_into_one_fold_and_another_table_makes_other_folds(self, grouped, capsys):
        preprocess, _ = grouped
        for groups in (np.repeat(["a", "b", "c", "d"], 3), np.tile(["a", "b", "c", "d"], 3)):
            folds = preprocess(groups)
            assert "read: 12 curated (in 4 groups)" in capsys.readouterr().out
            assert set(folds) == {0, 1}
            for group in "abcd":
                assert len(set(folds[groups == group])) == 1

    def test_fewer_than_folds(self, grouped):
        preprocess, _ = grouped
        with pytest.raises(SystemExit, match="error: 1 groups of curated clips cannot fill 2"):
            preprocess(["the same"] * 12)

    def test_stackers_keep_them_together_where_there_are_enough(self, grouped):
        preprocess, arguments = grouped
        folds = preprocess(np.repeat(["a", "b"], 6))
        run = run_of(*arguments)
        fnames, truth = np.array(run.dataset["curated"].fnames), run.dataset["curated"].labels
        np.testing.assert_array_equal(ensemble.stacker_folds(run, list(fnames), truth), folds)
        own = folds == 0  # of a run of one fold only, which has one group
        found = ensemble.stacker_folds(run, list(fnames[own]), truth[own])
        assert sorted(set(found)) == [0, 1]
        with pytest.raises(InputError, match="1 clips with scores cannot fill the 2 folds"):
            ensemble.stacker_folds(run, list(fnames[:1]), truth[:1])

    def test_stackers_learn_where_two_folds_alternate(self, grouped, monkeypatch):
        preprocess, arguments = grouped
        preprocess(np.tile(["a", "b"], 6))
        run, seen, train = run_of(*arguments), [], ensemble.train_stacker

        def noting(inputs, truth, learnt, validated, *rest):
            seen.append((learnt.sum(), validated.sum()))
            return train(inputs, truth, learnt, validated, *rest)

        monkeypatch.setattr(ensemble, "train_stacker", noting)
        curated = run.dataset["curated"]
        inputs = np.random.default_rng(0).uniform(size=(*curated.labels.shape, 2))
        ensemble.train_stackers(run, curated.fnames, inputs, curated.labels)
        assert seen == [(6, 6), (3, 3)] * 2  # those of the second kind know nothing of six clips


@pytest.mark.usefixtures("decoded_here")
class TestTooLittle:
    """Said before hours of work."""

    def arguments(self, clips, root, profile):
        clips.write(root / "in")
        return ("--input", root / "in", "--output", root / "out", "--profile", profile)

    def test_fewer_clips_than_folds(self, make_clips, tmp_path, tiny_profile, run_stage):
        clips = make_clips(sizes={"curated": 1, "noisy": 3, "test": 1})
        arguments = self.arguments(clips, tmp_path, tiny_profile)
        with pytest.raises(SystemExit, match="error: 1 curated clips cannot fill 2 folds"):
            run_stage("preprocess", *arguments)

    def test_a_class_without_clips_is_warned_of(
        self, make_clips, tmp_path, tiny_profile, run_stage, capsys
    ):
        clips = make_clips(sizes={"curated": 2, "noisy": 3, "test": 1})
        run_stage("preprocess", *self.arguments(clips, tmp_path, tiny_profile))
        message = (
            "warning: 3 classes have one curated clip or none, so that folds train or are scored"
        )
        assert message in capsys.readouterr().err

    def test_a_class_of_one_group_is_warned_of(
        self, clips, tmp_path, tiny_profile, run_stage, capsys
    ):
        arguments = self.arguments(clips, tmp_path, tiny_profile)
        table = clips.tables["curated"]
        groups = np.where(table["labels"].str.contains("Bark"), "one", table["fname"])
        table = table.assign(group=groups)
        table.to_csv(tmp_path / "in" / "train_curated.csv", index=False)
        run_stage("preprocess", *arguments)
        said = capsys.readouterr().err
        assert "warning: 1 classes have one curated group or none" in said
        assert "are scored without: Bark" in said

    def test_what_may_be_a_mistake_in_the_dataset_is_warned_of(
        self, clips, tmp_path, tiny_profile, run_stage, capsys
    ):
        arguments = self.arguments(clips, tmp_path, tiny_profile)
        truth = "fname,labels\ntest00.wav,Bark\n"
        (tmp_path / "in" / "test_post_competition.csv").write_text(truth)
        run_stage("preprocess", *arguments)
        said = capsys.readouterr().err
        assert "warning: test_post_competition.csv lacks 3 of 4 test clips" in said


class TestEnds:
    """Of a stage, other than with what it is for."""

    @pytest.fixture(params=[None, RuntimeError("cannot join thread before it is started")])
    def interrupted(self, monkeypatch, request):
        """By a signal; and joblib makes another error of it at times."""

        def interrupt(*_):
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt as stop:
                raise (request.param or stop) from None

        monkeypatch.setattr(command_line, "prepare", interrupt)

    @pytest.mark.parametrize(
        ("option", "then"),
        [
            ((), "stopped; the same command goes on from here"),
            (("--force",), "stopped; the same command without --force goes on from here"),
        ],
    )
    def test_interrupted(self, interrupted, run_stage, tmp_path, capsys, option, then):
        with pytest.raises(SystemExit, match="130"):
            run_stage("train", "--output", tmp_path, *option)
        assert capsys.readouterr().err.strip() == then

    @pytest.mark.parametrize(
        ("second", "cleans_up"),
        [
            (signal.SIGTERM, True),  # by run.sh, after Ctrl-C
            (signal.SIGINT, False),  # by somebody who does not want to wait
        ],
    )
    def test_interrupted_while_it_cleans_up(self, second, cleans_up, capsys):
        done = []

        def work():
            with command_line.errors_in_one_line("go on"):
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                finally:
                    os.kill(os.getpid(), second)
                    done.append("cleaned up")

        with pytest.raises(SystemExit, match="130"):
            work()
        assert bool(done) == cleans_up
        assert capsys.readouterr().err.strip() == "stopped; go on"

    def test_with_nobody_to_read_what_it_prints(self):
        program = (
            "from runs import command_line\n"
            "with command_line.errors_in_one_line('go on'):\n"
            "    for _ in range(100_000): print('a line')\n"
        )
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.path.dirname(config.__file__)},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(writer)
        assert done.stderr == "stopped: nobody reads the output any more; go on\n"
        assert done.returncode == 1

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
    def test_with_closed_streams(self, tmp_path, closed):
        program = (
            "import sys\n"
            "import joblib, tqdm\n"
            "from runs import command_line\n"
            "with command_line.errors_in_one_line('go on'), open(sys.argv[1], 'w') as file:\n"
            "    print('a line')\n"
            "    work = joblib.Parallel(2)(joblib.delayed(abs)(-i) for i in tqdm.tqdm(range(4)))\n"
            "    print(work, file.fileno() > 2, file=file)\n"
        )
        done = subprocess.run(
            ["sh", "-c", f'"$0" -c "$1" "$2" {closed}', sys.executable, program, tmp_path / "out"],
            env={**os.environ, "PYTHONPATH": os.path.dirname(config.__file__)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0
        assert done.stdout == ("a line\n" if closed == "2>&-" else "")
        assert "Error" not in done.stderr
        assert (tmp_path / "out").read_text() == "[0, 1, 2, 3] True\n"

    def test_where_there_are_no_locks(self, monkeypatch, tmp_path, capsys):
        def no_locks(*_):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(storage.fcntl, "flock", no_locks)
        with command_line.locked(tmp_path):
            assert "is on a disk without locks: start no second run" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--folds=1.5", "--profile=huge", "--wrong"])
def test_faulty_options_are_one_line(run_stage, option, capsys):
    with pytest.raises(SystemExit) as caught:
        run_stage("train", option)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]
